//! The server's life: identity, node, addresses and actor, then events until something stops it.

use std::{collections::HashSet, future::pending, io::Read, path::PathBuf, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use kameo::{actor::ActorRef, remote};
use libp2p::{PeerId, identity::Keypair, pnet::PreSharedKey};
use ping_core::{
    Event, Node, Options, PingActor, Transport,
    actor::{self, Count, Hosted},
    hardening::Limits,
    keys::{Identity, secret},
    program::StopSignals,
    protocol::About,
    stream,
};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use crate::{
    allow::allowed,
    args::Args,
    events::{PeerIdText, PingReports, Reporter, ServerEvent},
    listen::{self, Plan},
    state::State,
};

/// How long the actor may take to answer. It answers at once; this limits how long a peer that asks and does not read
/// can hold a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the server until a signal, or on request the end of its standard input, stops it. Fails if it cannot start, or
/// can no longer do its work; the text names the cause and the help.
pub(crate) async fn run(args: Args) -> Result<()> {
    let mut signals = StopSignals::new().context("cannot handle signals")?;
    #[cfg(unix)]
    crate::open_files::raise_limit(args.max_connections);
    // The identity stays locked while the server runs.
    let identity = if args.ephemeral { None } else { Some(load_identity(args.identity.clone())?) };
    let keypair = identity.as_ref().map_or_else(Keypair::generate_ed25519, |identity| identity.keypair.clone());
    let mut server = Server::start(&args, &keypair).await?;
    let outcome = server.serve(&mut signals, args.stop_on_eof).await;
    server.stop(outcome, &mut signals, &args.name).await
}

/// A running server.
struct Server {
    node: Node,
    events: mpsc::UnboundedReceiver<Event>,
    hosted: Hosted,
    count: Count,
    state: Option<State>,
    reports: Reports,
}

impl Server {
    async fn start(args: &Args, keypair: &Keypair) -> Result<Self> {
        let allowed = allowed(&args.allow)?;
        let secret = args.secret.as_deref().map(secret::read).transpose();
        let secret = secret.map_err(|error| anyhow!("{error}. {}", error.help("--secret")))?;
        let plan = plan(args, secret.is_some())?;
        let (state, count) = match &args.state {
            Some(path) => {
                let (state, count) = State::open(path)?;
                info!("Storing the count in {}, starting at {}", path.display(), *count.watch().borrow());
                (Some(state), count)
            }
            None => (None, Count::new()),
        };
        let (streams, opened) = mpsc::unbounded_channel();
        let is_reachable = plan.beyond_loopback();
        let options = options(args, allowed, secret, is_reachable, streams);
        let (node, mut events) = Node::start(keypair, options).context("cannot start the node")?;
        let (addresses, early) = plan.listen(&node, &mut events).await?;
        let hosted = actor::host(count.clone(), Some(&args.name)).await?;
        tokio::spawn(stream::accept(opened, hosted.actor.clone()));

        // Only what is stored is reported as counted.
        let total = state.as_ref().map_or_else(|| count.watch(), |state| state.total.clone());
        let reporter = if args.json { Reporter::json()? } else { Reporter::Log };
        let pings = PingReports::after(*total.borrow());
        let mut reports = Reports { ours: node.peer(), reporter, pings, total };
        info!("Peer ID: {}", node.peer());
        addresses.iter().for_each(|address| reports.on_event(&Event::Listening(address.clone())));
        if is_reachable && addresses.iter().all(listen::is_loopback) {
            warn!("No network is up: only programs on this machine can reach the server");
        }
        reports.reporter.report(&ServerEvent::Ready { peer_id: PeerIdText(node.peer()), name: &args.name });
        early.iter().for_each(|event| reports.on_event(event));
        Ok(Self { node, events, hosted, count, state, reports })
    }

    /// Reports events until something stops the server.
    async fn serve(&mut self, signals: &mut StopSignals, stop_on_eof: bool) -> Result<()> {
        tokio::select! {
            failure = self.reports.run(&mut self.events) => Err(failure),
            () = signals.next() => Ok(()),
            () = end_of_input(stop_on_eof) => Ok(()),
            reason = self.node.failed() => {
                Err(anyhow!("the network task failed: {reason}. This is a bug; please report it."))
            }
            Ok(reason) = &mut self.hosted.gave_up => {
                Err(anyhow!("the actor keeps crashing; last reason: {reason}. This is a bug; please report it."))
            }
            failure = failure(&mut self.state) => Err(failure),
        }
    }

    /// Stops in order; a second signal waits for nothing.
    async fn stop(mut self, outcome: Result<()>, signals: &mut StopSignals, name: &str) -> Result<()> {
        let (node, actor, count, state) = (self.node, &self.hosted.actor, &self.count, self.state.take());
        let stopped = tokio::select! {
            failure = stop(node, actor, count, state, name) => failure.map_or(Ok(()), Err),
            () = signals.next() => bail!("interrupted while stopping"),
        };
        self.reports.finish(&mut self.events);
        outcome.and(stopped)
    }
}

fn options(
    args: &Args,
    allowed: Option<HashSet<PeerId>>,
    secret: Option<PreSharedKey>,
    mdns: bool,
    streams: mpsc::UnboundedSender<stream::Inbound>,
) -> Options {
    Options {
        listens: true,
        mdns,
        limits: Limits::listener(args.max_connections),
        request_timeout: REQUEST_TIMEOUT,
        allowed,
        secret,
        streams: Some(streams),
        ..Options::default()
    }
}

fn plan(args: &Args, is_private: bool) -> Result<Plan> {
    let transports: Vec<_> = Transport::usable(is_private).collect();
    match args.listen.is_empty() {
        true => Plan::on_port(args.port, &transports),
        false => Plan::explicit(args.listen.clone(), &transports),
    }
}

/// Takes the actor out of the registry, closes every connection, and stores what is counted. Returns why that failed,
/// if it did.
async fn stop(
    node: Node,
    actor: &ActorRef<PingActor>,
    count: &Count,
    state: Option<State>,
    name: &str,
) -> Option<anyhow::Error> {
    tokio::select! {
        biased;
        // Nothing can be unregistered with a node that has failed.
        _ = node.failed() => {}
        unregistered = remote::unregister(name) => {
            if let Err(error) = unregistered {
                warn!(%error, "cannot unregister the actor");
            }
        }
    }
    node.stop().await;
    // When this is answered, everything told before is counted.
    let _ = actor.ask(About {}).await;
    count.finish().await;
    match state {
        Some(state) => state.close().await,
        None => None,
    }
}

/// Waits for the state file to fail, or for ever.
async fn failure(state: &mut Option<State>) -> anyhow::Error {
    match state {
        Some(state) => state.failed().await,
        None => pending().await,
    }
}

/// What a running server reports.
struct Reports {
    ours: PeerId,
    reporter: Reporter,
    pings: PingReports,
    total: watch::Receiver<u64>,
}

impl Reports {
    /// Reports events until one cannot be written; returns why.
    async fn run(&mut self, events: &mut mpsc::UnboundedReceiver<Event>) -> anyhow::Error {
        loop {
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(event) => self.on_event(&event),
                    // The node has failed, which the server notices.
                    None => pending().await,
                },
                failure = self.reporter.failed() => return failure,
                () = self.pings.wait(&mut self.total) => self.report_pings(),
            }
        }
    }

    fn on_event(&mut self, event: &Event) {
        match event {
            Event::Listening(address) if listen::is_usable(address) => {
                let connection_address = listen::connection_address(address, self.ours);
                self.reporter.report(&ServerEvent::Listening { address, connection_address: &connection_address });
            }
            Event::StoppedListening(address) if listen::is_usable(address) => {
                self.reporter.report(&ServerEvent::StoppedListening { address });
            }
            Event::AcceptFailed { error, count } => warn_about_failed_accept(error, *count),
            Event::PeerConnected { peer, address } => {
                self.reporter.report(&ServerEvent::ClientConnected { peer_id: PeerIdText(*peer), address });
            }
            Event::PeerDisconnected { peer, address } => {
                // Its pings are reported before its end.
                self.report_pings();
                self.reporter.report(&ServerEvent::ClientDisconnected { peer_id: PeerIdText(*peer), address });
            }
            Event::Listening(_) | Event::StoppedListening(_) | Event::RoundTrip { .. } | Event::Discovered { .. } => {}
        }
    }

    fn report_pings(&mut self) {
        let total = *self.total.borrow_and_update();
        if let Some(event) = self.pings.next(total) {
            self.reporter.report(&event);
        }
    }

    /// Reports what is left when the node has stopped.
    fn finish(mut self, events: &mut mpsc::UnboundedReceiver<Event>) {
        while let Ok(event) = events.try_recv() {
            self.on_event(&event);
        }
        self.report_pings();
        self.reporter.report(&ServerEvent::Stopped { total: *self.total.borrow() });
        self.reporter.finish();
    }
}

