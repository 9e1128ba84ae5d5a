//! What is news of one server. It does no I/O, and time comes in from outside.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{figures::Figures, pinger::Path};

/// How many pongs tell whether a server is slow.
const RECENT: usize = 10;

/// What has changed.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    /// A pong came, the first one or the first one after `down_since`.
    Up { down_since: Option<Instant>, rtt: Duration },
    /// None comes any more.
    Down { reason: String },
    /// The connection was lost, and there is another one before the server was down.
    Reconnected { lost: Instant, reason: String },
    /// Pings take another way.
    Path { from: Path, to: Path },
    /// The median of the last pongs exceeds the limit.
    Slow { median: Duration, limit: Duration },
    /// It no longer does.
    Normal { median: Duration, limit: Duration },
}

/// What is known of a server.
pub(super) struct State {
    down_after: u64,
    /// How long a server may be without a connection before it is down.
    patience: Duration,
    slow: Option<Duration>,
    status: Status,
    /// How many pings were lost since the last pong.
    lost: u64,
    /// When the connection was lost, and why, if there is no pong since.
    broken: Option<(Instant, String)>,
    last_pong: Instant,
    recent: VecDeque<Duration>,
    is_slow: bool,
    path: Option<Path>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Status {
    Unknown,
    Up,
    /// Since the last pong, or since the start.
    Down(Instant),
}

impl State {
    /// With the time between two pings.
    pub(super) fn new(down_after: u32, interval: Duration, slow: Option<Duration>, now: Instant) -> Self {
        Self {
            down_after: down_after.into(),
            patience: interval.saturating_mul(down_after),
            slow,
            status: Status::Unknown,
            lost: 0,
            broken: None,
            last_pong: now,
            recent: VecDeque::new(),
            is_slow: false,
            path: None,
        }
    }

    /// Since when the server is down, if it is.
    pub(super) fn down_since(&self) -> Option<Instant> {
        if let Status::Down(since) = self.status { Some(since) } else { None }
    }

    pub(super) fn on_pong(&mut self, rtt: Duration, now: Instant) -> Option<Change> {
        self.lost = 0;
        self.last_pong = now;
        let broken = self.broken.take();
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(rtt);
        match std::mem::replace(&mut self.status, Status::Up) {
            Status::Up => match broken {
                Some((lost, reason)) => Some(Change::Reconnected { lost, reason }),
                None => self.judge_speed(),
            },
            Status::Down(since) => Some(Change::Up { down_since: Some(since), rtt }),
            Status::Unknown => Some(Change::Up { down_since: None, rtt }),
        }
    }

    pub(super) fn on_loss(&mut self, reason: &str) -> Option<Change> {
        self.lost += 1;
        let (lost, after) = (self.lost, self.down_after);
        if lost < after {
            return None;
        }
        self.go_down(|| format!("{lost} pings in a row were lost: {reason}"))
    }

    /// The connection was lost, or there is none.
    pub(super) fn on_error(&mut self, reason: &str, now: Instant) -> Option<Change> {
        self.broken.get_or_insert_with(|| (now, reason.into()));
        let is_over = now.saturating_duration_since(self.last_pong) >= self.patience;
        if is_over || matches!(self.status, Status::Unknown) { self.go_down(|| reason.into()) } else { None }
    }

    pub(super) fn on_path(&mut self, path: Path) -> Option<Change> {
        let from = self.path.replace(path).filter(|from| *from != path)?;
        Some(Change::Path { from, to: path })
    }

    fn go_down(&mut self, reason: impl FnOnce() -> String) -> Option<Change> {
        if matches!(self.status, Status::Down(_)) {
            return None;
        }
        self.status = Status::Down(self.last_pong);
        self.recent.clear();
        self.is_slow = false;
        Some(Change::Down { reason: reason() })
    }

