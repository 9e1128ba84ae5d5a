//! The progress of a fast run, as one line on the terminal.

use std::{
    env,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    figures::Times,
    pinger::Answer,
    run::{Limit, Observer, Pace, Sample, Sending},
    units::{counted, milliseconds},
};

/// How often the line is drawn, in times a second. More is a blur, and costs pings.
const FRAMES_PER_SECOND: u8 = 5;

/// Shows how far the run is, how fast, and how long the round trips are.
pub(super) struct Progress {
    limit: Limit,
    shown: Option<Shown>,
    times: Times,
    ended: u64,
}

/// The line on the terminal.
struct Shown {
    bar: ProgressBar,
    started: Instant,
    next_frame: Instant,
}

impl Progress {
    /// The progress of a run, if it is fast and there is a terminal to show it on.
    pub(super) fn on_terminal(pace: Pace, limit: Limit, is_quiet: bool) -> Option<Box<dyn Observer>> {
        let can_show = io::stderr().is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb");
        let progress = Self { limit, shown: None, times: Times::new(), ended: 0 };
        (can_show && !is_quiet && !pace.is_slow()).then(|| Box::new(progress) as Box<dyn Observer>)
    }

    fn draw(&mut self, now: Instant) {
        let Some(shown) = self.shown.as_mut().filter(|shown| now >= shown.next_frame) else { return };
        shown.next_frame = now + Duration::from_secs(1) / u32::from(FRAMES_PER_SECOND);
        let elapsed = now - shown.started;
        let position = match self.limit.duration {
            Some(_) => u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            None => self.ended,
        };
        shown.bar.set_position(position);
        let rate = self.times.count() as f64 / elapsed.as_secs_f64().max(f64::EPSILON);
        let times = self.times.summary().map_or_else(String::new, |summary| {
            format!("p50 {} p99 {}", milliseconds(summary.p50), milliseconds(summary.p99))
        });
        let pongs = counted(self.times.count(), "pong");
        shown.bar.set_message(format!("{pongs}, {rate:.0}/s {times}"));
    }
}

fn bar(limit: Limit) -> ProgressBar {
    // Hidden until it has its style, because it draws with every change.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
    match (limit.duration, limit.count) {
        (Some(duration), _) => bar.set_length(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        (None, Some(count)) => bar.set_length(count),
        (None, None) => {}
    }
    let template = match limit {
        Limit { count: None, duration: None } => "{elapsed_precise} {msg}",
        _ => "{elapsed_precise} [{bar:24}] left {eta} {msg}",
    };
    // Should the template not parse, the default will do.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(FRAMES_PER_SECOND));
    bar
}

impl Observer for Progress {
    fn sending(&mut self, Sending { now, .. }: Sending) {
        let limit = self.limit;
        self.shown.get_or_insert_with(|| Shown { bar: bar(limit), started: now, next_frame: now });
    }

    fn outcome(&mut self, sample: &Sample) {
        self.ended += 1;
        if sample.outcome.is_ok() {
            self.times.record(sample.ended - sample.from);
        }
        self.draw(sample.ended);
    }

    fn late(&mut self, _: u64, _: Answer) {}

    fn finish(&mut self) -> io::Result<()> {
        self.shown.take().into_iter().for_each(|shown| shown.bar.finish_and_clear());
        Ok(())
    }
}
