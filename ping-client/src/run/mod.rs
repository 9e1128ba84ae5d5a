//! A run: pings, sent as the schedule says, until all outcomes are known or something stops it.

mod in_flight;
mod observer;
mod schedule;
mod ticks;

use std::{
    future::poll_fn,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::future::OptionFuture;
use tokio::{task::yield_now, time::sleep_until};

use crate::{
    error::{Error, PingError},
    pinger::{Outcome, Path, Pinger, Progress},
};
use in_flight::{InFlight, Ping, State};
use schedule::wait_until;
use ticks::{Tick, Ticks};

pub(crate) use in_flight::LATE_GRACE;
pub(crate) use observer::{Observer, Sample, Sending};
pub(crate) use schedule::{Limit, Pace, Schedule};

/// A timer that fires so late was not delayed by other work: the machine slept, or this program was stopped.
const SLEPT: Duration = Duration::from_secs(2);

/// How long the answer to a ping that is alone in flight is looked for before this program sleeps. To wake it takes the
/// system tens of microseconds, which would count to the round trip. This is as long as a round trip between
/// neighbours.
const AWAKE: Duration = Duration::from_micros(200);

/// What can stop a run from outside.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Stop {
    /// The user interrupted it.
    Interrupted,
    /// The user's deadline passed.
    Deadline(Duration),
    /// This program's node failed.
    NodeFailed(String),
}

/// How a run ended.
#[derive(Debug)]
pub(crate) enum End {
    /// All outcomes are known.
    Complete,
    /// Something stopped it.
    Stopped(Stop),
    /// The pinger can no longer be used.
    Failed(Error),
}

/// What a run leaves, besides what its observer saw.
#[derive(Debug)]
pub(crate) struct RunResult {
    pub(crate) end: End,
    /// The pinger's sequence number of the last ping, with which the next run continues.
    pub(crate) last_sequence: u64,
}

/// Sends the pings of a schedule until all outcomes are known, the pinger fails, or `stop` resolves.
///
/// `after` is the pinger's sequence number of the last ping of the run before, or 0. The observer sees numbers from 1.
pub(crate) async fn run(
    pinger: &mut dyn Pinger,
    (schedule, after): (Schedule, u64),
    timeout: Duration,
    observer: &mut dyn Observer,
    mut stop: Pin<&mut (impl Future<Output = Stop> + ?Sized)>,
) -> RunResult {
    let in_flight = InFlight::new(timeout);
    let mut ticks = Ticks::each(observer.tick_every());
    let mut run =
        Run { pinger, observer, schedule, after, timeout, in_flight, resolved: vec![], lost_since: None, path: None };
    run.note_path(Instant::now());
    // One timer for all pings: they have the same timeout, so the one that was sent first expires first.
    let mut expiry = pin!(OptionFuture::from(None));
    let mut is_armed = false;
    let end = loop {
        let next = match run.send_due(Instant::now()) {
            Next::Complete => break End::Complete,
            Next::At(due) => Some(due),
            Next::OnEvent => None,
        };
        if !is_armed && let Some(next) = run.in_flight.next_expiry() {
            expiry.set(Some(sleep_until(next.into())).into());
            is_armed = true;
        }
        let mut progress = Ok(Progress::Resolved);
        tokio::select! {
            biased;
            polled = poll_fn(|context| run.poll(context)) => progress = polled,
            Some(()) = &mut expiry, if is_armed => is_armed = false,
            Some(()) = OptionFuture::from(next.map(wait_until)) => {}
            stop = &mut stop => break End::Stopped(stop),
            tick = ticks.next() => match tick {
                Tick::Clock => run.observer.tick(Instant::now()),
                Tick::Interim => run.observer.interim(Instant::now()),
            },
        }
        let now = Instant::now();
        if let Some(slept) = next.map(|next| now.saturating_duration_since(next)).filter(|late| *late >= SLEPT) {
            let missed = run.schedule.skip_missed(now);
            run.observer.slept(slept, missed);
        }
        let is_lost = progress.as_ref().map_or(true, |progress| *progress == Progress::Lost);
        run.settle(now, is_lost);
        run.note_outage(now);
        run.note_path(now);
        if let Err(error) = progress {
            break End::Failed(error);
        }
    };
    run.cut_short(Instant::now());
    RunResult { end, last_sequence: after + run.schedule.sent() }
}

/// When there is more to do.
enum Next {
    Complete,
    At(Instant),
    OnEvent,
}

