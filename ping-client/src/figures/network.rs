//! The round trips of a connection, without the actor.

use std::time::{Duration, Instant};

use libp2p::PeerId;
use tokio::sync::watch;

use super::Times;
use crate::run::Pace;

/// The shortest interval between two measurements. Short enough for a few in a short run, and long enough to cost a
/// long one nothing: each takes some ten microseconds of the client's time.
const MIN_INTERVAL: Duration = Duration::from_millis(5);

/// The longest interval. A server that started anew says so when the next packet of a connection that it does not know
/// arrives.
const MAX_INTERVAL: Duration = Duration::from_millis(100);

/// How many measurements are made for each ping of a slow run.
const PER_PING: u32 = 10;

/// How long to wait for one. A peer from which nothing at all arrives for twice this time is gone. A TCP connection
/// with heavy loss has time to recover, and a link that is cut for ten seconds is noticed within the cut.
pub(crate) const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// How many measurements make a median that an outlier does not spoil.
const MIN_SAMPLES: u64 = 3;

/// How often the round trip is measured. Slow runs measure less, so that a thousand of them do not keep a server busy.
pub(crate) fn keep_alive_interval(pace: Pace) -> Duration {
    let between_pings = match pace {
        Pace::Interval(interval) => interval,
        Pace::Rate(rate) => Duration::from_secs_f64(1.0 / rate),
        Pace::Closed(_) => Duration::ZERO,
    };
    (between_pings / PER_PING).clamp(MIN_INTERVAL, MAX_INTERVAL)
}

/// The round trips to each peer that was connected, and the last sign of life of the one that is pinged.
#[derive(Debug)]
pub(crate) struct Network {
    peers: Vec<(PeerId, Times)>,
    pinged: Option<PeerId>,
    last_heard: watch::Sender<Option<Instant>>,
}

impl Network {
    pub(crate) fn new() -> Self {
        Self { peers: Vec::new(), pinged: None, last_heard: watch::Sender::new(None) }
    }

    /// From now on this peer is pinged. Returns when it last gave a sign of life.
    pub(crate) fn follow(&mut self, peer: PeerId) -> watch::Receiver<Option<Instant>> {
        self.pinged = Some(peer);
        self.last_heard.subscribe()
    }

    pub(crate) fn record(&mut self, peer: PeerId, time: Duration) {
        if self.pinged == Some(peer) {
            self.last_heard.send_replace(Some(Instant::now()));
        }
        match self.peers.iter_mut().find(|(known, _)| *known == peer) {
            Some((_, times)) => times.record(time),
            // The first one also negotiated its protocol, and ran beside the look-up.
            None => self.peers.push((peer, Times::new())),
        }
    }

    /// Whether there are enough round trips to the pinged peer for a median.
    pub(crate) fn is_sufficient(&self) -> bool {
        let pinged = self.peers.iter().find(|(known, _)| Some(*known) == self.pinged);
        pinged.is_some_and(|(_, times)| times.count() >= MIN_SAMPLES)
    }

    /// The round trips to the pinged peer.
    pub(crate) fn into_times(mut self) -> Times {
        let place = self.peers.iter().position(|(known, _)| Some(*known) == self.pinged);
        place.map_or_else(Times::new, |place| self.peers.swap_remove(place).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_runs_measure_ten_times_a_ping_and_within_bounds() {
        let seconds = |pace| keep_alive_interval(pace).as_secs_f64();
        assert_eq!(seconds(Pace::Interval(Duration::from_millis(200))), 0.02);
        assert_eq!(seconds(Pace::Rate(5.0)), 0.02);
        for slow in [Pace::Interval(Duration::from_secs(2)), Pace::Rate(1.0)] {
            assert_eq!(seconds(slow), 0.1);
        }
        for fast in [Pace::Interval(Duration::from_millis(1)), Pace::Rate(5000.0), Pace::Closed(1)] {
            assert_eq!(seconds(fast), 0.005);
        }
    }

    #[test]
    fn only_the_pinged_peer_gives_signs_of_life() {
        let (pinged, other) = (PeerId::random(), PeerId::random());
        let mut network = Network::new();
        let last_heard = network.follow(pinged);
        for _ in 0..10 {
            network.record(other, Duration::from_millis(1));
        }
        assert_eq!((*last_heard.borrow(), network.is_sufficient()), (None, false));
        network.record(pinged, Duration::from_millis(9));
        assert!(last_heard.borrow().is_some());
        (0..3).for_each(|_| network.record(pinged, Duration::from_millis(2)));
        assert!(network.is_sufficient());
        assert_eq!(network.into_times().summary().unwrap().max, Duration::from_millis(2));
    }
}
