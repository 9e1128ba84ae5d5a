//! Which connections get a line of their own. Any peer can connect and disconnect without end, and must not fill a disk
//! with it.

use std::{future::pending, time::Duration};

use tokio::time::{Instant, sleep_until};

use crate::events::ServerEvent;

/// How many lines may come at once: a fleet of clients that reconnects shows all of them.
const BURST: u32 = 100;

/// How long it takes until one more line may come.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// The time between two summaries of those without a line.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(10);

/// Admits lines about clients, and counts those that it does not admit.
#[derive(Debug)]
pub(crate) struct ClientReports {
    lines_left: u32,
    /// Until when `lines_left` is counted.
    counted: Instant,
    connected: u64,
    disconnected: u64,
    summary_due: Instant,
}

impl ClientReports {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self { lines_left: BURST, counted: now, connected: 0, disconnected: 0, summary_due: now }
    }

    /// Whether the line may be reported. One that may not is part of the next summary.
    pub(crate) fn admits(&mut self, event: &ServerEvent<'_>) -> bool {
        let now = Instant::now();
        let more = (now - self.counted).as_secs() / LINE_INTERVAL.as_secs();
        let more = u32::try_from(more).unwrap_or(BURST);
        self.lines_left = self.lines_left.saturating_add(more).min(BURST);
        self.counted += LINE_INTERVAL * more;
        if self.lines_left > 0 {
            self.lines_left -= 1;
            return true;
        }
        if self.connected + self.disconnected == 0 {
            self.summary_due = now + SUMMARY_INTERVAL;
        }
        match event {
            ServerEvent::ClientDisconnected { .. } => self.disconnected += 1,
            _ => self.connected += 1,
        }
        false
    }

    /// Waits until there is a summary to report.
    ///
    /// Dropping the future loses nothing.
    pub(crate) async fn wait(&self) {
        if self.connected + self.disconnected == 0 {
            return pending().await;
        }
        sleep_until(self.summary_due).await;
    }

    /// The summary of what got no line since the last one, if there is anything.
    pub(crate) fn summary(&mut self) -> Option<ServerEvent<'static>> {
        let (connected, disconnected) = (self.connected, self.disconnected);
        (self.connected, self.disconnected) = (0, 0);
        (connected + disconnected > 0).then_some(ServerEvent::MoreClients { connected, disconnected })
    }
}

#[cfg(test)]
#[allow(clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use libp2p::{Multiaddr, PeerId};
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_connections_is_summed_up() {
        let (peer, address) = (PeerId::random(), Multiaddr::empty());
        let came = ServerEvent::ClientConnected { peer_id: peer, address: &address };
        let went = ServerEvent::ClientDisconnected {
            peer_id: peer,
            address: &address,
            connected_s: 0.0,
            pings: 0,
            ending: "left",
        };
        let mut reports = ClientReports::new();
        let lines = (0..1000).filter(|_| reports.admits(&came) | reports.admits(&went)).count();
        assert_eq!(lines, BURST as usize / 2);
        reports.wait().await;
        let missing = 1000 - u64::from(BURST) / 2;
        let Some(ServerEvent::MoreClients { connected, disconnected }) = reports.summary() else {
            panic!("there is a summary")
        };
        assert_eq!((connected, disconnected), (missing, missing));
        assert!(reports.summary().is_none());
        // A day of it: a line a second.
        let mut lines = 0;
        for _ in 0..600 {
            advance(Duration::from_millis(100)).await;
            lines += u32::from(reports.admits(&came));
        }
        assert!((60..=70).contains(&lines), "{lines}");
    }
}
