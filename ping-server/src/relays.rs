//! `--relay-via`: a place on each relay, for as long as the server runs.

use std::{
    convert::Infallible,
    future::pending,
    time::{Duration, Instant},
};

use futures::future::join_all;
use libp2p::{Multiaddr, PeerId};
use ping_core::{
    Node, ServerAddress, Transport,
    nat::{circuit, ticket::MAX_RELAYS},
    node::Reservation,
};
use tokio::{sync::mpsc, time::sleep};
use tracing::{debug, warn};

use crate::ways::Way;

/// How many relays one server may use.
pub(crate) const MAX: usize = MAX_RELAYS;

/// The pauses before a place is asked for again, from the first to the longest: a relay that is back has its servers
/// soon.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// How often at most a relay is asked where this node is seen. The least time for which libp2p's own relays keep an idle
/// connection is ten seconds.
const SEEN_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Asks one relay for a place again and again, and reports what becomes of it. Never ends while the node runs.
pub(crate) async fn keep_place(node: &Node, relay: &ServerAddress, ways: mpsc::UnboundedSender<Way>) {
    let (first, longest) = PAUSES;
    let (mut pause, mut has_warned) = (first, false);
    loop {
        match reserve(node, relay).await {
            Ok((peer, used, addresses, reservation)) => {
                (pause, has_warned) = (first, false);
                let others: Vec<_> = addresses.iter().filter(|address| **address != used).cloned().collect();
                let _ = ways.send(Way::Held { relay: peer, addresses });
                let reason = tokio::select! {
                    reason = reservation.lost => reason.unwrap_or_else(|_| "the node stopped".into()),
                    never = be_seen(node, peer, &others) => match never {},
                };
                let _ = ways.send(Way::Lost { relay: peer, reason });
            }
            Err(reason) if !std::mem::replace(&mut has_warned, true) => {
                warn!("Relay {relay} holds no place for this server: {reason}; trying again");
            }
            Err(reason) => debug!(%relay, reason, "no place yet"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// Keeps a connection to the relay at each of these addresses, so that it tells this node where others see it over each
/// transport.
async fn be_seen(node: &Node, relay: PeerId, addresses: &[Multiaddr]) -> Infallible {
    let by_address = addresses.iter().map(|address| async move {
        loop {
            let started = Instant::now();
            match node.dial(address.clone(), Some(relay)).await {
                Ok(connection) => drop(connection.closed.await),
                Err(error) => debug!(%relay, %error, "the relay cannot say where this node is seen"),
            }
            // A relay closes what looks idle to it after some time, and that is no failure.
            sleep(SEEN_AGAIN_AFTER.saturating_sub(started.elapsed())).await;
        }
    });
    join_all(by_address).await;
    pending().await
}

/// Connects to a relay by the first transport that works, and gets a place there. Returns who it is, the address that
/// works, and all at which others reach it.
async fn reserve(
    node: &Node,
    relay: &ServerAddress,
) -> Result<(PeerId, Multiaddr, Vec<Multiaddr>, Reservation), String> {
    let ips = relay.resolve().await.map_err(|error| error.to_string())?;
    let mut failure = String::from("it has no address");
    // TCP tells more when it fails.
    for transport in relay.transports().iter().rev() {
        for ip in &ips {
            let address = relay.multiaddr_at(*ip, *transport);
            let connection = match node.dial(address.clone(), relay.peer).await {
                Ok(connection) => connection,
                Err(error) => {
                    failure = error.to_string();
                    continue;
                }
            };
            let reservation = node.reserve(circuit(&address, connection.peer)).await?;
            // A client tries the other transports at the same port, too.
            let addresses = Transport::ALL.iter().map(|transport| relay.multiaddr_at(*ip, *transport)).collect();
            return Ok((connection.peer, address, addresses, reservation));
        }
    }
    Err(failure)
}
