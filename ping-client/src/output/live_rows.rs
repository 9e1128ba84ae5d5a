//! The live view of several servers: a row for each on the terminal, below the log, that changes by the clock.

use std::{
    cell::RefCell,
    io,
    rc::Rc,
    time::{Duration, Instant},
};

use ping_core::program::{flush_log, set_status};
use terminal_size::{Height, Width, terminal_size_of};

use super::{
    live::{FRAME, USUAL_WIDTH, can_show, silence},
    table_of_numbers,
};
use crate::{
    figures::Times,
    pinger::Answer,
    run::{Observer, Pace, Sample, Sending},
    units::milliseconds,
};

/// The columns. The percentiles are those of the run so far.
const HEAD: [&str; 7] = ["NODE", "SENT", "LOSS", "LAST", "P50", "P99", "MAX"];

/// The height of a terminal that does not tell it.
const USUAL_HEIGHT: usize = 24;

/// Shows how each of several servers answers. Without a terminal, it shows nothing.
pub(crate) struct LiveRows {
    rows: RefCell<Vec<LiveRow>>,
    /// The time between two pings of a server.
    interval: Duration,
    can_show: bool,
}

/// What the live view shows of one server. Clones share it.
#[derive(Clone)]
pub(crate) struct LiveRow(Rc<RefCell<State>>);

struct State {
    node: String,
    times: Times,
    longest: Duration,
    sent: u64,
    lost: u64,
    /// When the last pong arrived, or the first ping was sent.
    last_sign: Option<Instant>,
    last_time: Option<Duration>,
    /// Why no more pings are sent.
    end: Option<&'static str>,
}

impl LiveRows {
    /// The view of a run, which shows itself if there is a terminal.
    pub(crate) fn on_terminal(pace: Pace, is_quiet: bool) -> Self {
        let interval = if let Pace::Interval(interval) = pace { interval } else { Duration::ZERO };
        Self { rows: RefCell::default(), interval, can_show: can_show(is_quiet) }
    }

    /// Adds a server.
    pub(crate) fn add(&self, node: &str) -> LiveRow {
        let (node, times, longest) = (node.into(), Times::new(), Duration::ZERO);
        let state = State { node, times, longest, sent: 0, lost: 0, last_sign: None, last_time: None, end: None };
        let row = LiveRow(Rc::new(RefCell::new(state)));
        if self.can_show {
            self.rows.borrow_mut().push(row.clone());
        }
        row
    }

    /// How often it wants to be shown, if at all.
    pub(crate) fn every(&self) -> Option<Duration> {
        self.can_show.then_some(FRAME)
    }

    /// Shows what is known.
    pub(crate) fn show(&self, now: Instant) {
        let size = terminal_size_of(io::stderr());
        let (width, height) =
            size.map_or((USUAL_WIDTH, USUAL_HEIGHT), |(Width(width), Height(height))| (width.into(), height.into()));
        set_status(Some(self.text(now, width, height)));
    }

    /// Removes the view.
    pub(crate) fn finish(&self) {
        if self.can_show {
            set_status(None);
            flush_log();
        }
    }

    /// The rows. Where they are more than the terminal has lines, those that answer as they should are left out first.
    fn text(&self, now: Instant, width: usize, height: usize) -> String {
        let rows = self.rows.borrow();
        let mut rows: Vec<_> =
            rows.iter().map(|row| row.0.borrow()).map(|row| (row.remark(self.interval, now), row)).collect();
        rows.sort_by(|(_, one), (_, other)| one.node.cmp(&other.node));
        // One line for the head, one for those that are left out, and one for the log above.
        let room = height.saturating_sub(3).max(1);
        let left_out = rows.len().saturating_sub(room);
        if left_out > 0 {
            rows.sort_by_key(|(remark, row)| (remark.is_empty(), row.lost == 0));
            rows.truncate(room);
        }
        let mut table = vec![HEAD.map(String::from).to_vec()];
        table.extend(rows.iter().map(|(_, row)| row.cells()));
        let table = table_of_numbers(&table);
        let remarks = [""].into_iter().chain(rows.iter().map(|(remark, _)| &**remark));
        let mut lines: Vec<_> = table.lines().zip(remarks).map(|(line, remark)| format!("{line}  {remark}")).collect();
        if left_out > 0 {
            lines.push(format!("and {left_out} more"));
        }
        // A line that fills the terminal would make some of them begin another one.
        let cut = |line: &String| line.chars().take(width.saturating_sub(1)).collect::<String>().trim_end().to_owned();
        lines.iter().map(cut).collect::<Vec<_>>().join("\n")
    }
}

