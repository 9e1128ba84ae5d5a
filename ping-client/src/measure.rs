//! The measured part of a session: what the actor can do, the warm-up, the run, and what is asked afterwards.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use anyhow::Result;
use futures::{FutureExt, TryFutureExt};
use kameo::actor::RemoteActorRef;
use libp2p::PeerId;
use ping_core::{
    actor::PingActor,
    address::ServerAddress,
    node::{Connection, Node},
    protocol::{Card, SAFE_IN_FLIGHT},
};
use tokio::{
    sync::oneshot::error::TryRecvError,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use crate::{
    args::Args,
    chronicle::{Chronicle, is_leisurely},
    diagnose::Trouble,
    find::{Finder, Found},
    lane::{
        self, AgainLane, Answer, Connect, Connected, Interruptions, KameoLane, Lane, Mode, OnceRun, StreamLane, Terms,
    },
    live::Live,
    report::Csv,
    run::{self, Observer, Sample},
    schedule::{Pace, Schedule},
    stats::Stats,
    vigil::{Heard, vigil},
    warnings::{Clocks, Watch},
};

/// How long the actor may take to say what it can do.
const ABOUT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait before connecting again to a server that answers, but does not serve.
const PAUSE: Duration = Duration::from_millis(250);

/// Everyone who is told what happens in the measured run.
pub(crate) struct Audience {
    pub(crate) stats: Stats,
    chronicle: Chronicle,
    csv: Option<Csv>,
    live: Option<Live>,
}

impl Audience {
    /// Opens the files that the command line names, so that what is wrong with them shows before the run.
    ///
    /// # Errors
    ///
    /// When one of them cannot be opened.
    pub(crate) fn new(args: &Args) -> Result<Self> {
        let csv = args.csv.as_deref().map(|path| Csv::create(path, args.force)).transpose()?;
        Ok(Self { stats: Stats::new(), chronicle: Chronicle::new(args.pace()), csv, live: None })
    }

    /// Ends the show and writes the rows that are left.
    ///
    /// # Errors
    ///
    /// When a row could not be written.
    pub(crate) fn finish(&mut self) -> std::io::Result<()> {
        self.live = None;
        self.csv.take().map_or(Ok(()), Csv::finish)
    }
}

impl Observer for Audience {
    fn sending(&mut self, sequence: u64, now: Instant) {
        self.stats.sending(sequence, now);
        self.chronicle.sending(sequence, now);
        if let Some(csv) = &mut self.csv {
            csv.sending(sequence, now);
        }
    }

    fn outcome(&mut self, sample: &Sample) {
        self.stats.outcome(sample);
        self.chronicle.outcome(sample);
        if let Some(csv) = &mut self.csv {
            csv.outcome(sample);
        }
        if let Some(live) = &mut self.live {
            live.outcome(sample);
        }
    }

    fn late(&mut self, sequence: u64, answer: Answer) {
        self.stats.late(sequence, answer);
        self.chronicle.late(sequence, answer);
    }
}

/// What the measured part leaves behind, besides what its audience saw.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// When the first pong of all came, be it in the warm-up.
    pub(crate) first_pong: Option<Instant>,
    /// What the clocks say of the run.
    pub(crate) clocks: Option<Clocks>,
    /// How many told pings the server counted.
    pub(crate) arrived: Option<u64>,
    /// The version of the server's program.
    pub(crate) version: Option<String>,
    /// How the pings were carried.
    pub(crate) mode: Mode,
    /// How often the connection was lost and made again.
    pub(crate) interruptions: Rc<Cell<Interruptions>>,
    /// How often a ping was answered with "busy", and sent again.
    pub(crate) busy: Arc<AtomicU64>,
    /// The run, if its pings are counted once each.
    pub(crate) once: Option<Rc<OnceRun>>,
}

