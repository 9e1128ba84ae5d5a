//! The connection that pings have left, until what is in flight on it is answered or lost.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures::FutureExt;
use libp2p::swarm::ConnectionId;
use ping_core::{Node, PeerText};
use tokio::{
    sync::oneshot,
    time::{Sleep, sleep},
};

/// How often it is looked whether everything is answered.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Closes the connection when it is of no more use.
pub(super) struct Draining<'a> {
    node: &'a Node,
    id: ConnectionId,
    closed: oneshot::Receiver<PeerText>,
    deadline: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<'a> Draining<'a> {
    /// For this connection, which tells when it is closed. Pings may be in flight on it for so long.
    pub(super) fn new(
        node: &'a Node,
        (id, closed): (ConnectionId, oneshot::Receiver<PeerText>),
        drain_time: Duration,
    ) -> Self {
        Self { node, id, closed, deadline: Instant::now() + drain_time, timer: Box::pin(sleep(LOOK_EVERY)) }
    }

    /// Waits until the connection is closed. What is in flight on it then is lost.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, has_drained: bool) -> Poll<()> {
        loop {
            if self.closed.poll_unpin(context).is_ready() {
                return Poll::Ready(());
            }
            ready!(self.timer.poll_unpin(context));
            if has_drained || Instant::now() >= self.deadline {
                self.node.close(self.id);
            }
            self.timer = Box::pin(sleep(LOOK_EVERY));
        }
    }
}
