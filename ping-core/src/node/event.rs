//! What a node reports.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId};

use crate::{cluster, hardening::REFUSALS};

/// What a node tells its program, in the order in which it happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// The node can be reached at this address of this machine.
    Listening(Multiaddr),
    /// The node can no longer be reached at this address.
    StoppedListening(Multiaddr),
    /// The system did not let the node accept a connection. Reported at most once a second.
    AcceptFailed {
        /// The error of the system.
        error: String,
        /// How often it has happened so far.
        count: u64,
    },
    /// The node refused a connection, because a limit is reached or the peer may not connect. Reported at most once a
    /// second.
    Refused {
        /// Where it came from.
        address: Multiaddr,
        /// Why.
        reason: String,
        /// How often it has happened so far.
        count: u64,
    },
    /// A peer connected that had no connection.
    PeerConnected {
        /// Its identity.
        peer: PeerId,
        /// The address that it came from, or was reached at.
        address: Multiaddr,
        /// Whether this node dialed it.
        is_dialed: bool,
    },
    /// The last connection to a peer closed.
    PeerDisconnected {
        /// Its identity.
        peer: PeerId,
        /// The address that it was reported with when it connected.
        address: Multiaddr,
        /// How.
        ending: Ending,
    },
    /// A peer gave a sign of life.
    RoundTrip {
        /// Its identity.
        peer: PeerId,
        /// The round trip of the connection: libp2p's ping protocol, without any actor.
        time: Duration,
    },
    /// A relay has tried whether others reach this node where it is seen.
    Tested {
        /// Where.
        address: Multiaddr,
        /// The relay.
        by: PeerId,
        /// Whether it got there.
        is_reached: bool,
    },
    /// Something happened in the cluster.
    Cluster(cluster::Event),
    /// mDNS found a peer on the local network.
    Discovered {
        /// Its identity.
        peer: PeerId,
        /// One of the addresses that it says it listens on.
        address: Multiaddr,
    },
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// The other side closed it, or its system did.
    Left,
    /// This node closed it.
    Closed,
    /// The other side went silent.
    Silent,
    /// The other side does not know it any more.
    Forgotten,
    /// Otherwise.
    Failed,
}

impl Ending {
    /// Its name in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Closed => "closed",
            Self::Silent => "silent",
            Self::Forgotten => "forgotten",
            Self::Failed => "failed",
        }
    }
}

/// How often what is reported at most once a second has happened.
#[derive(Debug, Default)]
pub struct Incidents {
    /// Connections that were refused, by each of [`REFUSALS`].
    refused: [AtomicU64; REFUSALS.len()],
    /// Connections that the system could not accept.
    pub accept_failures: AtomicU64,
}

impl Incidents {
    /// A connection was refused for this reason.
    pub(super) fn on_refused(&self, why: &'static str) {
        if let Some(place) = REFUSALS.iter().position(|reason| *reason == why) {
            self.refused[place].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many connections were refused, by the limit that they are above, or `allow` if the peer may not connect.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REFUSALS.into_iter().zip(self.refused.each_ref().map(|count| count.load(Ordering::Relaxed)))
    }
}
