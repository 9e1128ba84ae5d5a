//! Direct connections beside those through a relay.
//!
//! The node that was reached proposes one ([`crate::nat`] has the exchange); the one that dialed the relay makes it,
//! and decides what to do with the two.

mod asking;

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    future::pending,
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, OptionFuture},
    stream::FuturesUnordered,
};
use libp2p::{
    Multiaddr, PeerId, Swarm,
    core::{ConnectedPoint, Endpoint, transport::PortUse},
    identify,
    swarm::ConnectionId,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};
use tracing::debug;

use super::{Connection, DialError, DialReply, behaviour::Behaviour, boxed::Boxed};
use crate::{
    nat::{
        is_circuit,
        mapping_behaviour::{MappingBehaviour, reason},
        punch::{Offer, answer, dialable, propose},
        reachability::Nonces,
    },
    stream::{Ended, Inbound},
    transport::{Arrivals, Transport, endpoint},
};
use asking::Tested;

/// How often a node proposes it. In the wild, 97.6 % of those that succeed at all do at the first attempt
/// (arXiv 2510.27500).
const ATTEMPTS: u32 = 2;

/// How many proposals of one peer are answered while it is connected: libp2p's own nodes make three.
const MAX_PROPOSALS: u32 = 3;

/// How long an attempt may take: longer than a connection from a port that is used again.
const ATTEMPT_TIME: Duration = Duration::from_secs(5);

/// How long the attempts of the other side may take in all.
const ATTEMPTS_TIME: Duration = Duration::from_secs(11);

/// Gets the direct connection to a peer, or the reason why there is none.
pub(in crate::node) type DirectReply = oneshot::Sender<Result<Connection, String>>;

/// What this node knows of one of its connections.
struct Link {
    peer: PeerId,
    is_dialed: bool,
    is_relayed: bool,
    /// Whether it leaves from the port that this node uses for every connection that shows its address.
    reuses_port: bool,
    /// At which address the other side sees this node.
    observed: Option<Multiaddr>,
}

impl Link {
    /// Whether others may reach this node where the other side sees it.
    fn shows_address(&self) -> bool {
        self.is_dialed && !self.is_relayed && self.reuses_port
    }
}

/// The proposals of one peer.
#[derive(Default)]
struct Proposals {
    count: u32,
    /// How its router maps, as it says.
    mapping: MappingBehaviour,
}

/// What is done next.
pub(in crate::node) enum Step {
    /// A peer proposes a direct connection.
    Answer(Inbound),
    /// The two sides have told each other where they are.
    Exchanged { peer: PeerId, role: Endpoint, outcome: io::Result<Offer> },
    /// It may be time for another attempt through this connection.
    Propose { via: ConnectionId, attempt: u32 },
    /// One of the dials that follow has ended.
    Dialed { peer: PeerId, role: Endpoint, outcome: Result<Connection, DialError> },
    /// It has taken too long.
    GiveUp(PeerId),
    /// A relay came back, to find out whether this node is reached.
    CameBack(Inbound),
    /// A relay has found out.
    Tested { address: Multiaddr, by: PeerId, is_reached: bool },
    /// None has, and one may be asked again.
    NotTested(Multiaddr),
    /// Nothing.
    Done,
}

/// The attempts of one node.
pub(in crate::node) struct Punching {
    links: HashMap<ConnectionId, Link>,
    proposals: mpsc::UnboundedReceiver<Inbound>,
    /// Relays that come back, of a node that asks whether it is reached.
    returns: Option<mpsc::UnboundedReceiver<Inbound>>,
    nonces: Nonces,
    /// Those that were asked for a place.
    relays: HashSet<PeerId>,
    /// The addresses that relays have tried, or are to try.
    tested: Tested,
    arrivals: Arc<Arrivals>,
    steps: FuturesUnordered<BoxFuture<'static, Step>>,
    /// What each peer has proposed.
    answered: HashMap<PeerId, Proposals>,
    /// Who waits for a direct connection to a peer, and until when.
    waiting: HashMap<PeerId, (Instant, DirectReply)>,
    /// Those that were made before anybody waited.
    ready: HashMap<PeerId, Connection>,
}

