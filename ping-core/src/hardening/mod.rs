//! Keeps a node alive and bounded, whatever its peers send.
//!
//! | limit | value | where |
//! |---|---|---|
//! | connections, in all, per address, per peer, in their handshake | [`Limits`], [`MAX_PENDING`] | `connections` |
//! | memory that peers make the node hold, per connection and in all | half of the limit, the limit | `memory` |
//! | registrations of other peers, in all, per address, per name | 256, 16, 4 | [`registry`](crate::registry) |
//! | log lines of one kind that peers can provoke | 1 a second | `log_limit` |
//!
//! `GuardedKameo` stands between the network and Kameo's protocols. It keeps messages about links away from actors, and
//! all requests to the registry away from Kameo; a handler that panics costs only its own connection (`panics`). What
//! answers this node's own requests is of the kind that they ask for (`answers`).

mod answers;
mod connections;
mod lines;
mod log_limit;
mod memory;
mod negotiation;
mod panics;
mod request_memory;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::{IpAddr, Ipv4Addr},
    task::{Context, Poll},
};

use kameo::{actor::ActorId, remote, remote::messaging::SwarmRequest};
use libp2p::{
    Multiaddr, PeerId,
    core::{ConnectedPoint, Endpoint, transport::PortUse},
    swarm::{
        CloseConnection, ConnectionClosed, ConnectionDenied, ConnectionId, DialError, DialFailure, FromSwarm,
        NetworkBehaviour, NewExternalAddrOfPeer, NotifyHandler, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::ConnectionEstablished, dial_opts::DialOpts,
    },
};
use tracing::warn;

#[doc(hidden)]
pub use answers::is_answered;
pub(crate) use connections::{ConnectionLimits, REFUSALS, refusal};
pub use connections::{Limits, MAX_PENDING};
pub use log_limit::LogLimit;
pub(crate) use memory::{ConnectionMemory, Memory, Part};
pub use panics::culprit;
pub(crate) use panics::install_panic_hook;
pub(crate) use request_memory::Metered;

use crate::{
    actor::{Carrier, PINGS, Tally},
    registry::{Outcome, Registry},
};
use connections::ip_address;
use lines::Lines;
use panics::{FromHandler, Isolated};

/// Stands for an address that is not an IP address.
const NO_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// An actor id that no actor has. Kameo answers messages to it as to an actor that has stopped.
const NO_ACTOR: u64 = u64::MAX;

/// What a peer sent over either of Kameo's protocols.
type FromPeer = THandlerOutEvent<remote::Behaviour>;

/// What a node sends over either of Kameo's protocols.
type ToPeer = THandlerInEvent<remote::Behaviour>;

/// What a peer sent over the messaging protocol. The libraries keep these types private, but not their variants.
type Message = THandlerOutEvent<remote::messaging::Behaviour>;

/// Kameo's protocols, guarded.
///
/// A node that only dials has the connections that it made itself, and no others: Kameo would dial a peer again that it
/// has lost, and nothing would use or close that connection.
///
/// Besides, it hides two kinds of events that Kameo misunderstands:
/// - A peer is dialed several times at once, over several transports or while a link recovers, and all dials but one
///   fail. Kameo takes a failed dial for the loss of the peer, and would fail every request and look-up on the
///   connection that works.
/// - Kameo's registry dials every peer whose address it learns, and mDNS would tell it those of the whole network. It
///   learns only the addresses that the node has connected to.
#[allow(missing_debug_implementations, reason = "Kameo's behaviour has no Debug")]
pub(crate) struct GuardedKameo {
    kameo: remote::Behaviour,
    connected: HashSet<PeerId>,
    /// The outbound dials in progress, of every protocol of the node.
    dials: HashMap<ConnectionId, PeerId>,
    /// The remote IP address of each connection.
    addresses: HashMap<ConnectionId, IpAddr>,
    registry: Registry,
    /// Connections to close because their handler panicked, and answers of the registry.
    actions: VecDeque<ToSwarm<remote::Event, ToPeer>>,
    rejections: LogLimit,
    panics: LogLimit,
    /// Learns who sends pings.
    tally: Option<Tally>,
    /// Several connections to one peer, if the node only dials.
    lines: Option<Lines>,
}

