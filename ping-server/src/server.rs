//! The server's life: identity, node, addresses, actor, and what happens until it is told to stop.

use std::{future::pending, io::Read, path::PathBuf, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use kameo::remote;
use libp2p::{PeerId, identity::Keypair};
use ping_core::{
    actor::{self, Count, Hosted},
    address::Transport,
    behaviour,
    identity::Identity,
    node::{Event, Node},
    protocol::About,
    secret,
    signals::StopSignals,
    stream,
};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use crate::{
    allow::allowed,
    args::Args,
    listen::{self, Plan},
    report::{Happening, Lines, Pace, PeerIdText, Reporter},
    state::State,
};

/// How long the actor may take to answer. It answers at once; this bounds what a peer can hold open that asks and then
/// does not read.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the server until a signal, or the end of its standard input if so asked, stops it.
///
/// # Errors
///
/// When it cannot start, or can no longer do its work. The text names the cause and the mend.
pub(crate) async fn run(args: Args) -> Result<()> {
    let mut signals = StopSignals::new().context("cannot handle signals")?;
    #[cfg(unix)]
    crate::files::make_room(args.max_connections);
    // The identity is held, locked, for as long as the server runs.
    let identity = if args.ephemeral { None } else { Some(load_identity(args.identity.clone())?) };
    let keypair = identity.as_ref().map_or_else(Keypair::generate_ed25519, |identity| identity.keypair.clone());
    let allowed = allowed(&args.allow)?;
    let secret = args.secret.as_deref().map(secret::read).transpose()?;
    // A pre-shared key makes TCP private, and nothing else.
    let transports = if secret.is_some() { &[Transport::Tcp][..] } else { &Transport::ALL };
    let plan = match args.listen.is_empty() {
        true => Plan::on_port(args.port, transports)?,
        false => Plan::explicit(args.listen.clone(), transports)?,
    };
    let reach_others = plan.beyond_loopback();
    let (mut state, count) = match &args.state {
        Some(path) => State::open(path).map(|(state, count)| (Some(state), count))?,
        None => (None, Count::new()),
    };
    if let Some(path) = &args.state {
        info!("Keeping the count in {}, from a total of {} on", path.display(), *count.watch().borrow());
    }
    let (streams, opened) = mpsc::unbounded_channel();
    let options = behaviour::Options {
        listens: true,
        mdns: reach_others,
        limits: behaviour::Limits::listener(args.max_connections),
        keep_alive: behaviour::KEEP_ALIVE,
        silence: behaviour::SILENCE,
        request_timeout: REQUEST_TIMEOUT,
        allowed,
        secret,
        streams: Some(streams),
    };
    let (mut node, mut events) = Node::start(&keypair, options).context("cannot start the node")?;
    let peer = node.peer();
    let reporter = if args.json { Reporter::Json(Lines::to_stdout()) } else { Reporter::Log };

    let (addresses, early) = plan.listen(&node, &mut events).await?;
    let Hosted { actor, gave_up, .. } = &mut actor::host(count.clone(), Some(&args.name)).await?;
    tokio::spawn(stream::accept(opened, actor.clone()));

    info!("Peer ID: {peer}");
    for address in &addresses {
        let connection_address = listen::connection_address(address, peer);
        reporter.report(&Happening::Listening { address, connection_address: &connection_address })?;
    }
    if reach_others && addresses.iter().all(listen::is_loopback) {
        warn!("No network is up: only programs on this machine can reach the server");
    }
    reporter.report(&Happening::Ready { peer_id: PeerIdText(peer), name: &args.name })?;

    // What is reported as counted would survive the end of the process, if anything does.
    let total = state.as_ref().map_or_else(|| count.watch(), |state| state.total.clone());
    let pace = Pace::from(*total.borrow());
    let mut serving = Serving { ours: peer, reporter, pace, total };
    early.iter().try_for_each(|event| serving.on_event(event))?;
    let outcome = tokio::select! {
        outcome = serving.serve(&mut events) => outcome,
        () = signals.next() => Ok(()),
        () = end_of_input(args.stop_on_eof) => Ok(()),
        reason = node.failed() => {
            serving.finish(&mut events)?;
            bail!("the network task failed: {reason}. This is a bug; please report it.");
        }
        Ok(reason) = gave_up => {
            Err(anyhow!("the actor ended time and again, at last because {reason}. This is a bug; please report it."))
        }
        failure = failure(&mut state) => Err(failure),
    };
    // A second signal does not wait for anything.
    let stopping = async {
        stop(node, &args.name).await;
        // What was told before is counted when this is answered.
        let _ = actor.ask(About {}).await;
        count.finish().await;
    };
    tokio::select! {
        () = stopping => {}
        () = signals.next() => bail!("interrupted while stopping"),
    }
    serving.finish(&mut events)?;
    match state.as_mut().and_then(|state| state.failed.try_recv().ok()) {
        Some(failure) if outcome.is_ok() => Err(failure),
        _ => outcome,
    }
}

/// Waits for the state file to fail, or for ever.
async fn failure(state: &mut Option<State>) -> anyhow::Error {
    match state {
        Some(State { failed, .. }) => match failed.await {
            Ok(failure) => failure,
            Err(_) => anyhow!("the thread that writes the state file ended. This is a bug; please report it."),
        },
        None => pending().await,
    }
}

/// The reports of a running server.
struct Serving {
    ours: PeerId,
    reporter: Reporter,
    pace: Pace,
    total: watch::Receiver<u64>,
}

impl Serving {
    /// Reports what happens for as long as stdout takes it.
    async fn serve(&mut self, events: &mut mpsc::UnboundedReceiver<Event>) -> Result<()> {
        loop {
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(event) => self.on_event(&event)?,
                    // The node is gone; whoever watches it says why.
                    None => pending().await,
                },
                failure = self.reporter.failed() => return Err(failure),
                () = self.pace.wait_for_news(&mut self.total) => self.report_pings()?,
            }
        }
    }

    fn on_event(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Listening(address) if listen::is_usable(address) => {
                let connection_address = listen::connection_address(address, self.ours);
                self.reporter.report(&Happening::Listening { address, connection_address: &connection_address })?;
            }
            Event::StoppedListening(address) if listen::is_usable(address) => {
                self.reporter.report(&Happening::StoppedListening { address })?;
            }
            Event::PeerConnected { peer, address } => {
                self.reporter.report(&Happening::ClientConnected { peer_id: PeerIdText(*peer), address })?;
            }
            Event::PeerDisconnected { peer, address } => {
                // What it sent is told before its leaving is.
                self.report_pings()?;
                self.reporter.report(&Happening::ClientDisconnected { peer_id: PeerIdText(*peer), address })?;
            }
            Event::Listening(_) | Event::StoppedListening(_) | Event::RoundTrip { .. } | Event::Discovered { .. } => {}
        }
        Ok(())
    }

    fn report_pings(&mut self) -> Result<()> {
        let total = *self.total.borrow_and_update();
        match self.pace.news(total) {
            Some(news) => self.reporter.report(&news),
            None => Ok(()),
        }
    }

    /// Reports what is left to report when the node has stopped.
    fn finish(mut self, events: &mut mpsc::UnboundedReceiver<Event>) -> Result<()> {
        while let Ok(event) = events.try_recv() {
            self.on_event(&event)?;
        }
        self.report_pings()?;
        self.reporter.report(&Happening::Stopped { total: *self.total.borrow() })?;
        self.reporter.finish();
        Ok(())
    }
}

/// Takes the actor out of the registry and closes every connection.
async fn stop(node: Node, name: &str) {
    if let Err(error) = remote::unregister(name).await {
        warn!(%error, "cannot unregister the actor");
    }
    node.stop().await;
}

/// Waits for the end of standard input, or for ever.
async fn end_of_input(wanted: bool) {
    if !wanted {
        return pending().await;
    }
    // A thread of its own, because a blocking read cannot be given up: it must not hold up the end of the process.
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
        anyhow!(
            "this user has no home directory to keep an identity in. Name a file with --identity, or use --ephemeral."
        )
    })?;
    let identity =
        Identity::load_or_create(&path).map_err(|error| anyhow!("{error}. {}", error.mend("use --ephemeral")))?;
    if identity.created {
        info!("Made a new identity in {}", path.display());
    }
    Ok(identity)
}

/// `kameo-ping/identity.key` in the state directory, or in the local data directory on systems that have no such thing.
fn default_identity_path() -> Option<PathBuf> {
    Some(dirs::state_dir().or_else(dirs::data_local_dir)?.join("kameo-ping").join("identity.key"))
}
