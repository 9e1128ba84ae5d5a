//! The contract on the wire: the messages to the [`PingActor`](crate::actor::PingActor), and the actor's name.
//!
//! The ids of actor and messages are fixed, and stand with the actor: programs that were built apart find and understand each
//! other by them. What a later version needs beyond this goes into messages of its own.

use kameo::Reply;
use serde::{Deserialize, Serialize};

use crate::runs::{RunId, Verdict};

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
/// More do not make it faster, but what one peer asks at a time is what another one's ping may have to wait for. Far below
/// yamux's 512 streams, each of which lives a little longer than its request: yamux ends the whole connection when they are
/// exceeded.
pub const MAX_IN_FLIGHT: u32 = 64;

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
    /// How many pings the actor has counted, from all clients, this one included.
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
    /// How many pings the actor has counted, from all clients.
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
    /// How many pings the actor has counted, from all clients, this one included.
    pub total_pings: u64,
    /// The payload, as it came.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
}

/// A ping of a run: however often it comes, it is counted once.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Once {
    /// The run that it belongs to.
    pub run: RunId,
    /// No ping of the run below this number will be sent again; what was remembered of them is forgotten.
    pub settled_below: u64,
    /// The number of this ping in its run.
    pub sequence: u64,
    /// Bytes that mean nothing to the actor, which it sends back; up to [`MAX_PAYLOAD`].
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
}

/// The answer to one [`Once`].
#[derive(Clone, Debug, Deserialize, PartialEq, Reply, Serialize)]
pub struct OnceReply {
    /// The sequence number of the ping that this answers.
    pub sequence: u64,
    /// How many pings the actor has counted, from all clients.
    pub total_pings: u64,
    /// Whether the ping was counted, now or before.
    pub verdict: Verdict,
    /// The payload, as it came.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
}

/// What to do with a run.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Step {
    /// Begin it, unless it has begun.
    Begin,
    /// Only look whether it is remembered.
    Look,
    /// End it. No ping of it is counted any more.
    End,
}

/// Begins a run of pings that are counted once each, asks how it stands, or ends it. It is no ping and is not counted.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct AboutRun {
    /// The run.
    pub run: RunId,
    /// What to do with it.
    pub step: Step,
    /// No ping of the run below this number will be counted any more.
    pub settled_below: u64,
}

/// The answer to [`AboutRun`].
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Reply, Serialize)]
pub struct RunCard {
    /// How many pings of the run were counted, or nothing if it is not remembered.
    pub counted: Option<u64>,
    /// How many pings the actor has counted, from all clients.
    pub total_pings: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_neither_empty_nor_long_nor_unprintable() {
        assert_eq!(parse_name("ping_actor").unwrap(), "ping_actor");
        assert!(parse_name("").is_err());
        assert!(parse_name(&"x".repeat(256)).is_err());
        assert!(parse_name("a\nb").is_err());
    }
}
