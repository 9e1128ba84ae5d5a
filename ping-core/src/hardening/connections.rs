//! Connection limits: in all, from one IP address, with one peer, and while they are being secured.
//!
//! libp2p-connection-limits has no limit by address, and keeps an entry for every peer it has ever seen.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    error::Error,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{ConnectedPoint, Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionId, DialFailure, FromSwarm, ListenFailure, NetworkBehaviour,
        THandler, THandlerInEvent, THandlerOutEvent, ToSwarm, behaviour::ConnectionEstablished, dummy,
    },
};

/// How many inbound connections may be in their handshake, over TCP and over UDP each. The sender of a UDP packet can
/// be forged, and such connections must not keep those over TCP out. A handshake ends after a few round trips, or
/// after 14 s.
pub const MAX_PENDING: usize = 512;

/// How many of them may come from one IP address, so that it cannot keep all others out.
const MAX_PENDING_PER_ADDRESS: usize = 128;

/// How many connections a node has at most. One more is closed at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Inbound connections in all.
    pub connections: u32,
    /// Inbound connections from one IP address.
    pub per_address: u32,
    /// Connections with one peer. A dialer that tries several transports at once sets this to 1: the first to connect
    /// wins, and no request can be put on one that is about to be closed.
    pub per_peer: u32,
}

impl Limits {
    /// The limits of a node that only dials.
    pub const DIALER: Self = Self { connections: 0, per_address: 0, per_peer: 1 };

    /// How many connections a listener accepts by default. An idle one takes some 50 kB, so they fit in 100 MB.
    pub const DEFAULT_CONNECTIONS: u32 = 2000;

    /// The limits of a node that accepts this many connections.
    ///
    /// One IP address may have three quarters of them: many clients may share an address behind a router, but no
    /// address may have all. One peer may have eight: a program that was killed and restarted is connected twice
    /// until its first connection is missed.
    #[must_use]
    pub const fn listener(connections: u32) -> Self {
        Self { connections, per_address: connections - connections / 4, per_peer: 8 }
    }
}

/// Counts connections, and denies those above the limits.
#[derive(Debug)]
pub(crate) struct ConnectionLimits {
    limits: Limits,
    /// The inbound connections that are in their handshake.
    pending: HashMap<ConnectionId, Origin>,
    inbound: u32,
    by_address: HashMap<IpAddr, u32>,
    by_peer: HashMap<PeerId, u32>,
    /// Dials that may make one connection more than a peer may have.
    spares: HashSet<ConnectionId>,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug)]
struct Origin {
    ip: Option<IpAddr>,
    is_udp: bool,
}

impl Origin {
    fn of(remote: &Multiaddr) -> Self {
        Self { ip: ip_address(remote), is_udp: remote.iter().any(|part| matches!(part, Protocol::Udp(_))) }
    }
}

/// Why a connection is denied.
#[derive(Debug, thiserror::Error)]
enum TooMany {
    #[error("{0} connections are in their handshake already")]
    Pending(usize),
    #[error("{0} connections from its IP address are in their handshake already")]
    PendingFromAddress(usize),
    #[error("the limit of connections, {0}, is reached")]
    InAll(u32),
    #[error("its IP address has {0} connections already")]
    FromAddress(u32),
    #[error("its peer has {0} connections already")]
    WithPeer(u32),
}

/// The reasons for which a connection is refused: the limits, and who is allowed.
pub(crate) const REFUSALS: [&str; 6] =
    ["handshakes", "handshakes_per_address", "connections", "per_address", "per_peer", "allow"];

/// Which of [`REFUSALS`] this is.
pub(crate) fn refusal(cause: &ConnectionDenied) -> &'static str {
    let [handshakes, handshakes_per_address, connections, per_address, per_peer, allow] = REFUSALS;
    match cause.source().and_then(|cause| cause.downcast_ref()) {
        Some(TooMany::Pending(_)) => handshakes,
        Some(TooMany::PendingFromAddress(_)) => handshakes_per_address,
        Some(TooMany::InAll(_)) => connections,
        Some(TooMany::FromAddress(_)) => per_address,
        Some(TooMany::WithPeer(_)) => per_peer,
        None => allow,
    }
}

impl ConnectionLimits {
    pub(crate) fn new(limits: Limits) -> Self {
        let (by_address, by_peer) = (HashMap::new(), HashMap::new());
        Self { limits, pending: HashMap::new(), inbound: 0, by_address, by_peer, spares: HashSet::new() }
    }

    /// This dial may make one connection more than its peer may have.
    pub(crate) fn allow_spare(&mut self, dial: ConnectionId) {
        self.spares.insert(dial);
    }

    fn check_inbound(&self, remote: &Multiaddr) -> Result<(), ConnectionDenied> {
        let Limits { connections, per_address, .. } = self.limits;
        let from_there = ip_address(remote).and_then(|ip| self.by_address.get(&ip));
        let too_many = if self.inbound >= connections {
            TooMany::InAll(connections)
        } else if from_there.is_some_and(|&from_there| from_there >= per_address) {
            TooMany::FromAddress(per_address)
        } else {
            return Ok(());
        };
        Err(ConnectionDenied::new(too_many))
    }

