//! The pings of a run that are in flight, and those that have expired and may still be answered.

use std::{
    collections::VecDeque,
    mem,
    time::{Duration, Instant},
};

/// How long after twice its timeout a late pong is still told apart from none.
pub(crate) const LATE_GRACE: Duration = Duration::from_secs(1);

/// A ping that was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ping {
    pub(super) due: Instant,
    pub(super) sent: Instant,
    pub(super) state: State,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum State {
    InFlight,
    /// Its time is up, but it may still be answered.
    Expired,
    Resolved,
}

/// The pings of a run, in the order of sending.
pub(super) struct InFlight {
    timeout: Duration,
    /// The sequence number of the first of `pings`.
    first: u64,
    pings: VecDeque<Ping>,
    in_flight: usize,
    /// Before this place in `pings`, none is in flight.
    expired: usize,
}

impl InFlight {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, first: 1, pings: VecDeque::new(), in_flight: 0, expired: 0 }
    }

    /// How many pings are in flight.
    pub(super) fn len(&self) -> usize {
        self.in_flight
    }

    /// The last ping, if no other is in flight.
    pub(super) fn lone(&self) -> Option<&Ping> {
        self.pings.back().filter(|ping| self.in_flight == 1 && ping.state == State::InFlight)
    }

    /// Adds the next ping.
    pub(super) fn add(&mut self, sequence: u64, due: Instant, sent: Instant) {
        debug_assert_eq!(sequence, self.first + self.pings.len() as u64, "sequence numbers have no gaps");
        self.pings.push_back(Ping { due, sent, state: State::InFlight });
        self.in_flight += 1;
    }

    /// Takes out a ping whose fate is known. Returns it as it was before.
    pub(super) fn resolve(&mut self, sequence: u64) -> Option<Ping> {
        let place = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        let ping = self.pings.get_mut(place)?;
        let was = *ping;
        ping.state = State::Resolved;
        if was.state == State::InFlight {
            self.in_flight -= 1;
        }
        self.drop_resolved();
        Some(was)
    }

    fn drop_resolved(&mut self) {
        while self.pings.front().is_some_and(|ping| ping.state == State::Resolved) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        self.pings.pop_front();
        self.first += 1;
        self.expired = self.expired.saturating_sub(1);
    }

    /// When the next ping expires.
    pub(super) fn next_expiry(&mut self) -> Option<Instant> {
        while self.pings.get(self.expired).is_some_and(|ping| ping.state != State::InFlight) {
            self.expired += 1;
        }
        self.pings.get(self.expired).map(|ping| ping.sent + self.timeout)
    }

    /// Takes out all pings, and returns those in flight with their sequence numbers.
    pub(super) fn abandon(&mut self) -> Vec<(u64, Ping)> {
        let pings = mem::take(&mut self.pings);
        let first = self.first;
        self.first += pings.len() as u64;
        (self.in_flight, self.expired) = (0, 0);
        (first..).zip(pings).filter(|(_, ping)| ping.state == State::InFlight).collect()
    }

    /// Marks the pings whose time is up as expired, and returns them with their sequence numbers.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(u64, Ping)> {
        let mut expired = Vec::new();
        while let Some(expiry) = self.next_expiry()
            && expiry <= now
        {
            let ping = &mut self.pings[self.expired];
            expired.push((self.first + self.expired as u64, *ping));
            ping.state = State::Expired;
            self.in_flight -= 1;
        }
        expired
    }

    /// When the first of the expired pings is forgotten.
    pub(super) fn next_forgotten(&self) -> Option<Instant> {
        let first = self.pings.front().filter(|ping| ping.state == State::Expired)?;
        Some(first.sent + 2 * self.timeout + LATE_GRACE)
    }

    /// Forgets the expired pings that will not be answered any more, so that they do not hold the memory of all that
    /// came after them. Returns their sequence numbers.
    pub(super) fn forget(&mut self, now: Instant) -> Vec<u64> {
        let mut forgotten = Vec::new();
        while let Some(at) = self.next_forgotten()
            && at < now
        {
            forgotten.push(self.first);
            self.drop_first();
            self.drop_resolved();
        }
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);

    /// Five pings, a millisecond apart.
    fn five(start: Instant) -> InFlight {
        let mut pings = InFlight::new(TIMEOUT);
        for sequence in 1..=5 {
            let sent = start + Duration::from_millis(sequence - 1);
            pings.add(sequence, sent, sent);
        }
        pings
    }

    #[test]
    fn pings_are_resolved_in_any_order_and_once() {
        let mut pings = five(Instant::now());
        assert!(pings.resolve(0).is_none(), "a ping of the run before");
        for sequence in [3, 1, 2, 5, 4] {
            assert_eq!(pings.resolve(sequence).unwrap().state, State::InFlight);
            assert!(pings.resolve(sequence).is_none_or(|was| was.state == State::Resolved));
        }
        assert_eq!((pings.in_flight, pings.pings.len()), (0, 0));
        assert!(pings.resolve(6).is_none(), "a ping that was not sent");
    }

    #[test]
    fn pings_expire_in_the_order_of_sending_and_are_forgotten_at_last() {
        let start = Instant::now();
        let mut pings = five(start);
        pings.resolve(2);
        assert_eq!(pings.next_expiry(), Some(start + TIMEOUT));
        let expired = pings.expire(start + TIMEOUT + Duration::from_millis(2));
        assert_eq!(expired.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(pings.len(), 2);
        assert!(pings.resolve(3).is_some_and(|was| was.state == State::Expired), "a late answer");
        assert_eq!(pings.expire(start + 2 * TIMEOUT).len(), 2, "all that are left");
        assert_eq!(pings.next_forgotten(), Some(start + 2 * TIMEOUT + LATE_GRACE));
        assert_eq!(pings.forget(start + 3 * TIMEOUT + LATE_GRACE), [1, 4, 5]);
        assert_eq!((pings.in_flight, pings.pings.len()), (0, 0));
    }

    #[test]
    fn abandoned_pings_do_not_come_back_and_numbers_continue() {
        let start = Instant::now();
        let mut pings = five(start);
        pings.resolve(2);
        let abandoned: Vec<_> = pings.abandon().into_iter().map(|(sequence, _)| sequence).collect();
        assert_eq!(abandoned, [1, 3, 4, 5]);
        assert!(pings.resolve(3).is_none() && pings.next_expiry().is_none());
        pings.add(6, start, start);
        assert!(pings.resolve(6).is_some_and(|was| was.state == State::InFlight));
    }
}
