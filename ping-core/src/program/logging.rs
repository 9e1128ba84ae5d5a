//! Log lines: `tracing` set up the same way for every program.

use std::{
    env,
    ffi::OsString,
    fmt::Display,
    io::{self, IsTerminal, Write, stderr},
    sync::OnceLock,
    time::Duration,
};

use tracing::{Level, Metadata, level_filters::LevelFilter, warn};
use tracing_subscriber::{Layer, filter::Targets, fmt, fmt::MakeWriter, layer::SubscriberExt, util::SubscriberInitExt};

use super::LineQueue;

/// How long a program that ends waits for the reader of its log.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// The target of lines that are results: where a server is, and whose identity was not checked. `RUST_LOG` does not
/// hide them.
pub const RESULT: &str = "result";

/// The target of lines that tell the steps of a connection, at the level DEBUG.
pub const STEP: &str = "step";

/// What to log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verbosity {
    /// What `RUST_LOG` says, or INFO.
    Default,
    /// INFO, and the [`STEP`]s.
    Steps,
    /// This level and above.
    Level(Level),
}

/// The queue of the process's log.
static LOG: OnceLock<LineQueue> = OnceLock::new();

/// Sends log lines to stderr, in colour only on a terminal that wants it.
///
/// By default, `RUST_LOG` decides, and may name any module of this program and its libraries; without that, the level
/// is INFO. A reader of stderr that pauses never blocks the program: lines that find no room are counted.
///
/// # Errors
///
/// When the system does not start the thread that writes.
pub fn init_logging(verbosity: Verbosity) -> io::Result<()> {
    let lost_line = |lost| format!("({lost} log lines were lost because nothing read them)\n").into();
    // A stderr that takes nothing is no reason to end, and there is nowhere to say so.
    let queue = LineQueue::new(stderr(), lost_line, drop)?;
    let queue = LOG.get_or_init(|| queue).clone();
    let is_default = verbosity == Verbosity::Default;
    let level = if let Verbosity::Level(level) = verbosity { level } else { Level::INFO };
    let from_environment = env::var("RUST_LOG").ok().filter(|text| is_default && !text.is_empty());
    let parsed = from_environment.as_deref().map(str::parse);
    let default = || default_targets(level);
    let (targets, wrong) = match parsed {
        Some(Ok(targets)) => (targets, false),
        Some(Err(_)) => (default(), true),
        None => (default(), false),
    };
    let targets = targets.with_target(RESULT, level);
    let targets = if verbosity == Verbosity::Steps { targets.with_target(STEP, Level::DEBUG) } else { targets };
    let is_journal = is_journal();
    let layer = fmt::layer()
        .with_target(false)
        .with_ansi(stderr().is_terminal() && use_colour(env::var_os("NO_COLOR"), env::var_os("TERM")))
        .with_writer(Lines { queue, is_journal })
        .log_internal_errors(false);
    // The journal has times and levels of its own.
    let layer = if is_journal { layer.with_level(false).without_time().boxed() } else { layer.boxed() };
    tracing_subscriber::registry().with(targets).with(layer).init();
    if wrong {
        warn!("RUST_LOG is ignored: write it as debug, or as ping_core=debug,libp2p_swarm=info");
    }
    Ok(())
}

/// This project's lines, and only errors of the libraries.
///
/// libp2p's mDNS reports every interface that it cannot send on as an error, even one whose cable was just unplugged.
/// None of that concerns the user while one interface works.
fn default_targets(level: Level) -> Targets {
    Targets::new()
        .with_default(LevelFilter::ERROR)
        .with_target("libp2p_mdns", LevelFilter::OFF)
        .with_targets(["ping_core", "ping_server", "ping_client", STEP].map(|module| (module, level)))
}

/// Whether the user wants colour, by `NO_COLOR` (<https://no-color.org>) and `TERM`.
fn use_colour(no_color: Option<OsString>, term: Option<OsString>) -> bool {
    no_color.is_none_or(|value| value.is_empty()) && term.is_none_or(|term| term != "dumb")
}

/// Whether stderr is the journal of systemd: `JOURNAL_STREAM` names the file that it is then (systemd.exec(5)).
#[cfg(unix)]
fn is_journal() -> bool {
    let Ok(stream) = rustix::fs::fstat(stderr()) else { return false };
    let own = format!("{}:{}", stream.st_dev, stream.st_ino);
    env::var("JOURNAL_STREAM").is_ok_and(|journal| journal == own)
}

#[cfg(not(unix))]
fn is_journal() -> bool {
    false
}

/// Where the subscriber writes.
struct Lines {
    queue: LineQueue,
    is_journal: bool,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { queue: self.queue.clone(), priority: None }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Line {
        Line { priority: self.is_journal.then(|| priority(*meta.level())), ..self.make_writer() }
    }
}

/// The level as the journal takes it in front of a line (sd-daemon(3)).
fn priority(level: Level) -> &'static [u8] {
    match level {
        Level::ERROR => b"<3>",
        Level::WARN => b"<4>",
        Level::INFO => b"<6>",
        _ => b"<7>",
    }
}

/// A log line: the subscriber writes each with one call.
struct Line {
    queue: LineQueue,
    priority: Option<&'static [u8]>,
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue.push([self.priority.unwrap_or_default(), line].concat());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Shows a status below the log, which must be on a terminal, or removes it.
pub fn set_status(status: Option<String>) {
    if let Some(log) = LOG.get() {
        log.set_status(status);
    }
}

/// Waits until the log is written, for half a second at most.
pub fn flush_log() {
    if let Some(log) = LOG.get() {
        log.flush(FLUSH_TIMEOUT);
    }
}

/// Prints the sentence that a program ends with on stderr, after the log.
pub fn last_words(program: &str, sentence: &dyn Display) {
    print_line(&format!("{program}: {sentence}"));
    flush_log();
}

/// Prints a line on stderr, in its place in the log.
pub fn print_line(line: &str) {
    let line = format!("{line}\n");
    match LOG.get() {
        Some(log) => log.push(line.into()),
        // Nothing can be done about a stderr that takes nothing.
        None => drop(stderr().write_all(line.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_color_and_a_dumb_terminal_turn_colour_off() {
        let uses =
            |no_color: Option<&str>, term: Option<&str>| use_colour(no_color.map(Into::into), term.map(Into::into));
        assert!(uses(None, None) && uses(Some(""), Some("xterm")));
        assert!(!uses(Some("1"), Some("xterm")));
        assert!(!uses(None, Some("dumb")));
    }
}
