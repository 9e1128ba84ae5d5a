//! A session from start to end: find the actor, ping it, report.

use std::{
    future::pending,
    io::{self, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use libp2p::{identity::Keypair, multiaddr::Protocol};
use ping_core::{address::ServerAddress, behaviour, node::Node, signals::StopSignals};
use tokio::time::sleep_until;
use tracing::{info, warn};

use crate::{
    args::Args,
    demo::Demo,
    diagnose::Trouble,
    discover::Discovery,
    find::{Finder, Found},
    report::{Json, Outcome, Phases, Report, Server, Text},
    run::{self, Plan},
    stats::Stats,
};

/// How much longer than a ping's own timeout the node keeps its request open, so that the ping's timeout is the one
/// that counts.
const REQUEST_GRACE: Duration = Duration::from_secs(1);

/// Runs the session that the command line describes; `started` is when the process did.
///
/// # Errors
///
/// When something fails that has nothing to do with the server, such as writing the result.
pub(crate) async fn run(args: &Args, started: Instant) -> Result<ExitCode> {
    let mut signals = StopSignals::new().context("cannot handle signals")?;
    if !args.demo {
        return session(args, args.server.as_ref(), started, &mut signals).await;
    }
    let mut demo = Demo::start()?;
    let outcome = tokio::select! {
        address = demo.ready() => match address {
            Ok(address) => session(args, Some(&address), Instant::now(), &mut signals).await,
            Err(error) => Err(error),
        },
        () = signals.next() => Ok(ExitCode::from(1)),
    };
    let stopped = demo.stop().await;
    let code = outcome?;
    stopped.map(|()| code)
}

async fn session(
    args: &Args,
    server: Option<&ServerAddress>,
    started: Instant,
    signals: &mut StopSignals,
) -> Result<ExitCode> {
    let options = behaviour::Options {
        listens: false,
        mdns: server.is_none(),
        connections_per_peer: Some(1),
        request_timeout: args.timeout + REQUEST_GRACE,
    };
    let (node, events) = Node::start(&Keypair::generate_ed25519(), options).context("cannot start the node")?;
    let mut outcome = Outcome {
        server: None,
        name: args.name.clone(),
        phases: Phases::default(),
        stats: Stats::new(),
        trouble: None,
    };

    let finder = Finder::new(&node, &args.name, args.find_timeout);
    let mut discovery = Discovery::new(&finder, events);
    let found = tokio::select! {
        found = find(&finder, &mut discovery, server) => found,
        () = signals.next() => Err(Trouble::Interrupted),
        deadline = deadline(args, started) => Err(Trouble::Deadline { deadline }),
    };
    match found {
        Ok(Found { actor, mut connection, address_known, connected, looked_up }) => {
            introduce(&connection, server);
            outcome.server = Some(Server { peer: connection.peer, address: connection.address.clone() });
            let plan = Plan { count: args.count, interval: args.interval(), timeout: args.timeout };
            let ended = tokio::select! {
                ended = run::run(&actor, &mut connection.closed, plan, &mut outcome.stats) => ended,
                () = discovery.name_others(connection.peer, |peer| node.disconnect(peer)) => Ok(()),
                () = signals.next() => Ok(()),
                _ = deadline(args, started) => Ok(()),
            };
            outcome.trouble = ended.err();
            let first_pong = outcome.stats.first_pong;
            outcome.phases = Phases {
                find: Some(address_known - started),
                connect: Some(connected - address_known),
                lookup: Some(looked_up - connected),
                first_pong: first_pong.map(|pong| pong - looked_up),
                total_to_first_pong: first_pong.map(|pong| pong - started),
            };
        }
        Err(trouble) => outcome.trouble = Some(trouble),
    }
    drop(discovery);
    node.stop().await;
    report(args, &outcome)?;
    Ok(exit_code(args, &outcome))
}

/// Finds the actor where the user said, or on the local network.
async fn find(
    finder: &Finder<'_>,
    discovery: &mut Discovery<'_>,
    server: Option<&ServerAddress>,
) -> Result<Found, Trouble> {
    match server {
        Some(server) => finder.within_patience(finder.at(server), || Trouble::no_answer(server)).await,
        None => {
            info!("Looking for servers on the local network by mDNS");
            finder.within_patience(discovery.next(), || Trouble::NothingDiscovered).await
        }
    }
}

/// Says who was found, and, where the user named no identity, whose was accepted.
fn introduce(connection: &ping_core::node::Connection, server: Option<&ServerAddress>) {
    let address = connection.address.clone().with(Protocol::P2p(connection.peer));
    match server {
        Some(ServerAddress { peer: Some(_), .. }) => info!("Connected to {address}"),
        Some(_) => {
            info!("Connected to {address}");
            warn!("Accepted the identity {} unchecked; to have it checked, use --server {address}", connection.peer);
        }
        None => info!("Found {address}; to have its identity checked, use --server {address}"),
    }
}

/// Waits for the end of the time that the user gave the whole run, or for ever.
async fn deadline(args: &Args, started: Instant) -> Duration {
    match args.deadline {
        Some(deadline) => {
            sleep_until((started + deadline).into()).await;
            deadline
        }
        None => pending().await,
    }
}

fn report(args: &Args, outcome: &Outcome) -> Result<()> {
    let report: &dyn Report = if args.json { &Json } else { &Text };
    let mut stdout = io::stdout().lock();
    report.write(outcome, &mut stdout).and_then(|()| stdout.flush()).context("cannot write the result")?;
    if let Some(trouble) = &outcome.trouble {
        eprintln!("ping-client: {trouble}. {}", trouble.mend());
    }
    Ok(())
}

/// As `ping(8)`: 0 when at least one pong came, and with a deadline all of them; 1 when not; 2 when there was no server
/// to ping.
fn exit_code(args: &Args, outcome: &Outcome) -> ExitCode {
    let stats = &outcome.stats;
    let answered = if args.deadline.is_some() { stats.received == args.count } else { stats.received > 0 };
    match outcome.trouble {
        _ if answered => ExitCode::SUCCESS,
        Some(Trouble::Interrupted | Trouble::Deadline { .. }) | None => ExitCode::from(1),
        Some(_) if outcome.server.is_some() => ExitCode::from(1),
        Some(_) => ExitCode::from(2),
    }
}
