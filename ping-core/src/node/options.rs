//! What distinguishes one node from another.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use libp2p::{PeerId, pnet::PreSharedKey};
use tokio::sync::mpsc;

use crate::{actor::Tally, cluster, hardening::Limits, keys::Certificate, stream::Inbound};

/// How often a node asks a peer for a sign of life by default.
///
/// A peer whose machine or link died without a word is dropped after some twice the sum of this and
/// [`KEEP_ALIVE_TIMEOUT`]: libp2p's ping protocol forgives the first failure, and nothing else may have arrived for
/// twice that time.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long a node waits for a sign of life by default.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an answer to a request may take by default.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How many bytes of memory its peers may make a node hold that only dials: the widest window of a QUIC
/// connection in a quarter of it, and four requests of the largest size, and their answers, some times over.
pub const DIALER_MEMORY: usize = 128 * 1024 * 1024;

/// The options of a node. The default is a node that only dials.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether the node accepts connections.
    pub listens: bool,
    /// Whether the node finds peers on the local network by mDNS, and can be found.
    pub mdns: bool,
    /// How many connections the node has at most.
    pub limits: Limits,
    /// How many bytes of memory peers may make the node hold.
    pub max_memory: usize,
    /// How often the node asks a peer for a sign of life, and with it measures the round trip of the connection.
    pub keep_alive_interval: Duration,
    /// How long the node waits for an answer to that. A peer from which nothing at all arrives for twice as long is
    /// gone.
    pub keep_alive_timeout: Duration,
    /// How long an answer to a request may take before the request fails.
    pub request_timeout: Duration,
    /// The peers that may connect; `None` for everyone.
    pub allowed: Option<HashSet<PeerId>>,
    /// The key of a private network; `None` for the open one. Transports that it cannot make private are not used.
    pub secret: Option<PreSharedKey>,
    /// How the node takes part in a cluster; `None` for not at all.
    pub cluster: Option<cluster::Options>,
    /// Whether the node can ask members about their directories without being one.
    pub asks_directories: bool,
    /// What the node shows to those that connect by WebSocket over TLS; `None` for one that it signs itself.
    pub certificate: Option<Certificate>,
    /// The addresses of this machine to dial from, over TCP alone; the system's choice if there are none.
    pub dial_from: Vec<IpAddr>,
    /// Whether the node reaches others, and can be reached, through relays.
    pub uses_relays: bool,
    /// Whether it connects directly to those that it has reached, or was reached by, through a relay.
    pub leaves_relays: bool,
    /// Gets the [`stream`](crate::stream)s that peers open; with `None`, the node accepts none.
    pub streams: Option<mpsc::UnboundedSender<Inbound>>,
    /// Learns which peers send pings, of those that Kameo carries.
    pub tally: Option<Tally>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listens: false,
            mdns: false,
            limits: Limits::DIALER,
            max_memory: DIALER_MEMORY,
            keep_alive_interval: KEEP_ALIVE_INTERVAL,
            keep_alive_timeout: KEEP_ALIVE_TIMEOUT,
            request_timeout: REQUEST_TIMEOUT,
            allowed: None,
            secret: None,
            cluster: None,
            asks_directories: false,
            certificate: None,
            dial_from: Vec::new(),
            uses_relays: false,
            leaves_relays: false,
            streams: None,
            tally: None,
        }
    }
}
