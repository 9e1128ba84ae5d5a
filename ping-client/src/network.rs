//! The bare round trips of a connection, without the actor.

use std::time::{Duration, Instant};

use libp2p::PeerId;

use crate::{schedule::Pace, stats::Times, vigil::Heard};

/// How often one is measured at most. Often enough for a few in a short run, and seldom enough to cost a long one nothing: each
/// takes some ten microseconds of the client's time.
const OFTEN: Duration = Duration::from_millis(5);

/// How often one is measured at least. The [`vigil`](crate::vigil) wants signs of life.
const SELDOM: Duration = Duration::from_millis(100);

/// How often one is measured: ten for each ping at leisure, so that a thousand clients do not keep a server busy with it.
pub(crate) fn interval(pace: Pace) -> Duration {
    match pace {
        Pace::Interval(interval) => (interval / 10).clamp(OFTEN, SELDOM),
        Pace::Closed(_) | Pace::Rate(_) => OFTEN,
    }
}

/// How long to wait for one. A peer is gone when two in a row stay away: after twice this time. Long enough that a TCP
/// connection with much loss is not given up while it recovers, and short enough that a link which is cut for ten seconds
/// is noticed meanwhile.
pub(crate) const SILENCE: Duration = Duration::from_secs(3);

/// How many make a median that one odd one cannot spoil.
pub(crate) const ENOUGH: u64 = 3;

/// What was measured of each connected peer.
#[derive(Debug, Default)]
pub(crate) struct Network {
    peers: Vec<(PeerId, Times)>,
    /// When one was last measured.
    pub(crate) heard: Heard,
}

impl Network {
    pub(crate) fn record(&mut self, peer: PeerId, time: Duration) {
        self.heard.set(Some(Instant::now()));
        match self.peers.iter_mut().find(|(known, _)| *known == peer) {
            Some((_, times)) => times.record(time),
            // The first one also paid for the negotiation of its protocol, and ran beside the look-up.
            None => self.peers.push((peer, Times::new())),
        }
    }

    /// How often the round trip to a peer was measured.
    pub(crate) fn count(&self, peer: PeerId) -> u64 {
        self.peers.iter().find(|(known, _)| *known == peer).map_or(0, |(_, times)| times.count())
    }

    /// The round trips to a peer.
    pub(crate) fn take(&mut self, peer: PeerId) -> Times {
        let place = self.peers.iter().position(|(known, _)| *known == peer);
        place.map_or_else(Times::new, |place| self.peers.swap_remove(place).1)
    }
}
