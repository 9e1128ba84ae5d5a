//! A lane that connects again when its connection is lost.

use std::{
    cell::Cell,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures::{FutureExt, future::LocalBoxFuture};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{Lane, OnceRun, Outcome, Progress, once::Unsettled};
use crate::diagnose::{PingFailure, Trouble};

/// A lane, and what tells when the connection under it is gone, and why.
pub(crate) struct Connected<'a> {
    pub(crate) lane: Box<dyn Lane>,
    /// Resolves when the connection has ended.
    pub(crate) closed: oneshot::Receiver<String>,
    /// Resolves when it should be given up.
    pub(crate) vigil: LocalBoxFuture<'a, String>,
    /// Whether the actor remembers the run, of which some pings may have to be sent again.
    pub(crate) remembered: bool,
}

/// Connects anew; resolves when it has succeeded, or cannot.
pub(crate) type Connect<'a> = Box<dyn Fn() -> LocalBoxFuture<'a, Result<Connected<'a>, Trouble>> + 'a>;

/// How often, and for how long in all, there was no connection in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Interruptions {
    pub(crate) count: u64,
    pub(crate) duration: Duration,
}

/// The way to the actor, over however many connections.
pub(crate) struct AgainLane<'a> {
    state: State<'a>,
    /// How to connect again; without it, the first loss is the last.
    connect: Option<Connect<'a>>,
    /// Whether pings without a connection fail at once. If not, they wait for it.
    impatient: bool,
    /// How many pings were sent.
    sent: u64,
    /// Pings that found no connection.
    failed: Vec<u64>,
    /// How many had been when the connection was made.
    before: u64,
    /// What may have to be sent again, if anything is.
    unsettled: Option<Unsettled>,
    interruptions: Rc<Cell<Interruptions>>,
}

enum State<'a> {
    Up(Connected<'a>),
    Down(LocalBoxFuture<'a, Result<Connected<'a>, Trouble>>, Instant),
}

impl<'a> AgainLane<'a> {
    /// A lane on a connection that stands. `once` is the run, if its pings are sent again.
    pub(crate) fn new(
        connected: Connected<'a>,
        connect: Option<Connect<'a>>,
        impatient: bool,
        once: Option<Rc<OnceRun>>,
        interruptions: Rc<Cell<Interruptions>>,
    ) -> Self {
        Self {
            state: State::Up(connected),
            connect,
            impatient: impatient && once.is_none(),
            sent: 0,
            before: 0,
            failed: Vec::new(),
            unsettled: once.map(Unsettled::new),
            interruptions,
        }
    }

    /// Whether it takes another ping now. If not, it does when the fate of one that is under way is known, or the connection is
    /// made again.
    pub(crate) fn has_room(&self) -> bool {
        match &self.state {
            State::Up(Connected { lane, .. }) => {
                lane.has_room() && self.unsettled.as_ref().is_none_or(Unsettled::has_room)
            }
            State::Down(..) => self.impatient,
        }
    }

    /// Takes a ping; returns its number, which is one more than that of the ping before. It is sent by
    /// [`poll`](Self::poll).
    pub(crate) fn send(&mut self) -> u64 {
        self.sent += 1;
        if let Some(unsettled) = &mut self.unsettled {
            unsettled.on_sent(self.sent);
        }
        match &mut self.state {
            State::Up(Connected { lane, .. }) => lane.send(self.sent),
            State::Down(..) => self.failed.push(self.sent),
        }
        self.sent
    }

    /// Takes note that a ping's time is up. It is not sent again.
    pub(crate) fn give_up(&mut self, number: u64) {
        if let Some(unsettled) = &mut self.unsettled {
            unsettled.give_up(number);
        }
        if let State::Up(Connected { lane, .. }) = &mut self.state {
            lane.give_up(number);
        }
    }

    /// Stops to wait for a ping whose time is up. It no longer takes up room, if it did on this connection.
    pub(crate) fn forget(&mut self, number: u64) {
        if let State::Up(Connected { lane, .. }) = &mut self.state
            && number > self.before
        {
            lane.forget();
        }
    }

