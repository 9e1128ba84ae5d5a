//! The protocols that a node runs, and their limits.

use std::{collections::HashSet, io, time::Duration};

use kameo::remote;
use libp2p::{
    PeerId,
    allow_block_list::{self, AllowedPeers, BlockedPeers},
    identity::PublicKey,
    mdns, ping,
    pnet::PreSharedKey,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};
use tokio::sync::mpsc;

pub use crate::crowd::PENDING;
use crate::{
    crowd::Crowd,
    guard::Guard,
    keep_alive::KeepAlive,
    protocol::{MAX_IN_FLIGHT, MAX_PAYLOAD},
    stream::{self, Inbound},
};

/// How often a node that measures nothing asks a peer for a sign of life.
///
/// A peer whose machine or link died without a word is forgotten after twice this time and twenty seconds: the
/// protocol forgives the first failure.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How long a node that measures nothing waits for a sign of life.
pub const SILENCE: Duration = Duration::from_secs(10);

/// The largest request that is read, in bytes: that of the largest payload. Kameo's CBOR writes a payload as a list of
/// integers, most of which take two bytes.
pub(crate) const MAX_REQUEST: u64 = 2 * MAX_PAYLOAD + 64 * 1024;

/// What distinguishes one node's behaviour from another's.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether the node accepts connections.
    pub listens: bool,
    /// Whether to find peers on the local network, and be found, by mDNS.
    pub mdns: bool,
    /// How many connections to hold.
    pub limits: Limits,
    /// How often to ask a peer for a sign of life, and with it measure the bare round trip of the connection.
    pub keep_alive: Duration,
    /// How long to wait for a sign of life. A peer is gone when two in a row stay away.
    pub silence: Duration,
    /// How long an answer to a request may take before it fails.
    pub request_timeout: Duration,
    /// Who may connect; without it, everybody.
    pub allowed: Option<HashSet<PeerId>>,
    /// The key of a private network; without it, the node is in the open one. There is no QUIC with it.
    pub secret: Option<PreSharedKey>,
    /// Where [`stream`]s go that peers open; without it, none are accepted.
    pub streams: Option<mpsc::UnboundedSender<Inbound>>,
}

/// How many connections a node holds at most. One that is too many is closed at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Inbound connections in all.
    pub connections: u32,
    /// Inbound connections from one IP address.
    pub per_address: u32,
    /// Connections to one peer. A dialer that tries two transports at once sets this to 1: the first one to connect wins,
    /// and no request can ever be put on the one that is about to be closed.
    pub per_peer: u32,
}

impl Limits {
    /// Those of a node that only dials.
    pub const DIALER: Self = Self { connections: 0, per_address: 0, per_peer: 1 };

    /// How many connections a server takes unless it is told otherwise: at some 50 kB for each that is idle, they fit into
    /// 100 MB.
    pub const CONNECTIONS: u32 = 2000;

    /// Those of a node that takes this many connections. One IP address may have three quarters of them, for many
    /// clients may share one behind a router, but not all; one peer a few, for a program that was killed and started
    /// again is connected twice until the first connection is missed.
    #[must_use]
    pub const fn listener(connections: u32) -> Self {
        Self { connections, per_address: connections - connections / 4, per_peer: 8 }
    }
}

/// The protocols of one node.
///
/// The limits come first: what they deny, the others never see.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) blocked: allow_block_list::Behaviour<BlockedPeers>,
    allowed: Toggle<allow_block_list::Behaviour<AllowedPeers>>,
    crowd: Crowd,
    pub(crate) kameo: Guard,
    pub(crate) streams: stream::behaviour::Behaviour,
    keep_alive: KeepAlive,
    pub(crate) mdns: Toggle<mdns::tokio::Behaviour>,
}

impl Behaviour {
    /// Puts the protocols together for the node with this key.
    ///
    /// # Errors
    ///
    /// When mDNS is wanted and the system does not let its network interfaces be watched.
    pub(crate) fn new(key: &PublicKey, options: Options) -> io::Result<Self> {
        let peer = key.to_peer_id();
        let messaging = remote::messaging::Config::default()
            .with_request_timeout(options.request_timeout)
            // A request's stream lives a little longer than the request.
            .with_max_concurrent_streams(2 * MAX_IN_FLIGHT as usize)
            .with_request_size_maximum(MAX_REQUEST);
        let allowed = options.allowed.map(|peers| {
            let mut allowed = allow_block_list::Behaviour::<AllowedPeers>::default();
            for peer in peers {
                allowed.allow_peer(peer);
            }
            allowed
        });
        let keep_alive = ping::Config::new().with_interval(options.keep_alive).with_timeout(options.silence);
        let mdns = options.mdns.then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), peer)).transpose()?;
        Ok(Self {
            blocked: allow_block_list::Behaviour::default(),
            allowed: allowed.into(),
            crowd: Crowd::new(options.limits),
            kameo: Guard::new(remote::Behaviour::new(peer, messaging)),
            streams: stream::behaviour::Behaviour::new(options.streams),
            keep_alive: KeepAlive::new(keep_alive),
            mdns: mdns.into(),
        })
    }
}
