//! How statements spread: libp2p's gossipsub, on the links between members only.
//!
//! gossipsub tells every peer that connects which topics this node follows. Most peers are clients and follow none, so
//! it learns of a connection only when it is a link, and its handler is made only then: a member that dials another one
//! waits for the answer to its first beat before it speaks gossipsub.

use std::{
    collections::{HashMap, VecDeque},
    io,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{ConnectedPoint, Endpoint, transport::PortUse},
    gossipsub::{
        self, AllowAllSubscriptionFilter, IdentTopic, IdentityTransform, MessageAcceptance, MessageAuthenticity,
        MessageId, ValidationMode,
    },
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm, behaviour::ConnectionEstablished,
    },
};
use sha2::{Digest, Sha256};
use tracing::debug;

use super::{
    late::{Late, ToLate},
    record::MAX_STATEMENT,
};

/// The topic of statements.
const TOPIC: &str = "kameo-ping/members/1";

/// What a message takes besides its statement, in bytes.
const ENVELOPE: usize = 256;

/// How many messages wait for one slow peer. A newcomer of fifty that start at once causes some hundred.
const QUEUE: usize = 512;

/// How long a member that was pruned is not asked again. libp2p's default of a minute keeps a seed that all have pruned
/// out of the news for as long.
const PRUNE_BACKOFF: Duration = Duration::from_secs(2);

/// How many links may carry every statement. libp2p's default of 12 would prune half of a seed's.
const MAX_MESH: usize = 32;

/// For how long a statement that was heard is known again. libp2p's default of a minute keeps more ids than a flood of
/// them is worth.
const SEEN_LASTS: Duration = Duration::from_secs(20);

/// How many bytes of messages a link may carry at once, and how many a second. gossipsub keeps messages for five
/// seconds and their ids for [`SEEN_LASTS`], whatever they say: about 1 MiB for a link that floods.
const BURST: usize = 256 * 1024;
const BYTES_PER_SECOND: usize = 32 * 1024;

/// What each message counts at least, in bytes, for its place in gossipsub.
const MESSAGE_COST: usize = 256;

/// How many peers that dialed this node may be links, so that floods have a limit in all.
const MAX_INBOUND_LINKS: usize = 64;

/// What a peer sent. The library keeps the type private, but not its variants.
type FromPeer = THandlerOutEvent<Gossipsub>;

/// What happens besides what gossipsub does.
type Action = ToSwarm<gossipsub::Event, ToLate<THandler<Gossipsub>>>;

type Gossipsub = gossipsub::Behaviour<IdentityTransform, AllowAllSubscriptionFilter>;

/// gossipsub, of which only links are known.
pub(crate) struct Gossip {
    gossipsub: Gossipsub,
    topic: IdentTopic,
    /// The open connections that gossipsub has not learnt of.
    unknown: HashMap<PeerId, Vec<(ConnectionId, ConnectedPoint)>>,
    /// The peers of which it has, and how much each may send.
    links: HashMap<PeerId, Allowance>,
    actions: VecDeque<Action>,
}

/// How many more bytes a link may carry now, and since when that is counted.
struct Allowance {
    bytes: usize,
    counted: Instant,
    is_dialed: bool,
}

impl Allowance {
    /// Takes this many bytes of it, if there are as many.
    fn take(&mut self, bytes: usize) -> bool {
        let now = Instant::now();
        let more = now.saturating_duration_since(self.counted).as_secs_f64() * BYTES_PER_SECOND as f64;
        self.bytes = self.bytes.saturating_add(more as usize).min(BURST);
        self.counted = now;
        let rest = self.bytes.checked_sub(bytes);
        self.bytes = rest.unwrap_or(self.bytes);
        rest.is_some()
    }
}

/// What a message of gossipsub counts, in bytes.
fn cost(event: &FromPeer) -> usize {
    let FromPeer::Message { rpc, .. } = event else { return 0 };
    let messages: usize = rpc.messages.iter().map(|message| message.data.len() + MESSAGE_COST).sum();
    messages + MESSAGE_COST * (rpc.subscriptions.len() + rpc.control_msgs.len())
}

