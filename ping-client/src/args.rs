//! The command line.

mod command;
mod search;
mod target;

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, ValueEnum, error::ErrorKind};
use ping_core::{
    ServerAddress, Transport,
    address::{self, IpVersion},
    program::{
        self, count, duration,
        otlp::{self, otlp_endpoint},
    },
    protocol::{DEFAULT_NAME, MAX_PAYLOAD, MAX_STREAM_PAYLOAD},
    transport::addresses_of,
};
use tracing::Level;

pub(crate) use command::Command;
pub(crate) use search::SearchArgs;
pub(crate) use target::{Target, place, server};

use crate::{
    find::{PathChoice, Route},
    gates::GateArgs,
    output::OutputArgs,
    pinger::Mode,
    run::Limit,
    version,
};

/// Pings an actor that ping-server hosts: whether it answers, how fast, and why not.
///
/// Give an IP address, a host name, or one of the connection addresses that the server printed. Without any, the client
/// finds servers on the local network by mDNS.
#[derive(Debug, Parser)]
#[command(version, long_version = version::long(), args_conflicts_with_subcommands = true,
    disable_help_subcommand = true,
    after_long_help = AFTER_LONG_HELP)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// Where the server is [default: found by mDNS]
    ///
    /// An IP address or host name, with or without a port; a connection address that the server printed, of which /p2p/
    /// and what follows require its identity; its peer id alone, which is found by mDNS; or the
    /// ticket of a server that is reached through a relay. Several are pinged side by side
    #[arg(conflicts_with = "server", value_name = "TARGET")]
    targets: Vec<Target>,

    /// The same as TARGET
    #[arg(long, value_name = "TARGET", hide_short_help = true)]
    server: Option<Target>,

    /// Use IPv4 only
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,

    /// Use IPv6 only
    #[arg(short = '6', long)]
    ipv6: bool,

    /// Use this transport only: tcp, quic, ws or wss
    ///
    /// [default: tcp and quic are tried, and the first to answer is taken]
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub(crate) transport: Option<Transport>,

    /// Ping from this interface or address of this machine, by TCP
    #[arg(short = 'I', long, value_name = "NAME|ADDRESS", hide_short_help = true)]
    pub(crate) interface: Option<String>,

    /// Which paths to take to a server that a ticket names
    #[arg(long, value_name = "PATH", default_value = "any", hide_short_help = true)]
    path: PathChoice,

    /// Ping every member of the cluster that the server belongs to that hosts the actor, side by side
    #[arg(long, conflicts_with_all = ["demo", "csv", "report", "json_stream"], hide_short_help = true)]
    pub(crate) all: bool,

    /// Spread the pings over all members that host the actor: each goes to one of two at random, the one with fewer in
    /// flight
    #[arg(long, conflicts_with_all = ["all", "demo", "csv", "report", "json_stream", "warmup", "no_reconnect"],
        hide_short_help = true)]
    pub(crate) spread: bool,

    /// File with this client's Ed25519 key, created on first use [default: a new identity each time]
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub(crate) identity: Option<PathBuf>,

    /// File with the pre-shared key of a private network: reach only servers that have the same key, over TCP
    #[arg(long, value_name = "FILE", conflicts_with = "demo", hide_short_help = true)]
    pub(crate) secret: Option<PathBuf>,

    /// Name that the actor is registered under (1 to 255 bytes)
    #[arg(long, default_value = DEFAULT_NAME, value_parser = address::parse_name, hide_short_help = true)]
    pub(crate) name: String,

    /// How many pings to send; 0: no end [default: 100]
    ///
    /// Such as 500 or 10k. 0 continues until Ctrl-C. With --duration, the default is no limit.
    #[arg(short, long, value_name = "COUNT", value_parser = count)]
    pub(crate) count: Option<u64>,

    /// Time between two pings (0 to 1h) [default: 2s]
    ///
    /// Such as 250ms, 2s or 1m; a plain number is seconds. 0 sends the next ping when the pong arrives, which is the
    /// default with --demo and --parallel.
    #[arg(short, long, value_name = "TIME", value_parser = duration(Duration::ZERO..=HOUR))]
    pub(crate) interval: Option<Duration>,

    /// How long to wait for each pong
    ///
    /// From 1ms to 1h.
    #[arg(short = 'W', long, value_name = "TIME", default_value = "10s", value_parser = duration(MILLISECOND..=HOUR))]
    pub(crate) timeout: Duration,

    /// End the whole run after this time (1ms to 30d)
    ///
    /// That includes the search for the server.
    #[arg(short = 'w', long, value_name = "TIME", value_parser = duration(MILLISECOND..=DAY * 30))]
    pub(crate) deadline: Option<Duration>,

    /// End the run when the connection is lost, instead of reconnecting
    #[arg(long, hide_short_help = true)]
    pub(crate) no_reconnect: bool,

    /// Resend pings whose pong was lost with the connection; the server counts each once
    #[arg(long, conflicts_with_all = ["no_reconnect", "demo"], hide_short_help = true)]
    pub(crate) retry: bool,

    /// Start a server here, ping it, and stop it
    #[arg(long, conflicts_with_all = ["targets", "server", "name"])]
    pub(crate) demo: bool,

    /// How long to look for the server and its actor (1ms to 1d)
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = find_timeout(), hide_short_help = true)]
    pub(crate) find_timeout: Duration,

    /// Keep this many pings in flight (1 to 100000)
    ///
    /// The next one is sent when a pong arrives.
    #[arg(short = 'P', long, alias = "concurrency", value_name = "COUNT", value_parser = parallel,
        help_heading = LOAD, conflicts_with_all = ["rate", "interval"])]
    pub(crate) parallel: Option<u32>,

    /// Send this many pings a second (0.001 to 10000000)
    ///
    /// On a fixed schedule, whether or not earlier pings are answered; latency counts from the scheduled time.
    #[arg(long, value_name = "PER_SECOND", value_parser = rate, help_heading = LOAD, conflicts_with = "interval")]
    pub(crate) rate: Option<f64>,

    /// Send pings for this time (1ms to 30d)
    #[arg(long, value_name = "TIME", value_parser = duration(MILLISECOND..=DAY * 30), help_heading = LOAD)]
    pub(crate) duration: Option<Duration>,

    /// Send pings before the run that are not reported, for a time or a number of pings, such as 2s or 10k
    #[arg(long, value_name = "TIME|COUNT", value_parser = warm_up, help_heading = LOAD, hide_short_help = true)]
    pub(crate) warmup: Option<Limit>,

    /// Payload of each ping, such as 64K (0 to 1M)
    ///
    /// The actor sends it back. 64K is 65536 bytes, and 64kB 64000. On a stream it may have up to 64M.
    #[arg(short, long, value_name = "BYTES", default_value = "0", value_parser = size, hide_default_value = true,
        help_heading = LOAD)]
    pub(crate) size: u64,

    /// How pings are carried
    #[arg(long, value_enum, default_value_t, help_heading = LOAD, hide_short_help = true)]
    pub(crate) mode: Mode,

    /// Trace up to ten pings a second for each server, and send the spans to the OpenTelemetry collector at this URL
    /// (OTLP over HTTP), such as http://localhost:4318; not with a stream
    #[arg(long, value_name = "URL", value_parser = otlp_endpoint, conflicts_with = "retry", hide_short_help = true,
        hide = !otlp::IS_BUILT)]
    pub(crate) otlp: Option<String>,

    #[command(flatten)]
    pub(crate) output: OutputArgs,

    #[command(flatten)]
    pub(crate) gates: GateArgs,

    /// Log each step of the connection; -vv logs all
    ///
    /// RUST_LOG selects modules when neither -q nor -v is given.
    #[arg(short, long, help_heading = "Output", conflicts_with = "quiet", action = ArgAction::Count)]
    verbose: u8,
}

