//! When pings are sent, and when no more are.

use std::time::{Duration, Instant};

use futures_timer::Delay;

/// The shortest interval at which a person can follow each ping.
const SLOW_INTERVAL: Duration = Duration::from_millis(100);

/// How pings follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// Each of this many senders sends its next ping when its pong arrives: a closed loop.
    Closed(u32),
    /// One ping after each interval, whether or not the one before is answered, as `ping(8)` does.
    Interval(Duration),
    /// This many pings a second, each at a time fixed in advance: an open loop.
    ///
    /// Latency counts from that time. A server that stalls delays the pings that are due during the stall, and their
    /// waiting counts; in a closed loop they would never be sent, and the stall would hardly show. That error is
    /// known as coordinated omission, from Gil Tene's talk "How NOT to Measure Latency" (2013).
    Rate(f64),
}

/// When to stop sending, whichever comes first.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limit {
    /// After this many pings.
    pub(crate) count: Option<u64>,
    /// After this time.
    pub(crate) duration: Option<Duration>,
}

/// When the pings of one run are due.
#[derive(Debug)]
pub(crate) struct Schedule {
    pace: Pace,
    count: u64,
    end: Option<Instant>,
    start: Instant,
    sent: u64,
    /// Pings that were passed over.
    missed: u64,
}

impl Pace {
    /// Whether pings are slow enough for a person to follow each.
    pub(crate) fn is_slow(self) -> bool {
        match self {
            Self::Interval(interval) => interval >= SLOW_INTERVAL,
            Self::Rate(rate) => rate <= 1.0 / SLOW_INTERVAL.as_secs_f64(),
            Self::Closed(_) => false,
        }
    }
}

impl Schedule {
    /// A schedule that starts `now`.
    pub(crate) fn start(pace: Pace, limit: Limit, now: Instant) -> Self {
        let end = limit.duration.map(|duration| now + duration);
        Self { pace, count: limit.count.unwrap_or(u64::MAX), end, start: now, sent: 0, missed: 0 }
    }

    /// When the next ping is due; `None` if there is none. What is due at the end is not sent.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        let place = self.sent + self.missed;
        let due = match self.pace {
            Pace::Closed(_) => now,
            Pace::Interval(interval) => self.start + times(interval, place),
            Pace::Rate(rate) => self.start + Duration::from_secs_f64(place as f64 / rate),
        };
        (place < self.count && self.end.is_none_or(|end| due < end && now < end)).then_some(due)
    }

    /// When the schedule ends by time, if it does.
    pub(crate) fn end(&self) -> Option<Instant> {
        self.end
    }

    /// How many pings were taken.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Takes the next ping; returns its sequence number.
    pub(crate) fn take(&mut self) -> u64 {
        self.sent += 1;
        self.sent
    }

    /// Passes over the pings that were due before `now`, but for the last one. Returns how many.
    ///
    /// In a closed loop none are due while nobody waits for a pong.
    pub(crate) fn skip_missed(&mut self, now: Instant) -> u64 {
        let since_start = now.saturating_duration_since(self.start).as_secs_f64();
        let due = match self.pace {
            Pace::Closed(_) => return 0,
            Pace::Interval(interval) if interval.is_zero() => return 0,
            Pace::Interval(interval) => since_start / interval.as_secs_f64(),
            Pace::Rate(rate) => since_start * rate,
        };
        let missed = (due as u64).min(self.count).saturating_sub(self.sent + self.missed);
        self.missed += missed;
        missed
    }

    /// How many pings this schedule allows in flight.
    pub(crate) fn width(&self) -> usize {
        match self.pace {
            Pace::Closed(senders) => senders as usize,
            Pace::Interval(_) | Pace::Rate(_) => usize::MAX,
        }
    }

    /// When a ping's latency starts: when it is due in an open loop, when it is sent otherwise.
    pub(crate) fn latency_from(&self, due: Instant, sent: Instant) -> Instant {
        match self.pace {
            Pace::Rate(_) => due,
            Pace::Closed(_) | Pace::Interval(_) => sent,
        }
    }
}

/// `interval * n`, where `n` may exceed 32 bits.
fn times(interval: Duration, n: u64) -> Duration {
    Duration::from_secs_f64(interval.as_secs_f64() * n as f64)
}

/// Waits for a moment, which may have passed. Tokio's timers are precise to a millisecond; this one to about ten
/// microseconds.
pub(crate) async fn wait_until(due: Instant) {
    let left = due.saturating_duration_since(Instant::now());
    if !left.is_zero() {
        Delay::new(left).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due_after(pace: Pace, limit: Limit, pings: u64) -> Option<Duration> {
        let start = Instant::now();
        let mut schedule = Schedule::start(pace, limit, start);
        for _ in 0..pings {
            schedule.take();
        }
        schedule.due(start).map(|due| due - start)
    }

    #[test]
    fn an_open_loop_and_an_interval_fix_their_times_in_advance() {
        let limit = Limit::default();
        assert_eq!(due_after(Pace::Rate(1000.0), limit, 2500), Some(Duration::from_millis(2500)));
        assert_eq!(due_after(Pace::Interval(Duration::from_secs(2)), limit, 3), Some(Duration::from_secs(6)));
        assert_eq!(due_after(Pace::Closed(8), limit, 3), Some(Duration::ZERO));
    }

    #[test]
    fn what_was_due_while_the_machine_slept_is_passed_over() {
        let start = Instant::now();
        let limit = Limit { count: Some(100), duration: None };
        let after = |pace, seconds| {
            let mut schedule = Schedule::start(pace, limit, start);
            (0..3).for_each(|_| _ = schedule.take());
            let now = start + Duration::from_secs(seconds);
            let missed = schedule.skip_missed(now);
            (missed, schedule.due(now).map(|due| (due - start).as_secs()))
        };
        assert_eq!(after(Pace::Interval(Duration::from_secs(1)), 10), (7, Some(10)));
        assert_eq!(after(Pace::Rate(2.0), 10), (17, Some(10)));
        assert_eq!(after(Pace::Rate(2.0), 1000), (97, None), "the run is over");
        assert_eq!(after(Pace::Closed(4), 10), (0, Some(10)));
    }

    #[test]
    fn a_schedule_ends_by_count_or_by_time() {
        let three = Limit { count: Some(3), duration: None };
        assert!(due_after(Pace::Closed(1), three, 2).is_some());
        assert_eq!(due_after(Pace::Closed(1), three, 3), None);
        let second = Limit { count: None, duration: Some(Duration::from_secs(1)) };
        assert!(due_after(Pace::Rate(10.0), second, 9).is_some());
        assert_eq!(due_after(Pace::Rate(10.0), second, 10), None);
    }
}