impl State {
    fn cells(&self) -> Vec<String> {
        let time = |time: Option<Duration>| time.map_or_else(|| "-".into(), milliseconds);
        let known = self.times.count() + self.lost;
        let loss = if known == 0 { 0.0 } else { self.lost as f64 * 100.0 / known as f64 };
        let percentile = |percent| self.last_time.map(|_| self.times.percentile(percent));
        let [p50, p99, max] = [percentile(50.0), percentile(99.0), self.last_time.map(|_| self.longest)];
        let mut cells = vec![self.node.clone(), self.sent.to_string(), format!("{loss:.1} %")];
        cells.extend([self.last_time, p50, p99, max].map(time));
        cells
    }

    fn remark(&self, interval: Duration, now: Instant) -> String {
        match (self.end, self.last_sign) {
            (Some(end), _) => end.into(),
            (None, None) => "connecting".into(),
            (None, Some(last)) => silence(last + interval, now).unwrap_or_default(),
        }
    }
}

impl LiveRow {
    /// No more pings are sent.
    pub(crate) fn end(&self, why: &'static str) {
        self.0.borrow_mut().end = Some(why);
    }
}

impl Observer for LiveRow {
    fn sending(&mut self, Sending { now, .. }: Sending) {
        let mut row = self.0.borrow_mut();
        row.sent += 1;
        row.last_sign.get_or_insert(now);
    }

    fn outcome(&mut self, sample: &Sample) {
        let mut row = self.0.borrow_mut();
        if sample.outcome.is_ok() {
            let time = sample.ended - sample.from;
            row.times.record(time);
            row.longest = row.longest.max(time);
            (row.last_sign, row.last_time) = (Some(sample.ended), Some(time));
        } else {
            row.lost += 1;
        }
    }

    fn late(&mut self, _: u64, _: Answer) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::{answered, sending};

    #[test]
    fn each_server_has_a_row_and_those_in_trouble_are_shown_first() {
        let live = LiveRows { rows: RefCell::default(), interval: Duration::from_secs(1), can_show: true };
        let start = Instant::now();
        for node in ["beta", "alpha"] {
            let mut row = live.add(node);
            row.sending(sending(1, start));
            row.outcome(&answered(1, start, Duration::from_millis(1)));
        }
        let (silent, gone) = (live.add("silent"), live.add("gone"));
        silent.clone().sending(sending(1, start - Duration::from_secs(3)));
        gone.end("gone");
        live.add("new");
        let now = start + Duration::from_millis(1);
        let text = live.text(now, 200, 24);
        let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "NODE SENT LOSS LAST P50 P99 MAX",
                "alpha 1 0.0 % 1.00 ms 1.00 ms 1.00 ms 1.00 ms",
                "beta 1 0.0 % 1.00 ms 1.00 ms 1.00 ms 1.00 ms",
                "gone 0 0.0 % - - - - gone",
                "new 0 0.0 % - - - - connecting",
                "silent 1 0.0 % - - - - no pong for 2.0 s",
            ]
        );
        let text = live.text(now, 200, 6);
        let names: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(names, ["NODE", "gone", "new", "silent", "and"], "{text}");
        assert!(text.ends_with("and 2 more"), "{text}");
        for width in [0, 10, 40] {
            assert!(live.text(now, width, 24).lines().all(|line| line.chars().count() <= width));
        }
    }
}
