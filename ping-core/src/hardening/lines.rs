//! Two connections to one peer, shown to Kameo as one.
//!
//! Kameo's messaging puts requests on the connections to a peer in turn, and fails those on a connection that closes. A
//! client whose connection is silent makes another one beside it: new requests go there, and answers to earlier ones
//! still arrive on the old one. So Kameo is told of the first connection alone, and this chooses where requests go.

use std::collections::HashMap;

use libp2p::{
    PeerId,
    core::ConnectedPoint,
    swarm::{
        ConnectionClosed, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, behaviour::ConnectionEstablished,
    },
};

/// The connections to one peer.
struct Line {
    /// The one that Kameo knows.
    known: ConnectionId,
    endpoint: ConnectedPoint,
    /// Those that there are.
    live: Vec<ConnectionId>,
    /// The one that requests go to.
    preferred: ConnectionId,
}

/// The connections to all peers.
#[derive(Default)]
pub(super) struct Lines(HashMap<PeerId, Line>);

impl Lines {
    /// A connection is about to be established; `inner` has just made a handler for it. If it is not the first one,
    /// `inner` is told to forget it.
    pub(super) fn hide<B: NetworkBehaviour>(
        &self,
        inner: &mut B,
        peer_id: PeerId,
        connection_id: ConnectionId,
        endpoint: &ConnectedPoint,
    ) {
        if self.0.contains_key(&peer_id) {
            let (cause, remaining_established) = (None, 1);
            let closed = ConnectionClosed { peer_id, connection_id, endpoint, cause, remaining_established };
            inner.on_swarm_event(FromSwarm::ConnectionClosed(closed));
        }
    }

    /// A connection is established. Returns whether Kameo is to know.
    pub(super) fn on_established(&mut self, established: &ConnectionEstablished<'_>) -> bool {
        let id = established.connection_id;
        if let Some(line) = self.0.get_mut(&established.peer_id) {
            line.live.push(id);
            return false;
        }
        let endpoint = established.endpoint.clone();
        self.0.insert(established.peer_id, Line { known: id, endpoint, live: vec![id], preferred: id });
        true
    }

    /// A connection closed. Kameo learns it when it was the last one, under the name that it knows.
    pub(super) fn on_closed<B: NetworkBehaviour>(&mut self, inner: &mut B, closed: &ConnectionClosed<'_>) {
        let Some(line) = self.0.get_mut(&closed.peer_id) else { return };
        line.live.retain(|id| *id != closed.connection_id);
        if let Some(last) = line.live.last() {
            if line.preferred == closed.connection_id {
                line.preferred = *last;
            }
            return;
        }
        if let Some(line) = self.0.remove(&closed.peer_id) {
            inner.on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
                connection_id: line.known,
                endpoint: &line.endpoint,
                ..*closed
            }));
        }
    }

    /// From now on, requests to this peer go to this connection.
    pub(super) fn prefer(&mut self, peer: PeerId, id: ConnectionId) {
        if let Some(line) = self.0.get_mut(&peer).filter(|line| line.live.contains(&id)) {
            line.preferred = id;
        }
    }

    /// Whether requests to this peer go to another connection than this one.
    pub(super) fn has_left(&self, peer: &PeerId, id: ConnectionId) -> bool {
        self.0.get(peer).is_some_and(|line| line.preferred != id && line.live.contains(&id))
    }

    /// The name under which Kameo knows a connection.
    pub(super) fn known(&self, peer: &PeerId, id: ConnectionId) -> ConnectionId {
        self.0.get(peer).map_or(id, |line| line.known)
    }

    /// Where something goes that Kameo sends.
    pub(super) fn route(&self, peer: &PeerId, handler: NotifyHandler) -> NotifyHandler {
        self.0.get(peer).map_or(handler, |line| NotifyHandler::One(line.preferred))
    }
}