/// What the long help ends with.
const AFTER_LONG_HELP: &str = "\
Examples:
  ping-client                                  ping a server on the local network
  ping-client 192.168.1.9 -c 10 -i 200ms       10 pings, five a second
  ping-client HOST -P 64 --duration 10s        as fast as they go, 64 in flight
  ping-client HOST --rate 1k --max-p99 5ms     fail (exit code 3) if the p99 exceeds 5 ms
  ping-client ANY --all                        every member of a cluster
  ping-client doctor HOST                      which step fails, and why
  ping-client completions bash                 what completes the options in a shell

Exit codes:
  0  a pong arrived; with both -c and -w, every pong
  1  no pong arrived, or with both -c and -w not every one; or the search was interrupted
  2  there was no server to ping, or this program failed
  3  a gate failed: --max-loss, --max-p99 and the like

Each of these options can also be set in the environment: --find-timeout 5s is KAMEO_PING_FIND_TIMEOUT=5s.";

impl Args {
    /// What the command line and the environment may say.
    pub(crate) fn command_line() -> clap::Command {
        program::from_environment(Self::command(), ENVIRONMENT)
    }

    /// Reads the command line. If something is wrong with it, says so and ends the process.
    pub(crate) fn read() -> Self {
        let matches = Self::command_line().get_matches();
        // What does not match was reported by `get_matches`.
        let args = Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
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
        if self.otlp.is_some() && self.mode.streams() {
            return Err("--otlp traces asks and tells; use --mode ask or --mode tell".into());
        }
        if self.retry && self.mode == Mode::Tell {
            return Err("--retry needs acknowledgements, which --mode tell does not have; use stream-tell".into());
        }
        let is_several = self.targets.len() > 1;
        if is_several && self.targets().any(|target| server(target).is_none()) {
            return Err("a peer id or a ticket cannot be pinged beside others; give addresses".into());
        }
        if self.path != PathChoice::Any && self.route().is_none() {
            return Err("--path needs a ticket".into());
        }
        if self.route().is_some_and(|route| route.ticket.relays.is_empty() && route.ticket.addresses.is_empty()) {
            return Err("the ticket names no address that these options allow".into());
        }
        for server in self.targets().filter_map(server) {
            let transport = server.transport.or(self.transport);
            if let Some(transport) = transport.filter(|it| self.secret.is_some() && !it.takes_secret()) {
                return Err(format!("--secret cannot make {transport} private; give a TCP address"));
            }
            if let (Some(named), Some(wanted)) = (server.transport, self.transport)
                && named != wanted
            {
                return Err(format!("{server} is an address of {named}, and --transport wants {wanted}"));
            }
            if let Some(version) = self.ip_version() {
                server.clone().with_version(version).map_err(|error| error.to_string())?;
            }
        }
        if self.transport.is_some_and(|transport| self.secret.is_some() && !transport.takes_secret()) {
            return Err("--secret needs --transport tcp".into());
        }
        if let Some(interface) = &self.interface {
            addresses_of(interface).map_err(|error| format!("--interface {interface}: {error}"))?;
            if self.transport == Some(Transport::Quic) || self.targets().filter_map(server).any(names_quic) {
                return Err("--interface works by TCP only; give an address without /quic-v1".into());
            }
        }
        if (self.all || self.spread) && self.targets().filter_map(server).next().is_none() {
            let option = if self.all { "--all" } else { "--spread" };
            return Err(format!("{option} needs the address of a member"));
        }
        if self.spread && self.mode == Mode::Tell {
            return Err("--spread needs acknowledgements, which --mode tell does not have; use stream-tell".into());
        }
        if is_several && self.output.is_for_one_server() {
            let one = "--csv, --report, --report-interval, --metrics and --json-stream are for one server";
            return Err(format!("{one}; give one target"));
        }
        self.output.check()
    }