impl Punching {
    /// With the proposals that peers make, the relays that come back if the node asks whether it is reached, and what
    /// lets in a peer that is dialed.
    pub(in crate::node) fn new(
        proposals: mpsc::UnboundedReceiver<Inbound>,
        returns: Option<mpsc::UnboundedReceiver<Inbound>>,
        arrivals: Arc<Arrivals>,
    ) -> Self {
        Self {
            links: HashMap::new(),
            proposals,
            returns,
            nonces: Nonces::default(),
            relays: HashSet::new(),
            tested: Tested::default(),
            arrivals,
            steps: FuturesUnordered::new(),
            answered: HashMap::new(),
            waiting: HashMap::new(),
            ready: HashMap::new(),
        }
    }

    pub(in crate::node) fn on_connected(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let (is_dialed, is_relayed) = (endpoint.is_dialer(), endpoint.is_relayed());
        let reuses_port = matches!(endpoint, ConnectedPoint::Dialer { port_use: PortUse::Reuse, .. });
        self.links.insert(id, Link { peer, is_dialed, is_relayed, reuses_port, observed: None });
        if is_relayed && !is_dialed {
            self.steps.push(async move { Step::Propose { via: id, attempt: 1 } }.boxed());
        }
    }

    pub(in crate::node) fn on_closed(&mut self, id: ConnectionId) {
        let Some(link) = self.links.remove(&id) else { return };
        if !self.links.values().any(|other| other.peer == link.peer) {
            self.answered.remove(&link.peer);
            self.ready.remove(&link.peer);
        }
    }

    /// A peer may say at which address it sees this node.
    pub(in crate::node) fn on_identified(&mut self, swarm: &mut Swarm<Behaviour>, event: &identify::Event) {
        if let identify::Event::Received { connection_id, info, .. } = event
            && let Some(link) = self.links.get_mut(connection_id)
        {
            link.observed = Some(info.observed_addr.clone());
            if link.shows_address() && self.relays.contains(&link.peer) {
                let peer = link.peer;
                self.ask(swarm, (peer, *connection_id), &info.observed_addr);
            }
        }
    }

    /// Waits for a direct connection to a peer that is connected through a relay.
    pub(in crate::node) fn wait(&mut self, swarm: &mut Swarm<Behaviour>, peer: PeerId, reply: DirectReply) {
        match self.ready.remove(&peer) {
            Some(connection) => hand_over(swarm, connection, reply),
            None => {
                self.waiting.insert(peer, (Instant::now() + ATTEMPTS_TIME, reply));
                self.steps.push(sleep(ATTEMPTS_TIME).map(move |()| Step::GiveUp(peer)).boxed());
            }
        }
    }

    /// Waits for the next step. Never resolves if there is none.
    pub(in crate::node) async fn next(&mut self) -> Step {
        tokio::select! {
            Some(step) = self.steps.next() => step,
            Some(proposal) = self.proposals.recv() => Step::Answer(proposal),
            Some(Some(inbound)) = OptionFuture::from(self.returns.as_mut().map(mpsc::UnboundedReceiver::recv)) => {
                Step::CameBack(inbound)
            }
            else => pending().await,
        }
    }

    /// Answers a peer that proposes a direct connection.
    pub(in crate::node) fn answer(&mut self, swarm: &Swarm<Behaviour>, Inbound { peer, stream, place, .. }: Inbound) {
        let proposals = self.answered.entry(peer).or_default();
        proposals.count = proposals.count.saturating_add(1);
        if proposals.count > MAX_PROPOSALS {
            return;
        }
        let own = self.offer(swarm);
        let answer = async move {
            let outcome = answer(stream, own).await;
            drop(place);
            Step::Exchanged { peer, role: Endpoint::Dialer, outcome }
        };
        self.steps.push(answer.boxed());
    }

