//! `--spread`: one stream of pings over all members that host the actor.

use std::{
    collections::HashMap,
    pin::pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::{StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use ping_core::{
    Connection, Node,
    program::{StopSignals, flush_log, last_words},
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tracing::{Instrument, error_span, info, warn};

use super::{
    directory::{Members, New},
    start,
};
use crate::{
    error::Error,
    figures::{Figures, Server, ServerVersion, SessionResult},
    find::{Finder, Found, Place},
    identity,
    output::{LiveRow, LiveRows, Row, write_rows},
    pinger::{Answer, Lane, LaneOf, Opener, Pinger, Reconnect, Retry, Spread, end_run},
    plan::Plan,
    run::{End, Observer, Sample, Schedule, Sending, Stop, run},
    runtime::block_on,
    session::{COUNT_TIMEOUT, deadline, nothing_yet, options},
};

/// Spreads the pings of a plan. Fails if something fails that has nothing to do with the members.
pub(crate) fn spread(plan: &Plan, started: Instant) -> Result<ExitCode> {
    block_on(async {
        let mut signals = StopSignals::new().context("cannot handle signals")?;
        let own = identity::load(plan.find.identity.as_deref())?;
        let (node, mut events) = start(&own.keypair, options(plan, plan.find.server.as_ref())?)?;
        let mut rows = Rows::new(plan);
        let end = {
            let mut stop = pin!(async {
                tokio::select! {
                    () = signals.next() => Stop::Interrupted,
                    deadline = deadline(plan.deadline, started) => Stop::Deadline(deadline),
                    reason = node.failed() => Stop::NodeFailed(reason),
                    // Nothing is done with the node's events, which must not pile up.
                    Some(never) = async { while events.recv().await.is_some() {} None } => never,
                }
            });
            ping(plan, &node, &mut rows, stop.as_mut()).await
        };
        node.stop().await;
        flush_log();
        rows.finish(plan, end)
    })
}

/// Finds the members, and pings them until the schedule is done or something stops it.
async fn ping(
    plan: &Plan,
    node: &Node,
    rows: &mut Rows,
    mut stop: std::pin::Pin<&mut impl Future<Output = Stop>>,
) -> End {
    let seeds = plan.several.as_ref().map(|several| &*several.servers).unwrap_or_default();
    let mut members = Members::new(plan, node, seeds, true);
    let found = tokio::select! {
        found = members.find() => found,
        stop = stop.as_mut() => return End::Stopped(stop),
    };
    let found = match found {
        Ok(found) => found,
        Err(error) => return End::Failed(error),
    };
    let mut opening: FuturesUnordered<_> = found.into_iter().map(|new| open(plan, node, new)).collect();
    let (sender, lanes) = mpsc::unbounded_channel();
    let lane_of = rows.lane_of.clone();
    // Without one there is nothing to wait for.
    while rows.rows.is_empty() {
        let opened = tokio::select! {
            opened = opening.next() => opened,
            stop = stop.as_mut() => return End::Stopped(stop),
        };
        match opened {
            Some(Ok((row, lane))) => {
                rows.push(row);
                let _ = sender.send(lane);
            }
            Some(Err((node, error))) => warn!("Cannot ping {node}: {error}"),
            None => return End::Failed(Error::NoMemberHosts { name: plan.find.name.clone() }),
        }
    }
    let mut spread = Spread::new(lanes, lane_of);
    let (row_sender, mut new_rows) = mpsc::unbounded_channel();
    let follow = async {
        loop {
            tokio::select! {
                new = members.next() => opening.extend(new.into_iter().map(|new| open(plan, node, new))),
                Some(opened) = opening.next() => match opened {
                    Ok((row, lane)) => {
                        let _ = row_sender.send(row);
                        let _ = sender.send(lane);
                    }
                    Err((node, error)) => warn!("Cannot ping {node}: {error}"),
                },
            }
        }
    };
    let schedule = Schedule::start(plan.run.pace, plan.run.limit, Instant::now());
    let mut observer = RowsObserver { rows: &mut *rows, new_rows: &mut new_rows };
    let end = tokio::select! {
        result = run(&mut spread, (schedule, 0), plan.run.timeout, &mut observer, stop.as_mut()) => result.end,
        () = follow => End::Complete,
    };
    observer.take_new();
    rows.live.finish();
    rows.conclude(&spread).await;
    end
}

/// A pinger to a member, and its row of the result.
type Opened<'a> = Result<(Row, Lane<'a>), (String, Error)>;

/// Finds the actor on a member.
fn open<'a>(plan: &'a Plan, node: &'a Node, new: New) -> LocalBoxFuture<'a, Opened<'a>> {
    let New { member, server, .. } = new;
    let name = member.node.to_string();
    info!("Pinging {name} ({}) at {server}", member.peer);
    let span = error_span!("ping", node = %name);
    let lane_span = span.clone();
    let open = async move {
        let find = async {
            let finder = Finder::new(node, &plan.find.name, plan.find.timeout);
            let Found { actor, connection, .. } =
                finder.within_limit(finder.at(&server), || Error::no_answer(&server)).await?;
            let Connection { peer, address, .. } = &connection;
            let found = Server { peer: *peer, address: address.clone(), version: ServerVersion::Unknown };
            let (_, last_heard) = watch::channel(None);
            let find = (&*plan.find.name, plan.find.timeout);
            let opener = Opener::new(node, find, Place::Address(server.clone()), &connection, &plan.pinger, last_heard);
            let (pinger, facts) = Reconnect::open(opener, actor, connection, false).await?;
            let pinger: Box<dyn Pinger + 'a> =
                if plan.pinger.retries { Box::new(Retry::new(pinger)) } else { Box::new(pinger) };
            let mut result = SessionResult { server: Some(found), retries: plan.pinger.retries, ..nothing_yet(plan) };
            result.load.mode = facts.mode;
            Ok((result, pinger))
        };
        let (result, pinger) = find.await.map_err(|error| (name.clone(), error))?;
        Ok((Row { node: name, result, is_gone: false }, Lane { pinger, span: lane_span }))
    };
    Box::pin(open.instrument(span))
}

/// A row for each member, and all of them together.
struct Rows {
    rows: Vec<Row>,
    total: Figures,
    lane_of: LaneOf,
    /// When the pings were sent whose outcomes are not known.
    sent: HashMap<u64, Instant>,
    live: LiveRows,
    /// One for each row.
    live_rows: Vec<LiveRow>,
}

impl Rows {
    fn new(plan: &Plan) -> Self {
        Self {
            rows: Vec::new(),
            total: Figures::new(),
            lane_of: LaneOf::default(),
            sent: HashMap::new(),
            live: LiveRows::on_terminal(plan.run.pace, plan.output.quiet),
            live_rows: Vec::new(),
        }
    }

    fn push(&mut self, row: Row) {
        self.live_rows.push(self.live.add(&row.node));
        self.rows.push(row);
    }

    fn lane(&self, sequence: u64) -> Option<usize> {
        self.lane_of.borrow().get(&sequence).copied()
    }

    fn figures(&mut self, sequence: u64) -> Option<&mut Figures> {
        let lane = self.lane(sequence)?;
        self.rows.get_mut(lane).map(|row| &mut row.result.figures)
    }

    /// Asks each member how many of its pings it counted.
    async fn conclude(&mut self, spread: &Spread<'_>) {
        for (row, pinger) in self.rows.iter_mut().zip(spread.lanes()) {
            let Some(pinger) = pinger else { continue };
            row.result.counters = pinger.counters();
            if let Some(handle) = pinger.actor()
                && handle.run.is_some()
            {
                row.result.counted = timeout(COUNT_TIMEOUT, end_run(&handle)).await.ok().flatten();
            }
        }
    }

    /// Writes the result.
    fn finish(mut self, plan: &Plan, end: End) -> Result<ExitCode> {
        for (sequence, now) in std::mem::take(&mut self.sent) {
            let sending = Sending { sequence, now, is_connected: true };
            self.figures(sequence).into_iter().for_each(|figures| figures.sending(sending));
        }
        self.rows.iter_mut().for_each(|row| row.result.figures.cut_short());
        self.total.cut_short();
        let error = match end {
            End::Failed(error) => Some(error),
            End::Stopped(Stop::NodeFailed(reason)) => Some(Error::node_failed(&reason)),
            End::Complete | End::Stopped(_) => None,
        };
        self.rows.sort_by(|one, other| one.node.cmp(&other.node));
        if !self.rows.is_empty() {
            write_rows(&self.rows, Some(&self.total), plan.output.is_json())?;
        }
        if let Some(error) = &error {
            last_words("ping-client", &format_args!("{error}. {}", error.help()));
        }
        let is_success = plan.required.map_or(self.total.received > 0, |required| self.total.received >= required);
        Ok(ExitCode::from(if is_success {
            0
        } else if self.rows.is_empty() && error.is_some() {
            2
        } else {
            1
        }))
    }
}

/// Attributes what happens to the rows.
struct RowsObserver<'a> {
    rows: &'a mut Rows,
    new_rows: &'a mut mpsc::UnboundedReceiver<Row>,
}

