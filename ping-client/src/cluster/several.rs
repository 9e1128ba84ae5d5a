//! Several servers, or all members of a cluster, pinged side by side: a session for each, on one node.

use std::{
    cell::RefCell,
    collections::HashMap,
    convert::Infallible,
    future::pending,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::{StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use libp2p::PeerId;
use ping_core::{
    Event, Node, Options, ServerAddress,
    cluster::{MemberInfo, State, list, next_digest},
    hardening::Limits,
    program::{StopSignals, flush_log, last_words},
};
use tokio::{
    runtime,
    sync::{mpsc, oneshot},
    time::sleep,
};
use tracing::{debug, info, warn};

use crate::{
    error::Error,
    find::Finder,
    identity,
    output::{Outputs, Row, write_rows},
    plan::Plan,
    session::{exit_code, find_and_measure, nothing_yet, options},
};

/// How long to wait before another member is asked for the directory.
const PAUSE: Duration = Duration::from_millis(250);

/// Pings several servers. Fails if something fails that has nothing to do with them.
pub(crate) fn ping_several(plan: Plan) -> Result<ExitCode> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let mut signals = StopSignals::new().context("cannot handle signals")?;
        let own = identity::load(plan.find.identity.as_deref())?;
        // Besides the connection that a session makes, there is the one that the directory is asked over.
        let limits = Limits { per_peer: 2, ..Limits::DIALER };
        let options = Options { limits, asks_directories: true, ..options(&plan, plan.find.server.as_ref())? };
        let (node, events) = Node::start(&own.keypair, options).context("cannot start the node")?;
        let rows = {
            let several = Several::new(&plan, &node);
            tokio::select! {
                rows = several.run() => rows,
                () = signals.next() => Err(Error::Interrupted { last: None }),
                reason = node.failed() => Err(Error::node_failed(&reason)),
                never = several.pass_on(events) => match never {},
            }
        };
        node.stop().await;
        flush_log();
        match rows {
            Ok(rows) => {
                write_rows(&rows, plan.output.is_json())?;
                Ok(rows.iter().map(|row| exit_code(plan.required, &row.result)).max().unwrap_or(2).into())
            }
            Err(error) => {
                last_words("ping-client", &format_args!("{error}. {}", error.help()));
                Ok(ExitCode::from(if matches!(error, Error::Interrupted { .. }) { 1 } else { 2 }))
            }
        }
    });
    // A name server that does not answer must not delay the end.
    runtime.shutdown_background();
    outcome
}

/// The sessions side by side.
struct Several<'a> {
    plan: &'a Plan,
    node: &'a Node,
    /// Get the node's events, one for each session.
    events: RefCell<Vec<mpsc::UnboundedSender<Event>>>,
}

/// A session that runs.
type Running<'a> = FuturesUnordered<LocalBoxFuture<'a, Result<Row>>>;

impl<'a> Several<'a> {
    fn new(plan: &'a Plan, node: &'a Node) -> Self {
        Self { plan, node, events: RefCell::new(Vec::new()) }
    }

    /// Passes the node's events on to all sessions. Never ends.
    async fn pass_on(&self, mut events: mpsc::UnboundedReceiver<Event>) -> Infallible {
        while let Some(event) = events.recv().await {
            self.events.borrow_mut().retain(|session| session.send(event.clone()).is_ok());
        }
        // The node has failed, which the others notice.
        pending().await
    }

    async fn run(&self) -> Result<Vec<Row>, Error> {
        let several = self.plan.several.as_ref().map(|several| (&several.servers, several.all));
        let (servers, all) = several.unwrap_or((const { &Vec::new() }, false));
        if all {
            return self.ping_members(servers).await;
        }
        let sessions: Running<'_> =
            servers.iter().map(|server| self.session(server.to_string(), server.clone(), None)).collect();
        let rows: Vec<Result<Row>> = sessions.collect().await;
        rows.into_iter().map(|row| row.map_err(|error| Error::own(&error))).collect()
    }