    /// Resolves when the fate of at least one ping is known, having added it to `settled` by its number, or when there is
    /// room again.
    ///
    /// # Errors
    ///
    /// When the lane is of no more use.
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
        settled: &mut Vec<(u64, Outcome)>,
    ) -> Poll<Result<Progress, Trouble>> {
        match &mut self.state {
            State::Up(Connected { lane, closed, vigil, .. }) => {
                let lane = lane.as_mut();
                let had_room = self.unsettled.as_ref().is_none_or(Unsettled::has_room);
                if let Some(unsettled) = &mut self.unsettled {
                    unsettled.resend(context, lane);
                }
                let polled = lane.poll(context, settled);
                if let Some(unsettled) = &mut self.unsettled
                    && unsettled.on_settled(lane, settled)
                {
                    let reason = "the actor does not remember this run any more".into();
                    return Poll::Ready(self.on_lost(Trouble::Lost { reason }));
                }
                match polled {
                    Poll::Ready(Err(trouble)) => return Poll::Ready(self.on_lost(trouble)),
                    Poll::Ready(Ok(())) => return Poll::Ready(Ok(Progress::Settled)),
                    // What was to be sent again has made room.
                    Poll::Pending if !had_room && self.unsettled.as_ref().is_none_or(Unsettled::has_room) => {
                        return Poll::Ready(Ok(Progress::Settled));
                    }
                    Poll::Pending => {}
                }
                let reason = match closed.poll_unpin(context) {
                    Poll::Ready(reason) => reason.unwrap_or_else(|_| "the node stopped".into()),
                    Poll::Pending => ready!(vigil.poll_unpin(context)),
                };
                Poll::Ready(self.on_lost(Trouble::Lost { reason }))
            }
            State::Down(connecting, since) => {
                let since = *since;
                let connected = connecting.poll_unpin(context);
                let failed = self.failed.drain(..);
                settled.extend(failed.map(|number| (number, Err(PingFailure::not_connected()))));
                match connected {
                    Poll::Ready(Ok(connected)) => self.on_up(connected, since, settled),
                    Poll::Ready(Err(trouble)) => return Poll::Ready(Err(trouble)),
                    Poll::Pending if settled.is_empty() => return Poll::Pending,
                    Poll::Pending => {}
                }
                Poll::Ready(Ok(Progress::Settled))
            }
        }
    }

    /// Starts to connect again, if that is wanted.
    fn on_lost(&mut self, mut trouble: Trouble) -> Result<Progress, Trouble> {
        // What the lane noticed first, the connection can often explain.
        if let (Trouble::Lost { reason }, State::Up(Connected { closed, .. })) = (&mut trouble, &mut self.state)
            && let Ok(why) = closed.try_recv()
        {
            *reason = why;
        }
        let Some(connect) = self.connect.as_ref().filter(|_| matches!(trouble, Trouble::Lost { .. })) else {
            return Err(trouble);
        };
        warn!("{trouble}; connecting again");
        self.state = State::Down(connect(), Instant::now());
        Ok(if self.unsettled.is_some() { Progress::Settled } else { Progress::Lost })
    }

    fn on_up(&mut self, connected: Connected<'a>, since: Instant, settled: &mut Vec<(u64, Outcome)>) {
        let Interruptions { count, duration } = self.interruptions.get();
        let down = since.elapsed();
        self.interruptions.set(Interruptions { count: count + 1, duration: duration + down });
        info!("Connected again after {:.3} s", down.as_secs_f64());
        if let Some(unsettled) = &mut self.unsettled {
            if !connected.remembered {
                warn!(
                    "The server does not remember which pings it has counted; those without a pong are not sent again"
                );
            }
            unsettled.on_connected(connected.remembered, settled);
        }
        self.before = self.sent;
        self.state = State::Up(connected);
    }
}
