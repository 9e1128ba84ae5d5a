//! `ping-client compare`: two results side by side, and whether their difference is more than their own spread.
//!
//! - `file`: a result that `--json` wrote.
//! - `spread`: whether two runs differ by more than each varies.
//! - `condition`: `--fail-if`.

mod condition;
mod file;
mod spread;

use std::{
    fmt::Write as _,
    fs::OpenOptions,
    io::{self, ErrorKind, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result, anyhow};
use clap::Args as ClapArgs;
use ping_core::program::last_words;

use crate::{
    gates::EXIT_CODE,
    output::{ChartedRun, by_percentile, escape, over_time, section, table_of_words, write_page},
    units::digits,
};
use condition::Condition;
use file::{Metric, ResultFile};
use spread::Verdict;

/// The arguments of `compare`.
#[derive(Debug, ClapArgs)]
pub(crate) struct CompareArgs {
    /// The result to compare with, as --json wrote it
    #[arg(value_name = "A.json")]
    before: PathBuf,

    /// The result that is compared
    #[arg(value_name = "B.json")]
    after: PathBuf,

    /// End with exit code 3 if B is so much worse than A: 'p99>+10%', 'rate<-5%' or, in points of a percentage,
    /// 'loss>+1%'; of p50, p90, p99, p99.9, max, mean, first-pong, loss and rate (repeatable)
    #[arg(long, value_name = "CONDITION")]
    fail_if: Vec<Condition>,

    /// Print the table as Markdown
    #[arg(long)]
    markdown: bool,

    /// Write both over each other as a web page into this file
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,

    /// Overwrite the file of --report
    #[arg(long)]
    force: bool,
}

/// How the table says what the spread says of a difference.
const METHOD: &str = "\
spread: the intervals of each run are samples of its p50, p90, p99, mean and rate (batch means); \"within it\" if \
Welch's t-test finds no difference of their means at 95 %.";

/// Compares two results.
pub(crate) fn compare(args: &CompareArgs) -> Result<ExitCode> {
    let (before, after) = (ResultFile::read(&args.before)?, ResultFile::read(&args.after)?);
    let rows = rows(&before, &after);
    let text = if args.markdown { markdown(&rows) } else { table_of_words(&rows) + METHOD + "\n" };
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error).context("cannot write the result"),
        _ => {}
    }
    if let Some(path) = &args.report {
        let mut options = OpenOptions::new();
        if args.force {
            options.create(true).truncate(true)
        } else {
            options.create_new(true)
        };
        let file = options.write(true).open(path);
        let file = file.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => anyhow!("{} exists already. Overwrite it with --force.", path.display()),
            _ => anyhow!("cannot write {}: {error}. Name another file.", path.display()),
        })?;
        page(&mut io::BufWriter::new(file), [&before, &after], &rows)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let failed: Vec<_> = args.fail_if.iter().filter_map(|condition| condition.failure(&before, &after)).collect();
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    last_words("ping-client", &failed.join("; "));
    Ok(EXIT_CODE.into())
}

type Rows = Vec<Vec<String>>;

/// A row for each figure, with both values, their ratio, and what the spread says.
fn rows(before: &ResultFile, after: &ResultFile) -> Rows {
    let text = |name: &str, value: fn(&ResultFile) -> &str| -> Vec<String> {
        vec![name.into(), value(before).into(), value(after).into(), String::new(), String::new()]
    };
    let mut rows = vec![
        ["", "A", "B", "B/A", "SPREAD"].map(String::from).into(),
        text("started", |file| &file.started),
        text("host", |file| &file.host),
    ];
    for metric in Metric::ALL {
        let (one, other) = (metric.of(before), metric.of(after));
        let shown = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| metric.text(value));
        let ratio = one.zip(other).filter(|(one, _)| *one != 0.0 && metric != Metric::Loss);
        let ratio = ratio.map_or_else(|| "-".into(), |(one, other)| digits(other / one));
        let verdict = spread::verdict(metric, &before.over_time, &after.over_time);
        rows.push(vec![
            metric.name().into(),
            shown(one),
            shown(other),
            ratio,
            verdict.map_or("", Verdict::text).into(),
        ]);
    }
    rows
}

fn markdown(rows: &Rows) -> String {
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<_> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} |", cells.join(" | "));
        if number == 0 {
            let _ = writeln!(text, "|{}", " --- |".repeat(row.len()));
        }
    }
    text + "\n" + METHOD + "\n"
}

fn page(out: &mut dyn Write, files: [&ResultFile; 2], rows: &Rows) -> io::Result<()> {
    let cells = |row: &Vec<String>| row.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect::<String>();
    let table: String = rows.iter().map(|row| format!("<tr>{}</tr>\n", cells(row))).collect();
    let mut body = format!("<table>{table}</table><p class=\"key\">{}</p>\n", escape(METHOD));
    let runs = files.map(ChartedRun::from);
    let key = "<p class=\"key\">Blue is A, orange is B; the strong line is the median, the faint one p99.</p>";
    for (title, plot) in [("Latency over the run", over_time(&runs)), ("Percentiles", by_percentile(&runs))] {
        if let Some(svg) = plot {
            section(&mut body, title, &format!("<div class=\"plot\">{svg}</div>{key}"));
        }
    }
    let json = files.map(|file| file.text.clone());
    let [one, other] = json;
    write_page(out, "kameo-ping: A and B", &body, &[("A", one), ("B", other)])
}
