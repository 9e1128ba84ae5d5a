//! Everything that a session writes: what is seen during the run, and reports of the result.
//!
//! To add a form, add its file, its option, and its line in [`Outputs::open`].

mod csv;
mod html;
mod json;
mod ping_log;
mod progress;
mod rows;
mod table;
mod text;

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};

pub(crate) use html::escape;
pub(crate) use table::{table_of_numbers, table_of_words};

use crate::{
    figures::{Figures, SessionResult},
    pinger::Answer,
    run::{Limit, Observer, Pace, Sample, Sending},
};

/// The options that choose what is written.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,

    /// Write a row for each ping into this file
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,

    /// Write the result as a web page into this file
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,

    /// Overwrite the files of --csv and --report
    #[arg(long)]
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

    /// Whether anything is written to files.
    pub(crate) fn writes_files(&self) -> bool {
        self.csv.is_some() || self.report.is_some()
    }
}

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
        outputs.observers.extend(progress::Progress::on_terminal(pace, limit, args.quiet));
        if let Some(path) = &args.csv {
            outputs.observers.push(Box::new(csv::Csv::new(create(path, args.force)?, path)?));
        }
        let report: Box<dyn Report> = if args.json { Box::new(json::Json) } else { Box::new(text::Text) };
        outputs.reports.push(Destination { report, out: Box::new(io::stdout()), name: "result" });
        if let Some(path) = &args.report {
            let out = Box::new(io::BufWriter::new(create(path, args.force)?));
            outputs.reports.push(Destination { report: Box::new(html::Html), out, name: "report" });
        }
        Ok(outputs)
    }

    /// Whether the reports need the version of the server's program.
    pub(crate) fn show_version(&self) -> bool {
        self.reports.iter().any(|destination| destination.report.shows_version())
    }

    /// Writes what is left of the run, and all reports.
    pub(crate) fn finish(mut self, result: &SessionResult) -> Result<()> {
        let observed = self.observers.iter_mut().try_for_each(|observer| observer.finish());
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
