//! The measured part of a session: the warm-up, the run, and what the client asks the actor afterwards.

use std::{
    collections::BTreeSet,
    future::{pending, ready},
    pin::{Pin, pin},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::LocalBoxStream};
use libp2p::PeerId;
use ping_core::{Node, ServerAddress, program::StopSignals};
use tokio::time::timeout;
use tracing::warn;

use super::deadline;
use crate::{
    error::Error,
    figures::{Clock, Clocks, Figures, Network, Phases, Server, ServerVersion, SessionResult},
    find::{Found, Search},
    output::{Outputs, Recorder},
    pinger::{About, Facts, Mode, Opener, Pinger, Reconnect, Retry, about, count_of_run, end_run},
    plan::Plan,
    run::{End, Pace, Schedule, Stop, run},
};

/// How long to wait, after a short run, for a few round trips of the network alone.
const NETWORK_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to wait, after a run, for the server's count of its pings.
const COUNT_TIMEOUT: Duration = Duration::from_secs(5);

/// The note on a result that was wanted before the server had answered.
const COUNTS_MISSING: &str = "the server's own counts are missing: the session ended before it was asked";

/// What a session measures with.
pub(super) struct Context<'a> {
    pub(super) plan: &'a Plan,
    pub(super) node: &'a Node,
    pub(super) server: Option<&'a ServerAddress>,
    pub(super) started: Instant,
}

/// The runs of a session, and what is needed to conclude it.
struct Measured<'a> {
    pinger: Box<dyn Pinger + 'a>,
    facts: Facts,
    end: End,
    clocks: Option<Clocks>,
    /// When the first pong of the warm-up arrived.
    first_pong: Option<Instant>,
    /// The actor's total before the run.
    total_before: Option<u64>,
    /// How many pings of the run the actor had counted in the warm-up; `None` if that is not known.
    counted_before: Option<u64>,
}

/// Pings the actor that was found, and puts everything into `result`.
pub(super) async fn measure(
    context: &Context<'_>,
    found: Found,
    (mut search, mut network): (Search<'_>, Network),
    outputs: &mut Outputs,
    signals: &mut StopSignals,
    result: &mut SessionResult,
) {
    let Context { plan, started, .. } = *context;
    let peer = found.connection.peer;
    result.server = Some(Server { peer, address: found.connection.address.clone(), version: ServerVersion::Unknown });
    result.retries = plan.pinger.retries;
    result.phases = phases(&found, started);
    let (last_heard, looked_up) = (network.follow(peer), found.looked_up);
    let shows_version = outputs.show_version();
    let mut recorder = Recorder::new(outputs);
    let measured = {
        let (opener, actor) = (opener(context, &found.connection, last_heard), found.actor);
        let stop = stop(context, (found.others, peer), &mut search, &mut network, signals);
        let mut stop = pin!(stop);
        let is_impatient = !matches!(plan.run.pace, Pace::Closed(_)) && !plan.pinger.retries;
        tokio::select! {
            opened = Reconnect::open(opener, actor, found.connection, is_impatient) => match opened {
                Ok((pinger, facts)) => Ok(runs(plan, pinger, facts, &mut recorder, stop.as_mut()).await),
                Err(error) => Err(End::Failed(error)),
            },
            stop = stop.as_mut() => Err(End::Stopped(stop)),
        }
    };
    result.figures = recorder.figures;
    result.figures.cut_short();
    let mut first_pong = result.figures.first_answer;
    let end = match measured {
        Ok(measured) => {
            first_pong = measured.first_pong.or(first_pong);
            result.load.mode = measured.facts.mode;
            result.counters = measured.pinger.counters();
            result.clocks = measured.clocks;
            let is_past_deadline = matches!(measured.end, End::Stopped(Stop::Deadline(_)));
            tokio::select! {
                biased;
                // A second signal waits for nothing. A deadline that ended the run leaves time for the counts.
                () = signals.next() => result.notes.push(COUNTS_MISSING.into()),
                _ = deadline(plan.deadline, started), if !is_past_deadline => result.notes.push(COUNTS_MISSING.into()),
                () = conclude(&measured, shows_version, result) => {}
            }
            if matches!(measured.end, End::Complete) {
                let _ = timeout(NETWORK_TIMEOUT, enough_round_trips(&mut search, &mut network)).await;
            }
            measured.end
        }
        Err(end) => end,
    };
    result.network = network.into_times();
    result.phases.first_pong = first_pong.map(|pong| pong - looked_up);
    result.phases.total_to_first_pong = first_pong.map(|pong| pong - started);
    note_end(end, result);
}

/// The steps until the actor was found.
fn phases(found: &Found, started: Instant) -> Phases {
    Phases {
        find: Some(found.address_known - started),
        connect: Some(found.connected - found.address_known),
        lookup: Some(found.looked_up - found.connected),
        ..Phases::default()
    }
}

/// Waits for what stops the run. In the meantime, handles the node's events and names other servers.
async fn stop(
    context: &Context<'_>,
    (others, peer): (LocalBoxStream<'static, PeerId>, PeerId),
    search: &mut Search<'_>,
    network: &mut Network,
    signals: &mut StopSignals,
) -> Stop {
    let Context { plan, node, server, started } = *context;
    let is_pinned = server.is_some_and(|server| server.peer.is_some());
    let mut on_round_trip = |peer, time| network.record(peer, time);
    tokio::select! {
        () = signals.next() => Stop::Interrupted,
        deadline = deadline(plan.deadline, started) => Stop::Deadline(deadline),
        reason = node.failed() => Stop::NodeFailed(reason),
        () = name_rivals(others, peer), if !is_pinned => pending().await,
        never = search.name_others(|peer| node.block(peer), &mut on_round_trip) => match never {},
    }
}

fn opener<'a>(
    context: &Context<'a>,
    first: &ping_core::Connection,
    last_heard: tokio::sync::watch::Receiver<Option<Instant>>,
) -> Opener<'a> {
    let Context { plan, node, server, .. } = *context;
    Opener::new(node, (&plan.find.name, plan.find.timeout), server, first, &plan.pinger, last_heard)
}

