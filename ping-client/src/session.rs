//! A session from start to end: find the actor, ping it, report.

use std::{
    collections::BTreeSet,
    fs::File,
    future::{pending, ready},
    io::{self, BufWriter, Write},
    process::ExitCode,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::{FutureExt, StreamExt, stream::LocalBoxStream};
use libp2p::{PeerId, multiaddr::Protocol};
use ping_core::{
    address::{ServerAddress, Transport},
    behaviour,
    logging::last_words,
    node::Node,
    secret,
    signals::StopSignals,
};
use tokio::{
    runtime,
    time::{sleep_until, timeout},
};
use tracing::{info, warn};

use crate::{
    args::Args,
    demo::Demo,
    diagnose::Trouble,
    discover::Discovery,
    find::{Finder, Found},
    identity::own,
    measure::{Audience, Measured, measure},
    network,
    report::{self, Html, Json, Outcome, Phases, Report, Server, Text},
    run::GRACE,
    warnings::warnings,
};

/// How far apart a signal to a group of processes may reach two of them.
const SAME_SIGNAL: Duration = Duration::from_millis(100);

/// How long to wait, after a short run, for a few round trips of the network alone.
const NETWORK_PATIENCE: Duration = Duration::from_secs(1);

/// How long to wait, after a run, for the server's count of its pings.
const LAST_COUNT: Duration = Duration::from_secs(5);

/// Runs the session that the command line describes; `started` is when the process did.
///
/// # Errors
///
/// When something fails that has nothing to do with the server, such as writing the result.
pub(crate) fn run(args: &Args, started: Instant) -> Result<ExitCode> {
    // One thread: a ping costs a handful of wake-ups, and between threads each is dearer than the work it brings.
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(session_or_demo(args, started));
    // A name server that does not answer must not hold up the end.
    runtime.shutdown_background();
    outcome
}

async fn session_or_demo(args: &Args, started: Instant) -> Result<ExitCode> {
    let mut signals = StopSignals::new().context("cannot handle signals")?;
    if !args.demo {
        // There is no QUIC in a private network.
        let server =
            args.server.clone().map(|server| if args.secret.is_some() { server.by(Transport::Tcp) } else { server });
        return session(args, server.as_ref(), started, &mut signals).await;
    }
    let mut demo = Demo::start()?;
    let ready = tokio::select! {
        biased;
        () = signals.next() => None,
        ready = demo.ready(args.find_timeout) => Some(ready),
    };
    // A Ctrl-C may have ended the server a moment before it reached this program.
    let mut interrupted = async || timeout(SAME_SIGNAL, signals.next()).await.is_ok();
    let outcome = match ready {
        Some(Ok(address)) => session(args, Some(&address), Instant::now(), &mut signals).await,
        Some(Err(error)) if !interrupted().await => Err(error),
        _ => {
            last_words("ping-client", &format_args!("{}. {}", Trouble::Interrupted, Trouble::Interrupted.mend()));
            Ok(ExitCode::from(1))
        }
    };
    let stopped = tokio::select! {
        stopped = demo.stop() => stopped,
        // The server is then killed.
        () = signals.next() => Ok(()),
    };
    let code = outcome?;
    if let Err(error) = stopped {
        warn!("{error:#}");
    }
    Ok(code)
}

async fn session(
    args: &Args,
    server: Option<&ServerAddress>,
    started: Instant,
    signals: &mut StopSignals,
) -> Result<ExitCode> {
    let mut audience = Audience::new(args)?;
    let page = args.report.as_deref().map(|path| report::create(path, args.force)).transpose()?;
    let options = behaviour::Options {
        listens: false,
        mdns: server.is_none(),
        limits: behaviour::Limits::DIALER,
        keep_alive: network::interval(args.pace()),
        silence: network::SILENCE,
        request_timeout: 2 * args.timeout + GRACE,
        allowed: None,
        secret: args.secret.as_deref().map(secret::read).transpose()?,
        streams: None,
    };
    let own = own(args.identity.as_deref())?;
    let (node, events) = Node::start(&own.keypair, options).context("cannot start the node")?;
    let finder = Finder::new(&node, &args.name, args.find_timeout);
    let mut discovery = Discovery::new(&finder, events);
    let found = tokio::select! {
        found = find(&finder, &mut discovery, server) => found,
        () = signals.next() => Err(Trouble::Interrupted),
        deadline = deadline(args, started) => Err(finder.trouble().unwrap_or(Trouble::Deadline { deadline })),
    };
    let mut outcome = Outcome::nothing_yet(args);
    match found {
        Ok(Found { actor, others, connection, address_known, connected, looked_up }) => {
            introduce(&connection, server);
            let (peer, address) = (connection.peer, connection.address.clone());
            let pinned = server.is_some_and(|server| server.peer.is_some());
            let mut measured = Measured::default();
            let heard = discovery.network.heard.clone();
            let ended = tokio::select! {
                ended = measure(args, &node, server, (actor, connection), &heard, &mut audience, &mut measured) => ended,
                () = name_rivals(others, peer), if !pinned => Ok(()),
                () = discovery.name_others(|peer| node.block(peer)) => Ok(()),
                () = signals.next() => {
                    outcome.warnings.push("the run was interrupted".into());
                    Ok(())
                }
                deadline = deadline(args, started) => {
                    let deadline = humantime::format_duration(deadline);
                    outcome.warnings.push(format!("the deadline of {deadline} ended the run"));
                    Ok(())
                }
            };
            audience.stats.cut_short();
            if let Some(once) = &measured.once {
                outcome.counted = tokio::select! {
                    counted = timeout(LAST_COUNT, once.end()) => counted.ok().flatten(),
                    // A second signal does not wait for anything.
                    () = signals.next() => None,
                };
                outcome.resent = Some(once.resent());
            }
            if ended.is_ok() {
                // A run may be too short for the network's own round trip to have been measured often enough.
                let _ = timeout(NETWORK_PATIENCE, discovery.enough_round_trips(peer)).await;
            }
            outcome.network = discovery.network.take(peer);
            outcome.trouble = ended.err();
            outcome.load.mode = measured.mode;
            outcome.interruptions = measured.interruptions.get();
            outcome.busy = measured.busy.load(Ordering::Relaxed);
            outcome.arrived = measured.arrived;
            outcome.clocks = measured.clocks;
            outcome.server = Some(Server { peer, address, version: measured.version });
            let first_pong = measured.first_pong.or(audience.stats.first_answer);
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
    // A second signal does not wait for anything.
    tokio::select! {
        () = node.stop() => {}
        () = signals.next() => {}
    }
    let rows = audience.finish();
    outcome.stats = audience.stats;
    if let Some(clocks) = outcome.clocks {
        outcome.warnings.extend(warnings(&outcome.stats, outcome.load.pace, clocks));
    }
    report(args, &outcome, page)?;
    rows.context("cannot write all rows of the CSV file")?;
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
            finder.within_patience(discovery.next().map(Ok), || Trouble::NothingDiscovered).await
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

/// Says who else offers an actor of the same name. Never resolves.
async fn name_rivals(others: LocalBoxStream<'static, PeerId>, peer: PeerId) {
    let others: BTreeSet<PeerId> = others.filter(|other| ready(*other != peer)).collect().await;
    if !others.is_empty() {
        let names: Vec<_> = others.iter().map(ToString::to_string).collect();
        warn!("Other peers offer an actor of this name too: {}. This run pings that of {peer}", names.join(", "));
    }
    pending().await
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

fn report(args: &Args, outcome: &Outcome, page: Option<File>) -> Result<()> {
    let report: &dyn Report = if args.json { &Json } else { &Text };
    let mut stdout = io::stdout().lock();
    report.write(outcome, &mut stdout).and_then(|()| stdout.flush()).context("cannot write the result")?;
    if let Some(page) = page {
        let mut page = BufWriter::new(page);
        Html.write(outcome, &mut page).and_then(|()| page.flush()).context("cannot write the report")?;
    }
    if let Some(trouble) = &outcome.trouble {
        last_words("ping-client", &format_args!("{trouble}. {}", trouble.mend()));
    }
    Ok(())
}

/// As `ping(8)`: 0 when at least one pong came, and with a deadline all of them; 1 when not; 2 when there was no server
/// to ping.
fn exit_code(args: &Args, outcome: &Outcome) -> ExitCode {
    let stats = &outcome.stats;
    let answered =
        if args.deadline.is_some() { Some(stats.received) == args.limit().count } else { stats.received > 0 };
    match outcome.trouble {
        _ if answered => ExitCode::SUCCESS,
        Some(Trouble::Interrupted | Trouble::Deadline { .. }) | None => ExitCode::from(1),
        Some(_) if outcome.server.is_some() => ExitCode::from(1),
        Some(_) => ExitCode::from(2),
    }
}
