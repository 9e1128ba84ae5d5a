//! The way that pings take: directly, or through a relay.

use std::fmt;

use libp2p::{Multiaddr, multiaddr::Protocol};
use ping_core::{Connection, Transport, cluster::is_global, nat::is_circuit, transport::endpoint};
use serde::{Serialize, Serializer};

/// Whether a relay is on the way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PathKind {
    /// To an address at which the server is reached.
    Direct,
    /// Directly, after both routers were opened for each other.
    Punched,
    /// Directly, because the server dialed this side.
    Reversed,
    /// Through a relay.
    Relayed,
}

impl Serialize for PathKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.json_name())
    }
}

impl PathKind {
    /// As JSON and metrics name it.
    pub(crate) fn json_name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Punched => "punched",
            Self::Reversed => "reversed",
            Self::Relayed => "relayed",
        }
    }

    /// As text names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Punched => "hole punched",
            Self::Reversed => "dialed by the server",
            Self::Relayed => "through a relay",
        }
    }
}

/// The way that pings take.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Path {
    pub(crate) kind: PathKind,
    /// The transport, through a relay that of the connection to the relay.
    pub(crate) transport: Option<Transport>,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        self.transport.map_or(Ok(()), |transport| write!(f, " by {transport}"))
    }
}

impl Path {
    /// The way of a connection at this address.
    pub(crate) fn of(address: &Multiaddr) -> Self {
        let kind = if is_circuit(address) { PathKind::Relayed } else { PathKind::Direct };
        let first: Multiaddr = address.iter().take_while(|part| !matches!(part, Protocol::P2p(_))).collect();
        Self { kind, transport: Transport::of(&first) }
    }

    /// The way of a connection that was made beside one through a relay.
    pub(crate) fn beside_relayed(connection: &Connection) -> Self {
        let path = Self::of(&connection.address);
        // No router is between the two in one local network.
        let is_global = endpoint(&connection.address).is_some_and(|(ip, ..)| is_global(ip));
        match (connection.is_reversed, is_global) {
            (true, _) => Self { kind: PathKind::Reversed, ..path },
            (false, true) => Self { kind: PathKind::Punched, ..path },
            (false, false) => path,
        }
    }

    /// The transport as options and JSON name it.
    pub(crate) fn transport_name(&self) -> Option<String> {
        self.transport.map(|transport| transport.to_string().to_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circuit_is_no_direct_way() {
        let path = |text: &str| Path::of(&text.parse().unwrap());
        let relay = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
        let direct = path("/ip4/192.0.2.1/udp/1/quic-v1");
        assert_eq!((direct.kind, direct.transport), (PathKind::Direct, Some(Transport::Quic)));
        let relayed = path(&format!("/ip4/192.0.2.1/tcp/1/p2p/{relay}/p2p-circuit"));
        assert_eq!((relayed.kind, relayed.transport_name().as_deref()), (PathKind::Relayed, Some("tcp")));
    }
}
