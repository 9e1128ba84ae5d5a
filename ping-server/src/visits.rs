//! How long each client has been here, and how many pings it has sent.

use std::{collections::HashMap, time::Instant};

use libp2p::PeerId;
use ping_core::actor::Tally;

use crate::events::ClientPings;

/// How many clients a line names, those with the most pings.
const MAX_NAMED: usize = 16;

/// The clients that are connected.
#[derive(Debug)]
pub(crate) struct Visits {
    tally: Tally,
    visits: HashMap<PeerId, Visit>,
}

#[derive(Debug)]
struct Visit {
    since: Instant,
    pings: u64,
}

impl Visits {
    pub(crate) fn new(tally: Tally) -> Self {
        Self { tally, visits: HashMap::new() }
    }

    /// A client has connected.
    pub(crate) fn begin(&mut self, peer: PeerId) {
        self.visits.insert(peer, Visit { since: Instant::now(), pings: 0 });
    }

    /// A peer has disconnected. Returns for how many seconds it was connected, and how many pings it sent, if it was a
    /// client.
    pub(crate) fn end(&mut self, peer: &PeerId) -> Option<(f64, u64)> {
        self.add();
        let visit = self.visits.remove(peer)?;
        Some((visit.since.elapsed().as_secs_f64(), visit.pings))
    }

    /// Who sent pings since the last time, those with the most first.
    pub(crate) fn pings(&mut self) -> Vec<ClientPings> {
        let mut clients: Vec<_> = self.add().into_iter().collect();
        clients.sort_by_key(|(peer, count)| (std::cmp::Reverse(*count), *peer));
        clients.truncate(MAX_NAMED);
        clients.into_iter().map(|(peer, count)| ClientPings { peer_id: peer, count }).collect()
    }

    /// Adds what was sent since the last time to the visits, and returns it.
    fn add(&mut self) -> HashMap<PeerId, u64> {
        let new = self.tally.take();
        for (peer, count) in &new {
            if let Some(visit) = self.visits.get_mut(peer) {
                visit.pings += count;
            }
        }
        new
    }
}