impl RowsObserver<'_> {
    /// Takes the rows of members that have joined.
    fn take_new(&mut self) {
        while let Ok(row) = self.new_rows.try_recv() {
            self.rows.push(row);
        }
    }
}

impl Observer for RowsObserver<'_> {
    fn sending(&mut self, sending: Sending) {
        self.rows.total.sending(sending);
        self.rows.sent.insert(sending.sequence, sending.now);
    }

    fn outcome(&mut self, sample: &Sample) {
        self.take_new();
        self.rows.total.outcome(sample);
        self.rows.sent.remove(&sample.sequence);
        let sending = Sending { sequence: sample.sequence, now: sample.sent, is_connected: true };
        let lane = self.rows.lane(sample.sequence);
        let Rows { rows, live_rows, .. } = &mut *self.rows;
        if let Some((row, live)) = lane.and_then(|lane| Some((rows.get_mut(lane)?, live_rows.get_mut(lane)?))) {
            for observer in [&mut row.result.figures as &mut dyn Observer, live] {
                observer.sending(sending);
                observer.outcome(sample);
            }
        }
        if sample.outcome.is_ok() {
            self.rows.lane_of.borrow_mut().remove(&sample.sequence);
        }
    }

    fn late(&mut self, sequence: u64, answer: Answer) {
        self.rows.total.late(sequence, answer);
        self.rows.figures(sequence).into_iter().for_each(|figures| figures.late(sequence, answer));
    }

    fn slept(&mut self, slept: Duration, missed: u64) {
        self.rows.total.slept(slept, missed);
    }

    fn tick_every(&self) -> Option<Duration> {
        self.rows.live.every()
    }

    fn tick(&mut self, now: Instant) {
        self.rows.live.show(now);
    }
}
