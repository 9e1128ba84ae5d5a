//! What a run measured.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

use crate::{
    diagnose::PingFailure,
    lane::Answer,
    run::{Observer, Sample},
    series::Series,
};

/// How precise the percentiles are: to three significant digits. The histogram then takes some 10 kB for every
/// doubling of the largest time, however many there are.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Times, summed up in constant memory.
#[derive(Debug)]
pub(crate) struct Times {
    histogram: Histogram<u64>,
    min: Duration,
    max: Duration,
    sum: Duration,
}

impl Times {
    pub(crate) fn new() -> Self {
        // Cannot fail: the library takes 0 to 5 significant digits.
        #[expect(clippy::expect_used, reason = "3 significant digits are within the library's 0 to 5")]
        let histogram = Histogram::new(SIGNIFICANT_DIGITS).expect("a valid precision");
        Self { histogram, min: Duration::MAX, max: Duration::ZERO, sum: Duration::ZERO }
    }

    pub(crate) fn record(&mut self, time: Duration) {
        self.min = self.min.min(time);
        self.max = self.max.max(time);
        self.sum += time;
        // The histogram grows to hold any 64-bit value, so nothing is refused.
        let _ = self.histogram.record(nanoseconds(time));
    }

    pub(crate) fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The time that `percent` of all times do not exceed. A bucket's upper end can lie beyond what was measured; no
    /// percentile does.
    pub(crate) fn percentile(&self, percent: f64) -> Duration {
        Duration::from_nanos(self.histogram.value_at_percentile(percent)).clamp(self.min, self.max)
    }

