//! `--relay-via`: a place on each relay, for as long as the server runs.

use std::{
    convert::Infallible,
    future::pending,
    net::IpAddr,
    time::{Duration, Instant},
};

use futures::future::join_all;
use libp2p::{Multiaddr, PeerId};
use ping_core::{
    Connection, Node, ServerAddress, Transport,
    nat::{circuit, ticket::MAX_RELAYS},
    node::{Reservation, Staggered},
};
use tokio::{sync::mpsc, time::sleep};
use tracing::{debug, warn};

use crate::ways::Way;

/// How many relays one server may use.
pub(crate) const MAX: usize = MAX_RELAYS;

/// The pauses before a place is asked for again, from the first to the longest: a relay that is back has its servers
/// soon.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// How long a way to a relay is tried before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_secs(1);

/// How often at most a relay is asked where this node is seen. The least time for which libp2p's own relays keep an
/// idle connection is ten seconds.
const SEEN_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// The addresses of each relay: those with one identity are of one.
pub(crate) fn by_identity(addresses: &[ServerAddress]) -> Vec<Vec<ServerAddress>> {
    let mut relays: Vec<Vec<ServerAddress>> = Vec::new();
    for address in addresses {
        let known = relays.iter_mut().find(|relay| address.peer.is_some() && relay[0].peer == address.peer);
        match known {
            Some(relay) => relay.push(address.clone()),
            None => relays.push(vec![address.clone()]),
        }
    }
    relays
}

/// Asks one relay for a place again and again, and reports what becomes of it. Never ends while the node runs.
pub(crate) async fn keep_place(node: &Node, relay: &[ServerAddress], ways: mpsc::UnboundedSender<Way>) {
    let (first, longest) = PAUSES;
    let (mut pause, mut has_warned) = (first, false);
    loop {
        match reserve(node, relay).await {
            Ok((peer, used, addresses, reservation)) => {
                has_warned = false;
                let held = Instant::now();
                let is_other =
                    |address: &&Multiaddr| **address != used && Transport::of(address).is_some_and(Transport::is_usual);
                let others: Vec<_> = addresses.iter().filter(is_other).cloned().collect();
                let _ = ways.send(Way::Held { relay: peer, addresses });
                let reason = tokio::select! {
                    reason = reservation.lost => reason.unwrap_or_else(|_| "the node stopped".into()),
                    never = be_seen(node, peer, &others) => match never {},
                };
                let _ = ways.send(Way::Lost { relay: peer, reason });
                // A relay that takes every place back at once is not asked all the time.
                if held.elapsed() > longest {
                    pause = first;
                }
                // What ended this connection may have ended the others too, and nobody has noticed yet.
                node.disconnect(peer);
            }
            Err(reason) if !std::mem::replace(&mut has_warned, true) => {
                warn!("Relay {} holds no place for this server: {reason}; trying again", name(relay));
            }
            Err(reason) => debug!(relay = name(relay), reason, "no place yet"),
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

fn name(relay: &[ServerAddress]) -> String {
    relay.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Connects to a relay by the first address and transport that works, and gets a place there. Returns who it is, the
/// address that works, and all at which others reach it.
async fn reserve(
    node: &Node,
    relay: &[ServerAddress],
) -> Result<(PeerId, Multiaddr, Vec<Multiaddr>, Reservation), String> {
    let mut ways = Vec::new();
    let mut failure = String::from("it has no address");
    for server in relay {
        match server.resolve().await {
            // TCP tells more when it fails.
            Ok(ips) => ways.extend(
                server
                    .transports()
                    .iter()
                    .rev()
                    .flat_map(|transport| ips.iter().map(|ip| (server, *ip, *transport)).collect::<Vec<_>>()),
            ),
            Err(error) => failure = error.to_string(),
        }
    }
    let (place, connection) = dial_first(node, &ways, failure).await?;
    let (server, ip, transport) = ways[place];
    let address = server.multiaddr_at(ip, transport);
    let reserved = node.reserve(circuit(&address, connection.peer)).await;
    // The next attempt makes another connection, and a relay takes some of each peer.
    let reservation = reserved.inspect_err(|_| node.disconnect(connection.peer)).map_err(|reason| {
        // The relay says no more.
        let is_denied = reason.contains("resource limit exceeded");
        if is_denied { "its --relay-for does not name this server, or all its places are taken".into() } else { reason }
    })?;
    // First the one that works.
    let (before, rest) = ways.split_at(place);
    let mut addresses: Vec<Multiaddr> = Vec::new();
    for (server, ip, transport) in rest.iter().chain(before) {
        let more = others(server, *ip, *transport).into_iter();
        addresses.extend(more.filter(|address| !addresses.contains(address)).collect::<Vec<_>>());
    }
    Ok((connection.peer, address, addresses, reservation))
}

/// A way to a relay.
type ToRelay<'a> = (&'a ServerAddress, IpAddr, Transport);

/// Connects by the first way that works; returns its place. Each is tried a moment after the one before it, or as soon
/// as that has failed: a router that has forgotten a connection may drop the next one by the same way for some time.
async fn dial_first(node: &Node, ways: &[ToRelay<'_>], mut failure: String) -> Result<(usize, Connection), String> {
    let dials = ways.iter().enumerate().map(|(place, (server, ip, transport))| async move {
        node.dial(server.multiaddr_at(*ip, *transport), server.peer).await.map(|connection| (place, connection))
    });
    let mut dials = Staggered::new(dials, HEAD_START);
    while let Some(outcome) = dials.next().await {
        match outcome {
            Ok(connected) => return Ok(connected),
            Err(error) => failure = error.to_string(),
        }
    }
    Err(failure)
}

/// Where clients reach a relay that is reached so.
fn others(relay: &ServerAddress, ip: IpAddr, transport: Transport) -> Vec<Multiaddr> {
    if transport.is_usual() {
        // A client tries the other one of the usual transports at the same port, too.
        Transport::USUAL.map(|transport| relay.multiaddr_at(ip, transport)).into()
    } else {
        // With its name, which a proxy wants to know.
        relay.multiaddr(transport).into_iter().collect()
    }
}
