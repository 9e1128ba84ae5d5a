//! The contract on the wire: the actor, its messages, and the names and ids they go by.
//!
//! The ids are fixed: programs that were built apart find and understand each other by them. What a later version needs
//! beyond this goes into messages of its own.

use std::ops::ControlFlow;

use kameo::{
    Actor, RemoteActor, Reply,
    actor::{ActorId, ActorRef, WeakActorRef},
    error::{ActorStopReason, Infallible},
    message::{Context, Message},
    remote_message,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// The TCP and UDP port that a server listens on, and a client tries, when none is given.
pub const DEFAULT_PORT: u16 = 36341;

/// The name that the actor is registered and looked up under when none is given.
pub const DEFAULT_NAME: &str = "ping_actor";

/// The longest name an actor can be registered under, in bytes.
///
/// The registry stores `<name>:meta:<peer id>` as a Kademlia key; this keeps such a key well within one packet.
pub const MAX_NAME_LEN: usize = 255;

/// Checks a name to register or look up an actor under, for use as a command-line value parser.
///
/// # Errors
///
/// Says what is wrong with a name that is empty, too long, or contains control characters.
pub fn parse_name(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("a name has at least one character".into());
    }
    if text.len() > MAX_NAME_LEN {
        return Err(format!("a name has at most {MAX_NAME_LEN} bytes, this one has {}", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err("a name contains no control characters".into());
    }
    Ok(text.to_owned())
}

/// One ping, from client to actor.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Ping {
    /// Free text; the actor does not interpret it.
    pub message: String,
    /// The client's own number for this ping, counted from 1. The pong repeats it.
    pub sequence: u64,
}

/// The answer to one [`Ping`].
#[derive(Clone, Debug, Deserialize, PartialEq, Reply, Serialize)]
pub struct Pong {
    /// Free text; the client does not interpret it.
    pub message: String,
    /// The sequence number of the ping that this answers.
    pub sequence: u64,
    /// How many pings the actor has counted since it started, from all clients, this one included.
    pub total_pings: u64,
}

/// Counts the pings it gets and answers each with the total.
#[derive(RemoteActor)]
#[remote_actor(id = "ping_pong_app::PingActor")]
pub struct PingActor {
    total: watch::Sender<u64>,
}

impl PingActor {
    /// An actor that has counted nothing yet, and a view of its total that wakes whoever watches it.
    pub fn new() -> (Self, watch::Receiver<u64>) {
        let (total, watched) = watch::channel(0);
        (Self { total }, watched)
    }
}

impl Actor for PingActor {
    type Args = Self;
    type Error = Infallible;

    async fn on_start(actor: Self, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(actor)
    }

    /// Goes on. The actor links to no other, yet any peer on the network can send it word of a death; the default
    /// would stop the actor on that word.
    async fn on_link_died(
        &mut self,
        _: WeakActorRef<Self>,
        _: ActorId,
        _: ActorStopReason,
    ) -> Result<ControlFlow<ActorStopReason>, Infallible> {
        Ok(ControlFlow::Continue(()))
    }
}

#[remote_message("a1b2c3d4-e5f6-7890-abcd-ef1234567890")]
impl Message<Ping> for PingActor {
    type Reply = Pong;

    async fn handle(&mut self, ping: Ping, _: &mut Context<Self, Self::Reply>) -> Pong {
        self.total.send_modify(|total| *total += 1);
        Pong { message: "PONG".into(), sequence: ping.sequence, total_pings: *self.total.borrow() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kameo::actor::Spawn;

    #[tokio::test]
    async fn the_actor_counts_every_ping_and_repeats_its_sequence() {
        let (actor, total) = PingActor::new();
        let actor = PingActor::spawn(actor);
        for sequence in [7, 3] {
            let pong = actor.ask(Ping { message: String::new(), sequence }).await.unwrap();
            assert_eq!(pong.sequence, sequence);
        }
        assert_eq!(*total.borrow(), 2);
    }

    #[test]
    fn a_name_is_neither_empty_nor_long_nor_unprintable() {
        assert_eq!(parse_name("ping_actor").unwrap(), "ping_actor");
        assert!(parse_name("").is_err());
        assert!(parse_name(&"x".repeat(256)).is_err());
        assert!(parse_name("a\nb").is_err());
    }
}
