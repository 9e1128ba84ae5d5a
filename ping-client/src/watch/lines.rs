//! What a watch reports: a line on standard output for each change, and summaries.

use std::{
    io,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;
use humantime::{format_duration, format_rfc3339_seconds};
use ping_core::program::{LineQueue, datable};
use serde::Serialize;
use tokio::sync::oneshot;

use super::state::{Change, Tally};
use crate::units::{counted, loss, milliseconds, ms};

/// How long the last lines may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// The lines, as text or as JSON. A reader that pauses does not stop the watch.
#[derive(Clone)]
pub(super) struct Lines {
    queue: LineQueue,
    is_json: bool,
}

/// A line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    event: &'static str,
    time: String,
    target: &'a str,
    #[serde(flatten)]
    more: More<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum More<'a> {
    Up { down_s: Option<f64>, rtt_ms: f64 },
    Down { reason: &'a str },
    Reconnected { down_s: f64, reason: &'a str },
    Path { from: String, to: String },
    Speed { median_ms: f64, limit_ms: f64 },
    Summary(Summary),
}

#[derive(Serialize)]
struct Summary {
    seconds: f64,
    sent: u64,
    received: u64,
    lost: u64,
    not_sent: u64,
    outages: u64,
    down_s: f64,
    rtt_ms: Option<Rtt>,
}

#[derive(Serialize)]
struct Rtt {
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

impl Lines {
    /// Starts the thread that writes; also returns what gets the reason when it cannot. Fails if the system refuses.
    pub(super) fn start(is_json: bool) -> Result<(Self, oneshot::Receiver<io::Error>)> {
        let (failing, failed) = oneshot::channel();
        let lost_line = |count| format!("({} were lost because nothing read them)\n", counted(count, "line")).into();
        let lost_json = |count| format!("{{\"event\":\"lines_lost\",\"count\":{count}}}\n").into();
        let lost: fn(u64) -> Vec<u8> = if is_json { lost_json } else { lost_line };
        let queue = LineQueue::new(io::stdout(), lost, |error| drop(failing.send(error)))?;
        Ok((Self { queue, is_json }, failed))
    }

    pub(super) fn flush(&self) {
        self.queue.flush(FLUSH_TIMEOUT);
    }

    /// Reports a change.
    pub(super) fn change(&self, target: &str, change: &Change, now: Instant) {
        let since = |moment: Instant| now.saturating_duration_since(moment);
        let (event, more) = match change {
            Change::Up { down_since, rtt } => {
                ("up", More::Up { down_s: down_since.map(|moment| since(moment).as_secs_f64()), rtt_ms: ms(*rtt) })
            }
            Change::Down { reason } => ("down", More::Down { reason }),
            Change::Reconnected { lost, reason } => {
                ("reconnected", More::Reconnected { down_s: since(*lost).as_secs_f64(), reason })
            }
            Change::Path { from, to } => ("path", More::Path { from: from.to_string(), to: to.to_string() }),
            Change::Slow { median, limit } => ("slow", More::Speed { median_ms: ms(*median), limit_ms: ms(*limit) }),
            Change::Normal { median, limit } => {
                ("normal", More::Speed { median_ms: ms(*median), limit_ms: ms(*limit) })
            }
        };
        self.write(event, target, more, || match change {
            Change::Up { down_since: None, rtt } => format!("is up: {}", milliseconds(*rtt)),
            Change::Up { down_since: Some(moment), rtt } => {
                format!("is up after {}: {}", seconds(since(*moment)), milliseconds(*rtt))
            }
            Change::Down { reason } => format!("is down: {reason}"),
            Change::Reconnected { lost, reason } => {
                format!("is connected again after {}: {reason}", seconds(since(*lost)))
            }
            Change::Path { from, to } => format!("is reached by another path: {to}; before: {from}"),
            Change::Slow { median, limit } => {
                let (median, limit) = (milliseconds(*median), milliseconds(*limit));
                format!("is slow: the median of its last pongs is {median}, above {limit}")
            }
            Change::Normal { median, limit } => {
                let (median, limit) = (milliseconds(*median), milliseconds(*limit));
                format!("is no longer slow: the median of its last pongs is {median}, not above {limit}")
            }
        });
    }

    /// Reports what happened since the last summary.
    pub(super) fn summary(&self, target: &str, tally: &Tally, down_since: Option<Instant>, now: Instant) {
        self.sum_up("summary", target, tally, down_since, now);
    }

    /// Reports all that happened.
    pub(super) fn end(&self, target: &str, tally: &Tally, down_since: Option<Instant>, now: Instant) {
        self.sum_up("end", target, tally, down_since, now);
    }

    fn sum_up(&self, event: &'static str, target: &str, tally: &Tally, down_since: Option<Instant>, now: Instant) {
        let figures = &tally.figures;
        let times = figures.rtt.summary();
        let (time, (outages, down)) = (now.saturating_duration_since(tally.since), tally.down(down_since, now));
        let rtt_ms = times.as_ref().map(|times| Rtt {
            p50: ms(times.p50),
            p90: ms(times.p90),
            p99: ms(times.p99),
            max: ms(times.max),
        });
        let summary = Summary {
            seconds: time.as_secs_f64(),
            sent: figures.sent,
            received: figures.received,
            lost: figures.lost(),
            not_sent: figures.not_sent,
            outages,
            down_s: down.as_secs_f64(),
            rtt_ms,
        };
        self.write(event, target, More::Summary(summary), || {
            let mut parts = vec![counted(figures.sent, "ping"), loss(figures.lost(), figures.sent)];
            parts.extend(times.map(|times| {
                let [p50, p99, max] = [times.p50, times.p99, times.max].map(milliseconds);
                format!("p50 {p50}, p99 {p99}, max {max}")
            }));
            if outages > 0 {
                parts.push(format!("down {} in {}", seconds(down), counted(outages, "outage")));
            }
            if figures.not_sent > 0 {
                parts.push(format!("{} not sent because this machine slept", counted(figures.not_sent, "ping")));
            }
            let which = if event == "end" { "in all" } else { "summary" };
            let time = format_duration(Duration::from_secs(time.as_secs_f64().round() as u64));
            format!("{which}, {time}: {}", parts.join(", "))
        });
    }

    fn write(&self, event: &'static str, target: &str, more: More<'_>, words: impl FnOnce() -> String) {
        let time = format_rfc3339_seconds(datable(SystemTime::now())).to_string();
        let line = if self.is_json {
            // Text and numbers always have a form in JSON.
            serde_json::to_string(&Line { event, time, target, more }).unwrap_or_default()
        } else {
            format!("{time} {target} {}", words())
        };
        self.queue.push((line + "\n").into_bytes());
    }
}

/// A time in seconds, as people read it.
fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
