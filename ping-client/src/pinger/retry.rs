//! `--retry`: resends the pings that were lost with their connection. The actor counts each once.

use std::{
    collections::{BTreeSet, VecDeque},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use ping_core::actor::runs::WINDOW;
use tokio::time::{Sleep, sleep};
use tracing::warn;

use super::{ActorHandle, Answer, Counters, Outcome, Path, Pinger, Progress, stream::SETTLE_STEP};
use crate::error::{Error, PingError};

/// How long to wait before a ping is resent on the same connection: something is wrong with its server.
const RESEND_PAUSE: Duration = Duration::from_millis(100);

/// A pinger that resends.
pub(crate) struct Retry<P> {
    pinger: P,
    /// Pings whose outcome is not known and that have not been given up.
    unresolved: BTreeSet<u64>,
    /// Those of them that wait to be resent.
    waiting: VecDeque<u64>,
    last_sequence: u64,
    resent: u64,
    /// How long to wait before anything is resent on the same connection.
    pause: Option<Pin<Box<Sleep>>>,
}

impl<P: Pinger> Retry<P> {
    pub(crate) fn new(pinger: P) -> Self {
        Self { pinger, unresolved: BTreeSet::new(), waiting: VecDeque::new(), last_sequence: 0, resent: 0, pause: None }
    }

    /// No ping below this number will be sent again.
    fn floor(&self) -> u64 {
        self.unresolved.first().copied().unwrap_or(self.last_sequence + 1)
    }

    /// Resends what waits, as far as there is room, and not without a pause.
    fn resend(&mut self, context: &mut Context<'_>) {
        if self.pause.as_mut().is_some_and(|pause| pause.as_mut().poll(context).is_pending()) {
            return;
        }
        self.pause = None;
        while self.pinger.has_room()
            && self.pinger.is_connected()
            && let Some(sequence) = self.waiting.pop_front()
        {
            if self.unresolved.contains(&sequence) {
                self.pinger.send(sequence);
                self.resent += 1;
            }
        }
    }

    /// Takes those out of `resolved` that will be resent. Returns whether the actor does not remember the run.
    fn on_resolved(&mut self, resolved: &mut Vec<(u64, Outcome)>) -> bool {
        let mut is_forgotten = false;
        resolved.retain_mut(|(sequence, outcome)| {
            // The actor acknowledges tells in order, even those that it did not count because they had been given up.
            if *outcome == Ok(Answer { total: None }) && !self.unresolved.contains(sequence) {
                *outcome = Err(PingError::Outside { sequence: *sequence });
            }
            is_forgotten |= *outcome == Err(PingError::UnknownRun);
            let is_resent = matches!(
                outcome,
                Err(PingError::UnknownRun
                    | PingError::ConnectionLost
                    | PingError::StreamBroke
                    | PingError::NotConnected
                    | PingError::ActorStopped)
            );
            if is_resent && self.unresolved.contains(sequence) {
                self.waiting.push_back(*sequence);
                self.pause.get_or_insert_with(|| Box::pin(sleep(RESEND_PAUSE)));
                return false;
            }
            self.unresolved.remove(sequence);
            !is_resent
        });
        self.pinger.settle_below(self.floor());
        is_forgotten
    }

    /// Resends all unresolved pings on the new connection if the actor remembers the run. If not, nobody will ever know
    /// their outcome.
    fn on_reconnected(&mut self, remembers_run: bool, resolved: &mut Vec<(u64, Outcome)>) {
        self.pause = None;
        if remembers_run {
            self.waiting = self.unresolved.iter().copied().collect();
            return;
        }
        warn!("The server forgot which pings it counted; those without a pong are not resent");
        self.waiting.clear();
        let forgotten = std::mem::take(&mut self.unresolved);
        resolved.extend(forgotten.into_iter().map(|sequence| (sequence, Err(PingError::Forgotten))));
        self.pinger.settle_below(self.floor());
    }
}

impl<P: Pinger> Pinger for Retry<P> {
    /// What waits to be resent goes first. The actor distinguishes a window of pings, and may not know yet which of the
    /// last ones are settled.
    fn has_room(&self) -> bool {
        self.waiting.is_empty()
            && self.last_sequence + 1 < self.floor() + WINDOW - SETTLE_STEP
            && self.pinger.has_room()
            && self.pinger.is_connected()
    }

    fn send(&mut self, sequence: u64) {
        self.last_sequence = sequence;
        self.unresolved.insert(sequence);
        self.pinger.send(sequence);
    }

    fn poll(&mut self, context: &mut Context<'_>, resolved: &mut Vec<(u64, Outcome)>) -> Poll<Result<Progress, Error>> {
        let had_room = self.has_room();
        self.resend(context);
        let polled = self.pinger.poll(context, resolved);
        if self.on_resolved(resolved) {
            let reason = "the actor does not remember this run".into();
            return Poll::Ready(self.pinger.drop_connection(reason).map(|_| Progress::Resolved));
        }
        match polled {
            Poll::Ready(Ok(Progress::Reconnected { remembers_run })) => {
                self.on_reconnected(remembers_run, resolved);
                Poll::Ready(Ok(Progress::Resolved))
            }
            // Nothing is lost that will be resent.
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(Progress::Resolved)),
            // What was resent has made room.
            Poll::Pending if !had_room && self.has_room() => Poll::Ready(Ok(Progress::Resolved)),
            polled => polled,
        }
    }

    fn is_connected(&self) -> bool {
        self.pinger.is_connected()
    }

    fn path(&self) -> Option<Path> {
        self.pinger.path()
    }

    fn why_relayed(&self) -> Option<&str> {
        self.pinger.why_relayed()
    }

    fn give_up(&mut self, sequence: u64) {
        self.unresolved.remove(&sequence);
        self.pinger.give_up(sequence);
        self.pinger.settle_below(self.floor());
    }

    fn forget(&mut self, sequence: u64) {
        self.pinger.forget(sequence);
    }

    fn counters(&self) -> Counters {
        Counters { resent: self.resent, ..self.pinger.counters() }
    }

    fn actor(&self) -> Option<ActorHandle> {
        self.pinger.actor()
    }
}
