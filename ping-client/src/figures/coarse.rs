//! A histogram of a few hundred bytes, for one interval of many.

use std::time::Duration;

/// Buckets for each doubling: 16, so that a time is known to 6 %, and what is read is off by 3 % at most.
const SUB_BUCKETS: u32 = 16;

/// Times in logarithmic buckets, with the exact extremes and sum.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Coarse {
    /// The number of the first bucket that is kept.
    first: usize,
    counts: Vec<u64>,
    count: u64,
    min: Duration,
    max: Duration,
    sum: Duration,
}

impl Coarse {
    pub(crate) fn record(&mut self, time: Duration) {
        self.min = if self.count == 0 { time } else { self.min.min(time) };
        self.max = self.max.max(time);
        self.sum += time;
        self.count += 1;
        *self.bucket(bucket_of(time)) += 1;
    }

    /// How many times there are.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn max(&self) -> Duration {
        self.max
    }

    pub(crate) fn mean(&self) -> Duration {
        self.sum.div_f64(self.count.max(1) as f64)
    }

    /// The time that `percent` of all times do not exceed, within 3 %; zero if there are none.
    pub(crate) fn percentile(&self, percent: f64) -> Duration {
        let wanted = ((self.count as f64 * percent / 100.0).ceil() as u64).max(1);
        let mut seen = 0;
        for (number, count) in (self.first..).zip(&self.counts) {
            seen += *count;
            if seen >= wanted {
                return middle(number).clamp(self.min, self.max);
            }
        }
        self.max
    }

    pub(crate) fn add(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        self.min = if self.count == 0 { other.min } else { self.min.min(other.min) };
        self.max = self.max.max(other.max);
        self.sum += other.sum;
        self.count += other.count;
        for (number, count) in (other.first..).zip(&other.counts).filter(|(_, count)| **count > 0) {
            *self.bucket(number) += count;
        }
    }

    /// A bucket, which is made if there is none.
    fn bucket(&mut self, number: usize) -> &mut u64 {
        if self.counts.is_empty() {
            self.first = number;
        }
        if number < self.first {
            let more = self.first - number;
            self.counts.splice(0..0, std::iter::repeat_n(0, more));
            self.first = number;
        }
        let place = number - self.first;
        if place >= self.counts.len() {
            self.counts.resize(place + 1, 0);
        }
        &mut self.counts[place]
    }
}

/// The number of a time's bucket.
fn bucket_of(time: Duration) -> usize {
    let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1);
    let doublings = nanoseconds.ilog2();
    // The four bits after the first one.
    let place = if doublings >= 4 { nanoseconds >> (doublings - 4) } else { nanoseconds << (4 - doublings) };
    (doublings * SUB_BUCKETS) as usize + (place as u32 - SUB_BUCKETS) as usize
}

/// The middle of a bucket.
fn middle(number: usize) -> Duration {
    let (doublings, place) = (number as u32 / SUB_BUCKETS, number as u32 % SUB_BUCKETS);
    let from = f64::from(SUB_BUCKETS + place) / f64::from(SUB_BUCKETS);
    Duration::from_secs_f64((from + 0.5 / f64::from(SUB_BUCKETS)) * f64::from(doublings).exp2() / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_within_three_percent() {
        let mut times = Coarse::default();
        // From both ends, so that buckets are added on both sides.
        for n in (1..=5000).rev().chain(5001..=10_000) {
            times.record(Duration::from_micros(n));
        }
        for percent in [1.0, 50.0, 90.0, 99.0, 99.9] {
            let off = times.percentile(percent).as_secs_f64() * 1e6 / (percent * 100.0) - 1.0;
            assert!(off.abs() < 0.035, "{percent}: {off}");
        }
        assert_eq!((times.count(), times.max()), (10_000, Duration::from_millis(10)));
        assert_eq!(times.percentile(100.0), Duration::from_millis(10));
        assert_eq!(times.mean(), Duration::from_nanos(5_000_500));
        let mut twice = Coarse::default();
        twice.add(&times);
        twice.add(&times);
        assert_eq!((twice.count(), twice.percentile(50.0)), (20_000, times.percentile(50.0)));
    }

    #[test]
    fn every_time_has_a_bucket_that_holds_it() {
        for nanoseconds in [0, 1, 2, 3, 15, 16, 17, 1000, 123_456, u64::MAX] {
            let time = Duration::from_nanos(nanoseconds);
            let off = middle(bucket_of(time)).as_secs_f64() / time.as_secs_f64().max(1e-9) - 1.0;
            assert!(off.abs() <= 0.04 || nanoseconds < 100, "{nanoseconds}: {off}");
        }
        assert_eq!(Coarse::default().percentile(50.0), Duration::ZERO);
    }
}
