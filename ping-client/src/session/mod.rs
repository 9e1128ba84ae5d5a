//! A session: find the actor, ping it, report.
//!
//! - `conclude`: what the client asks the actor after a run.
//! - `warm_up`: the pings before those that are reported.
//! - `introduce`: who was found, and how long that took.
//! - `exit_code`: what the session's exit code says.

mod conclude;
mod events;
mod exit_code;
mod introduce;
mod warm_up;

use std::{
    future::pending,
    panic::AssertUnwindSafe,
    path::Path,
    pin::{Pin, pin},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use futures::{FutureExt, stream::LocalBoxStream};
use kameo::actor::RemoteActorRef;
use libp2p::{PeerId, pnet::PreSharedKey};
use ping_core::{
    Connection, DialError, Event, Node, Options, PingActor, ServerAddress,
    keys::secret,
    program::{StopSignals, flush_log, last_words},
};
use tokio::{
    sync::mpsc,
    time::{sleep_until, timeout},
};
use tracing::info;

use crate::{
    demo,
    error::Error,
    figures::{
        Clock, Clocks, KEEP_ALIVE_TIMEOUT, Load, Network, Server, ServerVersion, SessionResult, keep_alive_interval,
        notes,
    },
    find::{Finder, Found, PathChoice, Place, Search, keep_asking, name_rivals},
    identity,
    output::{Outputs, Recorder},
    pinger::{Facts, Opener, Pinger, Reconnect, Retry, Twins},
    plan::Plan,
    run::{End, LATE_GRACE, Observer, Pace, Schedule, Stop, run as run_pings},
    runtime::block_on,
};
pub(crate) use conclude::COUNT_TIMEOUT;
use conclude::{conclude, note_end};
pub(crate) use events::Events;
pub(crate) use exit_code::exit_code;
use introduce::{introduce, phases};
use warm_up::warm_up;

/// How long to wait, after a short run, for a few round trips of the network alone.
const NETWORK_TIMEOUT: Duration = Duration::from_secs(1);

/// The note on a result that was wanted before the server had answered.
const COUNTS_MISSING: &str = "the server's own counts are missing: the session ended before it was asked";

/// Runs the session; `started` is when the process did. Fails if something fails that has nothing to do with the
/// server, such as writing the result.
pub(crate) fn run(plan: Plan, started: Instant) -> Result<ExitCode> {
    block_on(async {
        let mut signals = StopSignals::new().context("cannot handle signals")?;
        if plan.find.demo {
            let session =
                async |server: &_, signals: &mut _| session(&plan, Some(server), Instant::now(), signals).await;
            return demo::run(plan.find.timeout, &mut signals, session).await;
        }
        session(&plan, plan.find.server.as_ref(), started, &mut signals).await
    })
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
    let mut result = nothing_yet(plan);
    find_and_measure(plan, (server, started), (&node, events), signals, &mut outputs, &mut result).await;
    tokio::select! {
        () = node.stop() => {}
        // A second signal waits for nothing.
        () = signals.next() => {}
    }
    flush_log();
    result.gates = gate_failures(plan, &result);
    result.notes.extend(outputs.note_of_waiting());
    outputs.finish(&result)?;
    if let Some(error) = &result.error {
        let doctor = match (server, &plan.find.route) {
            _ if result.server.is_some() => String::new(),
            (Some(server), _) => format!(" \"ping-client doctor {server}\" shows which step fails."),
            (None, Some(_)) => " \"ping-client doctor TICKET\" shows which step fails.".into(),
            (None, None) => String::new(),
        };
        last_words("ping-client", &format_args!("{error}. {}{doctor}", error.help()));
    }
    if !result.gates.is_empty() {
        last_words("ping-client", &result.gates.join("; "));
    }
    Ok(exit_code(plan.required, &result).into())
}

/// The gates that a result fails. Without a server there is nothing to judge.
pub(crate) fn gate_failures(plan: &Plan, result: &SessionResult) -> Vec<String> {
    match result.server {
        Some(_) => plan.gates.failures(&result.figures, result.phases.total_to_first_pong),
        None => Vec::new(),
    }
}

/// The result of a session before anything has happened.
pub(crate) fn nothing_yet(plan: &Plan) -> SessionResult {
    let load = Load { mode: plan.pinger.mode, pace: plan.run.pace, size: plan.pinger.size };
    SessionResult::nothing_yet(&plan.find.name, load)
}

/// Finds the actor of a server and pings it, from a node and its events, and puts everything into `result`. The search
/// counts from `started`.
pub(crate) async fn find_and_measure(
    plan: &Plan,
    (server, started): (Option<&ServerAddress>, Instant),
    (node, events): (&Node, mpsc::UnboundedReceiver<Event>),
    signals: &mut StopSignals,
    outputs: &mut Outputs,
    result: &mut SessionResult,
) {
    let finder = Finder::new(node, &plan.find.name, plan.find.timeout).telling(plan.find.on_failure.clone());
    let (search, network) = (Search::new(&finder, events).wanting(plan.find.wanted), Network::new());
    let mut session = Session { plan, node, server, started, search, network };
    let work = async {
        match session.find(signals).await {
            Ok(found) => session.measure(found, outputs, signals, result).await,
            Err(error) => result.error = Some(error),
        }
    };
    // Kameo can panic in the task that asks. What was measured is still reported.
    if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
        result.figures.cut_short();
        result.error = Some(Error::panicked(&*panic));
    }
    result.notes.extend(notes(result));
}

