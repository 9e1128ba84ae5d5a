//! A limit on how often one kind of log line is written, for lines that a peer can provoke without end.

use std::time::{Duration, Instant};

/// The shortest time between two lines of one kind.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// Counts one kind of incident, and says when to log it.
#[derive(Debug, Default)]
pub struct LogLimit {
    count: u64,
    logged: Option<Instant>,
}

impl LogLimit {
    /// Counts an incident. Returns how many there are so far if it is time to log that.
    pub fn count(&mut self) -> Option<u64> {
        self.count_at(Instant::now())
    }

    fn count_at(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.logged.is_some_and(|logged| now.saturating_duration_since(logged) < MIN_PAUSE) {
            return None;
        }
        self.logged = Some(now);
        Some(self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_counts_all_incidents() {
        let (mut limit, start) = (LogLimit::default(), Instant::now());
        let logged: Vec<_> = (0..1000).filter_map(|_| limit.count_at(start)).collect();
        assert_eq!(logged, [1]);
        assert_eq!(limit.count_at(start + MIN_PAUSE), Some(1001));
    }
}
