//! The live view of a fast run: one line on the terminal, below the log, that changes by the clock.

use std::{
    collections::VecDeque,
    env,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use ping_core::program::{flush_log, set_status};
use terminal_size::{Width, terminal_size_of};

use super::window::Window;
use crate::{
    pinger::Answer,
    run::{Limit, Observer, Pace, Sample, Sending},
    units::{counted, digits, loss, ms},
};

/// The time between two frames. Less is a blur.
pub(super) const FRAME: Duration = Duration::from_millis(200);

/// How many frames the figures of the moment are taken from: a second.
const FRAMES: usize = 5;

/// After how long without a pong that is said.
const SILENCE: Duration = Duration::from_secs(1);

/// The width of a terminal that does not tell it.
pub(super) const USUAL_WIDTH: usize = 80;

/// What the small chart of medians is made of, from low to high.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Shows how far the run is, what happened in the last second, and what in all.
pub(super) struct Live {
    limit: Limit,
    has_bars: bool,
    started: Option<Instant>,
    last_pong: Option<Instant>,
    pongs: u64,
    lost: u64,
    /// The last frames; the last one is going on.
    frames: VecDeque<Window>,
    /// The median of each second in milliseconds, without pongs zero.
    medians: VecDeque<f64>,
    ticks: usize,
}

impl Live {
    /// The view of a run, if it is fast and there is a terminal to show it on.
    pub(super) fn on_terminal(pace: Pace, limit: Limit, is_quiet: bool) -> Option<Box<dyn Observer>> {
        let live = Self::new(limit, speaks_utf8());
        (can_show(is_quiet) && !pace.is_slow()).then(|| Box::new(live) as Box<dyn Observer>)
    }

    fn new(limit: Limit, has_bars: bool) -> Self {
        Self {
            limit,
            has_bars,
            started: None,
            last_pong: None,
            pongs: 0,
            lost: 0,
            frames: VecDeque::from([Window::new()]),
            medians: VecDeque::new(),
            ticks: 0,
        }
    }

    fn line(&self, now: Instant, width: usize) -> String {
        let Some(started) = self.started else { return String::new() };
        let elapsed = now.saturating_duration_since(started);
        let mut parts = vec![format!("{:.1} s", elapsed.as_secs_f64())];
        let share = match (self.limit.duration, self.limit.count) {
            (Some(duration), _) => Some(elapsed.as_secs_f64() / duration.as_secs_f64()),
            (None, Some(count)) => Some((self.pongs + self.lost) as f64 / count.max(1) as f64),
            (None, None) => None,
        };
        parts.extend(share.map(|share| format!("{:.0} %", (share * 100.0).min(100.0))));
        if let Some(silence) = silence(self.last_pong.unwrap_or(started), now) {
            parts.push(silence);
        } else {
            let second = self.second();
            let covered = FRAME.mul_f64(self.frames.len() as f64).min(elapsed.max(FRAME)).as_secs_f64();
            parts.push(format!("{}/s", digits(second.times.count() as f64 / covered)));
            parts.push(second.times_text());
        }
        parts.push(format!("{}, {}", counted(self.pongs, "pong"), loss(self.lost, self.pongs + self.lost)));
        parts.retain(|part| !part.is_empty());
        let mut line: String = parts.join("  ").chars().take(width).collect();
        let room = width.saturating_sub(line.chars().count() + 2);
        if self.has_bars && room > 0 && !self.medians.is_empty() {
            line += "  ";
            line += &bars(&self.medians, room);
        }
        line
    }

    /// The last second.
    fn second(&self) -> Window {
        let mut second = Window::new();
        self.frames.iter().for_each(|frame| second.times.add(&frame.times));
        second
    }

    fn next_frame(&mut self) {
        self.ticks += 1;
        if self.ticks.is_multiple_of(FRAMES) {
            let median = self.second().times.summary().map_or(0.0, |summary| ms(summary.p50));
            self.medians.push_back(median);
            if self.medians.len() > USUAL_WIDTH {
                self.medians.pop_front();
            }
        }
        self.frames.push_back(Window::new());
        if self.frames.len() > FRAMES {
            self.frames.pop_front();
        }
    }
}

/// Whether there is a terminal that can show something that changes, and the user wants it.
pub(super) fn can_show(is_quiet: bool) -> bool {
    !is_quiet && io::stderr().is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// How long there was no pong, if that is long.
pub(super) fn silence(last: Instant, now: Instant) -> Option<String> {
    let silence = now.saturating_duration_since(last);
    (silence >= SILENCE).then(|| format!("no pong for {:.1} s", silence.as_secs_f64()))
}

/// The last values as bars, the highest as a full one.
fn bars(values: &VecDeque<f64>, room: usize) -> String {
    let last: Vec<f64> = values.iter().rev().take(room).rev().copied().collect();
    let highest = last.iter().copied().fold(0.0, f64::max);
    let bar = |value: &f64| match *value {
        0.0 => ' ',
        value => BARS[((value / highest * (BARS.len() - 1) as f64).round() as usize).min(BARS.len() - 1)],
    };
    last.iter().map(bar).collect()
}

/// Whether the terminal shows characters beyond ASCII, as far as its locale says so.
fn speaks_utf8() -> bool {
    let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG")).unwrap_or_default().to_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

impl Observer for Live {
    fn sending(&mut self, Sending { now, .. }: Sending) {
        self.started.get_or_insert(now);
    }

    fn outcome(&mut self, sample: &Sample) {
        if let Some(frame) = self.frames.back_mut() {
            frame.record(sample);
        }
        if sample.outcome.is_ok() {
            self.pongs += 1;
            self.last_pong = Some(sample.ended);
        } else {
            self.lost += 1;
        }
    }

    fn late(&mut self, _: u64, _: Answer) {}

    fn tick_every(&self) -> Option<Duration> {
        Some(FRAME)
    }

    fn tick(&mut self, now: Instant) {
        let width = terminal_size_of(io::stderr()).map_or(USUAL_WIDTH, |(Width(width), _)| width.into());
        // A line that fills the terminal would make some of them begin another one.
        set_status(Some(self.line(now, width.saturating_sub(1))));
        self.next_frame();
    }

    fn finish(&mut self) -> io::Result<()> {
        set_status(None);
        flush_log();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::{answered, sending};

    #[test]
    fn a_stall_is_told_while_it_lasts_and_the_line_fits_any_width() {
        let mut live = Live::new(Limit { count: Some(1000), duration: None }, true);
        let start = Instant::now();
        live.sending(sending(1, start));
        for n in 1..=100 {
            live.outcome(&answered(n, start, Duration::from_millis(1)));
        }
        let line = live.line(start + FRAME, 200);
        assert!(line.starts_with("0.2 s  10 %  500/s  p50 1.0"), "{line}");
        (0..10).for_each(|_| live.next_frame());
        let line = live.line(start + Duration::from_millis(3201), 200);
        assert!(line.contains("no pong for 3.2 s  100 pongs, 0 lost (0.0 %)"), "{line}");
        for width in [0, 10, 40, 79, 200] {
            assert!(live.line(start + FRAME, width).chars().count() <= width);
        }
    }

    #[test]
    fn bars_show_the_last_values() {
        assert_eq!(bars(&VecDeque::from([9.0, 0.0, 1.0, 4.0, 8.0]), 4), " ▂▅█");
    }
}
