//! The protocols that a node runs, and their limits.

use std::{io, time::Duration};

use kameo::remote;
use libp2p::{
    identity::PublicKey,
    mdns, ping,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};
use libp2p_connection_limits::{self as connection_limits, ConnectionLimits};

use crate::guard::Guard;

/// How often a node asks an idle peer for a sign of life, and how long it waits for one.
///
/// A peer whose machine or link died without a word is thus forgotten within twice this time.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The largest request that is read, in bytes: Kameo's default, which the peers' own limit equals.
const MAX_REQUEST: u64 = 1024 * 1024;

/// What distinguishes one node's behaviour from another's.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether the node accepts connections.
    pub listens: bool,
    /// Whether to find peers on the local network, and be found, by mDNS.
    pub mdns: bool,
    /// How many connections to hold to one peer at most. A dialer that tries two transports at once sets this to 1:
    /// the first one to connect wins, and no request can ever be put on the one that is about to be closed.
    pub connections_per_peer: Option<u32>,
    /// How long an answer to a request may take before it fails.
    pub request_timeout: Duration,
}

/// The protocols of one node.
///
/// The limits come first: what they deny, the others never see.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    limits: connection_limits::Behaviour,
    pub(crate) kameo: Guard,
    keep_alive: ping::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
}

impl Behaviour {
    /// Puts the protocols together for the node with this key.
    ///
    /// # Errors
    ///
    /// When mDNS is wanted and the system does not let its network interfaces be watched.
    pub(crate) fn new(key: &PublicKey, options: Options) -> io::Result<Self> {
        let peer = key.to_peer_id();
        let limits = ConnectionLimits::default().with_max_established_per_peer(options.connections_per_peer);
        let messaging = remote::messaging::Config::default()
            .with_request_timeout(options.request_timeout)
            .with_request_size_maximum(MAX_REQUEST);
        let mdns = options.mdns.then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), peer)).transpose()?;
        Ok(Self {
            limits: connection_limits::Behaviour::new(limits),
            kameo: Guard::new(remote::Behaviour::new(peer, messaging)),
            keep_alive: ping::Behaviour::new(ping::Config::new().with_interval(KEEP_ALIVE).with_timeout(KEEP_ALIVE)),
            mdns: mdns.into(),
        })
    }
}
