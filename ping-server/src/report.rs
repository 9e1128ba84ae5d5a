//! What the server says of itself: log lines for people, or JSON lines for programs.

use std::{
    future::pending,
    io::{self, Write},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow};
use libp2p::{Multiaddr, PeerId};
use serde::Serialize;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep_until},
};
use tracing::info;

/// How many pings are reported one by one within a [`WINDOW`]; when there are more, the rest is summed up at its end.
const FEW: u32 = 10;

/// The shortest time between two summaries.
const WINDOW: Duration = Duration::from_secs(1);

/// Something that happened, as `--json` prints it.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Happening<'a> {
    Listening { address: &'a Multiaddr, connection_address: &'a Multiaddr },
    StoppedListening { address: &'a Multiaddr },
    Ready { peer_id: PeerIdText, name: &'a str },
    ClientConnected { peer_id: PeerIdText, address: &'a Multiaddr },
    ClientDisconnected { peer_id: PeerIdText, address: &'a Multiaddr },
    Pings { count: u64, total: u64 },
    Stopped { total: u64 },
}

/// A peer id, written as people know it.
#[derive(Debug)]
pub(crate) struct PeerIdText(pub(crate) PeerId);

impl Serialize for PeerIdText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// How long the last lines may take to be written when the server stops. A reader that does not read must not keep it.
const LAST_LINES: Duration = Duration::from_millis(500);

/// Where reports go.
#[derive(Debug)]
pub(crate) enum Reporter {
    /// To the log.
    Log,
    /// To stdout, as JSON lines.
    Json(Lines),
}

/// Lines on their way to stdout. A thread of its own writes them, so that a reader who pauses does not hold up the
/// server; what it has not read yet is kept.
#[derive(Debug)]
pub(crate) struct Lines {
    sender: mpsc::Sender<Vec<u8>>,
    failed: oneshot::Receiver<io::Error>,
    written: mpsc::Receiver<()>,
}

impl Lines {
    /// Starts the thread that writes.
    pub(crate) fn to_stdout() -> Self {
        let (sender, lines) = mpsc::channel::<Vec<u8>>();
        let (failure, failed) = oneshot::channel();
        let (done, written) = mpsc::channel();
        thread::spawn(move || {
            let mut stdout = io::stdout().lock();
            for line in lines {
                if let Err(error) = stdout.write_all(&line).and_then(|()| stdout.flush()) {
                    let _ = failure.send(error);
                    return;
                }
            }
            let _ = done.send(());
        });
        Self { sender, failed, written }
    }
}

impl Reporter {
    /// Reports one happening.
    ///
    /// # Errors
    ///
    /// When it cannot be written as JSON, which no happening is known for.
    pub(crate) fn report(&self, happening: &Happening<'_>) -> Result<()> {
        match self {
            Self::Json(lines) => {
                let mut line = serde_json::to_vec(happening)?;
                line.push(b'\n');
                // A writer that has failed tells why by itself.
                let _ = lines.sender.send(line);
            }
            Self::Log => log(happening),
        }
        Ok(())
    }

    /// Waits until a report could not be written, and says why.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        if let Self::Json(lines) = self
            && let Ok(error) = (&mut lines.failed).await
        {
            return anyhow!("cannot write to standard output: {error}. Keep its reader open, or leave --json out.");
        }
        pending().await
    }

    /// Waits until everything is written, but not for long.
    pub(crate) fn finish(self) {
        if let Self::Json(Lines { sender, written, .. }) = self {
            drop(sender);
            let _ = written.recv_timeout(LAST_LINES);
        }
    }
}

fn log(happening: &Happening<'_>) {
    match happening {
        Happening::Listening { address, connection_address } => {
            info!("Listening on {address}");
            info!("Connection address: {connection_address}");
        }
        Happening::StoppedListening { address } => info!("No longer listening on {address}"),
        Happening::Ready { name, .. } => info!("PingActor registered and ready! (name: {name})"),
        Happening::ClientConnected { peer_id, address } => info!("Client connected: {} from {address}", peer_id.0),
        Happening::ClientDisconnected { peer_id, .. } => info!("Client disconnected: {}", peer_id.0),
        Happening::Pings { count: 1, total } => info!("Received PING (total: {total})"),
        Happening::Pings { count, total } => info!("Received {count} PINGs (total: {total})"),
        Happening::Stopped { total } => info!("Stopped. Total pings: {total}"),
    }
}

/// Decides when the growing total is reported: at once while pings are few, once a second when they are many.
#[derive(Debug)]
pub(crate) struct Pace {
    reported: u64,
    window_ends: Instant,
    lines_left: u32,
}

impl Pace {
    /// The pings of this total have been reported, or need not be.
    pub(crate) fn from(reported: u64) -> Self {
        Self { reported, window_ends: Instant::now(), lines_left: 0 }
    }

    /// Waits until there is news and it may be reported: at once, or at the end of a crowded window.
    ///
    /// The future may be dropped and made anew without losing anything.
    pub(crate) async fn wait_for_news(&self, total: &mut watch::Receiver<u64>) {
        if total.wait_for(|total| *total > self.reported).await.is_err() {
            // The actor is gone, and with it all news.
            pending().await
        }
        if self.lines_left == 0 {
            sleep_until(self.window_ends).await;
        }
    }

    /// What to report when the total is `total`, if there is news.
    pub(crate) fn news(&mut self, total: u64) -> Option<Happening<'static>> {
        let count = total - self.reported;
        if count == 0 {
            return None;
        }
        let now = Instant::now();
        if now >= self.window_ends {
            self.window_ends = now + WINDOW;
            // A summary means that pings are many; the next one is a window away.
            self.lines_left = if count > 1 { 1 } else { FEW };
        }
        self.lines_left = self.lines_left.saturating_sub(1);
        self.reported = total;
        Some(Happening::Pings { count, total })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn few_pings_are_reported_one_by_one_and_at_once() {
        let (sender, mut total) = watch::channel(0);
        let mut pace = Pace::from(0);
        for expected in 1..=5 {
            sender.send_replace(expected);
            let before = Instant::now();
            pace.wait_for_news(&mut total).await;
            assert_eq!(before, Instant::now());
            assert!(matches!(pace.news(expected), Some(Happening::Pings { count: 1, .. })));
            advance(Duration::from_millis(300)).await;
        }
        assert!(pace.news(5).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn many_pings_are_summed_up_once_a_second() {
        let (sender, mut total) = watch::channel(0);
        let mut pace = Pace::from(0);
        for total in 1..=u64::from(FEW) {
            assert!(pace.news(total).is_some());
        }
        for expected in [5000, 9000] {
            sender.send_replace(expected);
            let before = Instant::now();
            pace.wait_for_news(&mut total).await;
            assert_eq!(Instant::now() - before, WINDOW);
            assert!(matches!(pace.news(expected), Some(Happening::Pings { count: 4000.., .. })));
        }
    }
}
