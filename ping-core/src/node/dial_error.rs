//! Why a connection could not be made.

use std::{error::Error, io};

use libp2p::{
    PeerId,
    core::transport::{TransportError, timeout::TransportTimeoutError},
    relay::outbound::hop::ConnectError,
    swarm,
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
    /// The relay on the way does not connect this node.
    #[error("{0}")]
    ByRelay(RelayFailure),
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

/// Why a relay does not connect a client to a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RelayFailure {
    /// As many are connected through it, or this address has begun as many connections, as it allows.
    #[error("the relay takes no more clients")]
    Full,
    /// It holds no place for the server, or does not say more.
    #[error("the server has no place on the relay")]
    NoPlace,
    /// The server does not answer the relay.
    #[error("the relay does not reach the server")]
    Unreachable,
    /// This node may not use it.
    #[error("the relay does not let this client through")]
    Refused,
}

impl RelayFailure {
    fn from_libp2p(error: &ConnectError) -> Option<Self> {
        match error {
            ConnectError::ResourceLimitExceeded => Some(Self::Full),
            ConnectError::NoReservation => Some(Self::NoPlace),
            ConnectError::ConnectionFailed => Some(Self::Unreachable),
            ConnectError::PermissionDenied => Some(Self::Refused),
            _ => None,
        }
    }
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
            if let Some(failure) = error.downcast_ref().and_then(RelayFailure::from_libp2p) {
                return Self::ByRelay(failure);
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
        let full = io::Error::other(io::Error::other(ConnectError::ResourceLimitExceeded));
        assert_eq!(DialError::from_io(&full), DialError::ByRelay(RelayFailure::Full));
    }
}