/// The key in this file.
pub(crate) fn secret(path: Option<&Path>) -> Result<Option<PreSharedKey>> {
    let secret = path.map(secret::read).transpose();
    secret.map_err(|error| anyhow!("{error}. {}", error.help("--secret")))
}

/// The options of a node that pings as planned.
pub(crate) fn options(plan: &Plan, server: Option<&ServerAddress>) -> Result<Options> {
    Ok(Options {
        mdns: server.is_none() && plan.find.route.is_none(),
        uses_relays: plan.find.route.is_some(),
        leaves_relays: plan.find.route.as_ref().is_some_and(|route| route.choice != PathChoice::Relay),
        keep_alive_interval: keep_alive_interval(plan.run.pace),
        keep_alive_timeout: KEEP_ALIVE_TIMEOUT,
        request_timeout: 2 * plan.run.timeout + LATE_GRACE,
        secret: secret(plan.find.secret.as_deref())?,
        dial_from: plan.find.from.clone(),
        ..Options::default()
    })
}

/// What a session works with.
struct Session<'a> {
    plan: &'a Plan,
    node: &'a Node,
    server: Option<&'a ServerAddress>,
    started: Instant,
    search: Search<'a>,
    network: Network,
}

/// The runs of a session, and what is needed to conclude it.
struct Measured<'a> {
    pinger: Box<dyn Pinger + 'a>,
    facts: Facts,
    end: End,
    clocks: Option<Clocks>,
    /// How many pings the warm-up sent.
    warm_up_pings: u64,
    /// When its first pong arrived.
    first_pong: Option<Instant>,
    /// The actor's total before the run.
    total_before: Option<u64>,
    /// How many pings of the run the actor had counted in the warm-up; `None` if that is not known.
    counted_before: Option<u64>,
}

impl<'a> Session<'a> {
    /// Finds the actor where the user said, or on the local network.
    async fn find(&mut self, signals: &mut StopSignals) -> Result<Found, Error> {
        let Self { plan, node, server, started, search, network } = self;
        let finder = search.finder();
        let found = async {
            if let Some(route) = &plan.find.route {
                let silent = || Error::Dial { server: route.ticket.peer.to_string(), error: DialError::TimedOut };
                return finder.within_limit(finder.by_ticket(route), silent).await;
            }
            match server {
                Some(server) => finder.within_limit(finder.at(server), || Error::no_answer(server)).await,
                None => {
                    info!("Looking for servers on the local network by mDNS");
                    let mut on_round_trip = |peer, time| network.record(peer, time);
                    let found = async {
                        tokio::select! {
                            found = search.next(&mut on_round_trip) => Ok(found),
                            never = keep_asking() => match never {},
                        }
                    };
                    finder.within_limit(found, || Error::NothingDiscovered).await
                }
            }
        };
        tokio::select! {
            found = found => found,
            () = signals.next() => Err(Error::Interrupted { last: finder.error().map(|error| error.to_string()) }),
            deadline = deadline(plan.deadline, *started) => Err(finder.error().unwrap_or(Error::Deadline { deadline })),
            reason = node.failed() => Err(Error::node_failed(&reason)),
        }
    }

    /// Pings the actor that was found, and puts everything into `result`.
    async fn measure(
        mut self,
        found: Found,
        outputs: &mut Outputs,
        signals: &mut StopSignals,
        result: &mut SessionResult,
    ) {
        let (plan, started, looked_up) = (self.plan, self.started, found.looked_up);
        let Connection { peer, address, .. } = &found.connection;
        introduce(&found.connection, self.server, plan.find.route.is_some());
        result.server = Some(Server { peer: *peer, address: address.clone(), version: ServerVersion::Unknown });
        result.retries = plan.pinger.retries;
        result.phases = phases(&found, started);
        let shows_version = outputs.show_version();
        let mut recorder = Recorder { figures: &mut result.figures, outputs };
        recorder.found(looked_up, &result.phases);
        let measured = self.open_and_run(found, &mut recorder, signals).await;
        result.figures.cut_short();
        let mut first_pong = result.figures.first_answer;
        let end = match measured {
            Ok(measured) => {
                first_pong = measured.first_pong.or(first_pong);
                result.load.mode = measured.facts.mode;
                result.counters = measured.pinger.counters();
                let why_relayed = measured.pinger.why_relayed();
                result.notes.extend(why_relayed.map(|reason| format!("pings stayed on the relay: {reason}")));
                result.clocks = measured.clocks;
                let is_past_deadline = matches!(measured.end, End::Stopped(Stop::Deadline(_)));
                tokio::select! {
                    biased;
                    // A second signal waits for nothing. A deadline that ended the run leaves time for the counts.
                    () = signals.next() => result.notes.push(COUNTS_MISSING.into()),
                    _ = deadline(plan.deadline, started), if !is_past_deadline => {
                        result.notes.push(COUNTS_MISSING.into());
                    }
                    () = conclude(&measured, shows_version, result) => {}
                }
                if matches!(measured.end, End::Complete) {
                    let _ = timeout(NETWORK_TIMEOUT, self.enough_round_trips()).await;
                }
                measured.end
            }
            Err(end) => end,
        };
        result.network = self.network.into_times();
        result.phases.first_pong = first_pong.map(|pong| pong - looked_up);
        result.phases.total_to_first_pong = first_pong.map(|pong| pong - started);
        note_end(end, result);
    }

