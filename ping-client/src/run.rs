//! The pings: sent as the schedule says, as many at a time as the lane carries, until the run ends.

use std::{
    collections::VecDeque,
    future::poll_fn,
    mem,
    pin::pin,
    time::{Duration, Instant},
};

use futures::future::OptionFuture;
use tokio::time::sleep_until;

use crate::{
    diagnose::{PingFailure, Trouble},
    lane::{AgainLane, Answer, Outcome, Progress},
    schedule::{Schedule, wait_until},
};

/// How long after twice its timeout a ping's answer is still told apart from none.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// One ping and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Its number, counted from 1.
    pub(crate) sequence: u64,
    /// When the schedule wanted it sent.
    pub(crate) due: Instant,
    /// When it was sent. Those that are sent together share one reading of the clock.
    pub(crate) sent: Instant,
    /// From when its latency counts.
    pub(crate) from: Instant,
    /// When its outcome was known. Those that become known together share one reading of the clock, taken then.
    pub(crate) ended: Instant,
    /// What became of it.
    pub(crate) outcome: Outcome,
}

/// Who is told what happens in a run, as it happens.
pub(crate) trait Observer {
    /// A ping leaves.
    fn sending(&mut self, sequence: u64, now: Instant);

    /// A ping's outcome is known.
    fn outcome(&mut self, sample: &Sample);

    /// A ping that had timed out was answered after all.
    fn late(&mut self, sequence: u64, answer: Answer);
}

/// Sends the pings of a schedule until all outcomes are known or the lane is of no more use. Dropping the future ends the
/// run earlier.
///
/// # Errors
///
/// When the lane is of no more use before the last outcome is known.
pub(crate) async fn run(
    lane: &mut AgainLane<'_>,
    mut schedule: Schedule,
    timeout: Duration,
    observer: &mut dyn Observer,
) -> Result<(), Trouble> {
    let mut flights = Flights::new(timeout);
    let mut settled = Vec::new();
    // One timer for all pings: they have the same timeout, so the one that was sent first is the first to be given up.
    let mut expiry = pin!(OptionFuture::from(None));
    let mut armed = false;
    loop {
        let now = Instant::now();
        let next = loop {
            match schedule.due(now) {
                // A lane that is being restored, or whose room is taken up by pings that were given up.
                Some(_) if flights.in_flight == 0 && !lane.has_room() => {
                    break schedule.end().into_iter().chain(flights.next_forgotten()).min();
                }
                Some(_) if flights.in_flight >= schedule.width() || !lane.has_room() => break None,
                Some(due) if due > now => break Some(due),
                Some(due) => {
                    observer.sending(schedule.take(), now);
                    flights.add(lane.send(), due, now);
                }
                None if flights.in_flight == 0 => return Ok(()),
                None => break None,
            }
        };
        if !armed && let Some(next) = flights.next_expiry() {
            expiry.set(Some(sleep_until(next.into())).into());
            armed = true;
        }
        let mut progress = Ok(Progress::Settled);
        tokio::select! {
            biased;
            polled = poll_fn(|context| lane.poll(context, &mut settled)) => progress = polled,
            Some(()) = &mut expiry, if armed => armed = false,
            Some(()) = OptionFuture::from(next.map(wait_until)) => {}
        }
        let lost = progress.as_ref().map_or(true, |progress| *progress == Progress::Lost);
        let now = Instant::now();
        for (number, outcome) in settled.drain(..) {
            match (flights.settle(number), outcome) {
                (Some((sequence, Flight { state: State::InFlight, due, sent })), outcome) => {
                    let from = schedule.latency_from(due, sent);
                    let late = outcome.as_ref().ok().copied().filter(|_| now > sent + timeout);
                    let outcome = if late.is_some() { Err(PingFailure::timed_out(timeout)) } else { outcome };
                    observer.outcome(&Sample { sequence, due, sent, from, ended: now, outcome });
                    if let Some(answer) = late {
                        observer.late(sequence, answer);
                    }
                }
                (Some((sequence, Flight { state: State::Overdue, .. })), Ok(answer)) => observer.late(sequence, answer),
                // It failed long after it had been given up, or belongs to the run before this one.
                _ => {}
            }
        }
        let expired = if lost { flights.abandon() } else { flights.expire(now) };
        flights.forget(now).into_iter().for_each(|number| lane.forget(number));
        for (sequence, Flight { due, sent, .. }) in expired {
            lane.give_up(flights.before + sequence);
            let failure = if lost { PingFailure::lost() } else { PingFailure::timed_out(timeout) };
            let from = schedule.latency_from(due, sent);
            observer.outcome(&Sample { sequence, due, sent, from, ended: now, outcome: Err(failure) });
        }
        progress?;
    }
}

/// The pings of one run that are under way.
struct Flights {
    timeout: Duration,
    /// What numbers the lane had given before this run.
    before: u64,
    /// The sequence number of the first of the pings below.
    first: u64,
    pings: VecDeque<Flight>,
    in_flight: usize,
    /// Among those before this place, none is in flight any more.
    expired: usize,
}

#[derive(Clone, Copy)]
struct Flight {
    due: Instant,
    sent: Instant,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    InFlight,
    /// Its time is up, but it may yet be answered.
    Overdue,
    Settled,
}

impl Flights {
    fn new(timeout: Duration) -> Self {
        Self { timeout, before: 0, first: 1, pings: VecDeque::new(), in_flight: 0, expired: 0 }
    }

