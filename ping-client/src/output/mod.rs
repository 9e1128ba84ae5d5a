//! Everything that a session writes: what is seen during the run, and reports of the result.
//!
//! To add a form, add its file, its option, and its line in [`Outputs::open`].

mod csv;
mod exporter;
mod html;
mod intervals;
mod json;
mod live;
mod live_rows;
mod ping_log;
mod rows;
mod table;
mod text;
mod window;

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use intervals::{Intervals, To};
use ping_core::program::{LineQueue, duration, metrics::metrics_address};

pub(crate) use html::{Point, Run as ChartedRun, by_percentile, escape, over_time, rates, section, write_page};
pub(crate) use json::SCHEMA;
pub(crate) use live_rows::{LiveRow, LiveRows};
pub(crate) use table::{table_of_numbers, table_of_words};

use crate::{
    figures::{Figures, Phases, SessionResult},
    pinger::{self, Answer},
    run::{Limit, Observer, Pace, Sample, Sending},
    units::milliseconds,
};

/// The options that choose what is written.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,

    /// Print a line of JSON for each interval, and one with the result
    #[arg(long, conflicts_with = "json", hide_short_help = true)]
    json_stream: bool,

    /// Report what happened in each interval of this length (100ms to 1d) [default: 10s for load that lasts longer than
    /// 30 s and is not shown on a terminal; with --json-stream 1s]
    #[arg(long, value_name = "TIME", value_parser = duration(MIN_INTERVAL..=MAX_INTERVAL), hide_short_help = true)]
    report_interval: Option<Duration>,

    /// Write a row for each ping into this file (- for standard output)
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    csv: Option<PathBuf>,

    /// Write the result as a web page into this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Serve figures for Prometheus at this port of loopback, or IP address and port
    #[arg(long, value_name = "PORT|ADDRESS", value_parser = metrics_address, hide_short_help = true)]
    metrics: Option<SocketAddr>,

    /// Overwrite the files of --csv and --report
    #[arg(long, hide_short_help = true)]
    force: bool,

    /// Print only the result and warnings
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

impl OutputArgs {
    /// Whether the result is wanted as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether anything is wanted that is of one server.
    pub(crate) fn is_for_one_server(&self) -> bool {
        let is_shown = self.json_stream || self.report_interval.is_some() || self.metrics.is_some();
        is_shown || self.csv.is_some() || self.report.is_some()
    }

    /// Whether the rows go to standard output.
    fn is_csv_on_stdout(&self) -> bool {
        self.csv.as_deref() == Some(Path::new("-"))
    }

    /// Checks what no option shows alone.
    pub(crate) fn check(&self) -> Result<(), String> {
        match self.is_csv_on_stdout() && (self.json || self.json_stream) {
            true => Err("--csv - and JSON cannot both go to standard output; give --csv a file".into()),
            false => Ok(()),
        }
    }
}

/// From when on it is worth a note that the run waited for its own output.
const LONG_WAIT: Duration = Duration::from_millis(10);

/// The shortest and the longest interval of a report.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
const MAX_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// Writes the result of a session in one form.
pub(crate) trait Report {
    /// Writes the result.
    ///
    /// # Errors
    ///
    /// When the output is closed or full.
    fn write(&self, result: &SessionResult, out: &mut dyn Write) -> io::Result<()>;

    /// Whether it shows the version of the server's program, which costs a question to the actor.
    fn shows_version(&self) -> bool {
        false
    }
}

/// All outputs of a session.
#[derive(Default)]
pub(crate) struct Outputs {
    /// See what happens in the run.
    observers: Vec<Box<dyn Observer>>,
    /// Get the result.
    reports: Vec<Destination>,
    /// Gets it as the last of several lines.
    stream: Option<LineQueue>,
}

/// A report, where it goes, and what that is called.
struct Destination {
    report: Box<dyn Report>,
    out: Box<dyn Write>,
    name: &'static str,
}

impl Outputs {
    /// Opens everything that the options ask for, before the run, so that a problem with a file shows before anything
    /// is measured.
    pub(crate) fn open(args: &OutputArgs, pace: Pace, limit: Limit) -> Result<Self> {
        if let (Some(csv), Some(report)) = (&args.csv, &args.report)
            && csv == report
        {
            bail!("--csv and --report name the same file, {}. Name two.", csv.display());
        }
        let mut outputs = Self::default();
        outputs.observers.push(Box::new(ping_log::PingLog::new(pace)));
        let live = live::Live::on_terminal(pace, limit, args.quiet);
        let usual = || intervals::usual(pace, limit).filter(|_| live.is_none());
        if args.json_stream {
            let (lines, every) = (intervals::stdout()?, args.report_interval.unwrap_or(intervals::STREAM_INTERVAL));
            outputs.observers.push(Box::new(Intervals::new(every, To::Stdout(lines.clone()))));
            outputs.stream = Some(lines);
        } else if let Some(every) = args.report_interval.or_else(usual) {
            outputs.observers.push(Box::new(Intervals::new(every, To::Log)));
        }
        outputs.observers.extend(live);
        if let Some(address) = args.metrics {
            outputs.observers.push(Box::new(exporter::Exporter::serve(address)?));
        }
        if let Some(path) = &args.csv {
            let out: Box<dyn Write> =
                if args.is_csv_on_stdout() { Box::new(io::stdout()) } else { Box::new(create(path, args.force)?) };
            outputs.observers.push(Box::new(csv::Csv::new(out, path)?));
        }
        if !args.json_stream {
            let report: Box<dyn Report> = if args.json { Box::new(json::Json) } else { Box::new(text::Text) };
            // Rows and text do not mix.
            let out: Box<dyn Write> =
                if args.is_csv_on_stdout() { Box::new(io::stderr()) } else { Box::new(io::stdout()) };
            outputs.reports.push(Destination { report, out, name: "result" });
        }
        if let Some(path) = &args.report {
            let out = Box::new(io::BufWriter::new(create(path, args.force)?));
            outputs.reports.push(Destination { report: Box::new(html::Html), out, name: "report" });
        }
        Ok(outputs)
    }

