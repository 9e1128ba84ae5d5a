//! A direct connection beside one through a relay.
//!
//! New pings take it as soon as it stands. Those in flight are still answered through the relay, and then its place is
//! free again.

use std::task::{Context, Poll, ready};

use futures::{FutureExt, future::LocalBoxFuture};
use libp2p::PeerId;
use ping_core::{Connection, Node};
use tracing::{info, warn};

use super::Path;

/// Waits for the direct connection.
pub(super) struct Direct<'a> {
    /// `None` once that has ended.
    waiting: Option<LocalBoxFuture<'a, Result<Connection, String>>>,
    /// Why there is none.
    failure: Option<String>,
}

impl<'a> Direct<'a> {
    /// To this peer, which there is a connection to through a relay.
    pub(super) fn new(node: &'a Node, peer: PeerId) -> Self {
        Self { waiting: Some(node.direct(peer).boxed_local()), failure: None }
    }

    /// Why pings stay on the relay, once that is known.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Waits until there is a direct connection, which new pings then take, with its way.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<(Connection, Path)> {
        let Some(waiting) = &mut self.waiting else { return Poll::Pending };
        let direct = ready!(waiting.poll_unpin(context));
        self.waiting = None;
        match direct {
            Ok(connection) => {
                let path = Path::beside_relayed(&connection);
                let transport = path.transport.map(|transport| format!(" by {transport}")).unwrap_or_default();
                info!("Connected directly{transport}, {}; new pings leave the relay", path.kind.name());
                Poll::Ready((connection, path))
            }
            Err(reason) => {
                warn!("No direct connection: {reason}. Pings stay on the relay");
                self.failure = Some(reason);
                Poll::Pending
            }
        }
    }
}
