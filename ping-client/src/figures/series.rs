//! What happened over a run, in constant memory.

use std::{collections::BTreeMap, time::Duration};

use super::{Coarse, times::nanoseconds};

/// How many intervals a run is divided into at most.
const MAX_INTERVALS: usize = 400;

/// How many outages are remembered.
const MAX_OUTAGES: usize = 1000;

/// What happened to the pings that were due in one interval of the run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Interval {
    /// The times of those that were answered.
    pub(crate) times: Coarse,
    /// Those that were not, by cause.
    pub(crate) lost: BTreeMap<&'static str, u64>,
    /// How many answers arrived in the interval, whenever their pings were due.
    pub(crate) arrived: u64,
}

impl Interval {
    /// How many pings were due in the interval, as far as their outcome is known.
    pub(crate) fn pings(&self) -> u64 {
        self.times.count() + self.lost.values().sum::<u64>()
    }

    fn add(&mut self, other: &Self) {
        self.times.add(&other.times);
        self.arrived += other.arrived;
        for (cause, count) in &other.lost {
            *self.lost.entry(cause).or_default() += count;
        }
    }
}

/// Intervals of equal length from the start of the run. When the run outgrows them, each two become one of twice the
/// length. And the times without a connection.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    length: Duration,
    intervals: Vec<Interval>,
    outages: Vec<(Duration, Duration)>,
}

impl Series {
    pub(crate) fn new() -> Self {
        Self { length: Duration::from_micros(128), intervals: Vec::new(), outages: Vec::new() }
    }

    /// The ping that was due at this time of the run took `time`, and its answer arrived then.
    pub(crate) fn answered(&mut self, due: Duration, time: Duration, ended: Duration) {
        self.at(ended).arrived += 1;
        self.at(due).times.record(time);
    }

    /// The ping that was due at this time of the run got no answer.
    pub(crate) fn lost(&mut self, due: Duration, cause: &'static str) {
        *self.at(due).lost.entry(cause).or_default() += 1;
    }

    /// There was no connection from one time of the run to another.
    pub(crate) fn outage(&mut self, from: Duration, to: Duration) {
        if self.outages.len() < MAX_OUTAGES {
            self.outages.push((from, to));
        }
    }

    fn at(&mut self, time: Duration) -> &mut Interval {
        let mut index = nanoseconds(time) / nanoseconds(self.length);
        while index >= MAX_INTERVALS as u64 {
            *self = self.coarser();
            index /= 2;
        }
        let index = index as usize;
        if self.intervals.len() <= index {
            self.intervals.resize_with(index + 1, Interval::default);
        }
        &mut self.intervals[index]
    }

    /// The same with intervals of twice the length.
    fn coarser(&self) -> Self {
        let pairs = self.intervals.chunks(2).map(|pair| {
            let mut both = Interval::default();
            pair.iter().for_each(|interval| both.add(interval));
            both
        });
        Self { length: self.length * 2, intervals: pairs.collect(), outages: self.outages.clone() }
    }

    /// The same in at most this many intervals.
    pub(crate) fn at_most(&self, intervals: usize) -> Self {
        let mut series = self.clone();
        while series.intervals.len() > intervals.max(1) {
            series = series.coarser();
        }
        series
    }

    /// How long an interval is.
    pub(crate) fn length(&self) -> Duration {
        self.length
    }

    /// All intervals from the start of the run.
    pub(crate) fn intervals(&self) -> &[Interval] {
        &self.intervals
    }

    /// When there was no connection.
    pub(crate) fn outages(&self) -> &[(Duration, Duration)] {
        &self.outages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_keeps_its_counts_and_extremes_in_few_intervals() {
        let mut series = Series::new();
        for n in 0..100_000_u64 {
            let due = Duration::from_millis(n);
            match n % 10 {
                0 => series.lost(due, "timed_out"),
                _ => series.answered(due, Duration::from_micros(1 + n % 100), due),
            }
        }
        let intervals = series.intervals();
        assert!(intervals.len() <= MAX_INTERVALS && intervals.len() > MAX_INTERVALS / 3, "{}", intervals.len());
        let sum = |count: fn(&Interval) -> u64| intervals.iter().map(count).sum::<u64>();
        assert_eq!((sum(Interval::pings), sum(|it| it.times.count()), sum(|it| it.arrived)), (100_000, 90_000, 90_000));
        let few = series.at_most(50);
        assert!(few.intervals().len() <= 50);
        assert_eq!(few.intervals().iter().map(Interval::pings).sum::<u64>(), 100_000);
        assert_eq!(few.length().as_nanos() % series.length().as_nanos(), 0);
    }

    #[test]
    fn what_happened_is_where_it_was_due() {
        let mut series = Series::new();
        let second = Duration::from_secs(1);
        series.answered(second, 2 * second, 3 * second);
        series.lost(2 * second, "timed_out");
        let at = |time: Duration| &series.intervals()[(time.as_nanos() / series.length().as_nanos()) as usize];
        assert_eq!((at(second).times.count(), at(second).arrived), (1, 0));
        assert_eq!((at(2 * second).lost["timed_out"], at(3 * second).arrived), (1, 1));
    }
}
