//! What the command line asks for, with every default and every rule applied. Only `output` reads options of its own.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use libp2p::PeerId;
use ping_core::{ServerAddress, Transport, address::IpVersion, transport::addresses_of};

use crate::{
    args::{Args, Target, server},
    find::{OnFailure, Route},
    gates::GateArgs,
    output::OutputArgs,
    pinger::PingerPlan,
    run::{Limit, Pace},
};

/// How many pings are sent when nothing else limits them.
const DEFAULT_COUNT: u64 = 100;

/// The time between two pings when nothing else sets the pace.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(2);

/// A session, from the search to the reports.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) find: FindPlan,
    pub(crate) run: RunPlan,
    pub(crate) pinger: PingerPlan,
    /// When the whole session ends, counted from the start.
    pub(crate) deadline: Option<Duration>,
    /// How many pongs make the session a success; `None` for any.
    pub(crate) required: Option<u64>,
    /// Which servers to ping side by side; `None` for the one in `find`.
    pub(crate) several: Option<SeveralPlan>,
    pub(crate) output: OutputArgs,
    pub(crate) gates: GateArgs,
}

/// Servers to ping side by side.
#[derive(Clone, Debug)]
pub(crate) struct SeveralPlan {
    pub(crate) servers: Vec<ServerAddress>,
    /// Whether to ping all members of their clusters.
    pub(crate) all: bool,
    /// Whether to spread one stream of pings over them instead.
    pub(crate) spread: bool,
}

/// Where to find the actor, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct FindPlan {
    /// The server; `None` for one on the local network.
    pub(crate) server: Option<ServerAddress>,
    /// The ways that the server's ticket names, if the user gave that instead.
    pub(crate) route: Option<Route>,
    /// Whom to look for on the local network, and how to reach it.
    pub(crate) wanted: Wanted,
    /// The addresses of this machine to dial from; the system's choice if there are none.
    pub(crate) from: Vec<IpAddr>,
    /// Whether to start the server first.
    pub(crate) demo: bool,
    pub(crate) name: String,
    pub(crate) timeout: Duration,
    /// The file of the client's identity.
    pub(crate) identity: Option<PathBuf>,
    /// The file of the private network's key.
    pub(crate) secret: Option<PathBuf>,
    /// Who else gets the errors of a search that goes on.
    pub(crate) on_failure: Option<OnFailure>,
}

/// What a search on the local network looks for; `None` for any.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) peer: Option<PeerId>,
    pub(crate) version: Option<IpVersion>,
    pub(crate) transport: Option<Transport>,
}

/// Which pings to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunPlan {
    pub(crate) pace: Pace,
    pub(crate) limit: Limit,
    /// How many pings to send before those that are reported, or for how long.
    pub(crate) warm_up: Option<Limit>,
    /// How long a ping may take.
    pub(crate) timeout: Duration,
}

impl From<Args> for Plan {
    fn from(args: Args) -> Self {
        let limit = limit(&args);
        let mut servers: Vec<_> =
            args.targets().filter_map(server).map(|server| as_wanted(server.clone(), &args)).collect();
        let route = args.route();
        let peer = args.targets().find_map(|target| if let Target::Peer(peer) = target { Some(*peer) } else { None });
        // The command line was checked: there is such an interface.
        let from = args.interface.as_deref().and_then(|name| addresses_of(name).ok()).unwrap_or_default();
        let transport = if from.is_empty() { args.transport } else { Some(Transport::Tcp) };
        let wanted = Wanted { peer, version: args.ip_version(), transport };
        let is_several = args.all || args.spread || servers.len() > 1;
        let several = is_several.then(|| SeveralPlan { servers: servers.clone(), all: args.all, spread: args.spread });
        let server = servers.pop();
        Self {
            run: RunPlan { pace: pace(&args), limit, warm_up: args.warmup, timeout: args.timeout },
            pinger: PingerPlan {
                mode: args.mode,
                size: args.size,
                timeout: args.timeout,
                reconnects: !args.no_reconnect && !args.demo,
                retries: args.retry,
                traces: args.otlp.is_some(),
            },
            // As ping(8): with both a count and a deadline, every ping must be answered.
            required: args.count.filter(|&count| count > 0 && args.deadline.is_some()),
            deadline: args.deadline,
            find: FindPlan {
                server,
                route,
                wanted,
                from,
                demo: args.demo,
                name: args.name,
                timeout: args.find_timeout,
                identity: args.identity,
                secret: args.secret,
                on_failure: None,
            },
            several,
            output: args.output,
            gates: args.gates,
        }
    }
}

