//! The measured part of a session: what the actor can do, the warm-up, the run, and what is asked afterwards.

use std::time::{Duration, Instant};

use anyhow::Result;
use kameo::actor::RemoteActorRef;
use libp2p::PeerId;
use ping_core::{
    node::{Connection, Node},
    protocol::{Card, PingActor, SAFE_IN_FLIGHT},
};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::{
    args::Args,
    chronicle::{Chronicle, is_leisurely},
    diagnose::Trouble,
    lane::{self, KameoLane, Lane, Mode, StreamLane},
    live::Live,
    report::Csv,
    run::{self, Observer, Sample},
    schedule::{Pace, Schedule},
    stats::Stats,
    warnings::{Clocks, Watch},
};

/// How long the actor may take to say what it can do.
const ABOUT_TIMEOUT: Duration = Duration::from_secs(10);

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

    fn late(&mut self, sequence: u64) {
        self.stats.late(sequence);
        self.chronicle.late(sequence);
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
    actor: &RemoteActorRef<PingActor>,
    connection: &mut Connection,
    audience: &mut Audience,
    measured: &mut Measured,
) -> Result<(), Trouble> {
    let pace = args.pace();
    let (mut lane, mut total_before) = open_lane(args, node, connection.peer, actor, measured).await?;
    let (lane, closed) = (&mut *lane, &mut connection.closed);
    if let Some(limit) = args.warmup {
        let mut ignored = Stats::new();
        let schedule = Schedule::start(pace, limit, Instant::now());
        run::run(lane, schedule, args.timeout, closed, &mut ignored).await?;
        measured.first_pong = ignored.first_answer;
        if args.mode.tells() {
            total_before = about(actor).await?.map(|card| card.total_pings);
        }
    }

    let now = Instant::now();
    if !args.quiet && !is_leisurely(pace) {
        audience.live = Live::on_terminal(args.limit(), now);
    }
    let watch = Watch::start();
    let schedule = Schedule::start(pace, args.limit(), now);
    let ended = run::run(lane, schedule, args.timeout, closed, audience).await;
    measured.clocks = Some(watch.stop());
    ended?;

    if args.mode.tells() || args.json || args.report.is_some() {
        let card = about(actor).await?;
        let grown = |card: &Card| total_before.map(|before| card.total_pings.saturating_sub(before));
        if args.mode.tells() {
            measured.arrived = card.as_ref().and_then(grown);
            audience.stats.server_total = card.as_ref().map(|card| card.total_pings);
        }
        measured.version = card.map(|card| card.version);
    }
    Ok(())
}

/// The way that the pings take, and, if it was said, how many the actor had counted before.
async fn open_lane(
    args: &Args,
    node: &Node,
    peer: PeerId,
    actor: &RemoteActorRef<PingActor>,
    measured: &mut Measured,
) -> Result<(Box<dyn Lane>, Option<u64>), Trouble> {
    measured.mode = args.mode;
    if args.mode.streams() {
        let opening = StreamLane::open(node, peer, args.mode == Mode::StreamTell, args.size);
        match opening.await {
            Ok((lane, total)) => {
                if args.mode == Mode::Auto {
                    measured.mode = Mode::Stream;
                }
                return Ok((Box::new(lane), Some(total)));
            }
            Err(trouble @ Trouble::NoStream { .. }) if args.mode == Mode::Auto => {
                warn!("{trouble}; pinging by Kameo's ask instead");
                measured.mode = Mode::Ask;
            }
            Err(trouble) => return Err(trouble),
        }
    }
    let card = if needs_card(args, args.pace()) { about(actor).await? } else { None };
    measured.version = card.as_ref().map(|card| card.version.clone());
    let lane = KameoLane::new(actor.clone(), args.mode == Mode::Tell, args.size, card.as_ref())?;
    Ok((Box::new(lane), card.map(|card| card.total_pings)))
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