/// Names the other peers that registered an actor of this name. Never resolves.
async fn name_rivals(others: LocalBoxStream<'static, PeerId>, peer: PeerId) {
    let others: BTreeSet<PeerId> = others.filter(|other| ready(*other != peer)).collect().await;
    if !others.is_empty() {
        let names: Vec<_> = others.iter().map(ToString::to_string).collect();
        warn!("Other peers registered an actor with this name too: {}. This run pings {peer}", names.join(", "));
    }
    pending().await
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
    let (total_before, counted_before, clocks) = (facts.total, Some(0), None);
    let mut measured =
        Measured { pinger, facts, end: End::Complete, clocks, first_pong: None, total_before, counted_before };
    let mut after = 0;
    if let Some(limit) = plan.run.warm_up {
        let mut warm_up = Figures::new();
        let schedule = Schedule::start(plan.run.pace, limit, Instant::now());
        let pinger = &mut *measured.pinger;
        let result = run(pinger, (schedule, 0), plan.run.timeout, &mut warm_up, stop.as_mut()).await;
        (measured.first_pong, measured.end, after) = (warm_up.first_answer, result.end, result.last_sequence);
        measured.counted_before = None;
        if !matches!(measured.end, End::Complete) {
            return measured;
        }
        tokio::select! {
            () = measured.count_warm_up() => {}
            stop = stop.as_mut() => {
                measured.end = End::Stopped(stop);
                return measured;
            }
        }
    }
    let clock = Clock::start();
    let schedule = Schedule::start(plan.run.pace, plan.run.limit, Instant::now());
    let result = run(&mut *measured.pinger, (schedule, after), plan.run.timeout, recorder, stop).await;
    measured.clocks = Some(clock.stop());
    measured.end = result.end;
    measured
}

impl Measured<'_> {
    /// Asks how many pings the actor has counted before the run.
    async fn count_warm_up(&mut self) {
        let Some(handle) = self.pinger.actor() else { return };
        if handle.run.is_some() {
            self.counted_before = count_of_run(&handle).await;
        }
        if self.facts.mode.tells() {
            self.total_before =
                about(&handle.actor).await.ok().as_ref().and_then(About::card).map(|card| card.total_pings);
        }
    }
}

/// Asks the actor what it counted, and who it is.
async fn conclude(measured: &Measured<'_>, shows_version: bool, result: &mut SessionResult) {
    let Measured { pinger, facts, .. } = measured;
    let mut about_server = facts.about.clone();
    if let Some(handle) = pinger.actor() {
        if handle.run.is_some() {
            let counted = timeout(COUNT_TIMEOUT, end_run(&handle)).await.ok().flatten();
            let measured_only = counted.zip(measured.counted_before).and_then(|(all, before)| all.checked_sub(before));
            result.counted = measured_only;
        }
        if matches!(measured.end, End::Complete) && (facts.mode.tells() || shows_version) {
            match about(&handle.actor).await {
                Ok(about) => about_server = about,
                // The pings themselves have been measured.
                Err(error) => warn!("The server's total could not be read after the run: {error}"),
            }
        }
    }
    conclude_tells(measured, &about_server, result);
    if let Some(server) = &mut result.server {
        server.version = match about_server {
            About::Card(card) => ServerVersion::Known(card.version),
            About::OtherProgram => ServerVersion::OtherProgram,
            About::Unknown => ServerVersion::Unknown,
        };
    }
}

/// How many told pings arrived.
fn conclude_tells(measured: &Measured<'_>, about: &About, result: &mut SessionResult) {
    let is_complete = matches!(measured.end, End::Complete);
    if measured.facts.mode == Mode::StreamTell && is_complete {
        // Each was acknowledged, some of them late.
        result.arrived = Some(result.figures.received + result.figures.late);
    }
    let Some(card) = about.card().filter(|_| is_complete && measured.facts.mode.tells()) else { return };
    result.figures.server_total = Some(card.total_pings);
    if measured.facts.mode == Mode::Tell {
        // A server that was restarted may count from 0 again.
        let before = measured.total_before.filter(|_| result.counters.reconnects == 0);
        result.arrived = before.map(|before| card.total_pings.saturating_sub(before));
    }
}

/// A run may be too short for enough round trips of the network alone.
async fn enough_round_trips(search: &mut Search<'_>, network: &mut Network) {
    while !network.is_sufficient() {
        search.next_event(&mut |peer, time| network.record(peer, time)).await;
    }
}

/// Reports what ended the run early.
fn note_end(end: End, result: &mut SessionResult) {
    match end {
        End::Complete => {}
        End::Failed(error) => result.error = Some(error),
        End::Stopped(Stop::Interrupted) => result.notes.push("the run was interrupted".into()),
        End::Stopped(Stop::Deadline(deadline)) => {
            result.notes.push(format!("the deadline of {} ended the run", humantime::format_duration(deadline)));
        }
        End::Stopped(Stop::NodeFailed(reason)) => result.error = Some(Error::node_failed(&reason)),
    }
}