fn warn_about_failed_accept(error: &str, count: u64) {
    #[cfg(unix)]
    if let Some(limit) = crate::open_files::limit().filter(|_| error.contains("open files")) {
        warn!(
            "Cannot accept a connection: {error}, the limit is {limit} ({count} so far). Raise it (ulimit -n), or \
             lower --max-connections"
        );
        return;
    }
    warn!("Cannot accept a connection: {error} ({count} so far)");
}

/// Waits for the end of standard input, or for ever.
async fn end_of_input(is_wanted: bool) {
    if !is_wanted {
        return pending().await;
    }
    // A thread of its own: a blocking read cannot be given up, and must not delay the end of the process.
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut ignored = [0; 1024];
        while matches!(stdin.read(&mut ignored), Ok(1..)) {}
        ended.send(())
    });
    let _ = end.await;
}

fn load_identity(path: Option<PathBuf>) -> Result<Identity> {
    let path = path.or_else(default_identity_path).ok_or_else(|| {
        anyhow!("this user has no home directory for an identity. Name a file with --identity, or use --ephemeral.")
    })?;
    let identity = Identity::load_or_create(&path)
        .map_err(|error| anyhow!("{error}. {}", error.help("--identity", "use --ephemeral")))?;
    if identity.created {
        info!("Created a new identity in {}", path.display());
    }
    Ok(identity)
}

/// `kameo-ping/identity.key` in the state directory, or in the local data directory on systems without one.
fn default_identity_path() -> Option<PathBuf> {
    Some(dirs::state_dir().or_else(dirs::data_local_dir)?.join("kameo-ping").join("identity.key"))
}