    /// The figures, if there is at least one time.
    pub(crate) fn figures(&self) -> Option<Figures> {
        if self.count() == 0 {
            return None;
        }
        Some(Figures {
            min: self.min,
            mean: self.sum.div_f64(self.count() as f64),
            stdev: Duration::from_secs_f64(self.histogram.stdev() / 1e9),
            p50: self.percentile(50.0),
            p90: self.percentile(90.0),
            p99: self.percentile(99.0),
            p99_9: (self.count() >= 1000).then(|| self.percentile(99.9)),
            max: self.max,
        })
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

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The figures of a number of times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figures {
    pub(crate) min: Duration,
    pub(crate) mean: Duration,
    pub(crate) stdev: Duration,
    pub(crate) p50: Duration,
    pub(crate) p90: Duration,
    pub(crate) p99: Duration,
    /// Of too few times it would be their maximum under another name.
    pub(crate) p99_9: Option<Duration>,
    pub(crate) max: Duration,
}

/// The counts and times of a run.
#[derive(Debug)]
pub(crate) struct Stats {
    /// Pings sent.
    pub(crate) sent: u64,
    /// Pings answered in time.
    pub(crate) received: u64,
    /// Of the lost pings, those that were answered after their time was up.
    pub(crate) late: u64,
    /// Pings answered after one that was sent later.
    pub(crate) reordered: u64,
    /// The largest total that the actor reported.
    pub(crate) server_total: Option<u64>,
    /// When the first answer came.
    pub(crate) first_answer: Option<Instant>,
    /// Why pings got no answer, with how often.
    pub(crate) failures: BTreeMap<&'static str, (String, u64)>,
    /// Round trips, or latencies in an open loop.
    pub(crate) rtt: Times,
    /// The same over the run.
    pub(crate) series: Series,
    /// When the first ping was sent, and when the last outcome was known.
    span: Option<(Instant, Instant)>,
    highest: u64,
}

impl Stats {
    pub(crate) fn new() -> Self {
        Self {
            sent: 0,
            received: 0,
            late: 0,
            reordered: 0,
            server_total: None,
            first_answer: None,
            failures: BTreeMap::new(),
            rtt: Times::new(),
            series: Series::new(),
            span: None,
            highest: 0,
        }
    }

    /// The run is over, and what is still under way is lost.
    pub(crate) fn cut_short(&mut self) {
        let settled = self.received + self.failures.values().map(|(_, count)| count).sum::<u64>();
        if self.sent > settled {
            let message = "still under way when the run ended".into();
            self.failures.insert("cut_short", (message, self.sent - settled));
        }
    }

    /// Lost pings that the server may have counted, or not: nothing came back that tells.
    pub(crate) fn unknown(&self) -> u64 {
        let certain = ["not_connected", "busy", "refused_by_actor", "damaged", "wrong_pong"];
        let told: u64 = certain.iter().filter_map(|kind| self.failures.get(kind)).map(|(_, count)| count).sum();
        self.lost().saturating_sub(self.late + told)
    }

    /// Pings that got no answer in time.
    pub(crate) fn lost(&self) -> u64 {
        self.sent - self.received
    }

    /// From the first ping to the last outcome.
    pub(crate) fn duration(&self) -> Duration {
        self.span.map_or(Duration::ZERO, |(first, last)| last - first)
    }

    /// Answers a second over the [`duration`](Self::duration), if that is long enough to tell.
    pub(crate) fn rate(&self) -> Option<f64> {
        let seconds = self.duration().as_secs_f64();
        (seconds > 0.0).then(|| self.received as f64 / seconds)
    }

    fn answer(&mut self, sample: &Sample, answer: Answer) {
        self.received += 1;
        if sample.sequence < self.highest {
            self.reordered += 1;
        }
        self.highest = self.highest.max(sample.sequence);
        self.first_answer.get_or_insert(sample.ended);
        self.server_total = self.server_total.max(answer.total);
        let time = sample.ended - sample.from;
        self.rtt.record(time);
        if let Some((start, _)) = self.span {
            self.series.record(sample.ended - start, time);
        }
    }

    fn failure(&mut self, failure: &PingFailure) {
        let (_, count) = self.failures.entry(failure.kind).or_insert_with(|| (failure.message.clone(), 0));
        *count += 1;
    }
}

impl Observer for Stats {
    fn sending(&mut self, _: u64, now: Instant) {
        self.sent += 1;
        self.span.get_or_insert((now, now)).1 = now;
    }

    fn outcome(&mut self, sample: &Sample) {
        match &sample.outcome {
            Ok(answer) => self.answer(sample, *answer),
            Err(failure) => self.failure(failure),
        }
        if let Some((_, last)) = &mut self.span {
            *last = sample.ended;
        }
    }

    fn late(&mut self, _: u64, answer: Answer) {
        self.late += 1;
        self.server_total = self.server_total.max(answer.total);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A ping sent at `sent` and answered after `rtt`.
    pub(crate) fn answered(sequence: u64, sent: Instant, rtt: Duration) -> Sample {
        let outcome = Ok(Answer { total: Some(sequence) });
        Sample { sequence, due: sent, sent, from: sent, ended: sent + rtt, outcome }
    }

    #[test]
    fn figures_are_those_of_the_answers() {
        let mut stats = Stats::new();
        let start = Instant::now();
        for n in 1..=100 {
            stats.sending(n, start);
            stats.outcome(&answered(n, start, Duration::from_micros(n * 10)));
        }
        stats.sending(101, start + Duration::from_secs(1));
        let failure = Err(PingFailure::timed_out(Duration::from_secs(1)));
        let ended = start + Duration::from_secs(2);
        stats.outcome(&Sample { ended, outcome: failure, ..answered(101, start, Duration::ZERO) });
        assert_eq!((stats.sent, stats.received, stats.lost(), stats.server_total), (101, 100, 1, Some(100)));
        assert_eq!(stats.duration(), Duration::from_secs(2));
        assert_eq!(stats.rate(), Some(50.0));
        let rtt = stats.rtt.figures().unwrap();
        assert_eq!((rtt.min, rtt.max), (Duration::from_micros(10), Duration::from_micros(1000)));
        assert_eq!(rtt.mean, Duration::from_micros(505));
        // The standard deviation of 10, 20, … 1000 is 288.66.
        let close = |measured: Duration, exact: f64| (measured.as_secs_f64() * 1e6 / exact - 1.0).abs() < 0.001;
        for (measured, exact) in [(rtt.p50, 500.0), (rtt.p90, 900.0), (rtt.p99, 990.0), (rtt.stdev, 288.66)] {
            assert!(close(measured, exact), "{measured:?} is not {exact} µs");
        }
    }

    #[test]
    fn what_is_under_way_at_the_end_is_accounted_for() {
        let mut stats = Stats::new();
        let start = Instant::now();
        for sequence in 1..=5 {
            stats.sending(sequence, start);
        }
        stats.outcome(&answered(1, start, Duration::from_micros(1)));
        stats.cut_short();
        assert_eq!((stats.lost(), stats.failures["cut_short"].1), (4, 4));
    }

    #[test]
    fn a_run_without_answers_has_no_figures() {
        let mut stats = Stats::new();
        assert_eq!(stats.rtt.figures(), None);
        stats.sending(1, Instant::now());
        assert_eq!((stats.lost(), stats.rtt.figures(), stats.rate()), (1, None, None));
    }

    #[test]
    fn an_answer_that_overtakes_another_is_noticed_once() {
        let mut stats = Stats::new();
        let start = Instant::now();
        for sequence in [1, 3, 2, 4] {
            stats.sending(sequence, start);
            stats.outcome(&answered(sequence, start, Duration::from_micros(1)));
        }
        assert_eq!(stats.reordered, 1);
    }

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