    /// Where the servers are, as far as the command line says so.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().chain(&self.server)
    }

    /// The ways of a ticket that the options allow, if a ticket is given.
    pub(crate) fn route(&self) -> Option<Route> {
        let ticket = self.targets().find_map(|it| if let Target::Ticket(it) = it { Some(it.clone()) } else { None })?;
        let mut ticket = ticket.only(self.transport, self.ip_version());
        if self.path == PathChoice::Relay {
            ticket.addresses.clear();
        }
        Some(Route { ticket, choice: self.path })
    }

    /// The only version of IP to use, if the user wants one.
    pub(crate) fn ip_version(&self) -> Option<IpVersion> {
        match (self.ipv4, self.ipv6) {
            (true, _) => Some(IpVersion::V4),
            (_, true) => Some(IpVersion::V6),
            _ => None,
        }
    }

    /// What to log, if the command line says so.
    pub(crate) fn verbosity(&self) -> program::Verbosity {
        if let Some(Command::Watch(watch)) = &self.command
            && !watch.verbose
        {
            // It reports what matters by itself.
            return program::Verbosity::Level(Level::ERROR);
        }
        match (self.output.quiet, self.verbose) {
            (true, _) => program::Verbosity::Level(Level::WARN),
            (_, 0) => program::Verbosity::Default,
            (_, 1) => program::Verbosity::Steps,
            _ => program::Verbosity::Level(Level::DEBUG),
        }
    }
}