    /// Proposes a direct connection, unless there is one, or the one through the relay is gone.
    pub(in crate::node) fn propose(&mut self, swarm: &mut Swarm<Behaviour>, via: ConnectionId, attempt: u32) {
        let Some(&Link { peer, .. }) = self.links.get(&via) else { return };
        let is_direct = self.links.values().any(|link| link.peer == peer && !link.is_relayed);
        let own = self.offer(swarm);
        let circuits = swarm.behaviour_mut().circuits.as_mut();
        let Some(punch) = circuits
            .and_then(|Boxed(circuits)| circuits.punch.as_mut())
            .filter(|_| !is_direct && !own.addresses.is_empty())
        else {
            return;
        };
        let (opening, opened) = oneshot::channel();
        punch.open(peer, via, opening);
        let exchange = async move {
            let outcome = match opened.await.unwrap_or(Err(Ended::NotConnected)) {
                Ok(stream) => propose(stream, own).await,
                Err(ended) => Err(io::Error::other(ended)),
            };
            Step::Exchanged { peer, role: Endpoint::Listener, outcome }
        };
        self.steps.push(exchange.boxed());
        if attempt < ATTEMPTS {
            let again = Step::Propose { via, attempt: attempt + 1 };
            self.steps.push(sleep(ATTEMPT_TIME).map(move |()| again).boxed());
        }
    }

    /// The dials to make after this exchange, and what gets their outcomes.
    pub(in crate::node) fn dials(
        &mut self,
        peer: PeerId,
        role: Endpoint,
        outcome: io::Result<Offer>,
    ) -> Vec<(Multiaddr, DialReply)> {
        let Offer { addresses, mapping } = match outcome {
            Ok(offer) => offer,
            Err(error) => {
                debug!(%peer, %error, "no direct connection");
                return Vec::new();
            }
        };
        if let Some(proposals) = self.answered.get_mut(&peer) {
            proposals.mapping = mapping;
        }
        let networks = if_addrs::get_if_addrs().unwrap_or_default();
        let addresses = dialable(addresses, |ip| networks.iter().any(|network| contains(&network.addr, ip)));
        // The other side's router lets in only what comes from where this node is seen.
        let is_seen = |by| self.seen().any(|own| Transport::of(&own) == by);
        let is_open = |address: &Multiaddr| role.is_listener() || is_seen(Transport::of(address));
        let addresses: Vec<_> = addresses.into_iter().filter(is_open).collect();
        // A node that listens accepts these connections anyway.
        if role.is_dialer() && self.returns.is_none() {
            addresses.iter().for_each(|address| self.arrivals.expect(address));
        }
        addresses.into_iter().map(|address| (address, self.follow(peer, role))).collect()
    }

    /// Where the peer at this address came from while it was dialed there, if it did.
    pub(in crate::node) fn arrival(&self, dialed: &Multiaddr) -> Option<Multiaddr> {
        self.arrivals.take(dialed)
    }

    fn follow(&mut self, peer: PeerId, role: Endpoint) -> DialReply {
        let (reply, dialed) = oneshot::channel();
        let outcome = async move {
            let outcome = dialed.await.unwrap_or(Err(DialError::Stopped));
            Step::Dialed { peer, role, outcome }
        };
        self.steps.push(outcome.boxed());
        reply
    }

    /// A dial has ended. Of several connections, the first one is of use.
    pub(in crate::node) fn on_dialed(
        &mut self,
        swarm: &mut Swarm<Behaviour>,
        peer: PeerId,
        outcome: Result<Connection, DialError>,
    ) {
        let connection = match outcome {
            Ok(connection) => connection,
            Err(error) => return debug!(%peer, %error, "no direct connection"),
        };
        if let Some((_, reply)) = self.waiting.remove(&peer) {
            hand_over(swarm, connection, reply);
        } else if let Some(unneeded) = self.ready.insert(peer, connection) {
            swarm.close_connection(unneeded.id);
        }
    }

