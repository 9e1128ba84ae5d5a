//! Joining a cluster by the address of any member, until it works, and again when that member comes back.

use std::{collections::HashMap, time::Duration};

use libp2p::{Multiaddr, PeerId};
use tokio::time::sleep;
use tracing::{info, warn};

use super::{Cluster, JoinError};
use crate::{PeerText, ServerAddress, Transport};

/// The first pause between attempts; each further one is twice as long, up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// How often the name of a seed is resolved afresh while its members are known.
const REFRESH: Duration = Duration::from_secs(5);

/// Keeps this node linked to the member at an address: dials what its name resolves to, unless a live member is known
/// to be there. Never ends.
///
/// A seed is not forgotten once it was reached: it may come back as another member, with a cluster of its own.
pub async fn join(cluster: Cluster, seed: ServerAddress) {
    let mut found: HashMap<Multiaddr, PeerId> = HashMap::new();
    let (mut pause, mut has_warned) = (FIRST_PAUSE, false);
    loop {
        let outcome = join_once(&cluster, &seed, &mut found).await;
        match outcome {
            Ok(()) => {
                if has_warned {
                    info!("Reached {seed}");
                }
                (pause, has_warned) = (FIRST_PAUSE, false);
                sleep(REFRESH).await;
            }
            Err(reason) => {
                if !has_warned {
                    warn!("Cannot join {seed} yet: {reason}; trying until it works");
                    has_warned = true;
                }
                sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
            }
        }
    }
}

/// Dials every address of a seed at which no live member is known. Fails if none of them is or was reached.
async fn join_once(
    cluster: &Cluster,
    seed: &ServerAddress,
    found: &mut HashMap<Multiaddr, PeerId>,
) -> Result<(), JoinError> {
    if seed.peer.is_some_and(|peer| peer == cluster.me() || cluster.has(&peer)) {
        return Ok(());
    }
    let ips = seed.resolve().await.map_err(|error| JoinError::Unreachable(PeerText::new(error.to_string())))?;
    // The end of a TCP connection is noticed at once.
    let transport = seed.transport.unwrap_or(Transport::Tcp);
    let mut outcome = Err(JoinError::Own);
    for address in ips.into_iter().map(|ip| transport.multiaddr(ip, seed.port)) {
        let known = found.get(&address).is_some_and(|peer| *peer == cluster.me() || cluster.has(peer));
        let reached = if known { Ok(None) } else { cluster.dial(address.clone(), seed.peer).await.map(Some) };
        match reached {
            Ok(peer) => {
                found.extend(peer.map(|peer| (address, peer)));
                outcome = Ok(());
            }
            Err(JoinError::Own) => {
                found.insert(address, cluster.me());
                // A name that stands for all members stands for this one, too.
                outcome = outcome.or(Ok(()));
            }
            Err(reason) if outcome == Err(JoinError::Own) => outcome = Err(reason),
            Err(_) => {}
        }
    }
    outcome
}