    /// Adds the ping that the lane gave this number.
    fn add(&mut self, number: u64, due: Instant, sent: Instant) {
        if self.first == 1 && self.pings.is_empty() {
            self.before = number - 1;
        }
        self.pings.push_back(Flight { due, sent, state: State::InFlight });
        self.in_flight += 1;
    }

    /// Takes a ping out whose fate is known. Returns its sequence number in this run, and what it was before.
    fn settle(&mut self, number: u64) -> Option<(u64, Flight)> {
        let sequence = number.checked_sub(self.before)?;
        let place = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        let ping = self.pings.get_mut(place)?;
        let was = *ping;
        ping.state = State::Settled;
        if was.state == State::InFlight {
            self.in_flight -= 1;
        }
        self.drop_settled();
        Some((sequence, was))
    }

    fn drop_settled(&mut self) {
        while self.pings.front().is_some_and(|ping| ping.state == State::Settled) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        self.pings.pop_front();
        self.first += 1;
        self.expired = self.expired.saturating_sub(1);
    }

    /// When the time of the next ping is up.
    fn next_expiry(&mut self) -> Option<Instant> {
        while self.pings.get(self.expired).is_some_and(|ping| ping.state != State::InFlight) {
            self.expired += 1;
        }
        self.pings.get(self.expired).map(|ping| ping.sent + self.timeout)
    }

    /// Takes out all pings, and returns those in flight with their sequence numbers.
    fn abandon(&mut self) -> Vec<(u64, Flight)> {
        let pings = mem::take(&mut self.pings);
        let first = self.first;
        self.first += pings.len() as u64;
        (self.in_flight, self.expired) = (0, 0);
        (first..).zip(pings).filter(|(_, ping)| ping.state == State::InFlight).collect()
    }

    /// Gives up the pings whose time is up, and returns them with their sequence numbers.
    fn expire(&mut self, now: Instant) -> Vec<(u64, Flight)> {
        let mut expired = Vec::new();
        while let Some(expiry) = self.next_expiry()
            && expiry <= now
        {
            let ping = &mut self.pings[self.expired];
            expired.push((self.first + self.expired as u64, *ping));
            ping.state = State::Overdue;
            self.in_flight -= 1;
        }
        expired
    }

    /// When the first of those that were given up is forgotten.
    fn next_forgotten(&self) -> Option<Instant> {
        let first = self.pings.front().filter(|ping| ping.state == State::Overdue)?;
        Some(first.sent + 2 * self.timeout + GRACE)
    }

    /// Forgets the pings that will not be answered any more, and that would keep the memory of all that came after them;
    /// returns the lane's numbers of them.
    fn forget(&mut self, now: Instant) -> Vec<u64> {
        let mut forgotten = Vec::new();
        while let Some(at) = self.next_forgotten()
            && at < now
        {
            forgotten.push(self.before + self.first);
            self.drop_first();
            self.drop_settled();
        }
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);

    /// Flights of five pings, a millisecond apart, on a lane that carried a hundred before.
    fn five(start: Instant) -> Flights {
        let mut flights = Flights::new(TIMEOUT);
        for number in 101..=105 {
            let sent = start + Duration::from_millis(number - 101);
            flights.add(number, sent, sent);
        }
        flights
    }

    #[test]
    fn pings_are_settled_in_any_order_and_once() {
        let mut flights = five(Instant::now());
        assert!(flights.settle(100).is_none(), "a ping of the run before");
        for (number, sequence) in [(103, 3), (101, 1), (102, 2), (105, 5), (104, 4)] {
            let (settled, was) = flights.settle(number).unwrap();
            assert!((settled, was.state) == (sequence, State::InFlight));
            assert!(flights.settle(number).is_none_or(|(_, was)| was.state == State::Settled));
        }
        assert!((flights.in_flight, flights.pings.len()) == (0, 0));
        assert!(flights.settle(106).is_none(), "a ping that was not sent");
    }

    #[test]
    fn pings_expire_in_the_order_of_sending_and_are_forgotten_at_last() {
        let start = Instant::now();
        let mut flights = five(start);
        flights.settle(102);
        assert_eq!(flights.next_expiry(), Some(start + TIMEOUT));
        let expired = flights.expire(start + TIMEOUT + Duration::from_millis(2));
        assert_eq!(expired.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(flights.in_flight, 2);
        assert!(flights.settle(103).is_some_and(|(_, was)| was.state == State::Overdue), "a late answer");
        assert_eq!(flights.expire(start + 2 * TIMEOUT).len(), 2, "all that are left");
        assert_eq!(flights.next_forgotten(), Some(start + 2 * TIMEOUT + GRACE));
        assert_eq!(flights.forget(start + 3 * TIMEOUT + GRACE), [101, 104, 105]);
        assert!((flights.in_flight, flights.pings.len()) == (0, 0));
    }

    #[test]
    fn what_is_abandoned_does_not_come_back_and_numbers_go_on() {
        let start = Instant::now();
        let mut flights = five(start);
        flights.settle(102);
        let abandoned: Vec<_> = flights.abandon().into_iter().map(|(sequence, _)| sequence).collect();
        assert_eq!(abandoned, [1, 3, 4, 5]);
        assert!(flights.settle(103).is_none() && flights.next_expiry().is_none());
        flights.add(106, start, start);
        assert!(flights.settle(106).is_some_and(|(sequence, was)| (sequence, was.state) == (6, State::InFlight)));
    }
}
