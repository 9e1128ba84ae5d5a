//! Keeps a node alive and bounded, whatever its peers send.
//!
//! | limit | value | where |
//! |---|---|---|
//! | connections, in all, per address, per peer, in their handshake | [`Limits`], [`MAX_PENDING`] | `connections` |
//! | memory that peers make the node hold, per connection and in all | half of the limit, the limit | `memory` |
//! | registrations of other peers, in all, per address, per name | 256, 16, 4 | `registry_filter` |
//! | log lines of one kind that peers can provoke | 1 a second | `log_limit` |
//!
//! `GuardedKameo` puts two checks between the network and Kameo's protocols: what peers send passes `registry_filter`
//! first, and a handler that panics costs only its own connection (`panics`). What answers this node's own requests is
//! of the kind that they ask for (`answers`).

mod answers;
mod connections;
mod log_limit;
mod memory;
mod negotiation;
mod panics;
mod registry_filter;
mod request_memory;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::{IpAddr, Ipv4Addr},
    task::{Context, Poll},
};

use kameo::remote;
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        CloseConnection, ConnectionClosed, ConnectionDenied, ConnectionId, DialFailure, FromSwarm, NetworkBehaviour,
        NewExternalAddrOfPeer, NotifyHandler, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::ConnectionEstablished,
    },
};
use tracing::warn;

#[doc(hidden)]
pub use answers::is_answered;
pub(crate) use connections::ConnectionLimits;
pub use connections::{Limits, MAX_PENDING};
pub(crate) use log_limit::LogLimit;
pub(crate) use memory::{ConnectionMemory, Memory, Part};
pub use panics::culprit;
pub(crate) use panics::install_panic_hook;
#[doc(hidden)]
pub use registry_filter::is_registration;
pub(crate) use request_memory::Metered;

use connections::ip_address;
use panics::{FromHandler, Isolated};
use registry_filter::{RegistryFilter, ToPeer, Verdict};

/// Stands for an address that is not an IP address.
const NO_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Kameo's protocols, guarded.
///
/// Besides the two checks, it hides two kinds of events that Kameo misunderstands:
/// - A peer is dialed several times at once, over several transports or while a link recovers, and all dials but one
///   fail. Kameo takes a failed dial for the loss of the peer, and would fail every request and look-up on the
///   connection that works.
/// - Kameo's registry dials every peer whose address it learns, and mDNS would tell it those of the whole network. It
///   learns only the addresses that the node has connected to.
#[allow(missing_debug_implementations, reason = "Kameo's behaviour has no Debug")]
pub(crate) struct GuardedKameo {
    kameo: remote::Behaviour,
    connected: HashSet<PeerId>,
    /// The remote IP address of each connection.
    addresses: HashMap<ConnectionId, IpAddr>,
    filter: RegistryFilter,
    /// Connections to close because their handler panicked, and answers that the filter gives.
    actions: VecDeque<ToSwarm<remote::Event, ToPeer>>,
    rejections: LogLimit,
    panics: LogLimit,
}

impl GuardedKameo {
    pub(crate) fn new(kameo: remote::Behaviour) -> Self {
        Self {
            kameo,
            connected: HashSet::new(),
            addresses: HashMap::new(),
            filter: RegistryFilter::default(),
            actions: VecDeque::new(),
            rejections: LogLimit::default(),
            panics: LogLimit::default(),
        }
    }

    /// Tells the registry that a peer can be reached at this address.
    pub(crate) fn learn(&mut self, peer_id: PeerId, addr: &Multiaddr) {
        self.kameo.on_swarm_event(FromSwarm::NewExternalAddrOfPeer(NewExternalAddrOfPeer { peer_id, addr }));
    }

    /// The guarded protocols.
    pub(crate) fn kameo(&self) -> &remote::Behaviour {
        &self.kameo
    }

    fn on_message(&mut self, peer: PeerId, id: ConnectionId, message: registry_filter::FromPeer) {
        let address = self.addresses.get(&id).copied().unwrap_or(NO_ADDRESS);
        let (verdict, is_sound) = self.filter.check(peer, address, &self.connected, message);
        if !is_sound && let Some(count) = self.rejections.count() {
            warn!("Rejected a registry or link request from {peer} ({count} so far)");
        }
        match verdict {
            Verdict::Pass(message) => self.kameo.on_connection_handler_event(peer, id, message),
            Verdict::Answer(event) => {
                let handler = NotifyHandler::One(id);
                self.actions.push_back(ToSwarm::NotifyHandler { peer_id: peer, handler, event });
            }
            Verdict::Drop => {}
        }
    }

    fn on_panic(&mut self, peer_id: PeerId, id: ConnectionId) {
        if let Some(count) = self.panics.count() {
            warn!("Closed the connection to {peer_id}: a message from it made its handler panic ({count} so far)");
        }
        self.actions.push_back(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::One(id) });
    }
}

impl NetworkBehaviour for GuardedKameo {
    type ConnectionHandler = Isolated<THandler<remote::Behaviour>>;
    type ToSwarm = remote::Event;

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::DialFailure(DialFailure { peer_id: Some(peer), .. }) if self.connected.contains(&peer) => {
                return;
            }
            FromSwarm::NewExternalAddrOfPeer(_) => return,
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, endpoint, .. }) => {
                self.connected.insert(peer_id);
                self.addresses.insert(connection_id, ip_address(endpoint.get_remote_address()).unwrap_or(NO_ADDRESS));
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, remaining_established, .. }) => {
                self.addresses.remove(&connection_id);
                if remaining_established == 0 {
                    self.connected.remove(&peer_id);
                }
            }
            _ => {}
        }
        self.kameo.on_swarm_event(event);
    }

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.kameo.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.kameo.handle_established_inbound_connection(id, peer, local, remote).map(Isolated::new)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.kameo.handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.kameo.handle_established_outbound_connection(id, peer, address, role, port).map(Isolated::new)
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {
            FromHandler::Event(message) => self.on_message(peer, id, message),
            FromHandler::Panicked => self.on_panic(peer, id),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(action) = self.actions.pop_front() {
            return Poll::Ready(action);
        }
        self.kameo.poll(context).map(|mut action| {
            if let ToSwarm::NotifyHandler { peer_id, event, .. } = &mut action {
                self.filter.add_providers(*peer_id, event);
            }
            action
        })
    }
}
