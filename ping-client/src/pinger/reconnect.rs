//! Opens another pinger when the connection is lost.

use std::{
    collections::BTreeSet,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::{FutureExt, future::LocalBoxFuture};
use kameo::actor::RemoteActorRef;
use ping_core::{Connection, PeerText, PingActor};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::{ActorHandle, Counters, Facts, Opener, Outcome, Path, Pinger, Progress, open::Connected};
use crate::error::{Error, PingError};

/// A connection that is lost sooner was of little use.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// The longest pause before the connection is made again.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// A pinger over one connection after the other.
pub(crate) struct Reconnect<'a> {
    state: State<'a>,
    /// Whether pings without a connection fail at once. If not, they wait for one.
    is_impatient: bool,
    last_sequence: u64,
    /// Pings that found no connection.
    failed: Vec<u64>,
    /// The last ping before this connection was made.
    last_before: u64,
    /// Earlier pings that were resent on this connection.
    resent: BTreeSet<u64>,
    settled_below: u64,
    /// What happened on the connections before this one.
    counters: Counters,
    /// When this connection was made.
    connected: Instant,
    /// How many connections in a row were lost soon after they were made.
    short_lived: u32,
}

#[allow(clippy::large_enum_variant, reason = "there is one in a session")]
enum State<'a> {
    Up(Connected<'a>, Opener<'a>),
    Down(Connecting<'a>, Instant),
    /// Between the two, and after a failure.
    Nothing,
}

/// Opens a pinger on a new connection, and gives the opener back.
type Connecting<'a> = LocalBoxFuture<'a, (Opener<'a>, Result<Connected<'a>, Error>)>;

impl<'a> Reconnect<'a> {
    /// Opens a pinger on the first connection. Fails if the actor cannot do what the plan asks for.
    pub(crate) async fn open(
        mut opener: Opener<'a>,
        actor: RemoteActorRef<PingActor>,
        connection: Connection,
        is_impatient: bool,
    ) -> Result<(Self, Facts), Error> {
        let connected = opener.open_first(actor, connection).await?;
        let facts = connected.facts.clone();
        let reconnect = Self {
            state: State::Up(connected, opener),
            is_impatient,
            last_sequence: 0,
            failed: Vec::new(),
            last_before: 0,
            resent: BTreeSet::new(),
            settled_below: 0,
            counters: Counters::default(),
            connected: Instant::now(),
            short_lived: 0,
        };
        Ok((reconnect, facts))
    }

    /// Starts to reconnect, if the opener can. The time without a connection counts from the last sign of life.
    fn on_lost(&mut self, error: Error) -> Result<Progress, Error> {
        // The connection may still stand, for questions to the actor.
        if !matches!(&self.state, State::Up(_, opener) if opener.can_reopen() && matches!(error, Error::Lost { .. })) {
            return Err(error);
        }
        let State::Up(connected, mut opener) = std::mem::replace(&mut self.state, State::Nothing) else {
            return Err(error);
        };
        self.counters.busy += connected.pinger.counters().busy;
        let since = opener.last_heard();
        self.short_lived = if self.connected.elapsed() < SHORT_LIFE { self.short_lived + 1 } else { 0 };
        let pause = pause(self.short_lived);
        match self.short_lived {
            0 => warn!("{error}; reconnecting"),
            1 => warn!("{error}, within {SHORT_LIFE:?} of connecting; reconnecting more slowly if that goes on"),
            _ => debug!(%error, ?pause, "reconnecting"),
        }
        let connecting = async move {
            sleep(pause).await;
            let connected = opener.reopen().await;
            (opener, connected)
        };
        self.state = State::Down(connecting.boxed_local(), since);
        Ok(Progress::Lost)
    }

    fn on_connected(&mut self, mut connected: Connected<'a>, opener: Opener<'a>, since: Instant) -> Progress {
        let down = since.elapsed();
        self.counters.reconnects += 1;
        self.counters.down += down;
        self.connected = Instant::now();
        if self.short_lived <= 1 {
            info!("Connected again after {:.3} s", down.as_secs_f64());
        }
        connected.pinger.settle_below(self.settled_below);
        let remembers_run = connected.remembers_run;
        self.last_before = self.last_sequence;
        self.resent.clear();
        self.state = State::Up(connected, opener);
        Progress::Reconnected { remembers_run }
    }
}

