//! What nodes ask each other about the directory: one request and one response on a stream of its own, in CBOR.
//!
//! Members compare their directories with `Beat`, `Compare` and `Push`; a beat is also the sign of life of a link.
//! Clients ask any member with `List` and `Watch`.

use std::time::Duration;

use libp2p::{
    PeerId, StreamProtocol,
    request_response::{self, ProtocolSupport, cbor},
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{
    directory::{BUCKETS, Line},
    record::{MAX_STATEMENT, Stamp},
};
use crate::protocol::MAX_NAME_LEN;

/// The protocol of these messages.
pub const DIRECTORY_PROTOCOL: StreamProtocol = StreamProtocol::new("/kameo-ping/directory/1");

/// The largest message, in bytes.
pub const MAX_MESSAGE: usize = 256 * 1024;

/// How many bytes of statements one message carries, so that it stays below [`MAX_MESSAGE`] with all else in it.
pub(super) const MAX_STATEMENTS: usize = MAX_MESSAGE / 2;

/// How many members one message names at most. A line of a summary takes some 60 bytes.
pub(super) const MAX_LINES: usize = 1000;

/// How long a member holds a [`Request::Watch`] at most while nothing changes.
pub const WATCH_TIME: Duration = Duration::from_secs(10);

/// How long a response may take.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);

/// How many requests of one connection are served at once.
const MAX_REQUESTS: usize = 16;

/// A request.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum Request {
    /// A member is there, and the digests of its directory add up to this.
    Beat {
        /// [`Directory::digest`](super::directory::Directory::digest).
        digest: u64,
    },
    /// What the sender knows of the members in these buckets.
    Compare {
        /// The buckets.
        buckets: ByteBuf,
        /// The members in them.
        lines: Vec<Line>,
    },
    /// Statements that the receiver wants.
    Push {
        /// The statements.
        statements: Vec<ByteBuf>,
    },
    /// The sender is about to close its link to the receiver, and is not gone.
    LetGo,
    /// Which members are there?
    List {
        /// Only those that host an actor under this name.
        name: Option<String>,
        /// Only those after this one, in the order of peer ids.
        after: Option<PeerId>,
    },
    /// What does the receiver say of itself?
    Own,
    /// How fast does the receiver reach the actors of this name on all other members?
    Measure {
        /// The name.
        name: String,
        /// How many round trips to measure on each path.
        round_trips: u8,
    },
    /// Tell when the directory has another digest than this.
    Watch {
        /// The digest of a [`Response::Members`].
        digest: u64,
    },
}

/// A response.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum Response {
    /// To a beat: the directories are equal. To a push or a farewell: taken note of.
    Done,
    /// To a beat: the directories differ; these are the digests of the responder's.
    Digests(Vec<u64>),
    /// To a comparison.
    Difference {
        /// What the sender does not have.
        statements: Vec<ByteBuf>,
        /// The members of which it knows more.
        wanted: Vec<PeerId>,
        /// The members that are gone as of these records, as far as the responder knows.
        gone: Vec<(PeerId, Stamp)>,
    },
    /// To a list, or to what the responder says of itself.
    Members {
        /// The digest of the directory.
        digest: u64,
        /// The members.
        members: Vec<Listed>,
        /// Whether more follow after the last of these.
        has_more: bool,
    },
    /// To a measurement.
    Paths(Vec<Path>),
    /// To a measurement, while the responder is at another one, or has just been.
    Busy,
    /// To a watch: the digest is now this.
    Digest(u64),
}

/// How fast a member reaches the actor of another one.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Path {
    /// The other one.
    pub peer: PeerId,
    /// The round trips that were measured, in nanoseconds.
    pub nanoseconds: Vec<u64>,
    /// Why there are no more.
    pub error: Option<String>,
}

/// A member as another one knows it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Listed {
    /// Its last record, signed by itself.
    pub record: ByteBuf,
    /// Whether it left or died, as far as the responder knows.
    pub is_gone: bool,
}

impl Request {
    /// Whether it is as large as a sound member makes it.
    pub(super) fn is_sound(&self) -> bool {
        match self {
            Self::Compare { buckets, lines } => buckets.len() <= BUCKETS && lines.len() <= MAX_LINES + MAX_LINES,
            Self::Push { statements } => statements.iter().all(|statement| statement.len() <= MAX_STATEMENT),
            Self::Measure { name, .. } => name.len() <= MAX_NAME_LEN,
            Self::Beat { .. } | Self::LetGo | Self::Own | Self::List { .. } | Self::Watch { .. } => true,
        }
    }
}

/// The behaviour that carries the messages.
pub(crate) type Exchange = cbor::Behaviour<Request, Response>;

/// The behaviour of a node that answers such requests, or only asks.
pub(crate) fn exchange(support: ProtocolSupport) -> Exchange {
    let limit = MAX_MESSAGE as u64;
    let codec = cbor::codec::Codec::default().set_request_size_maximum(limit).set_response_size_maximum(limit);
    let config = request_response::Config::default()
        .with_request_timeout(RESPONSE_TIMEOUT)
        .with_max_concurrent_streams(MAX_REQUESTS);
    Exchange::with_codec(codec, [(DIRECTORY_PROTOCOL, support)], config)
}

/// As many of these statements as one message carries.
pub(super) fn batch(statements: impl Iterator<Item = impl AsRef<[u8]>>) -> Vec<ByteBuf> {
    let mut left = MAX_STATEMENTS;
    let mut batch = Vec::new();
    for statement in statements {
        let statement = statement.as_ref();
        match left.checked_sub(statement.len()) {
            Some(rest) => left = rest,
            None => break,
        }
        batch.push(ByteBuf::from(statement));
    }
    batch
}
