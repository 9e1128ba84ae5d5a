//! What a session measures.
//!
//! - [`Figures`]: the counts and times of a run; `times`, `coarse` and `series` sum them up in constant memory.
//! - [`Network`]: the round trips of the connection without the actor.
//! - [`Clock`]: what the client's own clocks say of the run.
//! - [`SessionResult`]: all of it, with [`notes()`] on how far it can be trusted.

mod clocks;
mod coarse;
mod network;
mod notes;
mod origin;
mod result;
mod series;
mod times;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    error::PingError,
    pinger::{Answer, Path},
    run::{Observer, Sample, Sending},
};

pub(crate) use clocks::{Clock, Clocks};
pub(crate) use coarse::Coarse;
pub(crate) use network::{KEEP_ALIVE_TIMEOUT, Network, keep_alive_interval};
pub(crate) use notes::notes;
pub(crate) use origin::Origin;
pub(crate) use result::{Load, Phases, Server, ServerVersion, SessionResult};
pub(crate) use series::Series;
pub(crate) use times::{Summary, Times};

/// The counts and times of a run.
#[derive(Debug)]
pub(crate) struct Figures {
    /// Pings sent.
    pub(crate) sent: u64,
    /// Pings answered in time.
    pub(crate) received: u64,
    /// Of the lost pings, those that were answered too late.
    pub(crate) late: u64,
    /// Pings answered after one that was sent later.
    pub(crate) reordered: u64,
    /// Pings that were not sent because the machine slept when they were due.
    pub(crate) not_sent: u64,
    /// For how long it slept.
    pub(crate) slept: Duration,
    /// The largest total that the actor reported.
    pub(crate) server_total: Option<u64>,
    /// When the first answer arrived.
    pub(crate) first_answer: Option<Instant>,
    /// Why pings got no answer, with a summary of each cause and how often.
    pub(crate) failures: BTreeMap<&'static str, (String, u64)>,
    /// Round trips, or latencies in an open loop.
    pub(crate) rtt: Times,
    /// What happened over the run.
    pub(crate) series: Series,
    /// The ways that pings took, one after the other.
    pub(crate) paths: Vec<PathFigures>,
    /// When the first ping was sent, when the last one was, and when the last outcome was known.
    span: Option<(Instant, Instant, Instant)>,
    highest: u64,
}

/// What came back on one way.
#[derive(Debug)]
pub(crate) struct PathFigures {
    pub(crate) path: Path,
    /// When pings began to take it.
    pub(crate) from: Duration,
    pub(crate) times: Times,
}

/// How many changes of the way are remembered. After that, all count for the last one.
const MAX_PATHS: usize = 20;

impl Figures {
    pub(crate) fn new() -> Self {
        Self {
            sent: 0,
            received: 0,
            late: 0,
            reordered: 0,
            not_sent: 0,
            slept: Duration::ZERO,
            server_total: None,
            first_answer: None,
            failures: BTreeMap::new(),
            rtt: Times::new(),
            series: Series::new(),
            paths: Vec::new(),
            span: None,
            highest: 0,
        }
    }

    /// The run is over; what is still in flight is lost.
    pub(crate) fn cut_short(&mut self) {
        let settled = self.received + self.failures.values().map(|(_, count)| count).sum::<u64>();
        for _ in settled..self.sent {
            self.failure(&PingError::CutShort);
        }
    }

    /// Lost pings of which nothing tells whether the server counted them.
    pub(crate) fn unknown(&self) -> u64 {
        let certain = self.failures.iter().filter(|(cause, _)| PingError::is_certain(cause));
        let certain: u64 = certain.map(|(_, (_, count))| count).sum();
        self.lost().saturating_sub(self.late + certain)
    }

    /// Pings that got no answer in time.
    pub(crate) fn lost(&self) -> u64 {
        self.sent - self.received
    }

    /// How many pings were lost by this cause.
    pub(crate) fn lost_by(&self, cause: &PingError) -> u64 {
        self.failures.get(cause.cause()).map_or(0, |(_, count)| *count)
    }

    /// From the first ping to the last outcome.
    pub(crate) fn duration(&self) -> Duration {
        self.span.map_or(Duration::ZERO, |(first, _, last)| last - first)
    }

    /// How long ago the first ping was sent.
    pub(crate) fn elapsed(&self, now: Instant) -> Option<Duration> {
        self.span.map(|(first, ..)| now.saturating_duration_since(first))
    }

    /// Answers a second over the [`duration`](Self::duration), if that is long enough to tell.
    pub(crate) fn rate(&self) -> Option<f64> {
        let seconds = self.duration().as_secs_f64();
        (seconds > 0.0).then(|| self.received as f64 / seconds)
    }

    /// The ways that pings took, each with its end.
    pub(crate) fn paths_to_end(&self) -> impl Iterator<Item = (&PathFigures, Duration)> {
        let ends = self.paths.iter().skip(1).map(|next| next.from).chain([self.duration()]);
        self.paths.iter().zip(ends)
    }

    /// Pings sent a second, from the first to the last.
    pub(crate) fn send_rate(&self) -> Option<f64> {
        let (first, last, _) = self.span?;
        let seconds = (last - first).as_secs_f64();
        // Between n pings lie n - 1 intervals.
        (seconds > 0.0).then(|| self.sent.saturating_sub(1) as f64 / seconds)
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
        let sent = self.since_start(sample.sent);
        let taken = self.paths.iter().rposition(|path| path.from <= sent).unwrap_or_default();
        self.paths.get_mut(taken).into_iter().for_each(|path| path.times.record(time));
        let (due, ended) = (self.since_start(sample.due), self.since_start(sample.ended));
        self.series.answered(due, time, ended);
    }

