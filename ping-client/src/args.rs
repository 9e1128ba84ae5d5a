//! The command line.

use std::{ops::RangeInclusive, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind, value_parser};
use ping_core::{
    address::{ServerAddress, Transport},
    protocol::{self, DEFAULT_NAME, MAX_PAYLOAD},
    stream,
};
use tracing::Level;

use crate::{
    lane::Mode,
    schedule::{Limit, Pace},
};

/// Pings an actor that ping-server hosts, and says how long the round trip takes, or why there is none.
///
/// The server prints its connection addresses when it starts; give one of them to --server. An IP address or a host
/// name will do too. Without --server, servers on the local network are found by mDNS.
#[derive(Debug, Parser)]
#[command(version, verbatim_doc_comment, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// Where the server is: a connection address that it printed, or an IP address or host name, with or without a
    /// port. With a /p2p/ part, only the server of that identity will do
    #[arg(short, long, value_name = "ADDRESS")]
    pub(crate) server: Option<ServerAddress>,

    /// The file that holds this client's Ed25519 key, made on first use; without it, the identity is a new one each time
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,

    /// Reach only servers that have the same pre-shared key, which this file holds; by TCP alone
    #[arg(long, value_name = "FILE", conflicts_with = "demo")]
    pub(crate) secret: Option<PathBuf>,

    /// The name that the actor is registered under (1 to 255 bytes)
    #[arg(long, default_value = DEFAULT_NAME, value_parser = protocol::parse_name)]
    pub(crate) name: String,

    /// How many pings to send (0 or more; 0 goes on until Ctrl-C) [default: 100; with --duration no limit]
    #[arg(short, long, value_name = "COUNT")]
    count: Option<u64>,

    /// The time from one ping to the next, as 250ms, 2s or 1m (0 to 1h; 0 sends the next when the pong is in)
    /// [default: 2s; with --demo or --concurrency 0]
    #[arg(short, long, value_name = "TIME", value_parser = duration(Duration::ZERO..=HOUR))]
    interval: Option<Duration>,

    /// How long to wait for the pong to one ping (1ms to 1h)
    #[arg(short = 'W', long, value_name = "TIME", default_value = "10s", value_parser = duration(MILLISECOND..=HOUR))]
    pub(crate) timeout: Duration,

    /// End the whole run, finding the server included, after this time (1ms to 30d)
    #[arg(short = 'w', long, value_name = "TIME", value_parser = duration(MILLISECOND..=DAY * 30))]
    pub(crate) deadline: Option<Duration>,

    /// End the run when the connection is lost, instead of connecting again
    #[arg(long)]
    pub(crate) no_reconnect: bool,

    /// Send pings again whose pong was lost with the connection; the server counts each once
    #[arg(long, conflicts_with_all = ["no_reconnect", "demo"])]
    pub(crate) retry: bool,

    /// How long to try to find the server and its actor (1ms to 1d)
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration(MILLISECOND..=DAY))]
    pub(crate) find_timeout: Duration,

    /// Keep this many pings in flight, each sent when its predecessor's pong is in (1 to 100000)
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = value_parser!(u32).range(1..=100_000),
        help_heading = LOAD, conflicts_with_all = ["rate", "interval"])]
    concurrency: Option<u32>,

    /// Send this many pings a second, each at its own time whatever became of those before, and count its latency from
    /// that time (0.001 to 10000000)
    #[arg(long, value_name = "PER_SECOND", value_parser = rate, help_heading = LOAD, conflicts_with = "interval")]
    rate: Option<f64>,

    /// Send pings for this time (1ms to 30d)
    #[arg(long, value_name = "TIME", value_parser = duration(MILLISECOND..=DAY * 30), help_heading = LOAD)]
    duration: Option<Duration>,

    /// Before that, send pings that are not counted, for a time or a number of pings, as 2s or 1000
    #[arg(long, value_name = "TIME|COUNT", value_parser = warm_up, help_heading = LOAD)]
    pub(crate) warmup: Option<Limit>,

    /// Give each ping a payload of this size, which the actor sends back, as 512 or 64KiB (0 to 1MiB; 0 to 64MiB by a
    /// stream)
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = size, hide_default_value = true,
        help_heading = LOAD)]
    pub(crate) size: u64,

    /// How pings are carried
    #[arg(long, value_enum, default_value_t, help_heading = LOAD)]
    pub(crate) mode: Mode,

    /// Print the result as one JSON object
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) json: bool,

    /// Write a row for each ping into this file
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    pub(crate) csv: Option<PathBuf>,

    /// Write the result as a web page into this file
    #[arg(long, value_name = "FILE.html", help_heading = OUTPUT)]
    pub(crate) report: Option<PathBuf>,

    /// Overwrite the files of --csv and --report
    #[arg(long, help_heading = OUTPUT)]
    pub(crate) force: bool,

    /// Print the result alone: no log but warnings, no progress
    #[arg(short, long, help_heading = OUTPUT, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// Log more; RUST_LOG says what exactly
    #[arg(short, long, help_heading = OUTPUT)]
    pub(crate) verbose: bool,

    /// Start a server on this machine, ping it without pause, and stop it again
    #[arg(long, conflicts_with_all = ["server", "name"])]
    pub(crate) demo: bool,
}

