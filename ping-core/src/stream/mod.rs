//! The pipelined stream: many pings to the [`PingActor`](crate::actor::PingActor) on one long-lived libp2p stream.
//!
//! Kameo opens a substream for every message, which is most of what a message costs. Here a client opens one, keeps it,
//! and writes its pings one after the other. Everything that one read brings reaches the actor as one message, and all
//! replies leave in one write. Nothing waits for a batch to fill: a batch is what has arrived, even a single ping.
//! `docs/stream.md` describes the bytes.
//!
//! - [`frame`]: the frames.
//! - [`io`]: frames to and from bytes.
//! - [`accept`]: the server's end.
//! - [`Client`]: the client's end.
//! - `behaviour`: how a node opens and accepts streams.
//!
//! Each end drives both directions of its stream from one task. Over TCP the two directions share one multiplexer that
//! remembers one task to wake; two tasks would lose each other's wake-ups.

pub(crate) mod behaviour;
mod client;
pub mod frame;
pub mod io;
mod server;

use std::{error, fmt};

pub use behaviour::Inbound;
pub use client::{Client, Resolved};
pub use frame::{Frame, Malformed};
pub use server::accept;

use crate::{PeerText, protocol::STREAM_PROTOCOL};

/// Why a stream could not be opened, or ended.
#[derive(Debug)]
pub enum Ended {
    /// The other side does not speak this protocol.
    Unsupported,
    /// There is no connection to the other side.
    NotConnected,
    /// The other side closed the stream.
    Closed,
    /// The other side ended the stream for this reason.
    Refused(PeerText),
    /// The other side sent bytes that are not a frame, or an unexpected frame.
    Malformed(Malformed),
    /// The actor did not answer.
    NoActor,
    /// The actor does not remember the run.
    UnknownRun,
    /// The connection under the stream failed.
    Io(std::io::Error),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported => write!(f, "the other side does not speak {STREAM_PROTOCOL}"),
            Self::NotConnected => write!(f, "there is no connection to the other side"),
            Self::Closed => write!(f, "the other side closed the stream"),
            Self::Refused(reason) => write!(f, "the other side ended the stream: {reason}"),
            Self::Malformed(malformed) => write!(f, "{malformed}"),
            Self::NoActor => write!(f, "the actor did not answer"),
            Self::UnknownRun => write!(f, "the actor does not remember the run"),
            // Each transport has words of its own for this, meant for programmers.
            Self::Io(_) => write!(f, "the stream broke"),
        }
    }
}

impl error::Error for Ended {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Malformed(malformed) => Some(malformed),
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Malformed> for Ended {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// Whether a stream failed because the peer does not speak its protocol. The protocol's name is proposed and used at
/// once, so a refusal shows only in a read.
pub(crate) fn is_refused(error: &std::io::Error) -> bool {
    let negotiation = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(negotiation, Some(multistream_select::NegotiationError::Failed))
}

impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        if is_refused(&error) { Self::Unsupported } else { Self::Io(error) }
    }
}
