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

use super::{Lane, Outcome, Progress};
use crate::diagnose::{PingFailure, Trouble};

/// A lane, and what tells when the connection under it is gone, and why.
pub(crate) struct Connected<'a> {
    pub(crate) lane: Box<dyn Lane>,
    /// Resolves when the connection has ended.
    pub(crate) closed: oneshot::Receiver<String>,
    /// Resolves when it should be given up.
    pub(crate) vigil: LocalBoxFuture<'a, String>,
}

/// Connects anew; resolves when it has succeeded, or cannot.
pub(crate) type Connect<'a> = Box<dyn Fn() -> LocalBoxFuture<'a, Result<Connected<'a>, Trouble>> + 'a>;

/// How often, and for how long in all, there was no connection in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Interruptions {
    pub(crate) count: u64,
    pub(crate) duration: Duration,
}

/// A lane that outlives its connections.
pub(crate) struct AgainLane<'a> {
    state: State<'a>,
    /// How to connect again; without it, the first loss is the last.
    connect: Option<Connect<'a>>,
    /// Whether pings without a connection fail at once. If not, they wait for it.
    impatient: bool,
    /// How many pings were sent before the present lane.
    before: u64,
    sent: u64,
    /// Pings that found no connection.
    failed: Vec<u64>,
    interruptions: Rc<Cell<Interruptions>>,
}

enum State<'a> {
    Up(Connected<'a>),
    Down(LocalBoxFuture<'a, Result<Connected<'a>, Trouble>>, Instant),
}

impl<'a> AgainLane<'a> {
    /// A lane on a connection that stands.
    pub(crate) fn new(
        connected: Connected<'a>,
        connect: Option<Connect<'a>>,
        impatient: bool,
        interruptions: Rc<Cell<Interruptions>>,
    ) -> Self {
        let state = State::Up(connected);
        Self { state, connect, impatient, before: 0, sent: 0, failed: Vec::new(), interruptions }
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
        Ok(Progress::Lost)
    }

    fn on_up(&mut self, connected: Connected<'a>, since: Instant) {
        let Interruptions { count, duration } = self.interruptions.get();
        let down = since.elapsed();
        self.interruptions.set(Interruptions { count: count + 1, duration: duration + down });
        info!("Connected again after {:.3} s", down.as_secs_f64());
        self.state = State::Up(connected);
        self.before = self.sent;
    }
}

impl Lane for AgainLane<'_> {
    fn has_room(&self) -> bool {
        match &self.state {
            State::Up(Connected { lane, .. }) => lane.has_room(),
            State::Down(..) => self.impatient,
        }
    }

    fn send(&mut self) -> u64 {
        self.sent += 1;
        match &mut self.state {
            State::Up(Connected { lane, .. }) => drop(lane.send()),
            State::Down(..) => self.failed.push(self.sent),
        }
        self.sent
    }

    fn forget(&mut self, pings: usize) {
        if let State::Up(Connected { lane, .. }) = &mut self.state {
            lane.forget(pings);
        }
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
        settled: &mut Vec<(u64, Outcome)>,
    ) -> Poll<Result<Progress, Trouble>> {
        match &mut self.state {
            State::Up(Connected { lane, closed, vigil }) => {
                let polled = lane.poll(context, settled);
                settled.iter_mut().for_each(|(number, _)| *number += self.before);
                match polled {
                    Poll::Ready(Err(trouble)) => return Poll::Ready(self.on_lost(trouble)),
                    Poll::Ready(progress) => return Poll::Ready(progress),
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
                    Poll::Ready(Ok(connected)) => self.on_up(connected, since),
                    Poll::Ready(Err(trouble)) => return Poll::Ready(Err(trouble)),
                    Poll::Pending if settled.is_empty() => return Poll::Pending,
                    Poll::Pending => {}
                }
                Poll::Ready(Ok(Progress::Settled))
            }
        }
    }
}