/// What can be done besides pinging.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the identity in a key file, for a server's --allow; the file is made if there is none
    Id {
        /// The file that holds this client's Ed25519 key
        #[arg(long, value_name = "FILE")]
        identity: PathBuf,
    },
}

impl Args {
    /// Reads the command line. If there is something wrong with it, says so and ends the process.
    pub(crate) fn read() -> Self {
        let args = Self::parse();
        if let Err(wrong) = args.check() {
            Self::command().error(ErrorKind::ValueValidation, wrong).exit()
        }
        args
    }

    /// Checks what one argument alone cannot tell.
    fn check(&self) -> Result<(), String> {
        if self.size > MAX_PAYLOAD && !self.mode.streams() {
            let mode = self.mode.to_possible_value().map_or_else(String::new, |mode| mode.get_name().to_owned());
            return Err(format!("--mode {mode} takes a --size from 0 to 1MiB; use --mode stream for more"));
        }
        if self.retry && self.mode == Mode::Tell {
            return Err("--retry wants to hear what was counted, which --mode tell does not; use stream-tell".into());
        }
        let by_quic = self.server.as_ref().is_some_and(|server| server.transport == Some(Transport::Quic));
        if self.secret.is_some() && by_quic {
            return Err("--secret cannot make QUIC private; give --server a TCP address".into());
        }
        Ok(())
    }

    /// How pings follow each other.
    pub(crate) fn pace(&self) -> Pace {
        match (self.rate, self.concurrency, self.interval) {
            (Some(rate), ..) => Pace::Rate(rate),
            (None, Some(senders), _) => Pace::Closed(senders),
            (None, None, Some(Duration::ZERO)) => Pace::Closed(1),
            (None, None, Some(interval)) => Pace::Interval(interval),
            (None, None, None) if self.demo => Pace::Closed(1),
            (None, None, None) => Pace::Interval(DEFAULT_INTERVAL),
        }
    }

    /// When to stop sending.
    pub(crate) fn limit(&self) -> Limit {
        let count = match (self.count, self.duration) {
            (Some(0), _) | (None, Some(_)) => None,
            (count, _) => Some(count.unwrap_or(DEFAULT_COUNT)),
        };
        Limit { count, duration: self.duration }
    }

    /// From which level on to log.
    pub(crate) fn level(&self) -> Level {
        match (self.quiet, self.verbose) {
            (true, _) => Level::WARN,
            (_, true) => Level::DEBUG,
            _ => Level::INFO,
        }
    }
}

/// Headings of the help.
const LOAD: &str = "Load";
const OUTPUT: &str = "Output";

/// How many pings are sent when nothing else limits them.
const DEFAULT_COUNT: u64 = 100;

/// The time from one ping to the next when nothing else sets the pace.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(2);

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(60 * 60 * 24);

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=1e7).contains(&rate) => Ok(rate),
        _ => Err("the rate must be a number from 0.001 to 10000000".into()),
    }
}