    /// Opens the pinger and runs it, until something stops it.
    async fn open_and_run(
        &mut self,
        Found { actor, others, connection, .. }: Found,
        recorder: &mut Recorder<'_>,
        signals: &mut StopSignals,
    ) -> Result<Measured<'a>, End> {
        let plan = self.plan;
        let last_heard = self.network.follow(connection.peer);
        let find = (&*plan.find.name, plan.find.timeout);
        let place = match (self.server, &plan.find.route) {
            (Some(server), _) => Place::Address(server.clone()),
            (None, Some(route)) => Place::Ticket(route.clone()),
            (None, None) => Place::Announced(connection.peer, self.search.announced(&connection.peer)),
        };
        let opener = Opener::new(self.node, find, place, &connection, &plan.pinger, last_heard);
        let (twins, first) = (opener.twins.clone(), actor.clone());
        let is_impatient = !matches!(plan.run.pace, Pace::Closed(_)) && !plan.pinger.retries;
        let mut stop = pin!(self.stop(others, connection.peer, (&twins, &first), signals));
        tokio::select! {
            opened = Reconnect::open(opener, actor, connection, is_impatient) => {
                let (pinger, facts) = opened.map_err(End::Failed)?;
                Ok(runs(plan, pinger, facts, recorder, stop).await)
            }
            stop = stop.as_mut() => Err(End::Stopped(stop)),
        }
    }

    /// Waits for what stops the run. In the meantime, handles the node's events and names other servers.
    async fn stop(
        &mut self,
        others: LocalBoxStream<'static, PeerId>,
        peer: PeerId,
        (twins, actor): (&Twins, &RemoteActorRef<PingActor>),
        signals: &mut StopSignals,
    ) -> Stop {
        let Self { plan, node, server, started, search, network } = self;
        let is_pinned = plan.find.route.is_some() || server.is_some_and(|server| server.peer.is_some());
        let mut on_round_trip = |peer, time| network.record(peer, time);
        tokio::select! {
            () = signals.next() => Stop::Interrupted,
            deadline = deadline(plan.deadline, *started) => Stop::Deadline(deadline),
            reason = node.failed() => Stop::NodeFailed(reason),
            () = twins.learn(actor), if plan.pinger.reconnects => pending().await,
            () = name_rivals(others, peer), if !is_pinned => pending().await,
            never = search.name_others(peer, |peer| node.block(peer), &mut on_round_trip) => match never {},
        }
    }

    /// A run may be too short for enough round trips of the network alone.
    async fn enough_round_trips(&mut self) {
        let Self { search, network, .. } = self;
        while !network.is_sufficient() {
            search.next_event(&mut |peer, time| network.record(peer, time)).await;
        }
    }
}

/// The warm-up, if there is one, and the run.
async fn runs<'a>(
    plan: &Plan,
    pinger: Reconnect<'a>,
    facts: Facts,
    recorder: &mut Recorder<'_>,
    mut stop: Pin<&mut impl Future<Output = Stop>>,
) -> Measured<'a> {
    let pinger: Box<dyn Pinger> = if plan.pinger.retries { Box::new(Retry::new(pinger)) } else { Box::new(pinger) };
    let mut measured = Measured {
        pinger,
        total_before: facts.total,
        facts,
        end: End::Complete,
        clocks: None,
        warm_up_pings: 0,
        first_pong: None,
        counted_before: Some(0),
    };
    if let Some(limit) = plan.run.warm_up {
        warm_up(plan, limit, &mut measured, stop.as_mut()).await;
    }
    if !matches!(measured.end, End::Complete) {
        return measured;
    }
    let clock = Clock::start();
    let schedule = Schedule::start(plan.run.pace, plan.run.limit, Instant::now());
    let result =
        run_pings(&mut *measured.pinger, (schedule, measured.warm_up_pings), plan.run.timeout, recorder, stop).await;
    measured.clocks = Some(clock.stop());
    measured.end = result.end;
    measured
}

/// Waits for the end of the time that the user gave the session, or for ever.
pub(crate) async fn deadline(deadline: Option<Duration>, started: Instant) -> Duration {
    match deadline {
        Some(deadline) => {
            sleep_until((started + deadline).into()).await;
            deadline
        }
        None => pending().await,
    }
}
