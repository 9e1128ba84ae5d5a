//! Through routers and firewalls: a relay that both sides can reach, and one word that says where a server is.
//!
//! - [`relay`]: a node that forwards connections between others (libp2p's circuit relay v2).
//! - [`ticket`]: the word.
//! - [`port_mapping`]: asks the router to let others in.
//! - `mapping_behaviour`: whether a router uses another port for each peer.
//! - `punch`: what two nodes tell each other through a relay to connect without it (libp2p's DCUtR).
//! - `reachability`: whether others reach a node, as a relay finds by dialing it (libp2p's AutoNAT v2); `dial_back` is
//!   the relay's side.
//!
//! A node with [`Options::uses_relays`](crate::Options::uses_relays) dials through relays, and can
//! [reserve](crate::Node::reserve) a place on one. The connection inside a circuit is secured end to end.

mod dial_back;
pub(crate) mod mapping_behaviour;
pub mod port_mapping;
pub(crate) mod punch;
pub(crate) mod reachability;
pub mod relay;
pub mod ticket;

use libp2p::{
    Multiaddr, PeerId, identify,
    identity::Keypair,
    multiaddr::Protocol,
    relay as circuit_relay,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};

use crate::stream::behaviour::{Accepting, Behaviour as Streams};

pub use port_mapping::{Mapping, MappingEvent, PortMapper};
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

/// The relay of a circuit address, which does not name the peer at its other end.
pub fn relay_of(address: &Multiaddr) -> Option<PeerId> {
    let peers = address.iter().filter_map(|part| if let Protocol::P2p(peer) = part { Some(peer) } else { None });
    peers.last()
}

/// How a node learns at which address another sees it (libp2p's identify). It says of itself no more than it must.
pub(crate) fn identify(keypair: &Keypair) -> identify::Behaviour {
    let config = identify::Config::new("/kameo-ping/1".into(), keypair.public());
    identify::Behaviour::new(config.with_hide_listen_addrs(true).with_cache_size(0))
}

/// The protocols of a node that uses relays. They are one part of the node's, because each part costs every connection
/// of every node some time.
#[derive(NetworkBehaviour)]
pub(crate) struct Circuits {
    client: circuit_relay::client::Behaviour,
    identify: identify::Behaviour,
    pub(crate) punch: Toggle<Streams>,
    /// Of a node that listens: what asks whether others reach it, and hears who came to find out.
    pub(crate) questions: Toggle<Streams>,
    returns: Toggle<Streams>,
}

impl Circuits {
    /// With who gets the proposals of direct connections, if the node makes any, and those who come to find out whether
    /// it is reached, if it asks.
    pub(crate) fn new(
        keypair: &Keypair,
        client: circuit_relay::client::Behaviour,
        punches: Accepting,
        returns: Accepting,
    ) -> Self {
        let punch = punches.map(|punches| Streams::new(punch::PROTOCOL, Some(punches)));
        let questions = returns.as_ref().map(|_| Streams::new(reachability::QUESTION, None));
        let returns = returns.map(|returns| Streams::new(reachability::RETURN, Some(returns)));
        let identify = identify(keypair);
        Self { client, identify, punch: punch.into(), questions: questions.into(), returns: returns.into() }
    }
}
