//! What stands between the swarm and Kameo's protocols, and keeps from them what they would misunderstand.

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

use crate::{
    admission::{Admission, ToPeer, Verdict},
    complaints::Complaints,
    contain::{Contained, FromHandler},
    crowd::ip_address,
};

/// Kameo's protocols, guarded.
///
/// - What peers send passes [`Admission`] first, and a handler that panics costs but its own connection.
/// - A peer is dialled several times at once, by two transports or while a link comes back, and all dials but one fail: the
///   connections that come later are denied, and what was sent in vain times out. Kameo takes any failed dial for the loss of the
///   peer and would fail every request and look-up that is under way on the connection that stands, so it does not hear of
///   failed dials while there is one.
/// - Kameo's registry dials whoever it knows an address of, and mDNS would tell it those of every peer on the network. It
///   hears only of the addresses that the node has itself connected to.
#[allow(missing_debug_implementations, reason = "Kameo's behaviour has no Debug")]
pub(crate) struct Guard {
    kameo: remote::Behaviour,
    connected: HashSet<PeerId>,
    /// Where each connection comes from or goes to.
    addresses: HashMap<ConnectionId, IpAddr>,
    admission: Admission,
    /// What there is to do: connections to close whose handler panicked, and answers to what was refused.
    actions: VecDeque<ToSwarm<remote::Event, ToPeer>>,
    refused: Complaints,
    panics: Complaints,
}

impl Guard {
    pub(crate) fn new(kameo: remote::Behaviour) -> Self {
        Self {
            kameo,
            connected: HashSet::new(),
            addresses: HashMap::new(),
            admission: Admission::default(),
            actions: VecDeque::new(),
            refused: Complaints::default(),
            panics: Complaints::default(),
        }
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
    type ConnectionHandler = Contained<THandler<remote::Behaviour>>;
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
        self.kameo.handle_established_inbound_connection(id, peer, local, remote).map(Contained::new)
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
        self.kameo.handle_established_outbound_connection(id, peer, address, role, port).map(Contained::new)
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {
            FromHandler::Event(event) => {
                let address = self.addresses.get(&id).copied().unwrap_or(NO_ADDRESS);
                let verdict = self.admission.admit(peer, address, event);
                if !matches!(verdict, Verdict::Sound(_))
                    && let Some(count) = self.refused.add()
                {
                    warn!("Refused what {peer} asked of the registry or of links between actors ({count} such so far)");
                }
                match verdict {
                    Verdict::Sound(event) | Verdict::Mended(event) => {
                        self.kameo.on_connection_handler_event(peer, id, event);
                    }
                    Verdict::Refused(answer) => {
                        self.actions.extend(answer.map(|event| ToSwarm::NotifyHandler {
                            peer_id: peer,
                            handler: NotifyHandler::One(id),
                            event,
                        }));
                    }
                }
            }
            FromHandler::Panicked => {
                if let Some(count) = self.panics.add() {
                    warn!("Closed the connection to {peer}: what it sent makes its reader panic ({count} such so far)");
                }
                let connection = CloseConnection::One(id);
                self.actions.push_back(ToSwarm::CloseConnection { peer_id: peer, connection });
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(action) = self.actions.pop_front() {
            return Poll::Ready(action);
        }
        self.kameo.poll(context)
    }
}

/// Stands for an address that is no IP address.
const NO_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
