//! Times, summed up in constant memory.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The precision of percentiles in significant digits. The histogram takes some 10 kB for every doubling of the largest
/// time, however many times there are.
const SIGNIFICANT_DIGITS: u8 = 3;

/// The least factor between two bounds of buckets.
const MIN_FACTOR: f64 = 1.02;

/// How many times a percentile needs for at least one of them to lie beyond it.
const P99_9_SAMPLES: u64 = 1000;

/// A number of times.
#[derive(Debug)]
pub(crate) struct Times {
    histogram: Histogram<u64>,
    min: Duration,
    max: Duration,
    sum: Duration,
}

impl Times {
    pub(crate) fn new() -> Self {
        // The library takes 0 to 5 significant digits.
        #[expect(clippy::expect_used, reason = "3 significant digits are within the library's 0 to 5")]
        let histogram = Histogram::new(SIGNIFICANT_DIGITS).expect("a valid precision");
        Self { histogram, min: Duration::MAX, max: Duration::ZERO, sum: Duration::ZERO }
    }

    pub(crate) fn record(&mut self, time: Duration) {
        self.min = self.min.min(time);
        self.max = self.max.max(time);
        self.sum += time;
        // The histogram grows to hold any 64-bit value, so nothing is rejected.
        let _ = self.histogram.record(nanoseconds(time));
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum += other.sum;
        // It grows as needed, so nothing is rejected.
        let _ = self.histogram.add(&other.histogram);
    }

    pub(crate) fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The time that `percent` of all times do not exceed. The upper end of a bucket can lie beyond what was
    /// measured; no percentile does.
    pub(crate) fn percentile(&self, percent: f64) -> Duration {
        Duration::from_nanos(self.histogram.value_at_percentile(percent)).clamp(self.min, self.max)
    }

    /// The summary, if there is at least one time.
    pub(crate) fn summary(&self) -> Option<Summary> {
        if self.count() == 0 {
            return None;
        }
        Some(Summary {
            min: self.min,
            mean: self.sum.div_f64(self.count() as f64),
            stdev: Duration::from_secs_f64(self.histogram.stdev() / 1e9),
            p50: self.percentile(50.0),
            p90: self.percentile(90.0),
            p99: self.percentile(99.0),
            p99_9: (self.count() >= P99_9_SAMPLES).then(|| self.percentile(99.9)),
            max: self.max,
        })
    }

    /// Bounds of at most the given number of buckets that hold all times, each the same factor wider than the one
    /// before. The factor is large enough for three digits to tell two bounds apart.
    pub(crate) fn log_bounds(&self, buckets: usize) -> Vec<Duration> {
        // The ends of the histogram's own buckets lie up to 0.1 % beyond what was measured.
        let (from, to) = (nanoseconds(self.min).max(1) as f64 * 0.998, nanoseconds(self.max).max(1) as f64 * 1.003);
        let factor = (to / from).powf(1.0 / buckets.max(1) as f64).max(MIN_FACTOR);
        let count = ((to / from).ln() / factor.ln() - 1e-9).ceil() as i32;
        (0..=count).map(|n| Duration::from_nanos((from * factor.powi(n)).round() as u64)).collect()
    }

    /// How many times lie between each two neighbouring bounds.
    pub(crate) fn counts_between(&self, bounds: &[Duration]) -> Vec<u64> {
        let count = |from: u64, to: u64| {
            let values = self.histogram.iter_recorded();
            values
                .filter(|value| (from..to).contains(&value.value_iterated_to()))
                .map(|value| value.count_at_value())
                .sum()
        };
        bounds.windows(2).map(|bounds| count(nanoseconds(bounds[0]), nanoseconds(bounds[1]))).collect()
    }
}

pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The summary of a number of times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) min: Duration,
    pub(crate) mean: Duration,
    pub(crate) stdev: Duration,
    pub(crate) p50: Duration,
    pub(crate) p90: Duration,
    pub(crate) p99: Duration,
    /// `None` for too few times, of which it would be the maximum under another name.
    pub(crate) p99_9: Option<Duration>,
    pub(crate) max: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_in_one_interval() {
        let mut times = Times::new();
        for n in 1..=1000 {
            times.record(Duration::from_micros(n));
        }
        let bounds = [0, 250, 500, 2000].map(Duration::from_micros);
        let counts = times.counts_between(&bounds);
        assert_eq!(counts.iter().sum::<u64>(), 1000);
        assert!((248..=250).contains(&counts[0]), "{counts:?}");
    }
}
