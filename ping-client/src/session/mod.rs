//! A session: find the actor, ping it, report.

mod exit_code;
mod measure;

use std::{
    future::pending,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use libp2p::multiaddr::Protocol;
use ping_core::{
    Connection, Node, Options, ServerAddress,
    keys::secret,
    program::{StopSignals, flush_log, last_words},
};
use tokio::{
    runtime,
    time::{sleep_until, timeout},
};
use tracing::{info, warn};

use crate::{
    demo::Demo,
    error::Error,
    figures::{KEEP_ALIVE_TIMEOUT, Load, Network, SessionResult, keep_alive_interval, notes},
    find::{Finder, Found, Search},
    identity,
    output::Outputs,
    plan::Plan,
    run::LATE_GRACE,
};
use exit_code::exit_code;

/// How far apart a signal to a group of processes may reach two of them.
const SAME_SIGNAL: Duration = Duration::from_millis(100);

/// Runs the session; `started` is when the process did. Fails if something fails that has nothing to do with the
/// server, such as writing the result.
pub(crate) fn run(plan: Plan, started: Instant) -> Result<ExitCode> {
    // One thread: a ping costs a handful of wake-ups, and between threads each costs more than the work it brings.
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let mut signals = StopSignals::new().context("cannot handle signals")?;
        match plan.find.demo {
            true => demo(&plan, &mut signals).await,
            false => session(&plan, plan.find.server.as_ref(), started, &mut signals).await,
        }
    });
    // A name server that does not answer must not delay the end.
    runtime.shutdown_background();
    outcome
}

async fn session(
    plan: &Plan,
    server: Option<&ServerAddress>,
    started: Instant,
    signals: &mut StopSignals,
) -> Result<ExitCode> {
    let mut outputs = Outputs::open(&plan.output, plan.run.pace, plan.run.limit)?;
    let own = identity::load(plan.find.identity.as_deref())?;
    let (node, events) = Node::start(&own.keypair, options(plan, server)?).context("cannot start the node")?;
    let load = Load { mode: plan.pinger.mode, pace: plan.run.pace, size: plan.pinger.size };
    let mut result = SessionResult::nothing_yet(&plan.find.name, load);
    {
        let finder = Finder::new(&node, &plan.find.name, plan.find.timeout);
        let mut search = Search::new(&finder, events);
        let mut network = Network::new();
        match find(plan, &node, server, started, &mut search, &mut network, signals).await {
            Ok(found) => {
                introduce(&found.connection, server);
                let context = measure::Context { plan, node: &node, server, started };
                measure::measure(&context, found, (search, network), &mut outputs, signals, &mut result).await;
            }
            Err(error) => result.error = Some(error),
        }
    }
    tokio::select! {
        () = node.stop() => {}
        // A second signal waits for nothing.
        () = signals.next() => {}
    }
    result.notes.extend(notes(&result));
    flush_log();
    outputs.finish(&result)?;
    if let Some(error) = &result.error {
        last_words("ping-client", &format_args!("{error}. {}", error.help()));
    }
    Ok(exit_code(plan.required, &result))
}

/// Starts a server, runs a session with it, and stops it.
async fn demo(plan: &Plan, signals: &mut StopSignals) -> Result<ExitCode> {
    let mut demo = Demo::start()?;
    let ready = tokio::select! {
        biased;
        () = signals.next() => None,
        ready = demo.ready(plan.find.timeout) => Some(ready),
    };
    // A Ctrl-C may have ended the server a moment before it reached this program.
    let mut is_interrupted = async || timeout(SAME_SIGNAL, signals.next()).await.is_ok();
    let outcome = match ready {
        Some(Ok(address)) => session(plan, Some(&address), Instant::now(), signals).await,
        Some(Err(error)) if !is_interrupted().await => Err(error),
        _ => {
            let interrupted = Error::Interrupted { last: None };
            last_words("ping-client", &format_args!("{interrupted}. {}", interrupted.help()));
            Ok(ExitCode::from(1))
        }
    };
    let stopped = tokio::select! {
        stopped = demo.stop() => stopped,
        // The server is then killed.
        () = signals.next() => Ok(()),
    };
    if let (Ok(_), Err(error)) = (&outcome, stopped) {
        warn!("{error:#}");
    }
    outcome
}

fn options(plan: &Plan, server: Option<&ServerAddress>) -> Result<Options> {
    let secret = plan.find.secret.as_deref().map(secret::read).transpose();
    Ok(Options {
        mdns: server.is_none(),
        keep_alive_interval: keep_alive_interval(plan.run.pace),
        keep_alive_timeout: KEEP_ALIVE_TIMEOUT,
        request_timeout: 2 * plan.run.timeout + LATE_GRACE,
        secret: secret.map_err(|error| anyhow!("{error}. {}", error.help("--secret")))?,
        ..Options::default()
    })
}

/// Finds the actor where the user said, or on the local network.
async fn find(
    plan: &Plan,
    node: &Node,
    server: Option<&ServerAddress>,
    started: Instant,
    search: &mut Search<'_>,
    network: &mut Network,
    signals: &mut StopSignals,
) -> Result<Found, Error> {
    let finder = search.finder();
    let found = async {
        match server {
            Some(server) => finder.within_limit(finder.at(server), || Error::no_answer(server)).await,
            None => {
                info!("Looking for servers on the local network by mDNS");
                let mut on_round_trip = |peer, time| network.record(peer, time);
                let found = async { Ok(search.next(&mut on_round_trip).await) };
                finder.within_limit(found, || Error::NothingDiscovered).await
            }
        }
    };
    tokio::select! {
        found = found => found,
        () = signals.next() => Err(Error::Interrupted { last: finder.error().map(|error| error.to_string()) }),
        deadline = deadline(plan.deadline, started) => Err(finder.error().unwrap_or(Error::Deadline { deadline })),
        reason = node.failed() => Err(Error::node_failed(&reason)),
    }
}

/// Reports who was found, and, where the user required no identity, whose was accepted.
fn introduce(connection: &Connection, server: Option<&ServerAddress>) {
    let address = connection.address.clone().with(Protocol::P2p(connection.peer));
    match server {
        Some(ServerAddress { peer: Some(_), .. }) => info!("Connected to {address}"),
        Some(_) => {
            info!("Connected to {address}");
            warn!("Accepted identity {} unchecked; to check it, use --server {address}", connection.peer);
        }
        None => info!("Found {address}; to check its identity, use --server {address}"),
    }
}

/// Waits for the end of the time that the user gave the session, or for ever.
async fn deadline(deadline: Option<Duration>, started: Instant) -> Duration {
    match deadline {
        Some(deadline) => {
            sleep_until((started + deadline).into()).await;
            deadline
        }
        None => pending().await,
    }
}
