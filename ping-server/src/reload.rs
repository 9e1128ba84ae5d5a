//! SIGHUP: who may connect is read again, and those who still may stay connected.

use std::{collections::HashSet, convert::Infallible, future::pending};

use anyhow::Result;
use libp2p::PeerId;
use ping_core::{Node, program::Hangups};
use tracing::{info, warn};

/// Reads it at each SIGHUP, if there are any. Never resolves.
pub(crate) async fn reload_allowed(
    hangups: Option<&mut Hangups>,
    node: &Node,
    read: impl Fn() -> Result<Option<HashSet<PeerId>>>,
) -> Infallible {
    let Some(hangups) = hangups else { return pending().await };
    loop {
        hangups.next().await;
        match read() {
            Ok(Some(peers)) => {
                info!("Read --allow again: {} identities may connect", peers.len());
                node.allow(peers);
            }
            // Without it, a SIGHUP stops the server.
            Ok(None) => {}
            Err(error) => warn!("--allow stays as it was: {error:#}"),
        }
    }
}
