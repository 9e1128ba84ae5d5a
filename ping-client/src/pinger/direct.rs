//! A direct connection beside one through a relay.
//!
//! New pings take it as soon as it stands. Those in flight are still answered through the relay, and then its place is
//! free again.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures::{FutureExt, future::LocalBoxFuture};
use libp2p::swarm::ConnectionId;
use ping_core::{Connection, Node};
use tokio::time::{Sleep, sleep};
use tracing::{info, warn};

use super::Path;

/// How often it is looked whether everything is answered through the relay.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Waits for the direct connection, and gives up the one through the relay.
pub(super) struct Direct<'a> {
    node: &'a Node,
    relayed: ConnectionId,
    /// How long pings may be in flight.
    drain_time: Duration,
    state: State<'a>,
}

enum State<'a> {
    Waiting(LocalBoxFuture<'a, Result<Connection, String>>),
    /// Since the direct connection stands.
    Draining(Instant, Pin<Box<Sleep>>),
    Done,
}

impl<'a> Direct<'a> {
    /// Beside this connection through a relay.
    pub(super) fn new(node: &'a Node, relayed: &Connection, drain_time: Duration) -> Self {
        let state = State::Waiting(node.direct(relayed.peer).boxed_local());
        Self { node, relayed: relayed.id, drain_time, state }
    }

    /// Waits until there is a direct connection, which new pings then take, with its way.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, has_drained: bool) -> Poll<(Connection, Path)> {
        loop {
            match &mut self.state {
                State::Waiting(waiting) => match ready!(waiting.poll_unpin(context)) {
                    Ok(connection) => {
                        let path = Path::beside_relayed(&connection);
                        let transport = path.transport.map(|transport| format!(" by {transport}")).unwrap_or_default();
                        info!("Connected directly{transport}, {}; new pings leave the relay", path.kind.name());
                        self.state = State::Draining(Instant::now(), Box::pin(sleep(LOOK_EVERY)));
                        return Poll::Ready((connection, path));
                    }
                    Err(reason) => {
                        warn!("No direct connection: {reason}. Pings stay on the relay");
                        self.state = State::Done;
                    }
                },
                State::Draining(since, timer) => {
                    ready!(timer.poll_unpin(context));
                    if has_drained || since.elapsed() > self.drain_time {
                        self.node.close(self.relayed);
                        self.state = State::Done;
                    } else {
                        *timer = Box::pin(sleep(LOOK_EVERY));
                    }
                }
                State::Done => return Poll::Pending,
            }
        }
    }
}