    /// No direct connection came about in time.
    pub(in crate::node) fn give_up(&mut self, swarm: &Swarm<Behaviour>, peer: PeerId) {
        let now = Instant::now();
        if let Entry::Occupied(waiting) = self.waiting.entry(peer)
            && waiting.get().0 <= now
        {
            let (_, reply) = waiting.remove();
            let reason = match self.answered.get(&peer) {
                Some(Proposals { mapping, .. }) => reason(self.mapping(swarm), *mapping),
                None => "the server proposed none",
            };
            let _ = reply.send(Err(reason.into()));
        }
    }

    /// How this side's router maps, from where those see this node that it has dialed.
    fn mapping(&self, swarm: &Swarm<Behaviour>) -> MappingBehaviour {
        // A connection may leave from any of several QUIC listeners.
        let listening = swarm.listeners().filter_map(endpoint);
        let is_quic = |&(ip, _, transport): &(IpAddr, _, _)| ip.is_ipv4() && transport == Transport::Quic;
        let quic_ports: HashSet<u16> = listening.filter(is_quic).map(|(_, port, _)| port).collect();
        let leaves_from_one_port = |address: &Multiaddr| match Transport::of(address) {
            Some(Transport::Tcp) => self.arrivals.leaves_from_one_port(),
            Some(Transport::Quic) => quic_ports.len() <= 1,
            _ => false,
        };
        // Of several connections with one peer, the last. A router may forget one that is silent.
        let mut dialed: Vec<_> = self.links.iter().filter(|(_, link)| link.shows_address()).collect();
        dialed.sort_by_key(|(id, _)| **id);
        let seen = dialed.into_iter().filter_map(|(_, link)| {
            let address = link.observed.clone()?;
            Some(((link.peer, Transport::of(&address)), address))
        });
        let seen: HashMap<_, _> = seen.collect();
        MappingBehaviour::of(seen.into_values().filter(leaves_from_one_port))
    }

    /// Where those see this node that it has dialed.
    fn seen(&self) -> impl Iterator<Item = Multiaddr> {
        let dialed = self.links.values().filter(|link| link.shows_address());
        dialed.filter_map(|link| link.observed.clone())
    }

    /// What this node tells a peer that is to connect directly.
    fn offer(&self, swarm: &Swarm<Behaviour>) -> Offer {
        Offer { addresses: self.own_addresses(swarm), mapping: self.mapping(swarm) }
    }

    /// Where others may reach this node: where those see it that it has dialed, and where it listens.
    fn own_addresses(&self, swarm: &Swarm<Behaviour>) -> Vec<Multiaddr> {
        let mut own: Vec<_> = self.seen().collect();
        own.sort();
        own.dedup();
        let listening = swarm.listeners().filter(|address| !is_circuit(address));
        own.extend(listening.cloned());
        own.retain(|address| Transport::of(address).is_some_and(Transport::is_usual));
        own
    }
}

/// Gives the direct connection to who waits for it. From now on, requests go there.
fn hand_over(swarm: &mut Swarm<Behaviour>, connection: Connection, reply: DirectReply) {
    let (peer, id) = (connection.peer, connection.id);
    swarm.behaviour_mut().kameo.prefer(peer, id);
    if reply.send(Ok(connection)).is_err() {
        swarm.close_connection(id);
    }
}

/// Whether an interface is in the same network as an address.
fn contains(interface: &if_addrs::IfAddr, ip: IpAddr) -> bool {
    match (interface, ip) {
        (if_addrs::IfAddr::V4(own), IpAddr::V4(ip)) => {
            let mask = u32::from(own.netmask);
            u32::from(own.ip) & mask == u32::from(ip) & mask
        }
        (if_addrs::IfAddr::V6(own), IpAddr::V6(ip)) => {
            let mask = u128::from(own.netmask);
            u128::from(own.ip) & mask == u128::from(ip) & mask
        }
        _ => false,
    }
}
