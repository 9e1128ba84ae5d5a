//! `--rally`: an actor on each member, which hit a ball round all of them.
//!
//! The actors find each other by name in the directory, and none waits for another one inside a handler: a handler
//! takes the ball, and a task of the member passes it on by a tell. One member, that with `--rounds`, serves the ball.
//! If it does not come back, because the member that had it was killed, that one serves another.

use std::{
    cell::Cell,
    future::pending,
    time::{Duration, Instant},
};

use kameo::{
    Actor, RemoteActor,
    actor::{ActorRef, Spawn},
    message::{Context, Message},
    remote_message,
};
use libp2p::PeerId;
use ping_core::cluster::{Cluster, record::HostedActor};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc,
    time::{sleep, sleep_until},
};
use tracing::debug;

use crate::events::ServerEvent;

/// The name of the actor that serves, and that of all others.
const SERVING: &str = "ping";
const RETURNING: &str = "pong";

/// How long a ball may be away before another one is served.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pause before a ball is passed again that could not be.
const PAUSE: Duration = Duration::from_millis(100);

/// A ball. A later one replaces an earlier one that is lost.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
struct Ball {
    /// A random number of the rally.
    rally: u64,
    /// How often a ball was served before.
    serve: u32,
    /// How often it was hit.
    hit: u64,
}

/// Takes the ball.
#[derive(Actor, RemoteActor)]
#[remote_actor(id = "kameo-ping/rally")]
struct Player {
    last: Option<Ball>,
    taken: mpsc::UnboundedSender<Ball>,
}

#[remote_message("kameo-ping/rally/ball/1")]
impl Message<Ball> for Player {
    type Reply = ();

    async fn handle(&mut self, ball: Ball, _: &mut Context<Self, ()>) {
        // A ball that was taken for lost may come all the same.
        let is_late =
            self.last.is_some_and(|last| last.rally == ball.rally && (ball.serve, ball.hit) <= (last.serve, last.hit));
        // No rally takes so long. What it counts has room to grow.
        let is_fair = ball.hit < u64::MAX && ball.serve < u32::MAX;
        if is_fair && !is_late {
            self.last = Some(ball);
            let _ = self.taken.send(ball);
        }
    }
}

/// The part of one member.
pub(crate) struct Rally {
    cluster: Cluster,
    /// How many rounds to play; `None` for a member that does not serve.
    rounds: Option<u64>,
    /// Kameo keeps no actor alive by its registration.
    player: ActorRef<Player>,
    taken: mpsc::UnboundedReceiver<Ball>,
    events: mpsc::UnboundedSender<ServerEvent<'static>>,
}

impl Rally {
    /// Starts the member's actor. `events` get what happens.
    pub(crate) async fn start(
        cluster: Cluster,
        rounds: Option<u64>,
        events: mpsc::UnboundedSender<ServerEvent<'static>>,
    ) -> Self {
        let (sender, taken) = mpsc::unbounded_channel();
        let player = Player::spawn(Player { last: None, taken: sender });
        // From here on, messages from other nodes reach it.
        player.into_remote_ref().await;
        Self { cluster, rounds, player, taken, events }
    }

    /// The actor, for the directory.
    pub(crate) fn actor(&self) -> HostedActor {
        HostedActor::new(self.name(), &self.player)
    }

    fn name(&self) -> &'static str {
        if self.rounds.is_some() { SERVING } else { RETURNING }
    }

    /// Plays until all rounds are played; for ever without `rounds`.
    pub(crate) async fn play(&mut self) {
        let mut ball = Ball { rally: rand_number(), serve: 0, hit: 1 };
        let (rally, mut played) = (ball.rally, 0);
        let mut is_held = self.rounds.is_some();
        // When the ball was first hit, and when last.
        let (began, mut last) = (Cell::new(None), None);
        let mut missed = Instant::now() + PATIENCE;
        loop {
            let serves = self.rounds.is_some() && last.is_none();
            tokio::select! {
                biased;
                Some(taken) = self.taken.recv() => {
                    if serves {
                        last = began.get();
                        self.report(1, None);
                    }
                    let now = Instant::now();
                    ball = Ball { hit: taken.hit + 1, ..taken };
                    self.report(ball.hit, last.replace(now).map(|before| now - before));
                    played += u64::from(taken.rally == rally);
                    if self.rounds.is_some_and(|rounds| played >= rounds) {
                        let time = began.get().map_or(Duration::ZERO, |began| now - began);
                        let members = ring(&self.cluster).len();
                        let duration_s = time.as_secs_f64();
                        let rate_per_s = played as f64 / duration_s;
                        let done = ServerEvent::RallyDone { rounds: played, members, duration_s, rate_per_s };
                        let _ = self.events.send(done);
                        return;
                    }
                    (is_held, missed) = (true, now + PATIENCE);
                }
                () = pass(&self.cluster, ball, &began), if is_held => {
                    (is_held, missed) = (false, Instant::now() + PATIENCE);
                }
                () = sleep_until(missed.into()), if !is_held && self.rounds.is_some() => {
                    debug!("the ball is lost, and another one is served");
                    ball.serve += 1;
                    is_held = true;
                }
                else => pending().await,
            }
        }
    }

    fn report(&self, hit: u64, after: Option<Duration>) {
        let after_ms = after.map(|after| after.as_secs_f64() * 1e3);
        let _ = self.events.send(ServerEvent::RallyHit { actor: self.name(), hit, after_ms });
    }
}

/// Passes the ball to the next member, as soon as that is possible. `began` is when this was first tried.
async fn pass(cluster: &Cluster, ball: Ball, began: &Cell<Option<Instant>>) {
    let mut changes = cluster.digest();
    loop {
        changes.mark_unchanged();
        let ring = ring(cluster);
        let place = ring.iter().position(|(peer, _)| *peer == cluster.me());
        let next = place.and_then(|place| ring.get((place + 1) % ring.len())).filter(|(peer, _)| *peer != cluster.me());
        let Some((peer, actor)) = next else {
            let _ = changes.changed().await;
            continue;
        };
        let Some(player) = actor.remote_ref::<Player>(*peer) else { continue };
        began.set(began.get().or_else(|| Some(Instant::now())));
        match player.tell(&ball).send_ack().await {
            Ok(()) => return,
            Err(error) => {
                debug!(%peer, %error, "the ball cannot be passed");
                sleep(PAUSE).await;
            }
        }
    }
}

/// All players, in the order in which they pass the ball: first the one that serves.
fn ring(cluster: &Cluster) -> Vec<(PeerId, HostedActor)> {
    let players = |name: &'static str| {
        let mut hosts = cluster.hosts(name);
        hosts.sort_by_key(|member| member.peer);
        hosts.into_iter().filter_map(move |member| {
            let actor = member.actor(name)?;
            actor.remote_ref::<Player>(member.peer).map(|_| (member.peer, actor.clone()))
        })
    };
    players(SERVING).chain(players(RETURNING)).collect()
}

fn rand_number() -> u64 {
    // The address of a new identity is as random as its key.
    let bytes = PeerId::random().to_bytes();
    bytes.iter().rev().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
