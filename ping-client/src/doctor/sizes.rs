//! Which payloads pass: where a router drops large packets without a word, small ones do and larger ones do not.

use std::time::{Duration, Instant};

use kameo::actor::RemoteActorRef;
use ping_core::{Connection, PingActor, protocol::Echo};
use tokio::time::timeout;

use super::{Outcome, checks::Checks};

/// A payload that needs several packets.
const LARGE: usize = 16 * 1024;

/// Payloads that fit into one packet of any network, with what is around them, and into none of Ethernet.
const ONE_PACKET: std::ops::Range<usize> = 16..1500;

/// How exactly the largest payload that passes is found, in bytes.
const SIZE_STEP: usize = 32;

impl Checks<'_> {
    /// Whether payloads pass that fill packets. Where they do not though small ones do, a router on the way drops large
    /// packets without a word; then the largest payload that passes is found by halving.
    pub(super) async fn sizes(&mut self, actor: &RemoteActorRef<PingActor>, connection: &Connection, limit: Duration) {
        let began = Instant::now();
        if comes_back(actor, LARGE, limit).await {
            let detail = format!("{LARGE} bytes come back");
            return self.add("path mtu", Outcome::Passed, Some(began.elapsed()), detail);
        }
        let (mut passes, mut fails) = (ONE_PACKET.start, ONE_PACKET.end);
        while fails - passes > SIZE_STEP {
            let size = usize::midpoint(passes, fails);
            // What was lost holds up all that follows on the same connection.
            self.node.disconnect(connection.peer);
            let dialed = self.node.dial(connection.address.clone(), Some(connection.peer)).await;
            if dialed.is_ok() && comes_back(actor, size, limit).await { passes = size } else { fails = size }
        }
        let detail = match passes == ONE_PACKET.start {
            true => format!("{LARGE} bytes do not come back, nor do {fails}, though a ping does"),
            false => format!(
                "{passes} bytes come back, and {fails} do not: a router on the way drops larger packets. Allow ICMP \
                 there, or lower the MTU of the interface"
            ),
        };
        self.add("path mtu", Outcome::Failed, None, detail);
    }
}

/// Whether a payload of this size comes back in time.
async fn comes_back(actor: &RemoteActorRef<PingActor>, size: usize, limit: Duration) -> bool {
    let echo = Echo { sequence: 1, payload: vec![0; size] };
    matches!(timeout(limit, actor.ask(&echo).send()).await, Ok(Ok(_)))
}
