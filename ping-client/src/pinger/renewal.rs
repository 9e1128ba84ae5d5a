//! Another connection through a relay beside one that the relay ends soon.
//!
//! A relay carries each circuit for a limited time, and says for how long when it makes one.

use std::time::Duration;

use futures::{FutureExt, future::LocalBoxFuture};
use ping_core::{Connection, Node};
use tokio::time::sleep;
use tracing::{debug, info};

/// After which part of its time a circuit is replaced, so that there is time to try again. DHCP renews a lease when
/// half of its time is over (RFC 2131, section 4.4.5).
const PART: u32 = 2;

/// How long to wait after an attempt that failed.
const PAUSE: Duration = Duration::from_secs(2);

/// Waits until there is another connection in place of this one, which new pings then take; `None` if no relay ends it.
pub(super) fn renewal<'a>(node: &'a Node, connection: &Connection) -> Option<LocalBoxFuture<'a, Connection>> {
    let Connection { peer, ref address, lasts, .. } = *connection;
    let (lasts, address) = (lasts?, address.clone());
    let another = async move {
        sleep(lasts / PART).await;
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
