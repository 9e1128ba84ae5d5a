//! Kameo's registry as other nodes see it: what they ask for is answered here, and never by Kameo.
//!
//! Kameo 0.22 trusts its peers. A record of one byte panics its registry, and its store accepts whatever is sent. So
//! its own registry only looks up, and knows the actors of this node. What other nodes ask over the same protocol,
//! which is Kademlia's, is answered out of three sources:
//! - the actors that this node has registered with Kameo;
//! - the directory of the cluster, if this node is a member: a stock program that asks any member finds the actors of
//!   all;
//! - the registrations of other nodes, checked and bounded (`guests`). A member tells all others of them.
//!
//! Nobody is told of nodes that are closer to a key, so nobody is dialed at addresses that a peer names.

mod ask;
mod guests;

use std::{collections::HashSet, net::IpAddr, str};

use kameo::remote::registry::{ActorRegistration, Behaviour as KameoRegistry};
use libp2p::{
    Multiaddr, PeerId,
    kad::{ConnectionType, KadPeer, Record},
    swarm::{THandlerInEvent, THandlerOutEvent},
};

use crate::cluster::{
    Cluster,
    record::{Guest, HostedActor, MAX_GUESTS, MAX_TYPE_LEN},
};
pub use ask::look_up;
use guests::Guests;

/// What a peer sent over the registry's protocol. The libraries keep these types private, but not their variants.
pub(crate) type FromPeer = THandlerOutEvent<KameoRegistry>;

/// What a node sends over the registry's protocol.
pub(crate) type ToPeer = THandlerInEvent<KameoRegistry>;

/// How many providers an answer names: Kademlia's k, which is also how many a stock node reads.
const MAX_PROVIDERS: usize = 20;

/// How many bytes of addresses an answer carries, so that it stays below the 16 KiB that Kademlia reads.
const MAX_ANSWER: usize = 12 * 1024;

/// What becomes of a message from a peer.
#[allow(clippy::large_enum_variant, reason = "it is matched at once and never stored")]
pub(crate) enum Outcome {
    /// It answers a look-up of this node, and is for Kameo.
    Pass(FromPeer),
    /// It is a request, and this is the answer.
    Answer(ToPeer),
    /// Nothing.
    Done,
}

/// Answers what peers ask of the registry.
pub(crate) struct Registry {
    me: PeerId,
    cluster: Option<Cluster>,
    guests: Guests,
    /// The guests that the cluster knows of.
    announced: Vec<Guest>,
}

impl Registry {
    /// The registry of this node, which may be a member of a cluster.
    pub(crate) fn new(me: PeerId, cluster: Option<Cluster>) -> Self {
        Self { me, cluster, guests: Guests::default(), announced: Vec::new() }
    }

