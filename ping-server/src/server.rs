//! The server's life: identity, node, addresses and actor, then events until something stops it.

use std::{collections::HashSet, future::pending, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use futures::future::join_all;
use kameo::{actor::ActorRef, remote};
use libp2p::{Multiaddr, PeerId, identity::Keypair, pnet::PreSharedKey};
use ping_core::{
    Event, Node, Options, PingActor, ServerAddress,
    actor::{self, Count, Hosted, Tally, runs},
    cluster::{self, record::HostedActor},
    hardening::Limits,
    keys::secret,
    nat::{MappingEvent, PortMapper},
    node::is_mdns_port_taken,
    program::{Hangups, RESULT, StopSignals, otlp},
    protocol::About,
    stream,
};
use tokio::{sync::mpsc, time::timeout};
use tracing::{debug, info, warn};

#[cfg(unix)]
use crate::statistics::log_on_request;
use crate::{
    allow::allowed,
    args::Args,
    greeting, identity,
    listen::{self, Plan},
    membership::Membership,
    memory,
    metrics::Exporter,
    node_name,
    rally::Rally,
    relays::{self, keep_place},
    reload::reload_allowed,
    reports::Reports,
    service_manager,
    state::State,
    stop_on_eof::end_of_input,
    ways::{self, Way, Ways},
};

/// How long a request and its answer may be on their way: as long as the longest `--timeout` of a client. Large ones
/// take long on a slow link. What a peer holds meanwhile has its limits in number and memory.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// How long the other members may take to learn that this one leaves.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(500);

/// Runs the server until a signal, or on request the end of its standard input, stops it. Fails if it cannot start, or
/// can no longer do its work; the text names the cause and the help.
pub(crate) async fn run(args: Args) -> Result<()> {
    let signals =
        if args.allow.is_empty() { StopSignals::new().map(|it| (it, None)) } else { StopSignals::without_hangup() };
    let (mut signals, mut hangups) = signals.context("cannot handle signals")?;
    let spans = args.otlp.as_deref().map(|endpoint| otlp::Exporter::start(endpoint, "ping-server"));
    // Sends what is left when all is done.
    let _spans = spans.transpose().map_err(anyhow::Error::msg)?;
    #[cfg(unix)]
    crate::open_files::raise_limit(args.max_connections);
    // The identity stays locked while the server runs.
    let identity = if args.ephemeral { None } else { Some(identity::load(args.identity.clone())?) };
    let keypair = identity.as_ref().map_or_else(Keypair::generate_ed25519, |identity| identity.keypair.clone());
    let mut server = tokio::select! {
        started = Server::start(&args, &keypair) => started?,
        // It may wait for its port.
        () = signals.next() => return Ok(()),
    };
    service_manager::ready();
    let outcome = server.serve(&args, &mut signals, hangups.as_mut()).await;
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
    rally: Option<Rally>,
    /// The relays that are to hold a place for this server, and who learns what becomes of it.
    relays: Vec<Vec<ServerAddress>>,
    ways: mpsc::UnboundedSender<Way>,
    /// The ports that the router is to forward.
    mapper: Option<PortMapper>,
    exporter: Exporter,
}

impl Server {
    async fn start(args: &Args, keypair: &Keypair) -> Result<Self> {
        let allowed = allowed_with_relays(args)?;
        let secret = args.secret.as_deref().map(secret::read).transpose();
        let secret = secret.map_err(|error| anyhow!("{error}. {}", error.help("--secret")))?;
        let plan = Plan::when_free(&args.listen, args.port, secret.is_some(), args.bind_timeout).await?;
        let mut exporter = Exporter::bind(args.metrics)?;
        let (state, mut count) = restore(args, &mut exporter)?;
        exporter.time_handlers(&mut count);
        let (streams, opened) = mpsc::unbounded_channel();
        let tally = Tally::default();
        let is_reachable = plan.beyond_loopback();
        let node_name = args.node.clone().unwrap_or_else(node_name::of_this_machine);
        let options = Options {
            cluster: Some(cluster::Options { node: node_name.clone() }),
            tally: Some(tally.clone()),
            uses_relays: !args.relay_via.is_empty(),
            leaves_relays: !args.relay_via.is_empty(),
            ..options(args, allowed, secret, is_reachable, streams)?
        };
        let (node, mut events) = Node::start(keypair, options).context("cannot start the node")?;
        let (addresses, early) = plan.listen(&node, &mut events).await?;
        let hosted = actor::host(count.clone(), Some(&args.name)).await?;
        tokio::spawn(stream::accept(opened, hosted.actor.clone(), tally.clone()));

        // Only what is stored is reported as counted.
        let total = state.as_ref().map_or_else(|| count.watch(), |state| state.total.clone());
        exporter.observe_actor(&count, &hosted.actor, &tally);
        #[cfg(unix)]
        tokio::spawn(log_on_request(count.clone(), tally.clone(), hosted.actor.clone(), node.cluster().cloned()));
        let metrics = exporter.observe(total.clone(), &node);
        let mut reports = Reports::start(node.peer(), args.json, total, tally)?;
        reports.count(metrics);
        match args.json {
            // An event says it.
            true => info!("Peer ID: {}", node.peer()),
            false => info!(target: RESULT, "Peer ID: {}", node.peer()),
        }
        let external: Vec<_> = args.external_address.iter().flat_map(greeting::multiaddrs).collect();
        external.iter().for_each(|address| node.add_external_address(address.clone()));
        let reachable: Vec<_> = external.into_iter().chain(addresses.iter().cloned()).collect();
        reachable.iter().for_each(|address| reports.on_event(&Event::Listening(address.clone())));
        if is_reachable {
            warn_of_the_network(&addresses);
        }
        let (hitting, hits) = mpsc::unbounded_channel();
        let rally = match node.cluster() {
            Some(cluster) if args.rally => Some(Rally::start(cluster.clone(), args.rounds, hitting).await),
            _ => None,
        };
        let membership = join(args, &node, &hosted, rally.as_ref());
        reports.ready(&args.name, &node_name, membership, rally.is_some().then_some(hits));
        let (ways, changes) = mpsc::unbounded_channel();
        reports.follow(Ways::new(node.peer(), &reachable, changes));
        if !args.json {
            greeting::greet(args, node.peer(), &reachable);
        }
        early.iter().for_each(|event| reports.on_event(event));
        let relays = relays::by_identity(&args.relay_via);
        let mapper = args.map_port.then(|| PortMapper::new(listen::ports(&addresses)));
        Ok(Self { node, events, hosted, count, state, reports, rally, relays, ways, mapper, exporter })
    }

    /// Reports events until something stops the server.
    async fn serve(&mut self, args: &Args, signals: &mut StopSignals, hangups: Option<&mut Hangups>) -> Result<()> {
        tokio::select! {
            failure = self.reports.run(&mut self.events) => Err(failure),
            () = signals.next() => Ok(()),
            () = play(&mut self.rally) => Ok(()),
            () = keep_places(&self.node, &self.relays, &self.ways) => Ok(()),
            () = keep_mapped(&mut self.mapper, &self.node, &self.ways) => Ok(()),
            ended = end_of_input(args.stop_on_eof) => ended,
            never = reload_allowed(hangups, &self.node, || allowed_with_relays(args)) => match never {},
            never = memory::give_back(&self.node) => match never {},
            never = service_manager::keep_watchdog() => match never {},
            never = self.exporter.serve() => match never {},
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
        service_manager::stopping();
        let (node, actor, count, state) = (self.node, &self.hosted.actor, &self.count, self.state.take());
        let unmapped = async {
            if let Some(mapper) = self.mapper.take() {
                mapper.close().await;
            }
        };
        let stopped = tokio::select! {
            (failure, ()) = async { tokio::join!(stop(node, actor, count, state, name), unmapped) } => {
                failure.map_or(Ok(()), Err)
            }
            () = signals.next() => bail!("interrupted while stopping"),
        };
        self.reports.finish(&mut self.events);
        outcome.and(stopped)
    }
}

/// Who may connect: the clients that the user allows, and the relays. Fails if a file cannot be read, or there are too
/// many relays.
fn allowed_with_relays(args: &Args) -> Result<Option<HashSet<PeerId>>> {
    if relays::by_identity(&args.relay_via).len() > relays::MAX {
        bail!("a server uses at most {} relays. Omit some of --relay-via.", relays::MAX);
    }
    let mut allowed = allowed("--allow", &args.allow)?;
    allowed.iter_mut().for_each(|allowed| allowed.extend(args.relay_via.iter().filter_map(|relay| relay.peer)));
    Ok(allowed)
}

/// What was counted before, if it is stored. Fails if it cannot be read.
fn restore(args: &Args, exporter: &mut Exporter) -> Result<(Option<State>, Count)> {
    let Some(path) = &args.state else { return Ok((None, Count::new())) };
    let (state, count) = State::open(path)?;
    exporter.time_state(&state.write_times);
    info!("Storing the count in {}, starting at {}", path.display(), *count.watch().borrow());
    Ok((Some(state), count))
}

/// The server's part in the cluster, with the actors that it hosts.
fn join(args: &Args, node: &Node, hosted: &Hosted, rally: Option<&Rally>) -> Option<Membership> {
    let cluster = node.cluster()?.clone();
    let actor = HostedActor::new(&args.name, &hosted.actor);
    let actors = [actor].into_iter().chain(rally.map(Rally::actor)).collect();
    let identity = if args.ephemeral { None } else { identity::path(args.identity.clone()) };
    let file = identity.map(|path| path.with_extension("members"));
    Some(Membership::start(cluster, actors, &args.join, file))
}

/// Tells why others may not find a server that they should.
fn warn_of_the_network(addresses: &[Multiaddr]) {
    if addresses.iter().all(listen::is_loopback) {
        warn!("No network is up: only programs on this machine can reach the server");
    }
    if is_mdns_port_taken() {
        warn!(
            "Another program has UDP port 5353 for itself: clients do not find this server by mDNS, and must be told \
             where it is"
        );
    }
}

fn options(
    args: &Args,
    allowed: Option<HashSet<PeerId>>,
    secret: Option<PreSharedKey>,
    mdns: bool,
    streams: mpsc::UnboundedSender<stream::Inbound>,
) -> Result<Options> {
    // The least is more than the runs take.
    let max_memory = args.max_memory.unwrap_or_else(memory::default_limit).try_into().unwrap_or(usize::MAX);
    Ok(Options {
        listens: true,
        mdns,
        limits: Limits::listener(args.max_connections),
        max_memory: max_memory - runs::MEMORY,
        request_timeout: REQUEST_TIMEOUT,
        allowed,
        secret,
        streams: Some(streams),
        certificate: args.tls.certificate()?,
        ..Options::default()
    })
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
    if let Some(cluster) = node.cluster()
        && timeout(FAREWELL_TIMEOUT, cluster.leave()).await.is_err()
    {
        debug!("some members did not learn that this one leaves");
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

/// Keeps a place on each relay. Never resolves.
async fn keep_places(node: &Node, relays: &[Vec<ServerAddress>], ways: &mpsc::UnboundedSender<Way>) {
    join_all(relays.iter().map(|relay| keep_place(node, relay, ways.clone()))).await;
    pending().await
}

/// Lets the router forward the ports, if that is wanted, and members of the cluster know where. Never resolves.
async fn keep_mapped(mapper: &mut Option<PortMapper>, node: &Node, ways: &mpsc::UnboundedSender<Way>) {
    let Some(mapper) = mapper else { return pending().await };
    let (events, mut mapped) = mpsc::unbounded_channel();
    let tell = async {
        while let Some(event) = mapped.recv().await {
            if let MappingEvent::Mapped(mapping) = &event {
                node.add_external_address(ways::multiaddr(mapping));
            }
            // The reports end after this.
            let _ = ways.send(Way::Mapping(event));
        }
    };
    tokio::join!(mapper.run(&events), tell);
}

/// Plays a rally to its end, or waits for ever.
async fn play(rally: &mut Option<Rally>) {
    match rally {
        Some(rally) => rally.play().await,
        None => pending().await,
    }
}

/// Waits for the state file to fail, or for ever.
async fn failure(state: &mut Option<State>) -> anyhow::Error {
    match state {
        Some(state) => state.failed().await,
        None => pending().await,
    }
}
