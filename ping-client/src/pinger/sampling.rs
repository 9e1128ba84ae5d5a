//! `--otlp`: which pings are traced.

use std::time::{Duration, Instant};

use libp2p::PeerId;
use ping_core::traces::PingSpan;

/// How far apart traced pings are at least: enough to see what a slow one waits for, and too few to slow down others.
const SPACING: Duration = Duration::from_millis(100);

/// Begins traces, ten a second at most.
pub(super) struct Sampling {
    peer: PeerId,
    last: Option<Instant>,
}

impl Sampling {
    pub(super) fn of(peer: PeerId) -> Self {
        Self { peer, last: None }
    }

    /// The span of this ping, if it is to be traced.
    pub(super) fn begin(&mut self, sequence: u64, now: Instant) -> Option<PingSpan> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < SPACING) {
            return None;
        }
        self.last = Some(now);
        Some(PingSpan::of_client(sequence, &self.peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_of_many_pings_are_traced() {
        let (mut sampling, start) = (Sampling::of(PeerId::random()), Instant::now());
        let pings = (0..3000).map(|number| (number, start + Duration::from_millis(number)));
        let traced: Vec<_> = pings.filter(|&(number, at)| sampling.begin(number, at).is_some()).collect();
        assert_eq!(traced.len(), 30);
        assert_eq!(traced[0].0, 0);
    }
}
