//! The command line.

use std::{path::PathBuf, time::Duration};

use bytesize::ByteSize;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind, value_parser};
use ping_core::{
    ServerAddress, address,
    program::duration,
    protocol::{DEFAULT_NAME, MAX_PAYLOAD, MAX_STREAM_PAYLOAD},
};
use tracing::Level;

use crate::{
    cluster::{MatrixArgs, MembersArgs},
    doctor::DoctorArgs,
    output::OutputArgs,
    pinger::Mode,
    run::Limit,
};

/// Pings an actor that ping-server hosts, and reports the round-trip time, or why there is none.
///
/// The server prints its connection addresses when it starts; give one of them.
/// An IP address or a host name works too.
/// Without an address, the client finds servers on the local network by mDNS.
#[derive(Debug, Parser)]
#[command(version, verbatim_doc_comment, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// Where the server is: a connection address that it printed, or an IP address or host name, with or without a
    /// port. With a /p2p/ part, only the server with that identity is accepted. Several are pinged side by side
    #[arg(conflicts_with = "server", value_name = "ADDRESS")]
    addresses: Vec<ServerAddress>,

    /// The same as ADDRESS
    #[arg(short, long, value_name = "ADDRESS")]
    server: Option<ServerAddress>,

    /// Ping every member of the cluster that the server belongs to that hosts the actor, side by side
    #[arg(long, conflicts_with_all = ["demo", "csv", "report"])]
    pub(crate) all: bool,

    /// Spread the pings over all members that host the actor: each goes to one of two at random, the one with fewer in
    /// flight
    #[arg(long, conflicts_with_all = ["all", "demo", "csv", "report", "warmup", "no_reconnect"])]
    pub(crate) spread: bool,

    /// File with this client's Ed25519 key, created on first use [default: a new identity each time]
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,

    /// File with the pre-shared key of a private network: reach only servers that have the same key, over TCP
    #[arg(long, value_name = "FILE", conflicts_with = "demo")]
    pub(crate) secret: Option<PathBuf>,

    /// Name that the actor is registered under (1 to 255 bytes)
    #[arg(long, default_value = DEFAULT_NAME, value_parser = address::parse_name)]
    pub(crate) name: String,

    /// How many pings to send (0 or more; 0 continues until Ctrl-C) [default: 100; with --duration no limit]
    #[arg(short, long, value_name = "COUNT")]
    pub(crate) count: Option<u64>,

    /// Time between two pings, such as 250ms, 2s or 1m (0 to 1h; 0 sends the next when the pong arrives)
    /// [default: 2s, or 0 with --demo or --concurrency]
    #[arg(short, long, value_name = "TIME", value_parser = duration(Duration::ZERO..=HOUR))]
    pub(crate) interval: Option<Duration>,

    /// How long to wait for the pong to each ping (1ms to 1h)
    #[arg(short = 'W', long, value_name = "TIME", default_value = "10s", value_parser = duration(MILLISECOND..=HOUR))]
    pub(crate) timeout: Duration,

    /// End the whole run, including the search for the server, after this time (1ms to 30d)
    #[arg(short = 'w', long, value_name = "TIME", value_parser = duration(MILLISECOND..=DAY * 30))]
    pub(crate) deadline: Option<Duration>,

    /// End the run when the connection is lost, instead of reconnecting
    #[arg(long)]
    pub(crate) no_reconnect: bool,

    /// Resend pings whose pong was lost with the connection; the server counts each once
    #[arg(long, conflicts_with_all = ["no_reconnect", "demo"])]
    pub(crate) retry: bool,

    /// How long to look for the server and its actor (1ms to 1d)
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = find_timeout())]
    pub(crate) find_timeout: Duration,

    /// Keep this many pings in flight; send the next one when a pong arrives (1 to 100000)
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = value_parser!(u32).range(1..=100_000),
        help_heading = LOAD, conflicts_with_all = ["rate", "interval"])]
    pub(crate) concurrency: Option<u32>,

    /// Send this many pings a second on a fixed schedule, whether or not earlier pings are answered; latency counts
    /// from the scheduled time (0.001 to 10000000)
    #[arg(long, value_name = "PER_SECOND", value_parser = rate, help_heading = LOAD, conflicts_with = "interval")]
    pub(crate) rate: Option<f64>,

    /// Send pings for this time (1ms to 30d)
    #[arg(long, value_name = "TIME", value_parser = duration(MILLISECOND..=DAY * 30), help_heading = LOAD)]
    pub(crate) duration: Option<Duration>,

    /// Send pings before the run that are not reported, for a time or a number of pings, such as 2s or 1000
    #[arg(long, value_name = "TIME|COUNT", value_parser = warm_up, help_heading = LOAD)]
    pub(crate) warmup: Option<Limit>,

    /// Payload of each ping, which the actor sends back, such as 512 or 64KiB (0 to 1MiB; on a stream 0 to 64MiB)
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = size, hide_default_value = true,
        help_heading = LOAD)]
    pub(crate) size: u64,

    /// How pings are carried
    #[arg(long, value_enum, default_value_t, help_heading = LOAD)]
    pub(crate) mode: Mode,

    #[command(flatten)]
    pub(crate) output: OutputArgs,

    /// Log more (RUST_LOG selects modules when neither --quiet nor --verbose is given)
    #[arg(short, long, help_heading = "Output", conflicts_with = "quiet")]
    verbose: bool,

    /// Start a server on this machine, ping it without pauses, and stop it
    #[arg(long, conflicts_with_all = ["addresses", "server", "name"])]
    pub(crate) demo: bool,
}

