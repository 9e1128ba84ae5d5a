//! What a run measured.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use crate::diagnose::PingFailure;

/// How precise the percentiles are: to three significant digits. The histogram then takes some 10 kB for every
/// doubling of the largest round trip, however many there are.
const SIGNIFICANT_DIGITS: u8 = 3;

/// The counts and round-trip times of a run.
#[derive(Debug)]
pub(crate) struct Stats {
    /// Pings sent.
    pub(crate) sent: u64,
    /// Pongs received in time.
    pub(crate) received: u64,
    /// The largest total that the actor reported.
    pub(crate) server_total: Option<u64>,
    /// The first pong's round trip.
    pub(crate) first_pong: Option<Instant>,
    /// Why pings got no pong, with how often.
    pub(crate) failures: BTreeMap<&'static str, (String, u64)>,
    /// When the first ping was sent, and when the last outcome was known.
    span: Option<(Instant, Instant)>,
    rtt: Histogram<u64>,
    min: Duration,
    max: Duration,
    sum: Duration,
}

/// Round-trip times of a run that had at least one pong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rtt {
    pub(crate) min: Duration,
    pub(crate) mean: Duration,
    pub(crate) p50: Duration,
    pub(crate) p90: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
}

impl Stats {
    pub(crate) fn new() -> Self {
        Self {
            sent: 0,
            received: 0,
            server_total: None,
            first_pong: None,
            failures: BTreeMap::new(),
            span: None,
            // Cannot fail: the library takes 0 to 5 significant digits.
            #[expect(clippy::expect_used, reason = "3 significant digits are within the library's 0 to 5")]
            rtt: Histogram::new(SIGNIFICANT_DIGITS).expect("a valid precision"),
            min: Duration::MAX,
            max: Duration::ZERO,
            sum: Duration::ZERO,
        }
    }

    /// A ping leaves.
    pub(crate) fn sending(&mut self, now: Instant) {
        self.sent += 1;
        self.span.get_or_insert((now, now)).1 = now;
    }

    /// A pong is in.
    pub(crate) fn pong(&mut self, rtt: Duration, total: u64, now: Instant) {
        self.received += 1;
        self.first_pong.get_or_insert(now);
        self.server_total = self.server_total.max(Some(total));
        self.min = self.min.min(rtt);
        self.max = self.max.max(rtt);
        self.sum += rtt;
        // The histogram grows to hold any 64-bit value, so nothing is refused.
        let _ = self.rtt.record(u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX));
        self.outcome_at(now);
    }

    /// A ping is lost. Returns whether this is the first one that is lost in this way.
    pub(crate) fn failure(&mut self, failure: &PingFailure, now: Instant) -> bool {
        self.outcome_at(now);
        let (_, count) = self.failures.entry(failure.kind).or_insert_with(|| (failure.message.clone(), 0));
        *count += 1;
        *count == 1
    }

    fn outcome_at(&mut self, now: Instant) {
        if let Some((_, last)) = &mut self.span {
            *last = now;
        }
    }

    /// Pings that got no pong in time.
    pub(crate) fn lost(&self) -> u64 {
        self.sent - self.received
    }

    /// From the first ping to the last outcome.
    pub(crate) fn duration(&self) -> Duration {
        self.span.map_or(Duration::ZERO, |(first, last)| last - first)
    }

    /// Pongs a second over the [`duration`](Self::duration), if that is long enough to tell.
    pub(crate) fn rate(&self) -> Option<f64> {
        let seconds = self.duration().as_secs_f64();
        (seconds > 0.0).then(|| self.received as f64 / seconds)
    }

    /// The round-trip times, if there are any.
    pub(crate) fn rtt(&self) -> Option<Rtt> {
        let count = u32::try_from(self.received).unwrap_or(u32::MAX);
        if count == 0 {
            return None;
        }
        // A bucket's upper end can lie beyond what was measured; no percentile does.
        let percentile = |p| Duration::from_nanos(self.rtt.value_at_percentile(p)).clamp(self.min, self.max);
        Some(Rtt {
            min: self.min,
            mean: self.sum / count,
            p50: percentile(50.0),
            p90: percentile(90.0),
            p99: percentile(99.0),
            max: self.max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_the_pongs() {
        let mut stats = Stats::new();
        let start = Instant::now();
        for n in 1..=100 {
            stats.sending(start);
            stats.pong(Duration::from_micros(n * 10), n, start + Duration::from_secs(1));
        }
        stats.sending(start + Duration::from_secs(1));
        assert!(stats.failure(&PingFailure::timed_out(Duration::from_secs(1)), start + Duration::from_secs(2)));
        assert_eq!((stats.sent, stats.received, stats.lost(), stats.server_total), (101, 100, 1, Some(100)));
        assert_eq!(stats.duration(), Duration::from_secs(2));
        assert_eq!(stats.rate(), Some(50.0));
        let rtt = stats.rtt().unwrap();
        assert_eq!((rtt.min, rtt.max), (Duration::from_micros(10), Duration::from_micros(1000)));
        assert_eq!(rtt.mean, Duration::from_micros(505));
        for (measured, exact) in [(rtt.p50, 500.0), (rtt.p90, 900.0), (rtt.p99, 990.0)] {
            let ratio = measured.as_secs_f64() * 1e6 / exact;
            assert!((0.999..=1.001).contains(&ratio), "{measured:?} is not {exact} µs");
        }
    }

    #[test]
    fn a_run_without_pongs_has_no_figures() {
        let mut stats = Stats::new();
        assert_eq!(stats.rtt(), None);
        stats.sending(Instant::now());
        assert_eq!((stats.lost(), stats.rtt(), stats.rate()), (1, None, None));
    }
}