fn names_quic(server: &ServerAddress) -> bool {
    server.transport == Some(Transport::Quic)
}

/// The variable of an option is its name after this prefix.
const ENVIRONMENT: &str = "KAMEO_PING_";

/// Heading of the load options in the help.
const LOAD: &str = "Load";

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(60 * 60 * 24);

fn rate(text: &str) -> Result<f64, String> {
    let parsed = text.parse().ok().or_else(|| count(text).ok().map(|rate| rate as f64));
    parsed
        .filter(|rate| (0.001..=1e7).contains(rate))
        .ok_or_else(|| "the rate must be a number from 0.001 to 10000000, such as 50 or 10k".into())
}

fn parallel(text: &str) -> Result<u32, String> {
    match count(text)? {
        width @ 1..=100_000 => Ok(width as u32),
        _ => Err("the number must be from 1 to 100000".into()),
    }
}

fn warm_up(text: &str) -> Result<Limit, String> {
    // A plain number is a count, and 2m a time.
    if let Some(count) = count(text).ok().filter(|_| !text.ends_with('m')) {
        return Ok(Limit { count: Some(count), duration: None });
    }
    duration(MILLISECOND..=HOUR)(text).map(|duration| Limit { count: None, duration: Some(duration) })
}

fn size(text: &str) -> Result<u64, String> {
    let size = program::size(text)?;
    if size > MAX_STREAM_PAYLOAD { Err("the size must be from 0 to 64M".into()) } else { Ok(size) }
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
            ["-P", "0"],
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
    fn the_short_help_fits_a_screen() {
        let help = program::from_environment(Args::command(), ENVIRONMENT).term_width(80).render_help().to_string();
        assert!(help.lines().count() <= 40, "{help}");
    }

    #[test]
    fn counts_rates_and_warm_ups_have_units() {
        let args = parse(&["-c", "10k", "--rate", "2k", "--warmup", "2k"]);
        assert_eq!((args.count, args.rate), (Some(10_000), Some(2000.0)));
        assert_eq!(args.warmup.unwrap().count, Some(2000));
        assert_eq!(parse(&["--warmup", "2m"]).warmup.unwrap().duration, Some(Duration::from_secs(120)));
    }

    #[test]
    fn what_an_address_says_and_an_option_contradicts_is_refused() {
        for arguments in [
            &["10.0.0.1", "-6"][..],
            &["/ip4/10.0.0.1/tcp/1", "--transport", "quic"],
            &["/ip4/10.0.0.1/udp/1/quic-v1", "--secret", "file"],
            &["host", "--secret", "file", "--transport", "quic"],
        ] {
            assert!(parse(arguments).check().is_err(), "{arguments:?}");
        }
        assert!(parse(&["host", "-6", "--transport", "quic"]).check().is_ok());
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
        for (text, bytes) in [("512", 512), ("64K", 65_536), ("64KiB", 65_536), ("1M", 1_048_576)] {
            assert_eq!(parse(&["-s", text]).size, bytes, "{text}");
        }
    }

    #[test]
    fn the_flags_for_the_log_win_over_the_environment() {
        use program::Verbosity;
        assert_eq!(parse(&[]).verbosity(), Verbosity::Default);
        assert_eq!(parse(&["-q"]).verbosity(), Verbosity::Level(Level::WARN));
        assert_eq!(parse(&["-v"]).verbosity(), Verbosity::Steps);
        assert_eq!(parse(&["-vv"]).verbosity(), Verbosity::Level(Level::DEBUG));
    }
}
