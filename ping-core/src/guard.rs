//! What stands between the swarm and Kameo's protocols, and keeps from them what they would misunderstand.

use std::{
    collections::HashSet,
    task::{Context, Poll},
};

use kameo::remote;
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionId, DialError, DialFailure, FromSwarm, NetworkBehaviour,
        NewExternalAddrOfPeer, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm, behaviour::ConnectionEstablished,
    },
};

/// Kameo's protocols, guarded.
///
/// - When two transports are dialled at once, the connection that comes second is denied. Kameo takes any failed dial for
///   the loss of the peer and would fail every request and look-up that is under way on the first connection, so it does
///   not hear of a denied one.
/// - Kameo's registry dials whoever it knows an address of, and mDNS would tell it those of every peer on the network. It
///   hears only of the addresses that the node has itself connected to.
#[allow(missing_debug_implementations, reason = "Kameo's behaviour has no Debug")]
pub(crate) struct Guard {
    kameo: remote::Behaviour,
    connected: HashSet<PeerId>,
}

impl Guard {
    pub(crate) fn new(kameo: remote::Behaviour) -> Self {
        Self { kameo, connected: HashSet::new() }
    }

    /// Lets the registry know that a peer can be reached at this address.
    pub(crate) fn learn(&mut self, peer_id: PeerId, addr: &Multiaddr) {
        self.kameo.on_swarm_event(FromSwarm::NewExternalAddrOfPeer(NewExternalAddrOfPeer { peer_id, addr }));
    }

    /// The guarded protocols.
    pub(crate) fn kameo(&self) -> &remote::Behaviour {
        &self.kameo
    }
}

impl NetworkBehaviour for Guard {
    type ConnectionHandler = THandler<remote::Behaviour>;
    type ToSwarm = remote::Event;

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::DialFailure(DialFailure { peer_id: Some(peer), error: DialError::Denied { .. }, .. })
                if self.connected.contains(&peer) =>
            {
                return;
            }
            FromSwarm::NewExternalAddrOfPeer(_) => return,
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, .. }) => {
                self.connected.insert(peer_id);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, remaining_established: 0, .. }) => {
                self.connected.remove(&peer_id);
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
        self.kameo.handle_established_inbound_connection(id, peer, local, remote)
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
        self.kameo.handle_established_outbound_connection(id, peer, address, role, port)
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.kameo.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.kameo.poll(context)
    }
}
