//! Through routers and firewalls: a relay that both sides can reach, and one word that says where a server is.
//!
//! - [`relay`]: a node that forwards connections between others (libp2p's circuit relay v2).
//! - [`ticket`]: the word.
//!
//! A node with [`Options::uses_relays`](crate::Options::uses_relays) dials through relays, and can
//! [reserve](crate::Node::reserve) a place on one. The connection inside a circuit is secured end to end.

pub mod relay;
pub mod ticket;

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

pub use relay::{Relay, RelayEvent, RelayOptions};
pub use ticket::Ticket;

/// Whether an address leads through a relay.
pub fn is_circuit(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// The circuit address of a peer with a reservation on the relay `relay`, which can be reached at `address`.
pub fn circuit(address: &Multiaddr, relay: PeerId) -> Multiaddr {
    address.clone().with(Protocol::P2p(relay)).with(Protocol::P2pCircuit)
}
