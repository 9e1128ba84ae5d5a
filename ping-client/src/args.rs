//! The command line.

use std::{ops::RangeInclusive, time::Duration};

use clap::Parser;
use ping_core::{
    address::ServerAddress,
    protocol::{self, DEFAULT_NAME},
};

/// Pings an actor that ping-server hosts, and says how long the round trip takes, or why there is none.
///
/// The server prints its connection addresses when it starts; give one of them to --server. An IP address or a host
/// name will do too. Without --server, servers on the local network are found by mDNS.
#[derive(Debug, Parser)]
#[command(version, verbatim_doc_comment)]
pub(crate) struct Args {
    /// Where the server is: a connection address that it printed, or an IP address or host name, with or without a
    /// port. With a /p2p/ part, only the server of that identity will do
    #[arg(short, long, value_name = "ADDRESS")]
    pub(crate) server: Option<ServerAddress>,

    /// The name that the actor is registered under (1 to 255 bytes)
    #[arg(long, default_value = DEFAULT_NAME, value_parser = protocol::parse_name)]
    pub(crate) name: String,

    /// How many pings to send (1 or more)
    #[arg(short, long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: u64,

    /// The time from one ping to the next, as 250ms, 2s or 1m (0 to 1h; 0 sends the next when the pong is in)
    /// [default: 2s; with --demo 0]
    #[arg(short, long, value_name = "TIME", value_parser = duration(Duration::ZERO..=HOUR))]
    interval: Option<Duration>,

    /// How long to wait for the pong to one ping (1ms to 1h)
    #[arg(short = 'W', long, value_name = "TIME", default_value = "10s", value_parser = duration(MILLISECOND..=HOUR))]
    pub(crate) timeout: Duration,

    /// End the whole run, finding the server included, after this time (1ms to 30d)
    #[arg(short = 'w', long, value_name = "TIME", value_parser = duration(MILLISECOND..=DAY * 30))]
    pub(crate) deadline: Option<Duration>,

    /// How long to try to find the server and its actor (1ms to 1d)
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration(MILLISECOND..=DAY))]
    pub(crate) find_timeout: Duration,

    /// Print the result as one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    /// Start a server on this machine, ping it without pause, and stop it again
    #[arg(long, conflicts_with_all = ["server", "name"])]
    pub(crate) demo: bool,
}

impl Args {
    /// The time from the start of one ping to the start of the next.
    pub(crate) fn interval(&self) -> Duration {
        self.interval.unwrap_or(if self.demo { Duration::ZERO } else { Duration::from_secs(2) })
    }
}

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(60 * 60 * 24);

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
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 250ms, 2s or 1m"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

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
        for arguments in
            [["-c", "0"], ["-W", "0"], ["-i", "2h"], ["-w", "31d"], ["--find-timeout", "0s"], ["--name", ""]]
        {
            let error = Args::try_parse_from(["ping-client"].into_iter().chain(arguments)).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{arguments:?}");
        }
    }

    #[test]
    fn the_demo_pings_without_pause_unless_told_otherwise() {
        let interval =
            |arguments: &[&str]| Args::try_parse_from([&["ping-client"], arguments].concat()).unwrap().interval();
        assert_eq!(interval(&[]), Duration::from_secs(2));
        assert_eq!(interval(&["--demo"]), Duration::ZERO);
        assert_eq!(interval(&["--demo", "-i", "1s"]), Duration::from_secs(1));
    }
}
