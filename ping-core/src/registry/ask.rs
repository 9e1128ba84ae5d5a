//! Asking a node for its own actor: one round trip, where Kameo's look-up takes two, one for the nodes that have an
//! actor of a name, and one for each of these actors.
//!
//! It is what Kameo's second question asks, in the same protocol: every Kameo node answers it.

use std::time::Duration;

use libp2p::{PeerId, StreamProtocol, swarm::ConnectionId};
use prost::Message;
use tokio::time::timeout;

use super::registration_of;
use crate::{
    Node,
    cluster::record::HostedActor,
    stream::Ended,
    wire::{receive, send},
};

/// The protocol of Kameo's registry, which is Kademlia's
/// (<https://github.com/libp2p/specs/blob/master/kad-dht/README.md>).
const PROTOCOL: StreamProtocol = StreamProtocol::new("/kameo/registry/1.0.0");

/// The size of the largest answer, in bytes, as Kademlia has it. A stock node also names nodes that are closer.
const MAX_ANSWER: usize = 16 * 1024 - 1;

/// How long an answer may take: two round trips of 3.2 s, and some more.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(9);

/// The type of a message that asks for a value, and of its answer.
const GET_VALUE: i32 = 1;

/// What libp2p's nodes set, although nothing reads it any more.
const CLUSTER_LEVEL: i32 = 10;

/// A message, without the parts that nobody reads here.
#[derive(Clone, PartialEq, Message)]
struct Question {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    record: Option<Record>,
    #[prost(int32, tag = "10")]
    cluster_level: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// Asks a peer over this connection for the actor that it has registered under a name; `None` if it names none, or
/// one that is not its own.
///
/// # Errors
///
/// When the peer does not answer, or does not speak the protocol.
pub async fn look_up(
    node: &Node,
    (peer, connection): (PeerId, ConnectionId),
    name: &str,
) -> Result<Option<HostedActor>, Ended> {
    let ask = async {
        let mut stream = node.open(peer, connection, PROTOCOL).await?;
        let key = format!("{name}:meta:{peer}").into_bytes();
        send(&mut stream, &Question { kind: GET_VALUE, key, record: None, cluster_level: CLUSTER_LEVEL }).await?;
        let answer: Question = receive(&mut stream, MAX_ANSWER).await?;
        Ok(answer.record.and_then(|record| {
            let registration = registration_of(&record.value, peer)?;
            let (sequence, remote_id) = (registration.actor_id.sequence_id(), registration.remote_id.into_owned());
            Some(HostedActor { name: name.into(), sequence, remote_id })
        }))
    };
    timeout(ANSWER_TIMEOUT, ask).await.unwrap_or(Err(Ended::Io(std::io::ErrorKind::TimedOut.into())))
}
