//! Detects that the server no longer knows a QUIC connection.
//!
//! A server that was killed and restarted does not know its old connections. TCP answers with a reset; QUIC ignores
//! their packets, and only silence shows it. A new handshake that is answered at once while the connection stays
//! silent distinguishes this from a server, or a link, that pauses or is busy: there, the handshake takes its time
//! too.

use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use ping_core::{DialError, Node, PeerText};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// How long a connection is silent before it is suspected. Signs of life arrive every 100 ms or every round trip,
/// whichever is longer.
const SUSPECT_AFTER: Duration = Duration::from_millis(250);

/// How many times longer than the new handshake the connection must have been silent.
const HANDSHAKE_FACTOR: u32 = 10;

/// How long it must have been silent at least.
const MIN_SILENCE: Duration = Duration::from_millis(400);

/// How long the new handshake may take: two round trips of 200 ms. On a slower link, the connection's own timeout must
/// decide.
const PROBE_TIMEOUT: Duration = Duration::from_millis(400);

/// How long to wait before the next probe.
const PROBE_PAUSE: Duration = Duration::from_millis(50);

/// Resolves to the reason when the server no longer knows the connection to `address`. Never does for a TCP connection.
///
/// `last_heard` is when the server last gave a sign of life.
pub(super) async fn detect(
    node: &Node,
    peer: PeerId,
    address: Multiaddr,
    last_heard: watch::Receiver<Option<Instant>>,
) -> PeerText {
    if address.iter().all(|part| part != Protocol::QuicV1) {
        return std::future::pending().await;
    }
    let start = Instant::now();
    loop {
        // A server that never gave a sign of life does not speak that protocol.
        let last = last_heard.borrow().filter(|&last| last > start);
        let silent = last.map_or(Duration::ZERO, |last| last.elapsed());
        if silent < SUSPECT_AFTER {
            sleep(SUSPECT_AFTER - silent).await;
            continue;
        }
        // The node has room for one connection to a peer, so a second one that succeeds is denied.
        let asked = Instant::now();
        let probed = timeout(PROBE_TIMEOUT, node.dial(address.clone(), Some(peer))).await;
        let is_answered = matches!(probed, Ok(Err(DialError::Denied) | Ok(_)));
        let silent = last.map_or(Duration::ZERO, |last| last.elapsed());
        let is_long = silent >= MIN_SILENCE.max(asked.elapsed() * HANDSHAKE_FACTOR);
        if is_answered && *last_heard.borrow() == last && is_long {
            return "the server restarted and no longer knows this connection".into();
        }
        sleep(PROBE_PAUSE).await;
    }
}