/// What the client does besides pinging.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the identity in a key file, for a server's --allow; creates the file if there is none
    Id {
        /// File with this client's Ed25519 key
        #[arg(long, value_name = "FILE")]
        identity: PathBuf,
    },
    /// List the members of the cluster that a server belongs to, as that server knows them
    Members(MembersArgs),
    /// Check every step from the server's name to a pong, and say which of them fails
    Doctor(DoctorArgs),
    /// Ask every member to reach every other one, and show who does, and how fast
    Matrix(MatrixArgs),
}

impl Args {
    /// Reads the command line. If something is wrong with it, says so and ends the process.
    pub(crate) fn read() -> Self {
        let args = Self::parse();
        if let Err(wrong) = args.check() {
            Self::command().error(ErrorKind::ValueValidation, wrong).exit()
        }
        args
    }

    /// Checks what no argument shows alone.
    fn check(&self) -> Result<(), String> {
        if self.size > MAX_PAYLOAD && !self.mode.streams() {
            let mode = self.mode.to_possible_value().map_or_else(String::new, |mode| mode.get_name().to_owned());
            return Err(format!("--mode {mode} takes a --size from 0 to 1MiB; use --mode stream for more"));
        }
        if self.retry && self.mode == Mode::Tell {
            return Err("--retry needs acknowledgements, which --mode tell does not have; use stream-tell".into());
        }
        let transport = self.servers().filter_map(|server| server.transport).find(|it| !it.takes_secret());
        if let Some(transport) = transport.filter(|_| self.secret.is_some()) {
            return Err(format!("--secret cannot make {transport} private; give a TCP address"));
        }
        if (self.all || self.spread) && self.servers().next().is_none() {
            let option = if self.all { "--all" } else { "--spread" };
            return Err(format!("{option} needs the address of a member"));
        }
        if self.spread && self.mode == Mode::Tell {
            return Err("--spread needs acknowledgements, which --mode tell does not have; use stream-tell".into());
        }
        if self.addresses.len() > 1 && self.output.writes_files() {
            return Err("--csv and --report are for one server; give one address".into());
        }
        Ok(())
    }

    /// Where the servers are, as far as the command line says so.
    pub(crate) fn servers(&self) -> impl Iterator<Item = &ServerAddress> {
        self.addresses.iter().chain(&self.server)
    }

    /// The level to log at, if the command line sets it.
    pub(crate) fn level(&self) -> Option<Level> {
        match (self.output.quiet, self.verbose) {
            (true, _) => Some(Level::WARN),
            (_, true) => Some(Level::DEBUG),
            _ => None,
        }
    }
}

/// Heading of the load options in the help.
const LOAD: &str = "Load";

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
    if size > MAX_STREAM_PAYLOAD { Err("the size must be from 0 to 64MiB".into()) } else { Ok(size) }
}

/// The value parser of `--find-timeout`.
pub(crate) fn find_timeout() -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync {
    duration(MILLISECOND..=DAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Args {
        Args::try_parse_from([&["ping-client"], arguments].concat()).unwrap()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn values_out_of_range_are_rejected() {
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
    fn large_payloads_need_a_stream() {
        for (mode, fits) in [("ask", false), ("tell", false), ("stream", true), ("stream-tell", true), ("auto", true)] {
            let args = parse(&["--size", "64MiB", "--mode", mode]);
            assert_eq!(args.check().is_ok(), fits, "{mode}");
            assert!(parse(&["--size", "1MiB", "--mode", mode]).check().is_ok(), "{mode}");
        }
    }

    #[test]
    fn sizes_have_units_or_are_bytes() {
        for (text, bytes) in [("0", 0), ("512", 512), ("64KiB", 65_536), ("64 kB", 64_000), ("1MiB", 1_048_576)] {
            assert_eq!(parse(&["--size", text]).size, bytes, "{text}");
        }
    }

    #[test]
    fn the_flags_for_the_log_win_over_the_environment() {
        assert_eq!(parse(&[]).level(), None);
        assert_eq!(parse(&["-q"]).level(), Some(Level::WARN));
        assert_eq!(parse(&["-v"]).level(), Some(Level::DEBUG));
    }
}
