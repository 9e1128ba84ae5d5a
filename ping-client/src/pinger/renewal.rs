//! Another connection through a relay beside one that the relay ends soon.
//!
//! A relay carries each circuit for a limited time, and a limited number of bytes. It names both when it makes one.

use std::time::Duration;

use futures::{
    FutureExt,
    future::{LocalBoxFuture, OptionFuture},
};
use libp2p::PeerId;
use ping_core::{Connection, Node, node::Grant};
use tokio::time::sleep;
use tracing::{debug, info};

/// After which part of what a relay grants a circuit is replaced, so that there is time to try again. DHCP renews a
/// lease when half of its time is over (RFC 2131, section 4.4.5).
const PART: u32 = 2;

/// How often it is looked how much the circuit has carried. A gigabit a second makes 12 MB in this time.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long to wait after an attempt that failed.
const PAUSE: Duration = Duration::from_secs(2);

/// Waits until there is another connection in place of this one, which new pings then take; `None` if no relay ends it.
pub(super) fn renewal<'a>(node: &'a Node, connection: &Connection) -> Option<LocalBoxFuture<'a, Connection>> {
    let Connection { peer, ref address, grant: Grant { time, bytes }, .. } = *connection;
    if time.is_none() && bytes.is_none() {
        return None;
    }
    let address = address.clone();
    let another = async move {
        tokio::select! {
            Some(()) = OptionFuture::from(time.map(|time| sleep(time / PART))) => {}
            Some(()) = OptionFuture::from(bytes.map(|bytes| carried(node, peer, bytes / u64::from(PART)))) => {}
        }
        loop {
            match node.dial_spare(address.clone(), peer).await {
                Ok(connection) => {
                    info!("The relay ends this connection soon; new pings take another one through it");
                    return connection;
                }
                Err(error) => debug!(%error, "no other connection through the relay yet"),
            }
            sleep(PAUSE).await;
        }
    };
    Some(another.boxed_local())
}

/// Waits until the newest connection to the peer through a relay has carried this many bytes.
async fn carried(node: &Node, peer: PeerId, bytes: u64) {
    while node.carried(&peer) < bytes {
        sleep(LOOK_EVERY).await;
    }
}