    /// Handles a message of a peer at this address. Also returns whether it is one that a well-behaved node sends.
    pub(crate) fn on_message(
        &mut self,
        peer: PeerId,
        address: IpAddr,
        connected: &HashSet<PeerId>,
        kameo: &mut KameoRegistry,
        message: FromPeer,
    ) -> (Outcome, bool) {
        let closer_peers = Vec::new();
        let (answer, is_sound) = match message {
            FromPeer::FindNodeReq { request_id, .. } => (ToPeer::FindNodeRes { closer_peers, request_id }, true),
            FromPeer::GetProvidersReq { key, request_id } => {
                let provider_peers = str::from_utf8(key.as_ref()).map(|name| self.providers(peer, name, kameo));
                let provider_peers = provider_peers.unwrap_or_default();
                (ToPeer::GetProvidersRes { closer_peers, provider_peers, request_id }, true)
            }
            FromPeer::GetRecord { key, request_id } => {
                let found = actor_in(key.as_ref()).and_then(|(name, node)| self.registration(name, node, kameo));
                let record = found.map(|registration| Record::new(key, registration.into_bytes()));
                (ToPeer::GetRecordRes { record, closer_peers, request_id }, true)
            }
            FromPeer::PutRecord { record, request_id } => {
                let Record { key, value, .. } = record;
                let actor = actor_in(key.as_ref()).filter(|(_, node)| *node == peer).and_then(|(name, _)| {
                    let ActorRegistration { actor_id, remote_id } = registration_of(&value, peer)?;
                    Some(HostedActor {
                        name: name.into(),
                        sequence: actor_id.sequence_id(),
                        remote_id: remote_id.into_owned(),
                    })
                });
                let is_kept = actor.is_some_and(|actor| self.guests.register(peer, address, actor, connected));
                self.announce(connected);
                match is_kept {
                    true => (ToPeer::PutRecordRes { key, value, request_id }, true),
                    false => (ToPeer::Reset(request_id), false),
                }
            }
            FromPeer::AddProvider { key, provider } => {
                let name = str::from_utf8(key.as_ref()).ok().filter(|_| provider.node_id == peer);
                let is_sound =
                    name.is_some_and(|name| self.guests.provide(peer, address, name, provider.multiaddrs, connected));
                self.announce(connected);
                return (Outcome::Done, is_sound);
            }
            answer => {
                let (answer, is_sound) = checked(answer);
                return (Outcome::Pass(answer), is_sound);
            }
        };
        (Outcome::Answer(answer), is_sound)
    }

    /// A peer is no longer connected.
    pub(crate) fn on_disconnected(&mut self, connected: &HashSet<PeerId>) {
        self.announce(connected);
    }

    /// Where actors of this name are, for a peer that asks: first on this node, to which it is connected.
    fn providers(&self, asker: PeerId, name: &str, kameo: &mut KameoRegistry) -> Vec<KadPeer> {
        let own = kameo.lookup_local(name).is_ok_and(|found| found.is_some()).then(|| {
            let me = self.cluster.as_ref().and_then(|cluster| cluster.get(&self.me));
            (self.me, me.map(|me| me.addresses).unwrap_or_default())
        });
        let hosts = self.cluster.as_ref().map(|cluster| cluster.some_hosts(name, MAX_PROVIDERS)).unwrap_or_default();
        let hosts = hosts.into_iter().map(|host| (host.peer, host.addresses));
        let guests = self.guests.of_name(name).map(|(guest, addresses)| (guest, addresses.to_vec()));
        let (mut named, mut left) = (HashSet::from([asker]), MAX_ANSWER);
        let mut providers = Vec::new();
        for (node_id, multiaddrs) in own.into_iter().chain(guests).chain(hosts) {
            let Some(rest) = left.checked_sub(multiaddrs.iter().map(Multiaddr::len).sum()) else { break };
            if named.insert(node_id) {
                left = rest;
                providers.push(KadPeer { node_id, multiaddrs, connection_ty: ConnectionType::CanConnect });
            }
        }
        providers.truncate(MAX_PROVIDERS);
        providers
    }

    /// The registration of an actor under this name on this node.
    fn registration(&self, name: &str, node: PeerId, kameo: &mut KameoRegistry) -> Option<ActorRegistration<'static>> {
        if node == self.me {
            return kameo.lookup_local(name).ok().flatten();
        }
        let known = self.cluster.as_ref().and_then(|cluster| cluster.get(&node)).filter(|host| host.is_there());
        let known = known.and_then(|host| host.actor(name).cloned());
        let actor = known.or_else(|| self.guests.get(node, name).cloned())?;
        Some(ActorRegistration::new(actor.id(node), actor.remote_id.into()))
    }

    /// Tells the cluster of the guests that are connected, if that is news to it.
    fn announce(&mut self, connected: &HashSet<PeerId>) {
        let Some(cluster) = &self.cluster else { return };
        let mut guests = self.guests.complete();
        // Members speak for themselves, and also register as any Kameo node does.
        guests.retain(|guest| connected.contains(&guest.peer) && !cluster.knows(&guest.peer));
        guests.truncate(MAX_GUESTS);
        if guests != self.announced {
            cluster.speak_for(guests.clone());
            self.announced = guests;
        }
    }
}