    fn judge_speed(&mut self) -> Option<Change> {
        let limit = self.slow.filter(|_| self.recent.len() == RECENT)?;
        let mut sorted: Vec<_> = self.recent.iter().copied().collect();
        sorted.sort_unstable();
        let median = sorted[RECENT / 2];
        if (median > limit) == self.is_slow {
            return None;
        }
        self.is_slow = !self.is_slow;
        Some(if self.is_slow { Change::Slow { median, limit } } else { Change::Normal { median, limit } })
    }
}

/// What happened over some time, in constant memory.
pub(super) struct Tally {
    pub(super) since: Instant,
    pub(super) figures: Figures,
    /// How often the server was down and came back, and for how long in all.
    outages: u64,
    down: Duration,
}

impl Tally {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, figures: Figures::new(), outages: 0, down: Duration::ZERO }
    }

    /// The server is back.
    pub(super) fn up_again(&mut self, since: Instant, now: Instant) {
        self.outages += 1;
        self.down += now.saturating_duration_since(since.max(self.since));
    }

    /// How often the server was down, and for how long; it may be still.
    pub(super) fn down(&self, down_since: Option<Instant>, now: Instant) -> (u64, Duration) {
        let more = down_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since.max(self.since)));
        (self.outages + u64::from(down_since.is_some()), self.down + more)
    }

    /// How long the first pong took from the start.
    pub(super) fn first_pong(&self) -> Option<Duration> {
        self.figures.first_answer.map(|first| first.saturating_duration_since(self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pinger::PathKind;

    const RTT: Duration = Duration::from_millis(1);

    #[test]
    fn a_server_is_down_after_some_losses_in_a_row_and_up_at_the_first_pong() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut state = State::new(3, RTT, None, start);
        assert_eq!(state.on_pong(RTT, at(1)), Some(Change::Up { down_since: None, rtt: RTT }));
        assert_eq!(state.on_loss("no pong"), None);
        assert_eq!(state.on_loss("no pong"), None);
        assert_eq!(state.on_pong(RTT, at(4)), None);
        assert_eq!([state.on_loss("no pong"), state.on_loss("no pong")], [None, None]);
        let reason = "3 pings in a row were lost: no pong".into();
        assert_eq!(state.on_loss("no pong"), Some(Change::Down { reason }));
        assert_eq!((state.on_loss("no pong"), state.down_since()), (None, Some(at(4))));
        assert_eq!(state.on_error("refused", at(8)), None);
        assert_eq!(state.on_pong(RTT, at(9)), Some(Change::Up { down_since: Some(at(4)), rtt: RTT }));
        assert_eq!(state.down_since(), None);
    }

    #[test]
    fn a_server_that_is_not_found_is_down_at_once_and_one_that_is_back_at_once_was_not() {
        let start = Instant::now();
        let mut state = State::new(3, RTT, None, start);
        let down = |reason: &str| Some(Change::Down { reason: reason.into() });
        assert_eq!(state.on_error("refused", start), down("refused"));
        assert!(state.on_pong(RTT, start).is_some());
        assert_eq!(state.on_error("it ended", start + RTT), None);
        let reconnected = Change::Reconnected { lost: start + RTT, reason: "it ended".into() };
        assert_eq!(state.on_pong(RTT, start + 2 * RTT), Some(reconnected));
        // Three intervals are too many, also if it lets in a client each time.
        assert_eq!(state.on_error("it ended", start + 3 * RTT), None);
        assert_eq!(state.on_error("it ended", start + 5 * RTT), down("it ended"));
    }

    #[test]
    fn the_median_of_ten_pongs_tells_whether_a_server_is_slow() {
        let start = Instant::now();
        let mut state = State::new(3, RTT, Some(RTT), start);
        let mut pongs = |rtt, count| (0..count).filter_map(|_| state.on_pong(rtt, start)).collect::<Vec<_>>();
        assert_eq!(pongs(RTT, 20), [Change::Up { down_since: None, rtt: RTT }]);
        assert_eq!(pongs(2 * RTT, 20), [Change::Slow { median: 2 * RTT, limit: RTT }]);
        assert_eq!(pongs(RTT, 20), [Change::Normal { median: RTT, limit: RTT }]);
    }

    #[test]
    fn another_way_is_news_and_the_first_is_not() {
        let mut state = State::new(3, RTT, None, Instant::now());
        let [relayed, direct] = [PathKind::Relayed, PathKind::Direct].map(|kind| Path { kind, transport: None });
        assert_eq!([state.on_path(relayed), state.on_path(relayed)], [None, None]);
        assert_eq!(state.on_path(direct), Some(Change::Path { from: relayed, to: direct }));
    }

    #[test]
    fn an_outage_counts_in_the_time_in_which_it_happened() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut tally = Tally::new(at(10));
        tally.up_again(at(5), at(12));
        assert_eq!(tally.down(None, at(20)), (1, Duration::from_secs(2)));
        assert_eq!(tally.down(Some(at(15)), at(20)), (2, Duration::from_secs(7)));
    }
}
