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

/// Waits for the direct connection. `None` once that has ended.
pub(super) struct Direct<'a>(Option<LocalBoxFuture<'a, Result<Connection, String>>>);

impl<'a> Direct<'a> {
    /// To this peer, which there is a connection to through a relay.
    pub(super) fn new(node: &'a Node, peer: PeerId) -> Self {
        Self(Some(node.direct(peer).boxed_local()))
    }

    /// Waits until there is a direct connection, which new pings then take, with its way.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<(Connection, Path)> {
        let Some(waiting) = &mut self.0 else { return Poll::Pending };
        let direct = ready!(waiting.poll_unpin(context));
        self.0 = None;
        match direct {
            Ok(connection) => {
                let path = Path::beside_relayed(&connection);
                let transport = path.transport.map(|transport| format!(" by {transport}")).unwrap_or_default();
                info!("Connected directly{transport}, {}; new pings leave the relay", path.kind.name());
                Poll::Ready((connection, path))
            }
            Err(reason) => {
                warn!("No direct connection: {reason}. Pings stay on the relay");
                Poll::Pending
            }
        }
    }
}