impl GuardedKameo {
    pub(crate) fn new(kameo: remote::Behaviour, registry: Registry, tally: Option<Tally>, listens: bool) -> Self {
        Self {
            kameo,
            connected: HashSet::new(),
            dials: HashMap::new(),
            addresses: HashMap::new(),
            registry,
            actions: VecDeque::new(),
            rejections: LogLimit::default(),
            panics: LogLimit::default(),
            tally,
            lines: (!listens).then(Lines::default),
        }
    }

    /// From now on, requests to this peer go to this connection.
    pub(crate) fn prefer(&mut self, peer: PeerId, id: ConnectionId) {
        self.lines.iter_mut().for_each(|lines| lines.prefer(peer, id));
    }

    /// Whether requests to this peer go to another connection than this one.
    pub(crate) fn has_left(&self, peer: &PeerId, id: ConnectionId) -> bool {
        self.lines.as_ref().is_some_and(|lines| lines.has_left(peer, id))
    }

    /// Tells the registry that a peer can be reached at this address.
    pub(crate) fn learn(&mut self, peer_id: PeerId, addr: &Multiaddr) {
        self.kameo.on_swarm_event(FromSwarm::NewExternalAddrOfPeer(NewExternalAddrOfPeer { peer_id, addr }));
    }

    /// The guarded protocols.
    pub(crate) fn kameo(&self) -> &remote::Behaviour {
        &self.kameo
    }

    fn on_message(&mut self, peer: PeerId, id: ConnectionId, message: FromPeer) {
        let (passed, is_sound) = match message {
            FromPeer::Left(Message::Request { request_id, request, sender }) => {
                if let (Some(tally), Some(by)) = (&self.tally, carrier_of_ping(&request)) {
                    tally.add(peer, 1, by);
                }
                let (request, is_sound) = without_links(request);
                (Some(FromPeer::Left(Message::Request { request_id, request, sender })), is_sound)
            }
            FromPeer::Left(answer) => (Some(FromPeer::Left(answer)), true),
            FromPeer::Right(message) => {
                let address = self.addresses.get(&id).copied().unwrap_or(NO_ADDRESS);
                let kameo = &mut self.kameo.registry;
                let (outcome, is_sound) = self.registry.on_message(peer, address, &self.connected, kameo, message);
                let passed = match outcome {
                    Outcome::Pass(message) => Some(FromPeer::Right(message)),
                    Outcome::Answer(event) => {
                        let (handler, event) = (NotifyHandler::One(id), ToPeer::Right(event));
                        self.actions.push_back(ToSwarm::NotifyHandler { peer_id: peer, handler, event });
                        None
                    }
                    Outcome::Done => None,
                };
                (passed, is_sound)
            }
        };
        if !is_sound && let Some(count) = self.rejections.count() {
            warn!("Rejected a registry or link request from {peer} ({count} so far)");
        }
        if let Some(message) = passed {
            let known = self.lines.as_ref().map_or(id, |lines| lines.known(&peer, id));
            self.kameo.on_connection_handler_event(peer, known, message);
        }
    }

