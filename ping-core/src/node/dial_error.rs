//! Why a connection could not be made.

use std::{error::Error, io};

use libp2p::{
    PeerId,
    core::transport::{TransportError, timeout::TransportTimeoutError},
    quic, swarm,
};

use crate::PeerText;

/// Why one attempt to connect to one address failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DialError {
    /// The host answered that nothing listens on that port.
    #[error("connection refused")]
    Refused,
    /// This machine has no route to that address.
    #[error("no route to that address")]
    NoRoute,
    /// A firewall answers that it does not let packets through to that address.
    #[error("a firewall prohibits it")]
    Prohibited,
    /// No answer arrived in time.
    #[error("no answer")]
    TimedOut,
    /// Something answers there, but not like a libp2p peer.
    #[error("not a libp2p peer: {0}")]
    NotLibp2p(PeerText),
    /// Another peer than the expected one answers there.
    #[error("expected peer {expected}, found {found}")]
    WrongPeer {
        /// The identity that the caller expected.
        expected: PeerId,
        /// The identity that the peer proved.
        found: PeerId,
    },
    /// The address is this node's own.
    #[error("that address is this program's own")]
    Ourselves,
    /// The node has another connection to that peer.
    #[error("already connected")]
    Denied,
    /// The node has stopped.
    #[error("the node stopped")]
    Stopped,
    /// Anything else, in the words of the system.
    #[error("{0}")]
    Other(PeerText),
}

impl DialError {
    /// Reads libp2p's error of a failed attempt to reach `expected`, or any peer.
    pub(crate) fn from_libp2p(error: &swarm::DialError, expected: Option<PeerId>) -> Self {
        match error {
            swarm::DialError::WrongPeerId { obtained, .. } => match expected {
                Some(expected) => Self::WrongPeer { expected, found: *obtained },
                None => Self::Other(PeerText::new(format_args!("found peer {obtained}"))),
            },
            swarm::DialError::LocalPeerId { .. } => Self::Ourselves,
            // A dial is aborted when another one has won.
            swarm::DialError::Denied { .. } | swarm::DialError::Aborted => Self::Denied,
            swarm::DialError::Transport(attempts) => match attempts.first() {
                Some((_, TransportError::Other(error))) => Self::from_io(error),
                Some((address, TransportError::MultiaddrNotSupported(_))) => {
                    Self::Other(PeerText::new(format_args!("{address} names no transport that this program uses")))
                }
                None => Self::TimedOut,
            },
            other => Self::Other(PeerText::new(other)),
        }
    }

    /// Finds the cause in an error of the transport, which wraps the socket's own error in several layers.
    fn from_io(error: &io::Error) -> Self {
        let mut innermost = None;
        let mut next: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(error) = next {
            if let Some(TransportTimeoutError::Timeout) = error.downcast_ref::<TransportTimeoutError<io::Error>>() {
                return Self::TimedOut;
            }
            if let Some(quic::Error::HandshakeTimedOut) = error.downcast_ref::<quic::Error>() {
                return Self::TimedOut;
            }
            innermost = Some(error);
            next = match error.downcast_ref::<io::Error>() {
                Some(io) => {
                    if let Some(failure) = Self::from_kind(io.kind()) {
                        return failure;
                    }
                    if io.kind() == io::ErrorKind::InvalidData && io.get_ref().is_none() {
                        return Self::NotLibp2p("it did not answer the handshake".into());
                    }
                    if io.raw_os_error().is_some() {
                        // This system refused; nothing came from the other side.
                        return Self::Other(PeerText::new(io));
                    }
                    // `source` would skip the error that an `io::Error` wraps.
                    io.get_ref().map(|inner| inner as &(dyn Error + 'static))
                }
                None => error.source(),
            };
        }
        let reason = innermost.map(ToString::to_string).unwrap_or_default();
        Self::NotLibp2p(PeerText::new(reason.trim_end_matches('.')))
    }

    fn from_kind(kind: io::ErrorKind) -> Option<Self> {
        match kind {
            io::ErrorKind::ConnectionRefused => Some(Self::Refused),
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable => {
                Some(Self::NoRoute)
            }
            io::ErrorKind::TimedOut => Some(Self::TimedOut),
            io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe => {
                Some(Self::NotLibp2p("it closed the connection during the handshake".into()))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_found_under_every_layer() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let wrapped = io::Error::other(TransportTimeoutError::Other(io::Error::other(refused)));
        assert_eq!(DialError::from_io(&wrapped), DialError::Refused);
        let timeout = io::Error::other(TransportTimeoutError::<io::Error>::Timeout);
        assert_eq!(DialError::from_io(&timeout), DialError::TimedOut);
        let local = io::Error::other(io::Error::from_raw_os_error(1));
        assert!(matches!(DialError::from_io(&local), DialError::Other(_)));
        let quic = io::Error::other(io::Error::other(quic::Error::HandshakeTimedOut));
        assert_eq!(DialError::from_io(&quic), DialError::TimedOut);
    }
}