    /// Pings all members, and those that join meanwhile.
    async fn ping_members(&self, seeds: &[ServerAddress]) -> Result<Vec<Row>, Error> {
        let mut members = Members { several: self, seeds, known: HashMap::new(), source: None };
        members.find().await?;
        let (mut rows, mut running) = (Vec::new(), Running::new());
        running.extend(members.update().await?.into_iter().map(|new| self.start(new)));
        if running.is_empty() {
            return Err(Error::NoMemberHosts { name: self.plan.find.name.clone() });
        }
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
        let (sender, events) = mpsc::unbounded_channel();
        self.events.borrow_mut().push(sender);
        Box::pin(async move {
            let mut signals = StopSignals::new().context("cannot handle signals")?;
            let (mut result, mut outputs) = (nothing_yet(self.plan), Outputs::default());
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
            if is_gone {
                result.figures.cut_short();
            }
            Ok(Row { node: name, result, is_gone })
        })
    }
}

/// A member to start a session with.
struct New {
    member: MemberInfo,
    server: ServerAddress,
    /// Says that it is gone.
    gone: oneshot::Receiver<()>,
}

/// The members of the cluster, as one of them knows them.
struct Members<'a, 'b> {
    several: &'b Several<'a>,
    seeds: &'b [ServerAddress],
    /// Those that are there, and what ends their sessions.
    known: HashMap<PeerId, (MemberInfo, oneshot::Sender<()>)>,
    /// Who is asked, and the digest of what it said.
    source: Option<(PeerId, u64)>,
}

impl Members<'_, '_> {
    /// Connects to the first member that answers.
    async fn find(&mut self) -> Result<(), Error> {
        let Several { plan, node, .. } = self.several;
        let mut last = Error::NothingDiscovered;
        for seed in self.seeds {
            let finder = Finder::new(node, &plan.find.name, plan.find.timeout);
            match finder.within_limit(finder.reach(seed), || Error::no_answer(seed)).await {
                Ok(connection) => {
                    self.source = Some((connection.peer, 0));
                    return Ok(());
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Waits until the directory changes; if the member that was asked is gone, until there is another one.
    async fn wait(&mut self) {
        if let Some((peer, digest)) = self.source {
            match next_digest(self.several.node, peer, digest).await {
                Ok(_) => return,
                Err(error) => {
                    debug!(%error, %peer, "the directory is not answered");
                    self.source = None;
                }
            }
        }
        while self.source.is_none() {
            // Every session has a connection to its member.
            for peer in self.known.keys() {
                if list(self.several.node, *peer, None).await.is_ok() {
                    self.source = Some((*peer, 0));
                    return;
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Waits for members that join. Dropping the future loses none.
    async fn next(&mut self) -> Vec<New> {
        self.wait().await;
        self.update().await.unwrap_or_else(|error| {
            debug!(%error, "another member is asked");
            Vec::new()
        })
    }

    /// Finds members that are new, and ends the sessions of those that are gone.
    async fn update(&mut self) -> Result<Vec<New>, Error> {
        let Some((peer, _)) = self.source else { return Ok(Vec::new()) };
        let Several { plan, node, .. } = self.several;
        let listing = list(node, peer, None).await.map_err(|error| Error::NoDirectory { peer, error })?;
        self.source = Some((peer, listing.digest));
        let mut new = Vec::new();
        for member in listing.members {
            let hosts = member.actors.iter().any(|actor| actor.name == plan.find.name);
            if member.state == State::Alive && hosts {
                new.extend(self.add(member));
            } else if let Some((member, gone)) = self.known.remove(&member.peer) {
                warn!("Member gone: {} ({})", member.node, member.peer);
                // With --retry, what it has not answered is asked again when it is back.
                if !plan.pinger.retries {
                    let _ = gone.send(());
                }
            }
        }
        Ok(new)
    }

    fn add(&mut self, member: MemberInfo) -> Option<New> {
        if self.known.contains_key(&member.peer) {
            return None;
        }
        let Some(server) = ServerAddress::of_peer(member.peer, &member.addresses) else {
            warn!("Cannot ping {} ({}): it names no address", member.node, member.peer);
            return None;
        };
        let (ending, gone) = oneshot::channel();
        self.known.insert(member.peer, (member.clone(), ending));
        Some(New { member, server, gone })
    }
}
