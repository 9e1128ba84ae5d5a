//! The command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand, value_parser};
use clap_complete::Shell;
use libp2p::Multiaddr;
use ping_core::{
    ServerAddress, address,
    hardening::Limits,
    program::{
        self, Verbosity, duration, long_version,
        metrics::metrics_address,
        otlp::{self, otlp_endpoint},
    },
    protocol::{DEFAULT_NAME, DEFAULT_PORT},
};

use tracing::Level;

use crate::{allow::Allow, membership::Seed, memory, node_name, relay::RelayArgs, tls::TlsArgs};

/// Hosts an actor that counts pings, for ping-client to find.
///
/// Prints what to type on another machine, such as:
///
///     ping-client 192.168.1.9
///
/// On the same local network, a client finds the server without an address. Every option can also be set in the
/// environment: --port 7000 is KAMEO_PING_SERVER_PORT=7000.
#[derive(Debug, Parser)]
#[command(version, long_version = long_version(), verbatim_doc_comment, args_conflicts_with_subcommands = true,
    disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    /// Port to listen on, for TCP and QUIC, IPv4 and IPv6 (0 to 65535; 0 lets the system choose)
    #[arg(short, long, value_name = "PORT", default_value_t = DEFAULT_PORT)]
    pub(crate) port: u16,

    /// Listen on this address instead, such as /ip4/127.0.0.1/tcp/36341 or /ip6/::/udp/36341/quic-v1 (repeatable)
    #[arg(long, value_name = "MULTIADDR", conflicts_with = "port", value_parser = multiaddr)]
    pub(crate) listen: Vec<Multiaddr>,

    /// An address that others reach this server at, as a router or a container's host forwards it: an IP address or
    /// host name, with or without a port, or a multiaddr (repeatable)
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) external_address: Vec<ServerAddress>,

    /// Ask the router, by PCP, NAT-PMP or UPnP, to forward the ports to this server
    #[arg(long)]
    pub(crate) map_port: bool,

    /// How long to wait for a port that an outgoing connection of another program holds (0s to 1h)
    #[arg(long, value_name = "TIME", default_value = "10s",
        value_parser = duration(Duration::ZERO..=Duration::from_secs(60 * 60)))]
    pub(crate) bind_timeout: Duration,

    /// Name to register the actor under (1 to 255 bytes)
    #[arg(long, default_value = DEFAULT_NAME, value_parser = address::parse_name)]
    pub(crate) name: String,

    /// Join the cluster of the member at this address, or of members that mDNS finds with "mdns" (repeatable)
    #[arg(long, value_name = "ADDRESS|mdns", help_heading = CLUSTER)]
    pub(crate) join: Vec<Seed>,

    /// Name of this node for people (1 to 63 bytes) [default: the name of this machine]
    #[arg(long, value_name = "NAME", value_parser = node_name::parse, help_heading = CLUSTER)]
    pub(crate) node: Option<String>,

    /// Play a rally: an actor here and one on each other member with --rally hit a ball round all of them
    #[arg(long, help_heading = CLUSTER)]
    pub(crate) rally: bool,

    /// Serve the ball, and stop after this many rounds (1 or more)
    #[arg(long, value_name = "COUNT", requires = "rally", value_parser = value_parser!(u64).range(1..),
        help_heading = CLUSTER)]
    pub(crate) rounds: Option<u64>,

    /// Let clients reach this server through the relay at this address, with its identity (/p2p/…) at the end (up to 3)
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) relay_via: Vec<ServerAddress>,

    #[command(flatten)]
    pub(crate) tls: TlsArgs,

    /// File with this server's Ed25519 key, created on first use [default: kameo-ping/identity.key in the user's state
    /// directory]
    #[arg(long, value_name = "FILE", conflicts_with = "ephemeral")]
    pub(crate) identity: Option<PathBuf>,

    /// Use a new identity that is not stored; the connection addresses change with every start
    #[arg(long)]
    pub(crate) ephemeral: bool,

    /// Store the count in this file; a ping is answered only after its count is stored
    #[arg(long, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,

    /// Accept only this client: its identity, as `ping-client id` prints it, or a file with one per line (repeatable)
    #[arg(long, value_name = "PEER_ID|FILE")]
    pub(crate) allow: Vec<Allow>,

    /// File with the pre-shared key of a private network: accept only clients that have the same key, over TCP
    #[arg(long, value_name = "FILE")]
    pub(crate) secret: Option<PathBuf>,

    /// Maximum number of connections; one IP address may have three quarters of them (1 to 1000000)
    #[arg(long, value_name = "COUNT", default_value_t = Limits::DEFAULT_CONNECTIONS,
        value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) max_connections: u32,

    /// Memory that peers may make the server hold; the connection that holds most is closed first (at least 64MiB)
    /// [default: 256MiB, or a quarter of this machine's memory if that is less]
    #[arg(long, value_name = "SIZE", value_parser = memory::parse)]
    pub(crate) max_memory: Option<u64>,

    /// Serve figures for Prometheus at this port of loopback, or IP address and port
    #[arg(long, value_name = "PORT|ADDRESS", value_parser = metrics_address)]
    pub(crate) metrics: Option<SocketAddr>,

    /// Send spans of traced pings to the OpenTelemetry collector at this URL (OTLP over HTTP)
    #[arg(long, value_name = "URL", value_parser = otlp_endpoint, hide = !otlp::IS_BUILT)]
    pub(crate) otlp: Option<String>,

    /// Print one line of JSON on stdout for every event
    #[arg(long)]
    pub(crate) json: bool,

    /// Log each address and step; -vv logs all (RUST_LOG selects modules otherwise)
    #[arg(short, long, action = ArgAction::Count)]
    pub(crate) verbose: u8,

    /// Stop when standard input ends, so that the server does not outlive the program that started it
    #[arg(long)]
    pub(crate) stop_on_eof: bool,
}

/// What the program does besides hosting an actor.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a relay, through which clients reach servers behind routers
    Relay(RelayArgs),
    /// Print the script that completes the options in a shell
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages
    #[command(hide = true)]
    Manual {
        /// The folder to write them to
        folder: PathBuf,
    },
}

impl Args {
    /// Reads the command line, and of the environment what it does not say. If something is wrong with it, says so and
    /// ends the process.
    pub(crate) fn read() -> Self {
        // What does not match was reported by `get_matches`.
        Self::from_arg_matches(&Self::command_line().get_matches()).unwrap_or_else(|error| error.exit())
    }

    /// What the command line and the environment may say.
    pub(crate) fn command_line() -> clap::Command {
        program::from_environment(Self::command(), "KAMEO_PING_SERVER_")
    }

    /// What to log.
    pub(crate) fn verbosity(&self) -> Verbosity {
        match self.verbose {
            0 => Verbosity::Default,
            1 => Verbosity::Steps,
            _ => Verbosity::Level(Level::DEBUG),
        }
    }
}

/// Heading of the cluster's options in the help.
const CLUSTER: &str = "Cluster";

pub(crate) fn multiaddr(text: &str) -> Result<Multiaddr, String> {
    text.parse().map_err(|_| "that is not a multiaddr; write it as /ip4/127.0.0.1/tcp/36341".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