    fn check_pending(&self, origin: Origin) -> Result<(), ConnectionDenied> {
        let (mut in_all, mut from_there) = (0, 0);
        for other in self.pending.values().filter(|other| other.is_udp == origin.is_udp) {
            in_all += 1;
            from_there += usize::from(other.ip == origin.ip);
        }
        if in_all >= MAX_PENDING {
            Err(ConnectionDenied::new(TooMany::Pending(MAX_PENDING)))
        } else if from_there >= MAX_PENDING_PER_ADDRESS {
            Err(ConnectionDenied::new(TooMany::PendingFromAddress(MAX_PENDING_PER_ADDRESS)))
        } else {
            Ok(())
        }
    }

    fn check_peer(&self, peer: PeerId, spare: u32) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        let limit = self.limits.per_peer + spare;
        match self.by_peer.get(&peer) {
            Some(&connections) if connections >= limit => Err(ConnectionDenied::new(TooMany::WithPeer(limit))),
            _ => Ok(dummy::ConnectionHandler),
        }
    }
}

/// Subtracts one, and removes the entry at zero.
fn decrease<K: Eq + Hash>(counts: &mut HashMap<K, u32>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

/// The bits of an IPv6 address that name a network. A host can use every address within it (RFC 4291, section 2.5.4).
const IPV6_NETWORK: u128 = !0 << 64;

/// The IP address that a multiaddr starts with, if it does; of an IPv6 address, its network.
pub(super) fn ip_address(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => Some(ip.into()),
        Some(Protocol::Ip6(ip)) => Some(match ip.to_ipv4_mapped() {
            Some(ip) => ip.into(),
            None => Ipv6Addr::from_bits(ip.to_bits() & IPV6_NETWORK).into(),
        }),
        _ => None,
    }
}

impl NetworkBehaviour for ConnectionLimits {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.check_inbound(remote)?;
        let origin = Origin::of(remote);
        self.check_pending(origin)?;
        self.pending.insert(id, origin);
        Ok(())
    }

    /// Checks again, because many may have been in their handshake together.
    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.pending.remove(&id);
        self.check_inbound(remote)?;
        self.check_peer(peer, 0)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let spare = self.spares.remove(&id);
        self.check_peer(peer, u32::from(spare))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, endpoint, .. }) => {
                *self.by_peer.entry(peer_id).or_default() += 1;
                if let ConnectedPoint::Listener { send_back_addr, .. } = endpoint {
                    self.inbound += 1;
                    let ip = ip_address(send_back_addr);
                    ip.into_iter().for_each(|ip| *self.by_address.entry(ip).or_default() += 1);
                }
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, endpoint, .. }) => {
                decrease(&mut self.by_peer, peer_id);
                if let ConnectedPoint::Listener { send_back_addr, .. } = endpoint {
                    self.inbound -= 1;
                    let ip = ip_address(send_back_addr);
                    ip.into_iter().for_each(|ip| decrease(&mut self.by_address, ip));
                }
            }
            FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => {
                self.pending.remove(&connection_id);
            }
            FromSwarm::DialFailure(DialFailure { connection_id, .. }) => {
                self.spares.remove(&connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(address: &str) -> Origin {
        Origin::of(&address.parse().unwrap())
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let ip = |address: &str| origin(address).ip;
        assert_eq!(ip("/ip6/2001:db8::1/tcp/1"), ip("/ip6/2001:db8::ffff:2/udp/1/quic-v1"));
        assert_ne!(ip("/ip6/2001:db8::1/tcp/1"), ip("/ip6/2001:db8:0:1::1/tcp/1"));
        assert_eq!(ip("/ip6/::ffff:192.0.2.1/tcp/1"), ip("/ip4/192.0.2.1/tcp/1"));
    }

    #[test]
    fn one_address_or_transport_does_not_keep_the_others_out_of_the_handshake() {
        let mut limits = ConnectionLimits::new(Limits::listener(Limits::DEFAULT_CONNECTIONS));
        let fill = |limits: &mut ConnectionLimits, address: &str| {
            let (remote, first) = (address.parse().unwrap(), 2 * MAX_PENDING * limits.pending.len());
            (first..first + 2 * MAX_PENDING)
                .filter(|&number| {
                    let id = ConnectionId::new_unchecked(number);
                    limits.handle_pending_inbound_connection(id, &Multiaddr::empty(), &remote).is_ok()
                })
                .count()
        };
        assert_eq!(fill(&mut limits, "/ip4/192.0.2.1/tcp/1"), MAX_PENDING_PER_ADDRESS);
        for host in 2..=MAX_PENDING / MAX_PENDING_PER_ADDRESS {
            assert_eq!(fill(&mut limits, &format!("/ip4/192.0.2.{host}/tcp/1")), MAX_PENDING_PER_ADDRESS);
        }
        assert_eq!(fill(&mut limits, "/ip4/198.51.100.1/tcp/1"), 0, "the limit is reached");
        assert_eq!(fill(&mut limits, "/ip4/192.0.2.1/udp/1/quic-v1"), MAX_PENDING_PER_ADDRESS);
    }
}