/// A run in progress.
struct Run<'a> {
    pinger: &'a mut dyn Pinger,
    observer: &'a mut dyn Observer,
    schedule: Schedule,
    after: u64,
    timeout: Duration,
    in_flight: InFlight,
    /// Outcomes that are known and not handled yet, by the pinger's sequence number.
    resolved: Vec<(u64, Outcome)>,
    /// Since when there is no connection, and for how long there was none before.
    lost_since: Option<(Instant, Duration)>,
    /// The way that pings took last.
    path: Option<Path>,
}

impl Run<'_> {
    /// Sends the pings that are due and find room.
    fn send_due(&mut self, now: Instant) -> Next {
        let is_connected = self.pinger.is_connected();
        loop {
            let (in_flight, has_room) = (self.in_flight.len(), self.pinger.has_room());
            match self.schedule.due(now) {
                // The pinger reconnects, or pings that have expired take up its room.
                Some(_) if in_flight == 0 && !has_room => {
                    let next = self.schedule.end().into_iter().chain(self.in_flight.next_forgotten()).min();
                    return next.map_or(Next::OnEvent, Next::At);
                }
                Some(_) if in_flight - self.pinger.waiting().min(in_flight) >= self.schedule.width() || !has_room => {
                    return Next::OnEvent;
                }
                Some(due) if due > now => return Next::At(due),
                Some(due) => {
                    let sequence = self.schedule.take();
                    self.observer.sending(Sending { sequence, now, is_connected });
                    self.in_flight.add(sequence, due, now);
                    self.pinger.send(self.after + sequence);
                }
                None if in_flight == 0 => return Next::Complete,
                None => return Next::OnEvent,
            }
        }
    }

    /// Polls the pinger. A panic in it, which Kameo can cause, is an error of the run, so that what was measured is
    /// reported.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Progress, Error>> {
        let polled = catch_unwind(AssertUnwindSafe(|| self.pinger.poll(context, &mut self.resolved)))
            .unwrap_or_else(|panic| Poll::Ready(Err(Error::panicked(&*panic))));
        if polled.is_pending() && self.in_flight.lone().is_some_and(|ping| ping.sent.elapsed() < AWAKE) {
            // Polls again as soon as the runtime has taken in what has arrived.
            let _ = pin!(yield_now()).poll(context);
        }
        polled
    }

    /// Passes on the outcomes that are known now.
    fn settle(&mut self, now: Instant, is_lost: bool) {
        let mut resolved = mem::take(&mut self.resolved);
        for (sequence, outcome) in resolved.drain(..) {
            let Some(sequence) = sequence.checked_sub(self.after) else { continue };
            match (self.in_flight.resolve(sequence), outcome) {
                (Some(ping), outcome) if ping.state == State::InFlight => {
                    let late = outcome.as_ref().ok().copied().filter(|_| now > ping.sent + self.timeout);
                    let outcome = if late.is_some() { Err(self.timed_out()) } else { outcome };
                    self.observe(sequence, ping, now, outcome);
                    if let Some(answer) = late {
                        self.observer.late(sequence, answer);
                    }
                }
                (Some(ping), Ok(answer)) if ping.state == State::Expired => self.observer.late(sequence, answer),
                // It failed long after it had expired, or belongs to the run before.
                _ => {}
            }
        }
        // Reuse the allocation.
        self.resolved = resolved;
        let (unanswered, error) = match is_lost {
            true => (self.in_flight.abandon(), PingError::ConnectionLost),
            false => (self.in_flight.expire(now), self.timed_out()),
        };
        for sequence in self.in_flight.forget(now) {
            self.pinger.forget(self.after + sequence);
        }
        for (sequence, ping) in unanswered {
            self.pinger.give_up(self.after + sequence);
            self.observe(sequence, ping, now, Err(error.clone()));
        }
    }

    fn note_path(&mut self, now: Instant) {
        if let Some(path) = self.pinger.path().filter(|path| self.path != Some(*path)) {
            self.path = Some(path);
            self.observer.path(now, path);
        }
    }

    /// Reports an outage when it is over. It began with the last sign of life, which the pinger knows.
    fn note_outage(&mut self, now: Instant) {
        match (self.pinger.is_connected(), self.lost_since) {
            (false, None) => self.lost_since = Some((now, self.pinger.counters().down)),
            (true, Some((_, before))) => {
                self.lost_since = None;
                let down = self.pinger.counters().down.saturating_sub(before);
                self.observer.outage(now.checked_sub(down).unwrap_or(now), now);
            }
            _ => {}
        }
    }

    /// The run is over; what is still in flight is lost.
    fn cut_short(&mut self, now: Instant) {
        if let Some((since, _)) = self.lost_since {
            self.observer.outage(since, now);
        }
        for (sequence, ping) in self.in_flight.abandon() {
            self.observe(sequence, ping, now, Err(PingError::CutShort));
        }
    }

    fn timed_out(&self) -> PingError {
        PingError::TimedOut { timeout: Some(self.timeout) }
    }

    fn observe(&mut self, sequence: u64, Ping { due, sent, .. }: Ping, ended: Instant, outcome: Outcome) {
        let from = self.schedule.latency_from(due, sent);
        self.observer.outcome(&Sample { sequence, due, sent, from, ended, outcome });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{figures::Figures, pinger::Answer};

    /// A pinger that answers every ping at once, until it does what it is told.
    struct Scripted {
        queue: Vec<u64>,
        answers: u64,
        then: fn() -> Poll<Result<Progress, Error>>,
    }

    impl Pinger for Scripted {
        fn has_room(&self) -> bool {
            self.queue.is_empty()
        }

        fn send(&mut self, sequence: u64) {
            self.queue.push(sequence);
        }

        fn poll(&mut self, _: &mut Context<'_>, resolved: &mut Vec<(u64, Outcome)>) -> Poll<Result<Progress, Error>> {
            if self.answers == 0 {
                return (self.then)();
            }
            self.answers -= 1;
            resolved.extend(self.queue.drain(..).map(|sequence| (sequence, Ok(Answer { total: Some(sequence) }))));
            Poll::Ready(Ok(Progress::Resolved))
        }
    }

    async fn ping(
        answers: u64,
        then: fn() -> Poll<Result<Progress, Error>>,
        stop: impl Future<Output = Stop>,
    ) -> (Figures, End) {
        let mut pinger = Scripted { queue: Vec::new(), answers, then };
        let mut figures = Figures::new();
        let limit = Limit { count: Some(10), duration: None };
        let schedule = Schedule::start(Pace::Closed(1), limit, Instant::now());
        let timeout = Duration::from_secs(60 * 60);
        let result = run(&mut pinger, (schedule, 0), timeout, &mut figures, pin!(stop)).await;
        (figures, result.end)
    }

    /// A pinger that answers each ping when it is polled for the third time, and wakes nobody.
    #[derive(Default)]
    struct Unnoticed {
        sent: Option<u64>,
        polls: u32,
    }

    impl Pinger for Unnoticed {
        fn has_room(&self) -> bool {
            true
        }

        fn send(&mut self, sequence: u64) {
            (self.sent, self.polls) = (Some(sequence), 0);
        }

        fn poll(&mut self, _: &mut Context<'_>, resolved: &mut Vec<(u64, Outcome)>) -> Poll<Result<Progress, Error>> {
            self.polls += 1;
            match self.sent.take_if(|_| self.polls == 3) {
                Some(sequence) => resolved.push((sequence, Ok(Answer { total: None }))),
                None => return Poll::Pending,
            }
            Poll::Ready(Ok(Progress::Resolved))
        }
    }

    #[tokio::test]
    async fn an_answer_that_comes_soon_is_found_awake() {
        let (mut pinger, mut figures) = (Unnoticed::default(), Figures::new());
        let schedule = Schedule::start(Pace::Closed(1), Limit { count: Some(20), duration: None }, Instant::now());
        let timeout = Duration::from_millis(50);
        run(&mut pinger, (schedule, 0), timeout, &mut figures, pin!(std::future::pending())).await;
        // A busy machine may stop the test in between, but not each time.
        assert!(figures.received > 0);
    }

    #[tokio::test]
    async fn a_run_is_complete_when_all_outcomes_are_known() {
        let (figures, end) = ping(10, || Poll::Pending, std::future::pending()).await;
        assert!(matches!(end, End::Complete), "{end:?}");
        assert_eq!((figures.sent, figures.received), (10, 10));
    }

    #[tokio::test]
    async fn what_was_measured_survives_a_panic_of_the_pinger() {
        #[allow(clippy::panic, reason = "the test is about a panic")]
        let (figures, end) = ping(3, || panic!("unexpected response"), std::future::pending()).await;
        assert!(
            matches!(&end, End::Failed(Error::Bug { reason, .. }) if reason.as_ref() == "unexpected response"),
            "{end:?}"
        );
        assert_eq!((figures.sent, figures.received), (4, 3));
    }

    #[tokio::test]
    async fn what_was_measured_survives_the_death_of_the_node() {
        let died = async { Stop::NodeFailed("it panicked".into()) };
        let (figures, end) = ping(3, || Poll::Pending, died).await;
        assert!(matches!(&end, End::Stopped(Stop::NodeFailed(_))), "{end:?}");
        assert_eq!((figures.sent, figures.received), (4, 3));
    }
}
