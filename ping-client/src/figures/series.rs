//! How the times changed over a run, in constant memory.

use std::time::Duration;

/// How many intervals a run is divided into at most.
const MAX_INTERVALS: usize = 400;

/// What happened in one interval of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Interval {
    pub(crate) count: u64,
    pub(crate) min: Duration,
    pub(crate) max: Duration,
    sum: Duration,
}

impl Interval {
    pub(crate) fn mean(&self) -> Duration {
        self.sum.div_f64(self.count.max(1) as f64)
    }

    fn add(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        self.min = if self.count == 0 { other.min } else { self.min.min(other.min) };
        self.max = self.max.max(other.max);
        self.count += other.count;
        self.sum += other.sum;
    }
}

/// Intervals of equal length. When the run outgrows them, each two become one of twice the length.
#[derive(Debug)]
pub(crate) struct Series {
    length: Duration,
    intervals: Vec<Interval>,
}

impl Series {
    pub(crate) fn new() -> Self {
        Self { length: Duration::from_micros(100), intervals: Vec::new() }
    }

    /// Something that took `time` ended `at` this time of the run.
    pub(crate) fn record(&mut self, at: Duration, time: Duration) {
        let mut index = at.as_nanos() / self.length.as_nanos();
        while index >= MAX_INTERVALS as u128 {
            self.halve();
            index /= 2;
        }
        let index = index as usize;
        if self.intervals.len() <= index {
            self.intervals.resize(index + 1, Interval::default());
        }
        self.intervals[index].add(&Interval { count: 1, min: time, max: time, sum: time });
    }

    fn halve(&mut self) {
        self.length *= 2;
        let halves = self.intervals.chunks(2).map(|pair| {
            let mut both = Interval::default();
            pair.iter().for_each(|interval| both.add(interval));
            both
        });
        self.intervals = halves.collect();
    }

    /// The middle of each interval in which something happened, and what did.
    pub(crate) fn intervals(&self) -> impl Iterator<Item = (Duration, &Interval)> {
        let middle = move |index: usize| self.length.mul_f64(index as f64 + 0.5);
        self.intervals.iter().enumerate().filter(|(_, i)| i.count > 0).map(move |(index, i)| (middle(index), i))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_keeps_its_counts_and_extremes_in_few_intervals() {
        let mut series = Series::new();
        for n in 0..100_000_u64 {
            series.record(Duration::from_millis(n), Duration::from_micros(1 + n % 100));
        }
        let intervals: Vec<_> = series.intervals().collect();
        assert!(intervals.len() <= MAX_INTERVALS && intervals.len() > MAX_INTERVALS / 3, "{}", intervals.len());
        assert_eq!(intervals.iter().map(|(_, interval)| interval.count).sum::<u64>(), 100_000);
        // All but the last, which may have just begun, saw the whole range.
        let mut whole = intervals[..intervals.len() - 1].iter();
        let [shortest, longest] = [1, 100].map(Duration::from_micros);
        assert!(whole.all(|(_, interval)| (interval.min, interval.max) == (shortest, longest)));
        assert!(intervals.is_sorted_by_key(|(at, _)| *at));
    }
}