impl Gossip {
    /// # Errors
    ///
    /// When the configuration is not one.
    pub(super) fn new() -> io::Result<Self> {
        let config = gossipsub::ConfigBuilder::default()
            .validation_mode(ValidationMode::Anonymous)
            .validate_messages()
            .message_id_fn(|message| MessageId::new(&Sha256::digest(&message.data)))
            .max_transmit_size(MAX_STATEMENT + ENVELOPE)
            .connection_handler_queue_len(QUEUE)
            .prune_backoff(PRUNE_BACKOFF)
            .mesh_n_high(MAX_MESH)
            .duplicate_cache_time(SEEN_LASTS)
            .build()
            .map_err(io::Error::other)?;
        let mut gossipsub = Gossipsub::new(MessageAuthenticity::Anonymous, config).map_err(io::Error::other)?;
        let topic = IdentTopic::new(TOPIC);
        gossipsub.subscribe(&topic).map_err(io::Error::other)?;
        Ok(Self { gossipsub, topic, unknown: HashMap::new(), links: HashMap::new(), actions: VecDeque::new() })
    }

    /// The connections with this peer are links.
    pub(super) fn link(&mut self, peer_id: PeerId, is_dialed: bool) {
        let inbound = self.links.values().filter(|link| !link.is_dialed).count();
        if self.links.contains_key(&peer_id) || (!is_dialed && inbound >= MAX_INBOUND_LINKS) {
            return;
        }
        self.links.insert(peer_id, Allowance { bytes: BURST, counted: Instant::now(), is_dialed });
        let connections = self.unknown.remove(&peer_id).unwrap_or_default();
        for (other_established, (connection_id, endpoint)) in connections.iter().enumerate() {
            let Ok(new) = self.handler(*connection_id, peer_id, endpoint) else { continue };
            self.gossipsub.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id: *connection_id,
                endpoint,
                failed_addresses: &[],
                other_established,
            }));
            let handler = NotifyHandler::One(*connection_id);
            self.actions.push_back(ToSwarm::NotifyHandler { peer_id, handler, event: ToLate::Begin(Box::new(new)) });
        }
    }

    /// Makes the handler of a connection.
    fn handler(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        endpoint: &ConnectedPoint,
    ) -> Result<THandler<Gossipsub>, ConnectionDenied> {
        match endpoint {
            ConnectedPoint::Dialer { address, role_override, port_use } => {
                self.gossipsub.handle_established_outbound_connection(id, peer, address, *role_override, *port_use)
            }
            ConnectedPoint::Listener { local_addr, send_back_addr } => {
                self.gossipsub.handle_established_inbound_connection(id, peer, local_addr, send_back_addr)
            }
        }
    }

    /// Spreads a statement.
    pub(super) fn publish(&mut self, statement: &[u8]) {
        // There may be no link yet, and what was spread before need not be again.
        if let Err(reason) = self.gossipsub.publish(self.topic.clone(), statement) {
            debug!(%reason, "not spread");
        }
    }

    /// Says whether a statement that this peer passed on is to be passed on further.
    pub(super) fn judge(&mut self, id: &MessageId, from: &PeerId, acceptance: MessageAcceptance) {
        self.gossipsub.report_message_validation_result(id, from, acceptance);
    }
}

impl NetworkBehaviour for Gossip {
    type ConnectionHandler = Late<THandler<Gossipsub>>;
    type ToSwarm = gossipsub::Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if !self.links.contains_key(&peer) {
            return Ok(Late(None));
        }
        let handler = self.gossipsub.handle_established_inbound_connection(id, peer, local, remote)?;
        Ok(Late(Some(Box::new(handler))))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if !self.links.contains_key(&peer) {
            return Ok(Late(None));
        }
        let handler = self.gossipsub.handle_established_outbound_connection(id, peer, address, role, port)?;
        Ok(Late(Some(Box::new(handler))))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, endpoint, .. })
                if !self.links.contains_key(&peer_id) =>
            {
                // Almost every peer has one connection.
                let connections = self.unknown.entry(peer_id).or_insert_with(|| Vec::with_capacity(1));
                connections.push((connection_id, endpoint.clone()));
                return;
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, remaining_established, .. }) => {
                let was_unknown = self.unknown.get_mut(&peer_id).is_some_and(|connections| {
                    let place = connections.iter().position(|(id, _)| *id == connection_id);
                    place.map(|place| connections.remove(place)).is_some()
                });
                if remaining_established == 0 {
                    self.unknown.remove(&peer_id);
                    self.links.remove(&peer_id);
                }
                if was_unknown {
                    return;
                }
            }
            _ => {}
        }
        self.gossipsub.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.link(peer, false);
        if self.links.get_mut(&peer).is_some_and(|link| link.take(cost(&event))) {
            self.gossipsub.on_connection_handler_event(peer, id, event);
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(action) = self.actions.pop_front() {
            return Poll::Ready(action);
        }
        self.gossipsub.poll(context).map(|event| event.map_in(ToLate::Event))
    }
}
