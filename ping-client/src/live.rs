//! What a person sees on the terminal while pings fly.

use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    lane::Answer,
    run::{Observer, Sample},
    schedule::Limit,
    stats::Times,
    units::milliseconds,
};

/// How often the line is drawn anew, in times a second. More is a blur, and costs pings.
const FRAMES: u8 = 5;

/// A line that shows how far the run is, how fast, and how long the round trips are.
pub(crate) struct Live {
    bar: ProgressBar,
    duration: Option<Duration>,
    started: Instant,
    next_frame: Instant,
    times: Times,
    ended: u64,
}

impl Live {
    /// A line for a run within these limits, if there is a terminal to show it on.
    pub(crate) fn on_terminal(limit: Limit, now: Instant) -> Option<Self> {
        io::stderr().is_terminal().then(|| Self::new(limit, now))
    }

    fn new(limit: Limit, now: Instant) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(FRAMES));
        match (limit.duration, limit.count) {
            (Some(duration), _) => bar.set_length(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
            (None, Some(count)) => bar.set_length(count),
            (None, None) => {}
        }
        let template = match limit {
            Limit { count: None, duration: None } => "{elapsed_precise} {msg}",
            _ => "{elapsed_precise} [{bar:24}] left {eta} {msg}",
        };
        // A template of ours that did not parse would show in the first test; the default is good enough then.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, duration: limit.duration, started: now, next_frame: now, times: Times::new(), ended: 0 }
    }

    fn draw(&mut self, now: Instant) {
        self.next_frame = now + Duration::from_secs(1) / u32::from(FRAMES);
        let elapsed = now - self.started;
        let position = match self.duration {
            Some(_) => u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            None => self.ended,
        };
        self.bar.set_position(position);
        let rate = self.times.count() as f64 / elapsed.as_secs_f64().max(f64::EPSILON);
        let times = self.times.figures().map_or_else(String::new, |figures| {
            format!("p50 {} p99 {}", milliseconds(figures.p50), milliseconds(figures.p99))
        });
        self.bar.set_message(format!("{} pongs, {rate:.0}/s {times}", self.times.count()));
    }
}

impl Observer for Live {
    fn sending(&mut self, _: u64, _: Instant) {}

    fn outcome(&mut self, sample: &Sample) {
        self.ended += 1;
        if sample.outcome.is_ok() {
            self.times.record(sample.ended - sample.from);
        }
        if sample.ended >= self.next_frame {
            self.draw(sample.ended);
        }
    }

    fn late(&mut self, _: u64, _: Answer) {}
}

impl Drop for Live {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