    /// An observer alone.
    pub(crate) fn of(observer: impl Observer + 'static) -> Self {
        Self { observers: vec![Box::new(observer)], ..Self::default() }
    }

    /// Whether the reports need the version of the server's program.
    pub(crate) fn show_version(&self) -> bool {
        self.stream.is_some() || self.reports.iter().any(|destination| destination.report.shows_version())
    }

    /// What the reader of the figures should know, if the run has waited for its own output.
    pub(crate) fn note_of_waiting(&self) -> Option<String> {
        let (total, longest) = self.observers.iter().map(|observer| observer.held_up()).max()?;
        (longest >= LONG_WAIT).then(|| {
            format!(
                "the reader of --csv held up the run for {}, {} at a time; times of pings in flight then include that",
                milliseconds(total),
                milliseconds(longest)
            )
        })
    }

    /// Writes what is left of the run, and all reports.
    pub(crate) fn finish(mut self, result: &SessionResult) -> Result<()> {
        let observed = self.observers.iter_mut().try_for_each(|observer| observer.finish());
        self.stream.iter().for_each(|lines| intervals::end(lines, result));
        for Destination { report, out, name } in &mut self.reports {
            match report.write(result, out).and_then(|()| out.flush()) {
                // A reader such as head has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                written => written.with_context(|| format!("cannot write the {name}"))?,
            }
        }
        observed.context("cannot write all rows of the CSV file")
    }
}

/// The figures of a run, and everything that is written during it.
pub(crate) struct Recorder<'a> {
    pub(crate) figures: &'a mut Figures,
    pub(crate) outputs: &'a mut Outputs,
}

impl Observer for Recorder<'_> {
    fn found(&mut self, now: Instant, phases: &Phases) {
        self.outputs.observers.iter_mut().for_each(|observer| observer.found(now, phases));
    }

    fn sending(&mut self, sending: Sending) {
        self.figures.sending(sending);
        self.outputs.observers.iter_mut().for_each(|observer| observer.sending(sending));
    }

    fn outcome(&mut self, sample: &Sample) {
        self.figures.outcome(sample);
        self.outputs.observers.iter_mut().for_each(|observer| observer.outcome(sample));
    }

    fn late(&mut self, sequence: u64, answer: Answer) {
        self.figures.late(sequence, answer);
        self.outputs.observers.iter_mut().for_each(|observer| observer.late(sequence, answer));
    }

    fn slept(&mut self, slept: Duration, missed: u64) {
        self.figures.slept(slept, missed);
    }

    fn outage(&mut self, from: Instant, to: Instant) {
        self.figures.outage(from, to);
        self.outputs.observers.iter_mut().for_each(|observer| observer.outage(from, to));
    }

    fn path(&mut self, now: Instant, path: pinger::Path) {
        self.figures.path(now, path);
        self.outputs.observers.iter_mut().for_each(|observer| observer.path(now, path));
    }

    fn tick_every(&self) -> Option<Duration> {
        self.outputs.observers.iter().filter_map(|observer| observer.tick_every()).min()
    }

    fn tick(&mut self, now: Instant) {
        self.outputs.observers.iter_mut().for_each(|observer| observer.tick(now));
    }

    fn interim(&mut self, now: Instant) {
        text::interim(self.figures, now);
    }
}

/// A result of a row of several, with what it is called.
pub(crate) struct Row {
    /// The name of the member, or the address that the user gave.
    pub(crate) node: String,
    pub(crate) result: SessionResult,
    /// Whether it left the cluster or died during the run.
    pub(crate) is_gone: bool,
}

/// Writes the results of several servers: those that were pinged side by side, or those that one stream of pings was
/// spread over, of which `total` are the figures.
///
/// # Errors
///
/// When standard output is full.
pub(crate) fn write_rows(rows: &[Row], total: Option<&Figures>, is_json: bool) -> Result<()> {
    let mut out = io::stdout();
    let written = if is_json { json::write_rows(rows, total, &mut out) } else { rows::write(rows, total, &mut out) };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write the result"),
    }
}

/// Opens a file for writing. Fails if it exists and may not be overwritten, or cannot be created.
fn create(path: &Path, overwrite: bool) -> Result<File> {
    let mut options = OpenOptions::new();
    options.write(true);
    if overwrite {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    options.open(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            anyhow!("{} exists already. Name another file, or overwrite it with --force.", path.display())
        }
        _ => unwritable(path, &error),
    })
}

/// A file that cannot be written, with the help.
fn unwritable(path: &Path, error: &io::Error) -> anyhow::Error {
    anyhow!(
        "cannot write {}: {error}. Name a file in a folder that you can write to and that has room.",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_file_is_overwritten_only_by_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        create(&path, false).unwrap();
        let error = create(&path, false).unwrap_err().to_string();
        assert!(error.contains("--force"), "{error}");
        create(&path, true).unwrap();
        let error = create(&folder.path().join("no/such/folder"), true).unwrap_err().to_string();
        assert!(error.contains("cannot write"), "{error}");
    }
}
