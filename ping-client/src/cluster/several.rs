//! Several servers, or all members of a cluster, pinged side by side: a session for each, on one node.

use std::{convert::Infallible, future::pending, process::ExitCode, time::Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use ping_core::{
    Node, ServerAddress,
    program::{StopSignals, flush_log, last_words},
};
use tokio::{sync::oneshot, time::sleep};
use tracing::{Instrument, error_span, info};

use super::{
    directory::{Members, New},
    start,
};
use crate::{
    error::Error,
    identity,
    output::{LiveRows, Outputs, Row, write_rows},
    plan::Plan,
    runtime::block_on,
    session::{Events, exit_code, find_and_measure, gate_failures, nothing_yet, options},
};

/// Pings several servers. Fails if something fails that has nothing to do with them.
pub(crate) fn ping_several(plan: &Plan) -> Result<ExitCode> {
    block_on(async {
        let mut signals = StopSignals::new().context("cannot handle signals")?;
        let own = identity::load(plan.find.identity.as_deref())?;
        let (node, events) = start(&own.keypair, options(plan, plan.find.server.as_ref())?)?;
        let rows = {
            let several = Several::new(plan, &node);
            tokio::select! {
                rows = several.run(&mut signals) => rows,
                reason = node.failed() => Err(Error::node_failed(&reason)),
                never = several.events.pass_on(events) => match never {},
                never = several.show() => match never {},
            }
        };
        node.stop().await;
        flush_log();
        match rows {
            Ok(mut rows) => {
                sort(&mut rows, plan);
                write_rows(&rows, None, plan.output.is_json())?;
                for row in rows.iter().filter(|row| !row.result.gates.is_empty()) {
                    last_words("ping-client", &format_args!("{}: {}", row.node, row.result.gates.join("; ")));
                }
                Ok(rows.iter().map(|row| exit_code(plan.required, &row.result)).max().unwrap_or(2).into())
            }
            Err(error) => {
                last_words("ping-client", &format_args!("{error}. {}", error.help()));
                Ok(ExitCode::from(if matches!(error, Error::Interrupted { .. }) { 1 } else { 2 }))
            }
        }
    })
}

/// Members by their names, and the servers that the user gave in the order of the command line.
fn sort(rows: &mut [Row], plan: &Plan) {
    match plan.several.as_ref().filter(|several| !several.all) {
        Some(several) => {
            let place = |row: &Row| several.servers.iter().position(|server| server.to_string() == row.node);
            rows.sort_by_key(place);
        }
        None => rows.sort_by(|one, other| one.node.cmp(&other.node)),
    }
}

/// The sessions side by side.
struct Several<'a> {
    plan: &'a Plan,
    node: &'a Node,
    events: Events,
    live: LiveRows,
}

impl Drop for Several<'_> {
    fn drop(&mut self) {
        self.live.finish();
    }
}

/// A session that runs.
type Running<'a> = FuturesUnordered<LocalBoxFuture<'a, Result<Row>>>;

impl<'a> Several<'a> {
    fn new(plan: &'a Plan, node: &'a Node) -> Self {
        Self { plan, node, events: Events::default(), live: LiveRows::on_terminal(plan.run.pace, plan.output.quiet) }
    }

    /// Shows how all of them answer, as long as the sessions run. Never ends.
    async fn show(&self) -> Infallible {
        loop {
            match self.live.every() {
                Some(every) => sleep(every).await,
                None => pending().await,
            }
            self.live.show(Instant::now());
        }
    }

    /// Runs all sessions. Each ends by itself at a signal.
    async fn run(&self, signals: &mut StopSignals) -> Result<Vec<Row>, Error> {
        let several = self.plan.several.as_ref().map(|several| (&several.servers, several.all));
        let (servers, all) = several.unwrap_or((const { &Vec::new() }, false));
        if all {
            return self.ping_members(servers, signals).await;
        }
        let sessions: Running<'_> =
            servers.iter().map(|server| self.session(server.to_string(), server.clone(), None)).collect();
        let rows: Vec<Result<Row>> = sessions.collect().await;
        rows.into_iter().map(|row| row.map_err(|error| Error::own(&error))).collect()
    }

    /// Pings all members, and those that join meanwhile.
    async fn ping_members(&self, seeds: &[ServerAddress], signals: &mut StopSignals) -> Result<Vec<Row>, Error> {
        let mut members = Members::new(self.plan, self.node, seeds, self.plan.pinger.retries);
        let (mut rows, mut running) = (Vec::new(), Running::new());
        let found = tokio::select! {
            found = members.find() => found?,
            () = signals.next() => return Err(Error::Interrupted { last: None }),
        };
        running.extend(found.into_iter().map(|new| self.start(new)));
        loop {
            tokio::select! {
                new = members.next() => running.extend(new.into_iter().map(|new| self.start(new))),
                row = running.next() => match row {
                    Some(row) => rows.push(row.map_err(|error| Error::own(&error))?),
                    None => return Ok(rows),
                },
            }
        }
    }

    fn start(&self, New { member, server, gone }: New) -> LocalBoxFuture<'_, Result<Row>> {
        info!("Pinging {} ({}) at {server}", member.node, member.peer);
        self.session(member.node.to_string(), server, Some(gone))
    }

    /// A session with one server; `gone` says that the server is, and ends it.
    fn session(
        &self,
        name: String,
        server: ServerAddress,
        gone: Option<oneshot::Receiver<()>>,
    ) -> LocalBoxFuture<'_, Result<Row>> {
        let events = self.events.subscribe();
        // What several sessions log is told apart by the name.
        let span = error_span!("ping", node = %name);
        let row = self.live.add(&name);
        let session = async move {
            let mut signals = StopSignals::new().context("cannot handle signals")?;
            let (mut result, mut outputs) = (nothing_yet(self.plan), Outputs::of(row.clone()));
            let gone = async {
                match gone {
                    Some(gone) => match gone.await {
                        Ok(()) => {}
                        Err(_) => pending().await,
                    },
                    None => pending().await,
                }
            };
            let target = (Some(&server), Instant::now());
            let work =
                find_and_measure(self.plan, target, (self.node, events), &mut signals, &mut outputs, &mut result);
            let is_gone = tokio::select! {
                () = work => false,
                () = gone => true,
            };
            row.end(match &result.error {
                _ if is_gone => "gone",
                Some(_) => "failed",
                None => "done",
            });
            if is_gone {
                result.figures.cut_short();
            }
            result.gates = gate_failures(self.plan, &result);
            Ok(Row { node: name, result, is_gone })
        };
        Box::pin(session.instrument(span))
    }
}