/// How long to wait before reconnecting, after this many short-lived connections in a row: nothing after the first, so
/// that a server that restarts is back at once, then 100 ms, and then twice as long each time.
fn pause(short_lived: u32) -> Duration {
    let Some(doublings) = short_lived.checked_sub(2) else { return Duration::ZERO };
    Duration::from_millis(100 << doublings.min(10)).min(MAX_PAUSE)
}

impl Pinger for Reconnect<'_> {
    fn has_room(&self) -> bool {
        match &self.state {
            State::Up(connected, _) => connected.pinger.has_room(),
            State::Down(..) => self.is_impatient,
            State::Nothing => false,
        }
    }

    fn send(&mut self, sequence: u64) {
        if sequence <= self.last_before {
            self.resent.insert(sequence);
        }
        self.last_sequence = self.last_sequence.max(sequence);
        match &mut self.state {
            State::Up(connected, _) => connected.pinger.send(sequence),
            _ => self.failed.push(sequence),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>, resolved: &mut Vec<(u64, Outcome)>) -> Poll<Result<Progress, Error>> {
        match &mut self.state {
            State::Up(connected, _) => match connected.poll(context, resolved) {
                Poll::Ready(Err(error)) => Poll::Ready(self.on_lost(error)),
                polled => polled,
            },
            State::Down(connecting, since) => {
                let since = *since;
                let connected = connecting.poll_unpin(context);
                let failed = self.failed.drain(..);
                resolved.extend(failed.map(|sequence| (sequence, Err(PingError::NotConnected))));
                match connected {
                    Poll::Ready((opener, Ok(connected))) => {
                        Poll::Ready(Ok(self.on_connected(connected, opener, since)))
                    }
                    Poll::Ready((_, Err(error))) => {
                        self.state = State::Nothing;
                        Poll::Ready(Err(error))
                    }
                    Poll::Pending if resolved.is_empty() => Poll::Pending,
                    Poll::Pending => Poll::Ready(Ok(Progress::Resolved)),
                }
            }
            State::Nothing => Poll::Pending,
        }
    }

    fn is_connected(&self) -> bool {
        matches!(self.state, State::Up(..))
    }

    fn path(&self) -> Option<Path> {
        if let State::Up(connected, _) = &self.state { Some(connected.path) } else { None }
    }

    fn why_relayed(&self) -> Option<&str> {
        if let State::Up(connected, _) = &self.state { connected.why_relayed() } else { None }
    }

    fn give_up(&mut self, sequence: u64) {
        if let State::Up(connected, _) = &mut self.state {
            connected.pinger.give_up(sequence);
        }
    }

    fn forget(&mut self, sequence: u64) {
        // A ping of an earlier connection takes up no room on this one.
        let is_on_this_one = sequence > self.last_before || self.resent.remove(&sequence);
        if let State::Up(connected, _) = &mut self.state
            && is_on_this_one
        {
            connected.pinger.forget(sequence);
        }
    }

    fn settle_below(&mut self, floor: u64) {
        self.settled_below = floor;
        if let State::Up(connected, _) = &mut self.state {
            connected.pinger.settle_below(floor);
        }
    }

    fn drop_connection(&mut self, reason: PeerText) -> Result<Progress, Error> {
        self.on_lost(Error::Lost { reason })
    }

    fn counters(&self) -> Counters {
        let busy = if let State::Up(connected, _) = &self.state { connected.pinger.counters().busy } else { 0 };
        Counters { busy: self.counters.busy + busy, ..self.counters }
    }

    fn actor(&self) -> Option<ActorHandle> {
        if let State::Up(connected, _) = &self.state { Some(connected.actor.clone()) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_closes_every_connection_is_asked_less_and_less_often() {
        let pauses: Vec<_> = (0..9).map(|short_lived| pause(short_lived).as_millis()).collect();
        assert_eq!(pauses, [0, 0, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(pause(u32::MAX), MAX_PAUSE);
    }
}