/// Checks an answer to a look-up of this node. Only the node that is asked answers, and nobody else is asked.
fn checked(answer: FromPeer) -> (FromPeer, bool) {
    let closer_peers = Vec::new();
    match answer {
        FromPeer::GetRecordRes { record, query_id, .. } => {
            let sent = record.is_some();
            let record = record.filter(|record| {
                actor_in(record.key.as_ref()).is_some_and(|(_, node)| registration_of(&record.value, node).is_some())
            });
            let is_sound = record.is_some() == sent;
            (FromPeer::GetRecordRes { record, closer_peers, query_id }, is_sound)
        }
        FromPeer::GetProvidersRes { mut provider_peers, query_id, .. } => {
            provider_peers.iter_mut().for_each(|provider| provider.multiaddrs.clear());
            (FromPeer::GetProvidersRes { closer_peers, provider_peers, query_id }, true)
        }
        FromPeer::FindNodeRes { query_id, .. } => (FromPeer::FindNodeRes { closer_peers, query_id }, true),
        other => (other, true),
    }
}

/// The name and the node in the key of a registration, which is `<name>:meta:<peer id>`.
fn actor_in(key: &[u8]) -> Option<(&str, PeerId)> {
    let (name, node) = str::from_utf8(key).ok()?.rsplit_once(":meta:")?;
    Some((name, node.parse().ok()?)).filter(|_| !name.contains(":meta:"))
}

/// The registration of an actor on this node. Nobody registers an actor for another one.
fn registration_of(bytes: &[u8], node: PeerId) -> Option<ActorRegistration<'_>> {
    let registration = is_registration(bytes).then(|| ActorRegistration::from_bytes(bytes).ok()).flatten()?;
    (registration.actor_id.peer_id() == Some(&node)).then_some(registration)
}

/// Whether these bytes are a registration: the length of a peer id in one byte, an actor's number in eight, that peer
/// id, and the id of the actor's type. Kameo may panic when it parses anything else.
#[doc(hidden)]
pub fn is_registration(bytes: &[u8]) -> bool {
    let Some((&length, rest)) = bytes.split_first() else { return false };
    let Some((_, rest)) = rest.split_first_chunk::<8>() else { return false };
    let Some((peer, actor_type)) = rest.split_at_checked(length.into()) else { return false };
    PeerId::from_bytes(peer).is_ok()
        && (1..=MAX_TYPE_LEN).contains(&actor_type.len())
        && str::from_utf8(actor_type).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kameo::actor::ActorId;

    fn registration(peer: PeerId) -> Vec<u8> {
        ActorRegistration::new(ActorId::new_with_peer_id(1, peer), "my_app::MyActor".into()).into_bytes()
    }

    #[test]
    fn what_kameo_writes_is_a_registration_and_nothing_shorter_is() {
        let bytes = registration(PeerId::random());
        assert!(is_registration(&bytes));
        let type_starts = bytes.len() - "my_app::MyActor".len();
        assert!((0..=type_starts).all(|length| !is_registration(&bytes[..length])));
        assert!(!is_registration(&[0xff]));
        assert!(!is_registration(&[bytes.clone(), vec![0xff]].concat()));
        assert!(!is_registration(&[bytes, vec![b'x'; 300]].concat()));
    }

    #[test]
    fn a_registration_belongs_to_the_node_in_its_key() {
        let (peer, other) = (PeerId::random(), PeerId::random());
        assert!(registration_of(&registration(peer), peer).is_some());
        assert!(registration_of(&registration(other), peer).is_none());
        let key = format!("some name:meta:{peer}");
        assert_eq!(actor_in(key.as_bytes()), Some(("some name", peer)));
        assert_eq!(actor_in(b"some name"), None);
        assert_eq!(actor_in(b"some name:meta:nobody"), None);
        assert_eq!(actor_in(format!("a:meta:b:meta:{peer}").as_bytes()), None);
    }
}
