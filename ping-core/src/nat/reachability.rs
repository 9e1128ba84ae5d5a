//! Whether others reach a node where they see it: a relay dials it there (libp2p's AutoNAT v2,
//! <https://github.com/libp2p/specs/blob/master/autonat/autonat-v2.md>).
//!
//! The node names an address and a number. The relay dials the address, from another port than the one that the node's
//! router knows, and says the number there; then it answers. It dials no host but the one that asks.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use prost::Message;
use tokio::time::timeout;

use crate::{
    lock::lock,
    wire::{invalid, receive, send},
};

/// The protocol of the question.
pub(crate) const QUESTION: StreamProtocol = StreamProtocol::new("/libp2p/autonat/2/dial-request");

/// The protocol by which the relay comes back.
pub(crate) const RETURN: StreamProtocol = StreamProtocol::new("/libp2p/autonat/2/dial-back");

/// How long an answer may take. A router that drops what comes unasked sends none to the relay.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// The size of the largest message, in bytes: some more than the addresses that are looked at take.
const MAX_MESSAGE_SIZE: usize = 4096;

/// How many of the addresses in a question are looked at.
pub(super) const MAX_ADDRESSES: usize = 8;

/// How long each of its parts may take.
pub(super) const PART_TIMEOUT: Duration = Duration::from_secs(6);

/// The numbers that relays may come back with, and which relay with which.
pub(crate) type Nonces = Arc<Mutex<HashMap<u64, PeerId>>>;

#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(message, optional, tag = "1")]
    request: Option<DialRequest>,
    #[prost(message, optional, tag = "2")]
    response: Option<DialResponse>,
}

#[derive(Clone, PartialEq, Message)]
struct DialRequest {
    #[prost(bytes = "vec", repeated, tag = "1")]
    addresses: Vec<Vec<u8>>,
    #[prost(fixed64, tag = "2")]
    nonce: u64,
}

#[derive(Clone, PartialEq, Message)]
struct DialResponse {
    #[prost(enumeration = "Status", tag = "1")]
    status: i32,
    #[prost(uint32, tag = "2")]
    place: u32,
    #[prost(enumeration = "DialStatus", tag = "3")]
    dial: i32,
}

/// What a relay made of a question.
#[derive(Clone, Copy, Debug, Eq, PartialEq, prost::Enumeration)]
#[repr(i32)]
enum Status {
    InternalError = 0,
    Rejected = 100,
    DialRefused = 101,
    Ok = 200,
}

/// What came of its dial.
#[derive(Clone, Copy, Debug, Eq, PartialEq, prost::Enumeration)]
#[repr(i32)]
enum DialStatus {
    Unused = 0,
    DialError = 100,
    ReturnError = 101,
    Ok = 200,
}

#[derive(Clone, PartialEq, Message)]
struct DialBack {
    #[prost(fixed64, tag = "1")]
    nonce: u64,
}

#[derive(Clone, PartialEq, Message)]
struct DialBackResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// What a relay answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Answer {
    /// It is too busy.
    Rejected,
    /// It dials none of the addresses.
    Refused,
    /// The dial failed.
    Unreachable,
    /// It said the number there.
    Reached,
}

/// Asks a relay whether this node is reached at an address. `None` if it does not say.
///
/// # Errors
///
/// When the relay does not answer in time.
pub(crate) async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    address: &Multiaddr,
    (relay, nonces): (PeerId, &Nonces),
) -> io::Result<Option<bool>> {
    let nonce = fastrand::u64(..);
    lock(nonces).insert(nonce, relay);
    let question = async {
        let request = DialRequest { addresses: vec![address.to_vec()], nonce };
        send(&mut stream, &Envelope { request: Some(request), response: None }).await?;
        let answer: Envelope = receive(&mut stream, MAX_MESSAGE_SIZE).await?;
        answer.response.ok_or_else(|| invalid("the relay wants something else"))
    };
    let answer = timeout(ANSWER_TIMEOUT, question).await;
    // It is taken when the relay comes back.
    let came_back = lock(nonces).remove(&nonce).is_none();
    let answer = answer.map_err(|_| io::ErrorKind::TimedOut)??;
    Ok(match (answer.status(), answer.dial()) {
        (Status::Ok, DialStatus::Ok) => Some(came_back),
        (Status::Ok, DialStatus::DialError | DialStatus::ReturnError) => Some(false),
        _ => None,
    })
}