    /// Kameo dials a peer that it has a request for and no connection to. The request fails instead.
    fn refuse_dial(&mut self, opts: &DialOpts) {
        if let Some(peer) = opts.get_peer_id().filter(|peer| !self.connected.contains(peer)) {
            let (error, connection_id) = (&DialError::Aborted, opts.connection_id());
            let failure = DialFailure { peer_id: Some(peer), error, connection_id };
            self.kameo.on_swarm_event(FromSwarm::DialFailure(failure));
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
            FromSwarm::DialFailure(DialFailure { peer_id: Some(peer), connection_id, .. }) => {
                self.dials.remove(&connection_id);
                if self.connected.contains(&peer) || self.dials.values().any(|dialed| *dialed == peer) {
                    return;
                }
            }
            FromSwarm::NewExternalAddrOfPeer(_) => return,
            FromSwarm::ConnectionEstablished(
                established @ ConnectionEstablished { peer_id, connection_id, endpoint, .. },
            ) => {
                self.connected.insert(peer_id);
                self.dials.remove(&connection_id);
                self.addresses.insert(connection_id, ip_address(endpoint.get_remote_address()).unwrap_or(NO_ADDRESS));
                if self.lines.as_mut().is_some_and(|lines| !lines.on_established(&established)) {
                    return;
                }
            }
            FromSwarm::ConnectionClosed(
                closed @ ConnectionClosed { peer_id, connection_id, remaining_established, .. },
            ) => {
                self.addresses.remove(&connection_id);
                if remaining_established == 0 {
                    self.connected.remove(&peer_id);
                    self.registry.on_disconnected(&self.connected);
                }
                if let Some(lines) = &mut self.lines {
                    return lines.on_closed(&mut self.kameo, &closed);
                }
            }
            _ => {}
        }
        self.kameo.on_swarm_event(event);
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let handler = self.kameo.handle_established_inbound_connection(id, peer, local, remote)?;
        if let Some(lines) = &self.lines {
            let endpoint = ConnectedPoint::Listener { local_addr: local.clone(), send_back_addr: remote.clone() };
            lines.hide(&mut self.kameo, peer, id, &endpoint);
        }
        Ok(Isolated::new(handler))
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let known = self.kameo.handle_pending_outbound_connection(id, peer, addresses, role)?;
        self.dials.extend(peer.map(|peer| (id, peer)));
        Ok(known)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let handler = self.kameo.handle_established_outbound_connection(id, peer, address, role, port)?;
        if let Some(lines) = &self.lines {
            let endpoint = ConnectedPoint::Dialer { address: address.clone(), role_override: role, port_use: port };
            lines.hide(&mut self.kameo, peer, id, &endpoint);
        }
        Ok(Isolated::new(handler))
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
        loop {
            return match (self.kameo.poll(context), &self.lines) {
                (Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event }), Some(lines)) => {
                    let handler = lines.route(&peer_id, handler);
                    Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event })
                }
                (Poll::Ready(ToSwarm::Dial { opts }), Some(_)) => {
                    self.refuse_dial(&opts);
                    continue;
                }
                (polled, _) => polled,
            };
        }
    }
}

/// How a request carries a ping, if it does.
fn carrier_of_ping(request: &SwarmRequest) -> Option<Carrier> {
    let (id, by) = match request {
        SwarmRequest::Ask { message_remote_id, .. } => (message_remote_id, Carrier::Ask),
        SwarmRequest::Tell { message_remote_id, .. } => (message_remote_id, Carrier::Tell),
        _ => return None,
    };
    PINGS.contains(&id.as_ref()).then_some(by)
}

/// Readdresses messages about links to no actor, because no actor here is linked; returns whether the request is sound.
/// Any peer could announce the death of any actor otherwise. Kameo answers that the actor has stopped.
fn without_links(request: SwarmRequest) -> (SwarmRequest, bool) {
    let actor_id = ActorId::new(NO_ACTOR);
    let request = match request {
        SwarmRequest::Ask { .. } | SwarmRequest::Tell { .. } => return (request, true),
        SwarmRequest::Link { actor_remote_id, sibling_id, sibling_remote_id, .. } => {
            SwarmRequest::Link { actor_id, actor_remote_id, sibling_id, sibling_remote_id }
        }
        SwarmRequest::Unlink { actor_remote_id, sibling_id, .. } => {
            SwarmRequest::Unlink { actor_id, actor_remote_id, sibling_id }
        }
        SwarmRequest::SignalLinkDied { dead_actor_id, notified_actor_remote_id, stop_reason, .. } => {
            SwarmRequest::SignalLinkDied {
                dead_actor_id,
                notified_actor_id: actor_id,
                notified_actor_remote_id,
                stop_reason,
            }
        }
    };
    (request, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_cannot_announce_the_death_of_an_actor() {
        let actor = ActorId::new_with_peer_id(1, PeerId::random());
        let signal = SwarmRequest::SignalLinkDied {
            dead_actor_id: actor,
            notified_actor_id: actor,
            notified_actor_remote_id: "my_app::MyActor".into(),
            stop_reason: kameo::error::ActorStopReason::Killed,
        };
        match without_links(signal) {
            (SwarmRequest::SignalLinkDied { notified_actor_id, .. }, false) => assert_ne!(notified_actor_id, actor),
            other => panic!("{other:?}"),
        }
    }
}
