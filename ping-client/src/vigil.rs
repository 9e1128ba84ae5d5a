//! Whether a QUIC connection is known at the other end at all.
//!
//! A server that was killed and started again does not know the connections of before. TCP's answer to that is a reset;
//! QUIC's packets are ignored, and only their silence shows it. A new handshake that is answered at once while the connection
//! stays silent tells this from a server, or a link, that merely pauses or is busy: there, the handshake would take its time too.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use ping_core::{dial::DialFailure, node::Node};
use tokio::time::{sleep, timeout};

/// How long a connection must be silent to be suspected. Signs of life come every hundred milliseconds at least, or every round trip.
const SUSPICIOUS: Duration = Duration::from_millis(250);

/// How much longer than the new handshake took the connection must have been silent.
const LONGER: u32 = 10;

/// How long it must have been silent at least.
const SILENT: Duration = Duration::from_millis(400);

/// How long an answer to the new handshake may take: two round trips on a link of 200 ms. On a longer one, the connection's
/// own silence must tell.
const PROBE: Duration = Duration::from_millis(400);

/// How long to wait before the next one.
const PAUSE: Duration = Duration::from_millis(50);

/// When the server was last heard of.
pub(crate) type Heard = Rc<Cell<Option<Instant>>>;

/// Resolves, to the reason, when the server no longer knows the connection to `address`. Never does for a TCP connection.
pub(crate) async fn vigil(node: &Node, peer: PeerId, address: Multiaddr, heard: Heard) -> String {
    if address.iter().all(|part| part != Protocol::QuicV1) {
        return std::future::pending().await;
    }
    let start = Instant::now();
    loop {
        // A server that never gave a sign of life does not know how to.
        let last = heard.get().filter(|&last| last > start);
        let silent = last.map_or(Duration::ZERO, |last| last.elapsed());
        if silent < SUSPICIOUS {
            sleep(SUSPICIOUS - silent).await;
            continue;
        }
        // The node has room for one connection to a peer, so a second one that would have stood is denied.
        let asked = Instant::now();
        let probed = timeout(PROBE, node.dial(address.clone(), Some(peer))).await;
        let answered = matches!(probed, Ok(Err(DialFailure::Denied) | Ok(_)));
        let silent = last.map_or(Duration::ZERO, |last| last.elapsed());
        if answered && heard.get() == last && silent >= SILENT.max(asked.elapsed() * LONGER) {
            return "the server was started anew and does not know it".into();
        }
        sleep(PAUSE).await;
    }
}