/// Hears the number of a relay that comes back, on a connection that it has made.
///
/// # Errors
///
/// When this node has not asked that relay with that number.
pub(crate) async fn hear(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    (relay, nonces): (PeerId, &Nonces),
) -> io::Result<()> {
    let DialBack { nonce } = receive(&mut stream, MAX_MESSAGE_SIZE).await?;
    match lock(nonces).entry(nonce) {
        Entry::Occupied(asked) if *asked.get() == relay => drop(asked.remove()),
        _ => return Err(invalid("that relay was not asked with that number")),
    }
    send(&mut stream, &DialBackResponse { status: 0 }).await
}

/// Reads a question: the addresses and the number.
pub(super) async fn question(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(Vec<Multiaddr>, u64)> {
    let envelope: Envelope = receive(stream, MAX_MESSAGE_SIZE).await?;
    let request = envelope.request.ok_or_else(|| invalid("the message is of another kind"))?;
    let addresses = request.addresses.into_iter().take(MAX_ADDRESSES).map(Multiaddr::try_from);
    // What is no address keeps its place.
    Ok((addresses.map(|address| address.unwrap_or_else(|_| Multiaddr::empty())).collect(), request.nonce))
}

/// Answers a question about the address in this place.
pub(super) async fn answer(stream: &mut (impl AsyncWrite + Unpin), place: usize, answer: Answer) -> io::Result<()> {
    let (status, dial) = match answer {
        Answer::Rejected => (Status::Rejected, DialStatus::Unused),
        Answer::Refused => (Status::DialRefused, DialStatus::Unused),
        Answer::Unreachable => (Status::Ok, DialStatus::DialError),
        Answer::Reached => (Status::Ok, DialStatus::Ok),
    };
    let place = u32::try_from(place).unwrap_or(u32::MAX);
    let response = DialResponse { status: status.into(), place, dial: dial.into() };
    send(stream, &Envelope { request: None, response: Some(response) }).await
}

/// Says the number at the address in question.
pub(super) async fn come_back(mut stream: impl AsyncRead + AsyncWrite + Unpin, nonce: u64) -> io::Result<()> {
    send(&mut stream, &DialBack { nonce }).await?;
    receive::<DialBackResponse>(&mut stream, MAX_MESSAGE_SIZE).await.map(drop)
}

#[cfg(test)]
mod tests {
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    /// What a node takes from a relay that comes back, or does not, and then answers this.
    async fn verdict(comes_back: bool, said: Answer) -> Option<bool> {
        let address: Multiaddr = "/ip4/198.51.100.1/tcp/1".parse().unwrap();
        let (node, relay) = tokio::io::duplex(1024);
        let (nonces, asked) = (Nonces::default(), PeerId::random());
        let serve = async {
            let mut relay = relay.compat();
            let (addresses, nonce) = question(&mut relay).await.unwrap();
            assert_eq!(addresses, std::slice::from_ref(&address));
            if comes_back {
                let (there, here) = tokio::io::duplex(1024);
                let wrong = nonce.wrapping_add(1);
                let heard = hear(here.compat(), (asked, &nonces));
                let (heard, came) = tokio::join!(heard, come_back(there.compat(), wrong));
                assert!(heard.is_err() && came.is_err(), "another number");
                for (relay, is_heard) in [(PeerId::random(), false), (asked, true)] {
                    let (there, here) = tokio::io::duplex(1024);
                    let heard = hear(here.compat(), (relay, &nonces));
                    let (heard, came) = tokio::join!(heard, come_back(there.compat(), nonce));
                    assert_eq!((heard.is_ok(), came.is_ok()), (is_heard, is_heard));
                }
            }
            answer(&mut relay, 0, said).await.unwrap();
        };
        tokio::join!(ask(node.compat(), &address, (asked, &nonces)), serve).0.unwrap()
    }

    #[tokio::test]
    async fn a_node_is_reached_where_the_relay_came_back() {
        assert_eq!(verdict(true, Answer::Reached).await, Some(true));
        // It must have made a connection to say the number on.
        assert_eq!(verdict(false, Answer::Reached).await, Some(false));
        assert_eq!(verdict(false, Answer::Unreachable).await, Some(false));
        for unknown in [Answer::Rejected, Answer::Refused] {
            assert_eq!(verdict(false, unknown).await, None);
        }
    }
}
