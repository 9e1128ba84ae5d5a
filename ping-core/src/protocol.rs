//! Everything that crosses the wire by name: the actor's messages, the ids and names that both ends must share, and the
//! limits that both ends keep.
//!
//! The ids of the actor and of its messages stand beside their handlers in [`actor`](crate::actor), because Kameo's
//! attributes take literals. They never change: programs that were built apart find and understand each other by them.
//! New needs get new messages.

use kameo::Reply;
use libp2p::StreamProtocol;
use serde::{Deserialize, Serialize};

use crate::peer_text::PeerText;

/// The TCP and UDP port that a server listens on, and a client tries, when none is given.
pub const DEFAULT_PORT: u16 = 36341;

/// The name that the actor is registered and looked up under when none is given.
pub const DEFAULT_NAME: &str = "ping_actor";

/// The longest name an actor can be registered under, in bytes.
///
/// The registry stores `<name>:meta:<peer id>` as a Kademlia key; this keeps such a key well within one packet.
pub const MAX_NAME_LEN: usize = 255;

/// The largest payload of an [`Echo`] or a [`Once`], in bytes.
pub const MAX_PAYLOAD: u64 = 1024 * 1024;

/// The largest Kameo request that a node reads, in bytes: one that carries [`MAX_PAYLOAD`]. Kameo's CBOR writes a
/// payload as a list of integers, most of which take two bytes.
pub const MAX_REQUEST_SIZE: u64 = 2 * MAX_PAYLOAD + 64 * 1024;

/// How many requests a client keeps in flight on one connection.
///
/// More are no faster, and one peer's requests delay another's pings. A stock Kameo node serves 100; yamux closes the
/// connection above 512 streams, each of which lives a little longer than its request.
pub const MAX_IN_FLIGHT: u32 = 64;

/// The name under which two nodes agree on the [`stream`](crate::stream) protocol. Another frame format gets another
/// number.
pub const STREAM_PROTOCOL: StreamProtocol = StreamProtocol::new("/kameo-ping/stream/1");

/// The largest payload of one ping on a [`stream`](crate::stream), in bytes.
pub const MAX_STREAM_PAYLOAD: u64 = 64 * 1024 * 1024;

/// How many ping streams one connection may have open at a time. A client needs one.
pub const MAX_STREAMS: usize = 4;

/// One ping, from client to actor.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Ping {
    /// Free text; the actor does not interpret it.
    pub message: String,
    /// The client's number for this ping, counted from 1. The pong repeats it.
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

/// Asks the actor about itself. It is not a ping and is not counted.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct About {}

/// What the actor says about itself and its node.
#[derive(Clone, Debug, Deserialize, PartialEq, Reply, Serialize)]
pub struct Card {
    /// The version of the program that hosts the actor.
    pub version: PeerText,
    /// How many pings the actor has counted, from all clients.
    pub total_pings: u64,
    /// How many requests the node expects in flight on one connection: [`MAX_IN_FLIGHT`].
    pub max_in_flight: u32,
    /// The largest payload of an [`Echo`] that the node accepts, in bytes.
    pub max_payload: u64,
    /// What the clock of its machine shows, in milliseconds since 1970.
    #[serde(default)]
    pub time: Option<u64>,
    /// The process that hosts it.
    #[serde(default)]
    pub process: Option<Process>,
}

/// One run of a program, told apart from every other: those before it, and those on machines with the same key.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Process {
    /// A random number that it chose when it started.
    pub id: u64,
    /// For how long it has run, in milliseconds.
    pub uptime_ms: u64,
}

/// A ping with a payload, which the actor sends back.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Echo {
    /// The client's number for this ping, counted from 1.
    pub sequence: u64,
    /// Opaque bytes, at most [`MAX_PAYLOAD`].
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
    /// The payload, unchanged.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
}

/// A ping whose way is traced, with a payload that the actor sends back as an [`Echoed`].
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Traced {
    /// The client's number for this ping, counted from 1.
    pub sequence: u64,
    /// The span of the client: a `traceparent` of the W3C's Trace Context.
    pub context: String,
    /// Opaque bytes, at most [`MAX_PAYLOAD`].
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
}

/// The id of a run: 128 random bits that its client chooses.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct RunId(pub u64, pub u64);

/// A ping of a run: the actor counts it once, however often it arrives.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Once {
    /// The run that it belongs to.
    pub run: RunId,
    /// The client will not send any ping of the run below this number again; the actor forgets them.
    pub settled_below: u64,
    /// The number of this ping in its run.
    pub sequence: u64,
    /// Opaque bytes, at most [`MAX_PAYLOAD`], which the actor sends back.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
}

/// What the actor did with a ping of a run.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Verdict {
    /// It arrived for the first time, and is counted.
    Fresh,
    /// It was counted before.
    Again,
    /// Its number is below those that the client may still send. It is not counted.
    Settled,
    /// Its number is too far above those that the client may still send. It is not counted.
    Outside,
    /// The actor does not remember its run. It is not counted.
    UnknownRun,
}

/// The answer to one [`Once`].
#[derive(Clone, Debug, Deserialize, PartialEq, Reply, Serialize)]
pub struct OnceReply {
    /// The sequence number of the ping that this answers.
    pub sequence: u64,
    /// How many pings the actor has counted, from all clients.
    pub total_pings: u64,
    /// Whether the ping is counted, now or before.
    pub verdict: Verdict,
    /// The payload, unchanged.
    #[serde(with = "serde_bytes")]
    pub payload: Vec<u8>,
}

/// What to do with a run.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Step {
    /// Begin it, unless it has begun.
    Begin,
    /// Report whether the actor remembers it.
    Look,
    /// End it. No ping of it is counted after that.
    End,
}

/// Begins a run whose pings are counted once each, asks for its count, or ends it. It is not a ping and is not counted.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct AboutRun {
    /// The run.
    pub run: RunId,
    /// What to do with it.
    pub step: Step,
    /// The client will not send any ping of the run below this number again.
    pub settled_below: u64,
}

/// The answer to [`AboutRun`].
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Reply, Serialize)]
pub struct RunCard {
    /// How many pings of the run are counted, or `None` if the actor does not remember it.
    pub counted: Option<u64>,
    /// How many pings the actor has counted, from all clients.
    pub total_pings: u64,
}