/// Does everything that the command line asks for with an actor that was found. Dropping the future ends the run
/// earlier; what was measured until then is in `audience` and `measured`.
///
/// # Errors
///
/// When the actor cannot do what is asked of it, or the connection is lost.
pub(crate) async fn measure(
    args: &Args,
    node: &Node,
    server: Option<&ServerAddress>,
    (actor, mut connection): (RemoteActorRef<PingActor>, Connection),
    heard: &Heard,
    audience: &mut Audience,
    measured: &mut Measured,
) -> Result<(), Trouble> {
    let pace = args.pace();
    let terms = Terms {
        size: args.size,
        timeout: args.timeout,
        once: args.retry.then(|| Rc::new(OnceRun::new(args.warmup.is_some()))),
        busy: measured.busy.clone(),
    };
    // After a restart of the server it is another one.
    let actor = RefCell::new(actor);
    // The name is resolved anew each time; the identity, once accepted, is that of this run.
    let again = server.cloned().or_else(|| connection.address.to_string().parse().ok());
    let again = again.map(|server| server.of_peer(connection.peer)).filter(|_| !args.no_reconnect && !args.demo);
    let first = actor.borrow().clone();
    let opened = match (open_lane(args, args.mode, node, connection.peer, &first, &terms).await, &again) {
        (Ok(opened), _) => opened,
        // It was lost before anything could be sent on it.
        (Err(trouble), Some(server)) if !matches!(connection.closed.try_recv(), Err(TryRecvError::Empty)) => {
            let opening = open_again(args, args.mode, node, server, &actor, &terms);
            let (opened, second) = timeout(args.find_timeout, opening).await.unwrap_or(Err(trouble))?;
            connection = second;
            opened
        }
        (Err(trouble), _) => return Err(trouble),
    };
    measured.once.clone_from(&terms.once);
    let (mode, mut total_before) = (opened.mode, opened.total);
    measured.mode = mode;
    measured.version.clone_from(&opened.version);
    let connect = again.as_ref().map(|server| -> Connect<'_> {
        let open = || open_again(args, mode, node, server, &actor, &terms);
        Box::new(move || open().map_ok(|(opened, connection)| connected(opened, node, connection, heard)).boxed_local())
    });
    let impatient = !matches!(pace, Pace::Closed(_));
    let connected = connected(opened, node, connection, heard);
    let mut lane = AgainLane::new(connected, connect, impatient, terms.once.clone(), measured.interruptions.clone());
    let about = || {
        let actor = actor.borrow().clone();
        async move { about(&actor).await }
    };
    if let Some(limit) = args.warmup {
        let mut ignored = Stats::new();
        let schedule = Schedule::start(pace, limit, Instant::now());
        run::run(&mut lane, schedule, args.timeout, &mut ignored).await?;
        measured.first_pong = ignored.first_answer;
        if let Some(once) = &terms.once {
            once.measure_from_here().await;
        }
        if mode.tells() {
            total_before = about().await?.map(|card| card.total_pings);
        }
    }

    let now = Instant::now();
    if !args.quiet && !is_leisurely(pace) {
        audience.live = Live::on_terminal(args.limit(), now);
    }
    let watch = Watch::start();
    let schedule = Schedule::start(pace, args.limit(), now);
    let ended = run::run(&mut lane, schedule, args.timeout, audience).await;
    measured.clocks = Some(watch.stop());
    ended?;

    if mode == Mode::StreamTell {
        // Each was acknowledged, be it late.
        measured.arrived = Some(audience.stats.received + audience.stats.late);
    }
    if mode.tells() || args.json || args.report.is_some() {
        match about().await {
            Ok(Some(card)) => {
                if mode.tells() {
                    audience.stats.server_total = Some(card.total_pings);
                }
                if mode == Mode::Tell {
                    // A server that was restarted may have begun anew.
                    let before = total_before.filter(|_| measured.interruptions.get().count == 0);
                    measured.arrived = before.map(|before| card.total_pings.saturating_sub(before));
                }
                measured.version = Some(card.version);
            }
            Ok(None) => {}
            // The pings themselves have been measured.
            Err(trouble) => warn!("The server's total could not be read after the run: {trouble}"),
        }
    }
    Ok(())
}

