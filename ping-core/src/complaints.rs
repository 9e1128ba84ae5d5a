//! How often something is logged that a peer can provoke without end.

use std::time::{Duration, Instant};

/// How often at most.
const PAUSE: Duration = Duration::from_secs(1);

/// Counts what there is to complain about, and says when to do so.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    count: u64,
    logged: Option<Instant>,
}

impl Complaints {
    /// Counts one more. Returns how many there are if that should be logged now.
    pub(crate) fn add(&mut self) -> Option<u64> {
        self.count += 1;
        let now = Instant::now();
        if self.logged.is_some_and(|logged| now.saturating_duration_since(logged) < PAUSE) {
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
    fn only_the_first_of_many_is_logged_at_once() {
        let mut complaints = Complaints::default();
        let logged: Vec<_> = (0..1000).filter_map(|_| complaints.add()).collect();
        assert_eq!((logged, complaints.count), (vec![1], 1000));
    }
}
