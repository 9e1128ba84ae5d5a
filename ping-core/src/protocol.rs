//! The contract on the wire: the actor, its messages, and the names and ids they go by.
//!
//! The ids are fixed: programs that were built apart find and understand each other by them. What a later version needs
//! beyond this goes into messages of its own.

use std::ops::ControlFlow;

use bytes::Bytes;
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

/// The largest payload of an [`Echo`], in bytes.
pub const MAX_PAYLOAD: u64 = 1024 * 1024;

/// How many requests a node serves at a time on one connection.
///
/// Below yamux's 512 streams, each of which lives a little longer than its request: yamux ends the whole connection when
/// they are exceeded.
pub const MAX_IN_FLIGHT: u32 = 256;

/// How many requests at a time any Kameo node serves on one connection, this project's or not. Kameo's default is 100;
/// the rest is left to the node's other protocols.
pub const SAFE_IN_FLIGHT: u32 = 64;

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

/// Asks the actor about itself. It is no ping and is not counted.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct About {}

/// What the actor says about itself and the node it lives on.
#[derive(Clone, Debug, Deserialize, PartialEq, Reply, Serialize)]
pub struct Card {
    /// The version of the program that hosts the actor.
    pub version: String,
    /// How many pings the actor has counted since it started, from all clients.
    pub total_pings: u64,
    /// How many requests the node serves at a time on one connection.
    pub max_in_flight: u32,
    /// The largest payload of an [`Echo`] that the node takes, in bytes.
    pub max_payload: u64,
}

/// A ping with a payload, which the actor sends back.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Echo {
    /// The client's own number for this ping, counted from 1.
    pub sequence: u64,
    /// Bytes that mean nothing to the actor, up to [`MAX_PAYLOAD`].
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
}

/// The answer to one [`Echo`].
#[derive(Clone, Debug, Deserialize, PartialEq, Reply, Serialize)]
pub struct Echoed {
    /// The sequence number of the ping that this answers.
    pub sequence: u64,
    /// How many pings the actor has counted since it started, from all clients, this one included.
    pub total_pings: u64,
    /// The payload, as it came.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
}

/// Pings that reached this process together, over a [`stream`](crate::stream). It stays within the process.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// How many pings.
    pub pings: u64,
    /// Payloads that the actor sends back.
    pub payloads: Vec<Bytes>,
}

/// The answer to a [`Batch`].
#[derive(Clone, Debug, Reply)]
pub struct Counted {
    /// How many pings the actor has counted since it started, from all clients, these included.
    pub total: u64,
    /// The payloads, as they came.
    pub payloads: Vec<Bytes>,
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

#[remote_message("kameo-ping/about/1")]
impl Message<About> for PingActor {
    type Reply = Card;

    async fn handle(&mut self, _: About, _: &mut Context<Self, Self::Reply>) -> Card {
        Card {
            version: env!("CARGO_PKG_VERSION").into(),
            total_pings: *self.total.borrow(),
            max_in_flight: MAX_IN_FLIGHT,
            max_payload: MAX_PAYLOAD,
        }
    }
}

#[remote_message("kameo-ping/echo/1")]
impl Message<Echo> for PingActor {
    type Reply = Echoed;

    async fn handle(&mut self, echo: Echo, _: &mut Context<Self, Self::Reply>) -> Echoed {
        self.total.send_modify(|total| *total += 1);
        Echoed { sequence: echo.sequence, total_pings: *self.total.borrow(), payload: echo.payload }
    }
}

impl Message<Batch> for PingActor {
    type Reply = Counted;

    async fn handle(&mut self, batch: Batch, _: &mut Context<Self, Self::Reply>) -> Counted {
        self.total.send_if_modified(|total| {
            *total += batch.pings;
            batch.pings > 0
        });
        Counted { total: *self.total.borrow(), payloads: batch.payloads }
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
