//! How much of large payloads may be under way, so that small pings need not queue behind them.
//!
//! Without small pings there is no limit but the connection's own. With them, the round trips of the payloads' parts
//! tell how long the queues on the way are: while they are hardly longer than on an empty way, more may be under way;
//! when they are much longer, less. This is the idea of TCP Vegas (Brakmo and Peterson, 1995) and LEDBAT (RFC 6817).

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::frame::MAX_PART;

/// A part may take this much longer than on an empty way before nothing is added, as numerator over 4.
const LONG: u32 = 5;

/// A part that takes this much longer means that too much is under way, as numerator over 4.
const TOO_LONG: u32 = 6;

/// The size of a part beside small pings: what they wait for at least when they come behind one.
const SHORT_PART: usize = MAX_PART / 2;

/// How many bytes may always be under way: one part, for without one nothing can be measured.
const LEAST: usize = SHORT_PART;

/// How long after the last small ping the next one is still expected.
const EXPECTED: Duration = Duration::from_secs(10);

/// How long the shortest round trip holds good. Ways change; and it can be measured only while little is under way, so
/// the window then starts anew, as BBR does after the same time.
const FRESH: Duration = Duration::from_secs(10);

/// The parts of payloads that are under way, and how many may be.
#[derive(Debug)]
pub(super) struct Window {
    /// When each part was sent, and its length, in the order of sending.
    parts: VecDeque<(Instant, usize)>,
    under_way: usize,
    allowed: usize,
    /// The shortest round trip of a part.
    shortest: Duration,
    /// Since when that has been measured.
    measured: Option<Instant>,
    /// When a small ping was last sent.
    small: Option<Instant>,
}

impl Window {
    pub(super) fn new() -> Self {
        Self {
            parts: VecDeque::new(),
            under_way: 0,
            allowed: LEAST,
            shortest: Duration::MAX,
            measured: None,
            small: None,
        }
    }

    /// Whether another part may be sent.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        !self.is_limited(now) || self.under_way < self.allowed
    }

    /// How many bytes the next part may have.
    pub(super) fn part(&self, now: Instant) -> usize {
        if self.is_limited(now) { SHORT_PART } else { MAX_PART }
    }

    fn is_limited(&self, now: Instant) -> bool {
        self.small.is_some_and(|small| now.saturating_duration_since(small) < EXPECTED)
    }

    /// A small ping is sent.
    pub(super) fn on_small(&mut self, now: Instant) {
        self.small = Some(now);
    }

    /// A part is sent.
    pub(super) fn on_sent(&mut self, length: usize, now: Instant) {
        if self.measured.is_none_or(|measured| now.saturating_duration_since(measured) >= FRESH) {
            self.measured = Some(now);
            self.shortest = Duration::MAX;
            self.allowed = LEAST;
        }
        self.parts.push_back((now, length));
        self.under_way += length;
    }

    /// A part has come back.
    pub(super) fn on_back(&mut self, now: Instant) {
        let Some((sent, length)) = self.parts.pop_front() else { return };
        // What is allowed but not made use of proves nothing.
        let used = self.under_way >= self.allowed / 2;
        self.under_way -= length;
        let took = now.saturating_duration_since(sent);
        self.shortest = self.shortest.min(took);
        // Once for each part: within one round trip, what is allowed doubles at most, or halves.
        if took * 4 < self.shortest * LONG {
            self.allowed += if used { length } else { 0 };
        } else if took * 4 > self.shortest * TOO_LONG {
            self.allowed = (self.allowed - length.min(self.allowed) / 2).max(LEAST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A way on which parts that are under way together queue for one another: `parts` parts sent at once, of which each
    /// takes `each` longer than the one before.
    fn round_trip(window: &mut Window, now: &mut Instant, each: Duration) -> usize {
        let mut parts = 0;
        while window.is_open(*now) && parts < 1000 {
            window.on_sent(window.part(*now), *now);
            parts += 1;
        }
        for _ in 0..parts {
            *now += each;
            window.on_back(*now + Duration::from_millis(10));
        }
        *now += Duration::from_millis(10);
        parts
    }

    #[test]
    fn without_small_pings_there_is_no_limit() {
        let mut window = Window::new();
        assert_eq!(round_trip(&mut window, &mut Instant::now(), Duration::ZERO), 1000);
    }

    #[test]
    fn beside_small_pings_queues_stay_short_and_a_long_way_is_filled() {
        let mut now = Instant::now();
        let mut parts = |each| {
            let mut window = Window::new();
            window.on_small(now);
            (0..30).map(|_| round_trip(&mut window, &mut now, each)).max().unwrap()
        };
        // Parts that take as long as the way itself: few make a queue.
        let few = parts(Duration::from_millis(10));
        assert!(few <= 4, "{few}");
        // Parts that take a hundredth of it: many fit.
        let many = parts(Duration::from_micros(100));
        assert!((20..=200).contains(&many), "{many}");
    }

    #[test]
    fn the_limit_is_lifted_when_small_pings_stay_away() {
        let (mut window, mut now) = (Window::new(), Instant::now());
        window.on_small(now);
        assert!(round_trip(&mut window, &mut now, Duration::ZERO) < 10);
        now += EXPECTED;
        assert_eq!(round_trip(&mut window, &mut now, Duration::ZERO), 1000);
    }
}
