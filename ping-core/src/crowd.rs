//! How many connections there may be: in all, from one IP address, with one peer, and on their way to being secured.
//!
//! libp2p-connection-limits knows no limit by address, and keeps an entry for every peer that ever was.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    hash::Hash,
    net::IpAddr,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{ConnectedPoint, Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, ListenFailure, NetworkBehaviour, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm, behaviour::ConnectionEstablished, dummy,
    },
};

use crate::behaviour::Limits;

/// How many connections may be on their way to being secured. A handshake takes a few round trips and ten seconds at most.
const PENDING: usize = 512;

/// Counts connections, and denies those that are too many.
#[derive(Debug)]
pub(crate) struct Crowd {
    limits: Limits,
    pending: HashSet<ConnectionId>,
    inbound: u32,
    by_address: HashMap<IpAddr, u32>,
    by_peer: HashMap<PeerId, u32>,
}

/// Why a connection is denied.
#[derive(Debug, thiserror::Error)]
enum TooMany {
    #[error("{0} connections are on their way in already")]
    Pending(usize),
    #[error("there are {0} connections already")]
    InAll(u32),
    #[error("its IP address has {0} connections already")]
    OfAddress(u32),
    #[error("its peer has {0} connections already")]
    OfPeer(u32),
}

impl Crowd {
    pub(crate) fn new(limits: Limits) -> Self {
        let (by_address, by_peer) = (HashMap::new(), HashMap::new());
        Self { limits, pending: HashSet::new(), inbound: 0, by_address, by_peer }
    }

    fn check_inbound(&self, remote: &Multiaddr) -> Result<(), ConnectionDenied> {
        let Limits { connections, per_address, .. } = self.limits;
        let from_there = ip_address(remote).and_then(|ip| self.by_address.get(&ip));
        let too_many = if self.inbound >= connections {
            TooMany::InAll(connections)
        } else if from_there.is_some_and(|&from_there| from_there >= per_address) {
            TooMany::OfAddress(per_address)
        } else {
            return Ok(());
        };
        Err(ConnectionDenied::new(too_many))
    }

    fn check_peer(&self, peer: PeerId) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        match self.by_peer.get(&peer) {
            Some(&connections) if connections >= self.limits.per_peer => {
                Err(ConnectionDenied::new(TooMany::OfPeer(self.limits.per_peer)))
            }
            _ => Ok(dummy::ConnectionHandler),
        }
    }
}

/// One less; what has none is not remembered.
fn decrease<K: Eq + Hash>(counts: &mut HashMap<K, u32>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

/// The IP address that a multiaddr begins with, if it does.
pub(crate) fn ip_address(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => Some(ip.into()),
        Some(Protocol::Ip6(ip)) => Some(ip.into()),
        _ => None,
    }
}

impl NetworkBehaviour for Crowd {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.check_inbound(remote)?;
        if self.pending.len() >= PENDING {
            return Err(ConnectionDenied::new(TooMany::Pending(PENDING)));
        }
        self.pending.insert(id);
        Ok(())
    }

    /// Checked once more: many may have been pending together.
    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.pending.remove(&id);
        self.check_inbound(remote)?;
        self.check_peer(peer)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check_peer(peer)
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