    /// The first ping was due some microseconds before it was sent.
    fn since_start(&self, moment: Instant) -> Duration {
        self.span.map_or(Duration::ZERO, |(start, ..)| moment.saturating_duration_since(start))
    }

    fn failure(&mut self, error: &PingError) {
        let (_, count) = self.failures.entry(error.cause()).or_insert_with(|| (error.summary(), 0));
        *count += 1;
    }
}

impl Observer for Figures {
    fn sending(&mut self, Sending { now, .. }: Sending) {
        self.sent += 1;
        let (_, sent, ended) = self.span.get_or_insert((now, now, now));
        (*sent, *ended) = (now, now);
    }

    fn outcome(&mut self, sample: &Sample) {
        match &sample.outcome {
            Ok(answer) => self.answer(sample, *answer),
            Err(error) => {
                self.failure(error);
                self.series.lost(self.since_start(sample.due), error.cause());
            }
        }
        if let Some((.., ended)) = &mut self.span {
            *ended = sample.ended;
        }
    }

    fn late(&mut self, _: u64, answer: Answer) {
        self.late += 1;
        self.server_total = self.server_total.max(answer.total);
    }

    fn path(&mut self, now: Instant, path: Path) {
        let is_new = self.paths.last().is_none_or(|last| last.path != path);
        if is_new && self.paths.len() < MAX_PATHS {
            self.paths.push(PathFigures { path, from: self.since_start(now), times: Times::new() });
        }
    }

    fn outage(&mut self, from: Instant, to: Instant) {
        self.series.outage(self.since_start(from), self.since_start(to));
    }

    fn slept(&mut self, slept: Duration, missed: u64) {
        self.slept += slept;
        self.not_sent += missed;
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

    /// A ping that is sent now.
    pub(crate) fn sending(sequence: u64, now: Instant) -> Sending {
        Sending { sequence, now, is_connected: true }
    }

    fn timed_out() -> PingError {
        PingError::TimedOut { timeout: Some(Duration::from_secs(1)) }
    }

    #[test]
    fn figures_are_those_of_the_answers() {
        let mut figures = Figures::new();
        let start = Instant::now();
        for n in 1..=100 {
            figures.sending(sending(n, start));
            figures.outcome(&answered(n, start, Duration::from_micros(n * 10)));
        }
        figures.sending(sending(101, start + Duration::from_secs(1)));
        let ended = start + Duration::from_secs(2);
        figures.outcome(&Sample { ended, outcome: Err(timed_out()), ..answered(101, start, Duration::ZERO) });
        assert_eq!((figures.sent, figures.received, figures.lost(), figures.server_total), (101, 100, 1, Some(100)));
        assert_eq!((figures.duration(), figures.lost_by(&timed_out())), (Duration::from_secs(2), 1));
        assert_eq!((figures.rate(), figures.send_rate()), (Some(50.0), Some(100.0)));
        let rtt = figures.rtt.summary().unwrap();
        assert_eq!((rtt.min, rtt.max), (Duration::from_micros(10), Duration::from_micros(1000)));
        assert_eq!(rtt.mean, Duration::from_micros(505));
        // The standard deviation of 10, 20, … 1000 is 288.66.
        let close = |measured: Duration, exact: f64| (measured.as_secs_f64() * 1e6 / exact - 1.0).abs() < 0.001;
        for (measured, exact) in [(rtt.p50, 500.0), (rtt.p90, 900.0), (rtt.p99, 990.0), (rtt.stdev, 288.66)] {
            assert!(close(measured, exact), "{measured:?} is not {exact} µs");
        }
    }

    #[test]
    fn pings_in_flight_at_the_end_are_accounted_for() {
        let mut figures = Figures::new();
        let start = Instant::now();
        for sequence in 1..=5 {
            figures.sending(sending(sequence, start));
        }
        figures.outcome(&answered(1, start, Duration::from_micros(1)));
        figures.cut_short();
        assert_eq!((figures.lost(), figures.lost_by(&PingError::CutShort)), (4, 4));
    }

    #[test]
    fn failures_of_one_cause_are_summed_up_without_a_ping_of_their_own() {
        let mut figures = Figures::new();
        let start = Instant::now();
        for sequence in 1..=500 {
            figures.sending(sending(sequence, start));
            let outcome = Err(PingError::Damaged { sequence });
            figures.outcome(&Sample { outcome, ..answered(sequence, start, Duration::ZERO) });
        }
        assert_eq!(figures.failures["damaged"], ("the payload came back changed".into(), 500));
    }

    #[test]
    fn a_run_without_answers_has_no_times() {
        let mut figures = Figures::new();
        assert_eq!(figures.rtt.summary(), None);
        figures.sending(sending(1, Instant::now()));
        assert_eq!((figures.lost(), figures.rtt.summary(), figures.rate()), (1, None, None));
    }

    #[test]
    fn an_answer_that_overtakes_another_is_counted_once() {
        let mut figures = Figures::new();
        let start = Instant::now();
        for sequence in [1, 3, 2, 4] {
            figures.sending(sending(sequence, start));
            figures.outcome(&answered(sequence, start, Duration::from_micros(1)));
        }
        assert_eq!(figures.reordered, 1);
    }
}
