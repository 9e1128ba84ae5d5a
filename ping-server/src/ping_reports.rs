//! When pings are reported.

use std::{future::pending, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::events::{ClientPings, ServerEvent};

/// How many pings are reported one by one within a [`WINDOW`]; more are summed up at its end.
const MAX_SINGLE_PINGS: u32 = 10;

/// The shortest time between two summaries.
const WINDOW: Duration = Duration::from_secs(1);

/// Decides when the growing total is reported: at once while pings are few, once a second when they are many.
#[derive(Debug)]
pub(crate) struct PingReports {
    reported: u64,
    window_ends: Instant,
    lines_left: u32,
}

impl PingReports {
    /// Reports what is counted beyond this total.
    pub(crate) fn after(reported: u64) -> Self {
        Self { reported, window_ends: Instant::now(), lines_left: 0 }
    }

    /// Waits until there is something to report and it may be reported: at once, or at the end of a full window.
    ///
    /// Dropping the future loses nothing.
    pub(crate) async fn wait(&self, total: &mut watch::Receiver<u64>) {
        if total.wait_for(|total| *total > self.reported).await.is_err() {
            // The count is gone.
            pending().await
        }
        if self.lines_left == 0 {
            sleep_until(self.window_ends).await;
        }
    }

    /// What to report at this total, if there is anything.
    pub(crate) fn next(
        &mut self,
        total: u64,
        clients: impl FnOnce() -> Vec<ClientPings>,
    ) -> Option<ServerEvent<'static>> {
        let count = total - self.reported;
        if count == 0 {
            return None;
        }
        let now = Instant::now();
        if now >= self.window_ends {
            self.window_ends = now + WINDOW;
            // After a summary, the next one is a window away.
            self.lines_left = if count > 1 { 1 } else { MAX_SINGLE_PINGS };
        }
        self.lines_left = self.lines_left.saturating_sub(1);
        self.reported = total;
        Some(ServerEvent::Pings { count, total, clients: clients() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn few_pings_are_reported_one_by_one_and_at_once() {
        let (sender, mut total) = watch::channel(0);
        let mut reports = PingReports::after(0);
        for expected in 1..=5 {
            sender.send_replace(expected);
            let before = Instant::now();
            reports.wait(&mut total).await;
            assert_eq!(before, Instant::now());
            assert!(matches!(reports.next(expected, Vec::new), Some(ServerEvent::Pings { count: 1, .. })));
            advance(Duration::from_millis(300)).await;
        }
        assert!(reports.next(5, Vec::new).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn many_pings_are_summed_up_once_a_second() {
        let (sender, mut total) = watch::channel(0);
        let mut reports = PingReports::after(0);
        for total in 1..=u64::from(MAX_SINGLE_PINGS) {
            assert!(reports.next(total, Vec::new).is_some());
        }
        for expected in [5000, 9000] {
            sender.send_replace(expected);
            let before = Instant::now();
            reports.wait(&mut total).await;
            assert_eq!(Instant::now() - before, WINDOW);
            assert!(matches!(reports.next(expected, Vec::new), Some(ServerEvent::Pings { count: 4000.., .. })));
        }
    }
}
