//! A relay: a node that others find each other through when neither can be dialed (libp2p's circuit relay v2).
//!
//! It forwards bytes that it cannot read: the two ends secure their connection themselves. It hosts no actor.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm,
    core::upgrade::Version,
    identify,
    identity::Keypair,
    ping, relay,
    swarm::{self, NetworkBehaviour, SwarmEvent},
};

use super::dial_back::{DialBacks, Protocols};
use crate::{
    hardening::{ConnectionLimits, Limits, LogLimit, Memory},
    keys::Certificate,
    lock::lock,
    nat,
    node::{FairExecutor, KeepAlive},
    transport::{self, Signs},
};

/// How long a place lasts. Its holder asks for it again at three quarters of this time.
const RESERVATION_TIME: Duration = Duration::from_secs(60 * 60);

/// How long a connection without a place or a circuit lives. A server keeps one by which it learns where it is seen.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// How often the other side of each connection is asked for a sign of life, and how long that may take. A server whose
/// router has forgotten its connection makes another one, and clients must not be sent to the first.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How many circuits one IP address may begin at once, and after how long one more.
const MAX_CIRCUITS_PER_ADDRESS: u32 = 60;
const NEXT_CIRCUIT_AFTER: Duration = Duration::from_secs(1);

/// How many connections a client and a server may have through the relay at a time, each.
const MAX_CIRCUITS_PER_PEER: usize = 32;

/// The options of a relay.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// Who may have a place; `None` for everyone.
    pub allowed: Option<HashSet<PeerId>>,
    /// How many servers may have a place.
    pub reservations: usize,
    /// How many circuits there may be at a time.
    pub circuits: usize,
    /// How many bytes a circuit may carry, in both directions together.
    pub circuit_bytes: u64,
    /// How long a circuit may last; at most some 136 years.
    pub circuit_time: Duration,
    /// How many connections there may be.
    pub max_connections: u32,
    /// How many bytes of memory peers may make the relay hold.
    pub max_memory: usize,
    /// What it shows to those that connect by WebSocket over TLS; `None` for one that it signs itself.
    pub certificate: Option<Certificate>,
}

/// What happens on a relay.
#[derive(Debug)]
pub enum RelayEvent {
    /// It can be reached at this address.
    Listening(Multiaddr),
    /// It no longer can.
    StoppedListening(Multiaddr),
    /// A server got a place, or keeps it.
    Reserved {
        /// Who.
        peer: PeerId,
        /// Whether it had one before.
        renewed: bool,
    },
    /// A server lost its place.
    Unreserved(PeerId),
    /// A server got no place. Reported at most once a second.
    Denied {
        /// Who.
        peer: PeerId,
        /// How often it has happened so far.
        count: u64,
    },
    /// A client reached a server.
    CircuitOpened {
        /// The client.
        client: PeerId,
        /// The server.
        server: PeerId,
    },
    /// That ended.
    CircuitClosed {
        /// The client.
        client: PeerId,
        /// The server.
        server: PeerId,
    },
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    limits: ConnectionLimits,
    relay: relay::Behaviour,
    keep_alive: KeepAlive,
    /// Tells others at which address the relay sees them.
    identify: identify::Behaviour,
    /// Tells them whether they are reached there.
    dial_back: Protocols,
}

/// Who has a place, and on how many connections: a server whose router has forgotten one asks again on another.
type Holders = Arc<Mutex<HashMap<PeerId, usize>>>;

/// A running relay.
#[allow(missing_debug_implementations, reason = "the swarm has no Debug")]
pub struct Relay {
    swarm: Swarm<Behaviour>,
    holders: Holders,
    denials: LogLimit,
    /// The circuits between two peers.
    circuits: HashMap<(PeerId, PeerId), usize>,
    dial_backs: DialBacks,
    /// When anything of each peer last arrived.
    signs: Arc<Signs>,
}

impl Relay {
    /// A relay with this identity, which listens nowhere yet. Needs a Tokio runtime.
    ///
    /// # Errors
    ///
    /// When its transports cannot be set up.
    pub fn new(keypair: &Keypair, options: RelayOptions) -> io::Result<Self> {
        let peer = keypair.public().to_peer_id();
        let memory = Memory::new(options.max_memory);
        let signs = Arc::new(Signs::default());
        let certificate = options.certificate.clone();
        let setup =
            transport::Setup { certificate, ..transport::Setup::new(keypair, true, None, (memory, signs.clone())) };
        let transport = transport::new(&setup, None)?;
        let holders = Holders::default();
        let (dial_backs, dial_back) = DialBacks::new();
        let behaviour = Behaviour {
            limits: ConnectionLimits::new(Limits::listener(options.max_connections)),
            relay: relay::Behaviour::new(peer, config(&options, holders.clone())),
            keep_alive: KeepAlive::new(
                ping::Config::new().with_interval(KEEP_ALIVE_INTERVAL).with_timeout(KEEP_ALIVE_TIMEOUT),
            ),
            identify: nat::identify(keypair),
            dial_back,
        };
        let config = swarm::Config::with_executor(FairExecutor::default())
            // A server hears of a client half a round trip after the relay.
            .with_substream_upgrade_protocol_override(Version::V1Lazy)
            .with_idle_connection_timeout(IDLE_TIMEOUT);
        let swarm = Swarm::new(transport, behaviour, peer, config);
        Ok(Self { swarm, holders, denials: LogLimit::default(), circuits: HashMap::new(), dial_backs, signs })
    }