fn warm_up(text: &str) -> Result<Limit, String> {
    if let Ok(count) = text.parse() {
        return Ok(Limit { count: Some(count), duration: None });
    }
    duration(MILLISECOND..=HOUR)(text).map(|duration| Limit { count: None, duration: Some(duration) })
}

fn size(text: &str) -> Result<u64, String> {
    let ByteSize(size) = text.parse().map_err(|error| format!("{error}; write it as 512 or 64KiB"))?;
    if size > stream::MAX_PAYLOAD { Err("the size must be from 0 to 64MiB".into()) } else { Ok(size) }
}

/// A value parser for durations within a range.
fn duration(range: RangeInclusive<Duration>) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync {
    move |text| {
        let duration = parse_duration(text)?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        let [from, to] = [range.start(), range.end()].map(|&bound| humantime::format_duration(bound));
        Err(format!("the time must be from {from} to {to}"))
    }
}

/// Reads a duration with units, as 1m 30s, or a plain number of seconds as `ping(8)` takes it.
fn parse_duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string());
    }
    humantime::parse_duration(text).map_err(|_| "write it as 250ms, 2s or 1m".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn durations_have_units_or_are_seconds() {
        for (text, milliseconds) in [("250ms", 250), ("2s", 2000), ("1m", 60_000), ("0", 0), ("0.2", 200), ("3", 3000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "soon", "-1", "2 parsecs", "NaN", "1e300"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        for arguments in [
            ["-n", "0"],
            ["--rate", "0"],
            ["--size", "65MiB"],
            ["--warmup", "0s"],
            ["-W", "0"],
            ["-i", "2h"],
            ["-w", "31d"],
            ["--find-timeout", "0s"],
            ["--name", ""],
        ] {
            let error = Args::try_parse_from(["ping-client"].into_iter().chain(arguments)).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{arguments:?}");
        }
    }

    #[test]
    fn large_payloads_want_a_stream() {
        for (mode, fits) in [("ask", false), ("tell", false), ("stream", true), ("stream-tell", true), ("auto", true)] {
            let args = parse(&["--size", "64MiB", "--mode", mode]);
            assert_eq!(args.check().is_ok(), fits, "{mode}");
            assert!(parse(&["--size", "1MiB", "--mode", mode]).check().is_ok(), "{mode}");
        }
    }

    fn parse(arguments: &[&str]) -> Args {
        Args::try_parse_from([&["ping-client"], arguments].concat()).unwrap()
    }

    #[test]
    fn the_pace_is_leisurely_unless_load_is_asked_for() {
        assert_eq!(parse(&[]).pace(), Pace::Interval(Duration::from_secs(2)));
        assert_eq!(parse(&["--demo"]).pace(), Pace::Closed(1));
        assert_eq!(parse(&["--demo", "-i", "1s"]).pace(), Pace::Interval(Duration::from_secs(1)));
        assert_eq!(parse(&["-i", "0"]).pace(), Pace::Closed(1));
        assert_eq!(parse(&["-n", "64"]).pace(), Pace::Closed(64));
        assert_eq!(parse(&["--rate", "2.5"]).pace(), Pace::Rate(2.5));
    }

    #[test]
    fn a_run_ends_by_count_by_time_or_never() {
        let limit = |arguments: &[&str]| (parse(arguments).limit().count, parse(arguments).limit().duration);
        assert_eq!(limit(&[]), (Some(100), None));
        assert_eq!(limit(&["-c", "0"]), (None, None));
        assert_eq!(limit(&["--duration", "2s"]), (None, Some(Duration::from_secs(2))));
        assert_eq!(limit(&["--duration", "2s", "-c", "5"]), (Some(5), Some(Duration::from_secs(2))));
    }

    #[test]
    fn sizes_have_units_or_are_bytes() {
        for (text, bytes) in [("0", 0), ("512", 512), ("64KiB", 65_536), ("64 kB", 64_000), ("1MiB", 1_048_576)] {
            assert_eq!(parse(&["--size", text]).size, bytes, "{text}");
        }
    }
}
