//! A line for each part of a run, for logs and programs: `--report-interval` and `--json-stream`.

use std::{
    io,
    time::{Duration, Instant},
};

use anyhow::Result;
use ping_core::program::LineQueue;
use serde::Serialize;
use tracing::info;

use super::window::Window;
use crate::{
    figures::{Origin, SessionResult},
    pinger::Answer,
    run::{Limit, Observer, Pace, Sample, Sending},
    units::{digits, loss, ms},
};

/// Runs of load that last longer, or have no end, report their progress without being asked.
const LONG: Duration = Duration::from_secs(30);

/// How often they do.
const USUAL_INTERVAL: Duration = Duration::from_secs(10);

/// The interval of `--json-stream` if none is given, as that of iperf3.
pub(super) const STREAM_INTERVAL: Duration = Duration::from_secs(1);

/// How long the last lines may take when the run is over.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// The interval at which a run without a terminal reports, if it should.
pub(super) fn usual(pace: Pace, limit: Limit) -> Option<Duration> {
    let is_long = match (limit.duration, limit.count) {
        (Some(duration), _) => duration > LONG,
        (None, count) => count.is_none(),
    };
    (!pace.is_slow() && is_long).then_some(USUAL_INTERVAL)
}

/// Where the lines go.
pub(super) enum To {
    /// To the log.
    Log,
    /// To stdout, as JSON.
    Stdout(LineQueue),
}

/// Reports each part of a run when it is over.
pub(super) struct Intervals {
    every: Duration,
    to: To,
    started: Option<Instant>,
    /// When this part began, and when it is over.
    from: Instant,
    due: Instant,
    sent: u64,
    window: Window,
}

/// A line of `--json-stream`.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line<'a> {
    Start { schema: u32, client_version: &'static str, started: String },
    Interval { from_s: f64, to_s: f64, sent: u64, received: u64, lost: u64, rate_per_s: f64, rtt_ms: Option<Rtt> },
    LinesLost { count: u64 },
    End { result: Box<super::json::Object<'a>> },
}

#[derive(Serialize)]
struct Rtt {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

impl Intervals {
    pub(super) fn new(every: Duration, to: To) -> Self {
        Self { every, to, started: None, from: Instant::now(), due: Instant::now(), sent: 0, window: Window::new() }
    }

    fn report(&mut self, now: Instant) {
        let Some(started) = self.started else { return };
        let [from, to] = [self.from, now].map(|moment| moment.saturating_duration_since(started).as_secs_f64());
        let (window, sent) = (std::mem::replace(&mut self.window, Window::new()), std::mem::take(&mut self.sent));
        self.from = now;
        let times = &window.times;
        let (received, rate) = (times.count(), times.count() as f64 / (to - from).max(1e-9));
        match &self.to {
            To::Log => {
                let text = window.times_text();
                let text = if text.is_empty() { "no pong".into() } else { format!("{}/s, {text}", digits(rate)) };
                info!(
                    "{from:.1} to {to:.1} s: {received} pongs, {text}, {}",
                    loss(window.lost, received + window.lost)
                );
            }
            To::Stdout(lines) => {
                let rtt_ms = times.summary().map(|summary| Rtt {
                    mean: ms(summary.mean),
                    p50: ms(summary.p50),
                    p90: ms(summary.p90),
                    p99: ms(summary.p99),
                    max: ms(summary.max),
                });
                let lost = window.lost;
                let line = Line::Interval { from_s: from, to_s: to, sent, received, lost, rate_per_s: rate, rtt_ms };
                lines.push(text(&line));
            }
        }
    }
}

/// The queue of JSON lines on stdout. Fails if the system does not start the thread that writes them.
pub(super) fn stdout() -> Result<LineQueue> {
    let lost_line = |count| text(&Line::LinesLost { count });
    // A reader that has seen enough is no error.
    let lines = LineQueue::new(io::stdout(), lost_line, drop)?;
    let (schema, client_version) = (super::SCHEMA, env!("CARGO_PKG_VERSION"));
    lines.push(text(&Line::Start { schema, client_version, started: Origin::here().started_text() }));
    Ok(lines)
}

/// Writes the last line, with the whole result.
pub(super) fn end(lines: &LineQueue, result: &SessionResult) {
    lines.push(text(&Line::End { result: Box::new(result.into()) }));
    lines.flush(FLUSH_TIMEOUT);
}

fn text(line: &Line<'_>) -> Vec<u8> {
    // Text and numbers always have a form in JSON.
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    text
}

impl Observer for Intervals {
    fn sending(&mut self, Sending { now, .. }: Sending) {
        if self.started.is_none() {
            (self.started, self.from, self.due) = (Some(now), now, now + self.every);
        }
        self.sent += 1;
    }

    fn outcome(&mut self, sample: &Sample) {
        self.window.record(sample);
    }

    fn late(&mut self, _: u64, _: Answer) {}

    fn tick_every(&self) -> Option<Duration> {
        // The first ping goes out a moment after the clock starts.
        Some(self.every / 10)
    }

    fn tick(&mut self, now: Instant) {
        if self.started.is_some() && now >= self.due {
            self.report(now);
            while self.due <= now {
                self.due += self.every;
            }
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        if self.sent > 0 || self.window.times.count() + self.window.lost > 0 {
            self.report(Instant::now());
        }
        Ok(())
    }
}