/// The same server, by the transport and the version of IP that the user wants, and by one that the key of a private
/// network makes private.
fn as_wanted(server: ServerAddress, args: &Args) -> ServerAddress {
    // The command line was checked: no address contradicts it.
    let server = args.ip_version().and_then(|version| server.clone().with_version(version).ok()).unwrap_or(server);
    let transport = args.interface.as_ref().map(|_| Transport::Tcp).or(args.transport);
    let server = transport.map_or(server.clone(), |transport| server.with_transport(transport));
    match server.transports().iter().all(|transport| transport.takes_secret()) {
        false if args.secret.is_some() => server.with_transport(Transport::Tcp),
        _ => server,
    }
}

/// How pings follow each other.
fn pace(args: &Args) -> Pace {
    match (args.rate, args.parallel, args.interval) {
        (Some(rate), ..) => Pace::Rate(rate),
        (None, Some(senders), _) => Pace::Closed(senders),
        (None, None, Some(Duration::ZERO)) => Pace::Closed(1),
        (None, None, Some(interval)) => Pace::Interval(interval),
        (None, None, None) if args.demo => Pace::Closed(1),
        (None, None, None) => Pace::Interval(DEFAULT_INTERVAL),
    }
}

/// When to stop sending.
fn limit(args: &Args) -> Limit {
    let count = match (args.count, args.duration) {
        (Some(0), _) | (None, Some(_)) => None,
        (count, _) => Some(count.unwrap_or(DEFAULT_COUNT)),
    };
    Limit { count, duration: args.duration }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn plan(arguments: &[&str]) -> Plan {
        Args::try_parse_from([&["ping-client"], arguments].concat()).unwrap().into()
    }

    #[test]
    fn the_pace_is_slow_unless_load_is_asked_for() {
        let pace = |arguments: &[&str]| plan(arguments).run.pace;
        assert_eq!(pace(&[]), Pace::Interval(Duration::from_secs(2)));
        assert_eq!(pace(&["--demo"]), Pace::Closed(1));
        assert_eq!(pace(&["--demo", "-i", "1s"]), Pace::Interval(Duration::from_secs(1)));
        assert_eq!(pace(&["-i", "0"]), Pace::Closed(1));
        assert_eq!(pace(&["-P", "64"]), Pace::Closed(64));
        assert_eq!(pace(&["--rate", "2.5"]), Pace::Rate(2.5));
    }

    #[test]
    fn a_run_ends_by_count_by_time_or_never() {
        let limit = |arguments: &[&str]| (plan(arguments).run.limit.count, plan(arguments).run.limit.duration);
        assert_eq!(limit(&[]), (Some(100), None));
        assert_eq!(limit(&["-c", "0"]), (None, None));
        assert_eq!(limit(&["--duration", "2s"]), (None, Some(Duration::from_secs(2))));
        assert_eq!(limit(&["--duration", "2s", "-c", "5"]), (Some(5), Some(Duration::from_secs(2))));
    }

    #[test]
    fn every_pong_is_required_only_with_both_a_count_and_a_deadline() {
        for (arguments, required) in [
            (&[][..], None),
            (&["-c", "5"], None),
            (&["-w", "2s"], None),
            (&["-c", "0", "-w", "1s"], None),
            (&["--duration", "1s", "-w", "20s"], None),
            (&["-c", "5", "-w", "2s"], Some(5)),
            (&["-c", "5", "--duration", "1s", "-w", "2s"], Some(5)),
        ] {
            assert_eq!(plan(arguments).required, required, "{arguments:?}");
        }
    }

    #[test]
    fn a_secret_leaves_the_transports_that_take_it() {
        for address in [&["--server", "host"][..], &["host"]] {
            let server = plan(&[address, &["--secret", "key"]].concat()).find.server.unwrap();
            assert_eq!(server.host(), "host", "{address:?}");
            assert_eq!(server.transports(), [Transport::Tcp], "{address:?}");
        }
    }
}