    /// Starts to listen on an address.
    ///
    /// # Errors
    ///
    /// When the system refuses, or the address names no transport that the relay uses.
    pub fn listen(&mut self, address: Multiaddr) -> io::Result<()> {
        self.swarm.listen_on(address).map(drop).map_err(io::Error::other)
    }

    /// Others reach the relay at this address. A server whose place is there tells it to its clients.
    pub fn add_external_address(&mut self, address: Multiaddr) {
        self.swarm.add_external_address(address);
    }

    /// How many circuits there are.
    pub fn circuits(&self) -> usize {
        self.circuits.values().sum()
    }

    /// Waits for the next event. The relay works only while this is awaited; dropping the future loses nothing.
    pub async fn next(&mut self) -> RelayEvent {
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => {
                    if let Some(event) = self.on_event(event) {
                        return event;
                    }
                }
                step = self.dial_backs.next() => {
                    let (dial, close) = self.dial_backs.on_step(step);
                    if let Some(id) = close {
                        self.swarm.close_connection(id);
                    }
                    if let Some(options) = dial {
                        let id = options.connection_id();
                        if self.swarm.dial(options).is_err() {
                            self.dial_backs.on_dial_failed(id);
                        }
                    }
                }
            }
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) -> Option<RelayEvent> {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => Some(RelayEvent::Listening(address)),
            SwarmEvent::ExpiredListenAddr { address, .. } => Some(RelayEvent::StoppedListening(address)),
            SwarmEvent::Behaviour(BehaviourEvent::Relay(event)) => self.on_relay_event(event),
            SwarmEvent::Behaviour(BehaviourEvent::KeepAlive(ping::Event { peer, connection, result })) => {
                // The first failure is forgiven by the protocol itself. Data may hold up an answer; of two connections,
                // the later one shows that the peer is there.
                let is_silent = || self.signs.last(&peer).is_none_or(|last| last.elapsed() >= KEEP_ALIVE_TIMEOUT);
                let is_dead = || is_silent() || self.dial_backs.has_later(&peer, connection);
                if matches!(result, Err(ping::Failure::Timeout)) && is_dead() {
                    self.swarm.close_connection(connection);
                }
                None
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                let protocols = &mut self.swarm.behaviour_mut().dial_back;
                if self.dial_backs.on_connected(protocols, (peer_id, connection_id), &endpoint) {
                    self.swarm.close_connection(connection_id);
                }
                None
            }
            SwarmEvent::ConnectionClosed { connection_id, .. } => {
                self.dial_backs.on_closed(connection_id);
                None
            }
            SwarmEvent::OutgoingConnectionError { connection_id, .. } => {
                self.dial_backs.on_dial_failed(connection_id);
                None
            }
            _ => None,
        }
    }

    fn on_relay_event(&mut self, event: relay::Event) -> Option<RelayEvent> {
        match event {
            relay::Event::ReservationReqAccepted { src_peer_id: peer, renewed } => {
                let is_renewed = renewed || lock(&self.holders).contains_key(&peer);
                *lock(&self.holders).entry(peer).or_default() += usize::from(!renewed);
                Some(RelayEvent::Reserved { peer, renewed: is_renewed })
            }
            relay::Event::ReservationClosed { src_peer_id } | relay::Event::ReservationTimedOut { src_peer_id } => {
                let mut holders = lock(&self.holders);
                let count = holders.get_mut(&src_peer_id)?;
                *count = count.saturating_sub(1);
                if *count > 0 {
                    return None;
                }
                holders.remove(&src_peer_id);
                Some(RelayEvent::Unreserved(src_peer_id))
            }
            relay::Event::ReservationReqDenied { src_peer_id: peer, .. } => {
                self.denials.count().map(|count| RelayEvent::Denied { peer, count })
            }
            relay::Event::CircuitReqAccepted { src_peer_id: client, dst_peer_id: server } => {
                *self.circuits.entry((client, server)).or_default() += 1;
                Some(RelayEvent::CircuitOpened { client, server })
            }
            relay::Event::CircuitClosed { src_peer_id: client, dst_peer_id: server, .. } => {
                if let Some(count) = self.circuits.get_mut(&(client, server)) {
                    *count -= 1;
                    if *count == 0 {
                        self.circuits.remove(&(client, server));
                    }
                }
                Some(RelayEvent::CircuitClosed { client, server })
            }
            _ => None,
        }
    }
}

fn config(options: &RelayOptions, holders: Holders) -> relay::Config {
    let RelayOptions { allowed, reservations, .. } = options.clone();
    // libp2p denies a renewal when all places are taken, because it counts the one that is renewed. So it gets twice
    // the places, and this decides.
    let admits = move |peer: PeerId, _: &Multiaddr, _: Instant| {
        let holders = lock(&holders);
        allowed.as_ref().is_none_or(|allowed| allowed.contains(&peer))
            && (holders.contains_key(&peer) || holders.len() < reservations)
    };
    let config = relay::Config {
        max_reservations: 2 * options.reservations,
        max_reservations_per_peer: 4,
        reservation_duration: RESERVATION_TIME,
        reservation_rate_limiters: vec![Box::new(admits)],
        max_circuits: options.circuits,
        max_circuits_per_peer: MAX_CIRCUITS_PER_PEER,
        max_circuit_duration: options.circuit_time,
        max_circuit_bytes: options.circuit_bytes,
        circuit_src_rate_limiters: Vec::new(),
    };
    let limit = std::num::NonZeroU32::new(MAX_CIRCUITS_PER_ADDRESS).unwrap_or(std::num::NonZeroU32::MIN);
    config.circuit_src_per_ip(limit, NEXT_CIRCUIT_AFTER)
}
