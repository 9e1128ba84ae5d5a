//! The pipelined stream: many pings to the [`PingActor`](crate::actor::PingActor) on one long-lived libp2p stream.
//!
//! Kameo opens a substream for every message, which is most of what a message costs. Here a client opens one, keeps it,
//! and writes pings into it one behind the other. All that one read brings to the server reaches the actor as one
//! message, and all their replies leave in one write. Nobody waits for a batch to fill: it is what has arrived, be it a
//! single ping. `docs/stream.md` describes the bytes.
//!
//! - [`frame`]: what is written into the stream.
//! - [`io`]: frames out of and into a stream's bytes.
//! - [`accept`]: the server's end.
//! - [`Pipe`]: the client's end.
//!
//! Each end drives both directions of its stream from one task. On TCP the two directions share one multiplexer that
//! remembers one task to wake; two tasks would lose each other's wake-ups.

pub(crate) mod behaviour;
pub mod frame;
pub mod io;
mod pipe;
mod serve;
mod window;

use std::{error, fmt};

use libp2p::StreamProtocol;

pub use behaviour::Inbound;
pub use frame::{Frame, Malformed};
pub use pipe::{Pipe, Settled};
pub use serve::accept;

/// The name under which the two ends agree on this protocol. Another format of frames would get another number.
pub const PROTOCOL: StreamProtocol = StreamProtocol::new("/kameo-ping/stream/1");

/// The largest payload of one ping, in bytes.
pub const MAX_PAYLOAD: u64 = 64 * 1024 * 1024;

/// How many streams one connection may have open at a time. A client needs one; the rest is for programs that keep
/// different work apart.
pub const MAX_STREAMS: usize = 4;

/// Why a stream could not be opened, or ended.
#[derive(Debug)]
pub enum Ended {
    /// The other side does not speak this protocol.
    Unsupported,
    /// There is no connection to the other side any more.
    NotConnected,
    /// The other side closed the stream.
    Closed,
    /// The other side ended the stream and says why.
    Refused(String),
    /// The other side sent what is no frame, or none that belongs here.
    Malformed(Malformed),
    /// The actor gave no answer.
    NoActor,
    /// The actor does not remember the run.
    UnknownRun,
    /// The connection under the stream failed.
    Io(std::io::Error),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported => write!(f, "the other side does not speak {PROTOCOL}"),
            Self::NotConnected => write!(f, "there is no connection to the other side"),
            Self::Closed => write!(f, "the other side closed the stream"),
            Self::Refused(reason) => write!(f, "the other side ended the stream: {reason}"),
            Self::Malformed(malformed) => write!(f, "{malformed}"),
            Self::NoActor => write!(f, "the actor gave no answer"),
            Self::UnknownRun => write!(f, "the actor does not remember the run"),
            // Each transport has words of its own for it, made for its programmers.
            Self::Io(_) => write!(f, "the stream broke off"),
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

impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        let negotiation = error.get_ref().and_then(|inner| inner.downcast_ref());
        match negotiation {
            // The protocol's name is proposed and used in one go, so that its refusal shows only when reading.
            Some(multistream_select::NegotiationError::Failed) => Self::Unsupported,
            _ => Self::Io(error),
        }
    }
}