/// The way that the pings take, and what was learned on opening it.
struct Opened {
    lane: Box<dyn Lane>,
    /// How the pings are carried; never [`Mode::Auto`].
    mode: Mode,
    /// How many pings the actor had counted before, if it was said.
    total: Option<u64>,
    /// The version of the server's program, if it was said.
    version: Option<String>,
    /// Whether the actor remembers what was sent before, if that matters.
    remembered: bool,
}

async fn open_lane(
    args: &Args,
    mode: Mode,
    node: &Node,
    peer: PeerId,
    actor: &RemoteActorRef<PingActor>,
    terms: &Terms,
) -> Result<Opened, Trouble> {
    let remembered = match &terms.once {
        Some(once) => once.join(actor).await?,
        None => true,
    };
    if mode.streams() {
        match StreamLane::open(node, peer, mode == Mode::StreamTell, terms).await {
            Ok((lane, total)) => {
                let mode = if mode == Mode::Auto { Mode::Stream } else { mode };
                return Ok(Opened { lane: Box::new(lane), mode, total: Some(total), version: None, remembered });
            }
            Err(trouble @ Trouble::NoStream { .. }) if mode == Mode::Auto => {
                warn!("{trouble}; pinging by Kameo's ask instead");
            }
            Err(trouble) => return Err(trouble),
        }
    }
    let mode = if mode == Mode::Auto { Mode::Ask } else { mode };
    let card = if needs_card(args, args.pace()) { about(actor).await? } else { None };
    let lane = KameoLane::new(actor.clone(), mode == Mode::Tell, card.as_ref(), terms)?;
    let (total, version) = card.map(|card| (card.total_pings, card.version)).unzip();
    Ok(Opened { lane: Box::new(lane), mode, total, version, remembered })
}

/// A lane with everything that tells when its connection is of no more use.
fn connected<'a>(opened: Opened, node: &'a Node, connection: Connection, heard: &Heard) -> Connected<'a> {
    let Connection { peer, address, closed } = connection;
    let Opened { lane, remembered, .. } = opened;
    Connected { lane, closed, remembered, vigil: vigil(node, peer, address, heard.clone()).boxed_local() }
}

/// Connects to the server again and opens a lane, for as long as it takes.
///
/// # Errors
///
/// When the server is not what it was.
async fn open_again(
    args: &Args,
    mode: Mode,
    node: &Node,
    server: &ServerAddress,
    actor: &RefCell<RemoteActorRef<PingActor>>,
    terms: &Terms,
) -> Result<(Opened, Connection), Trouble> {
    loop {
        // The stream may have ended before the connection under it, or the connection be of no more use.
        server.peer.into_iter().for_each(|peer| node.disconnect(peer));
        let found = Finder::new(node, &args.name, args.find_timeout).again(server).await?;
        let Found { actor: again, mut connection, .. } = found;
        let opened = tokio::select! {
            opened = open_lane(args, mode, node, connection.peer, &again, terms) => opened,
            reason = &mut connection.closed => Err(Trouble::Lost { reason: reason.unwrap_or_default() }),
        };
        match opened {
            Ok(opened) => {
                actor.replace(again);
                return Ok((opened, connection));
            }
            Err(trouble @ (Trouble::NoStream { .. } | Trouble::NoRetry | Trouble::Unsupported { .. })) => {
                return Err(trouble);
            }
            Err(trouble) => {
                debug!(%trouble, "lost again");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Whether the run wants more of the server than every Kameo node can do. If not, the question is spared: it costs a
/// round trip.
fn needs_card(args: &Args, pace: Pace) -> bool {
    let wide = match pace {
        Pace::Closed(senders) => senders > SAFE_IN_FLIGHT,
        Pace::Rate(_) => true,
        Pace::Interval(_) => false,
    };
    wide || args.size > 0 || args.mode.tells()
}

async fn about(actor: &RemoteActorRef<PingActor>) -> Result<Option<Card>, Trouble> {
    match timeout(ABOUT_TIMEOUT, lane::ask_about(actor)).await {
        Ok(Ok(card)) => Ok(card),
        Ok(Err(failure)) => Err(Trouble::NoAnswer { failure }),
        Err(_) => {
            debug!("the actor says nothing of itself");
            Ok(None)
        }
    }
}
