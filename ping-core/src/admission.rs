//! What peers may ask of Kameo's protocols.
//!
//! Kameo 0.22 trusts its peers. A record of one byte panics its registry, any peer may announce the death of any actor, and
//! the registry's store fills up with whatever is sent. What comes from a peer therefore passes here first; what a Kameo node that
//! means well would not send never reaches Kameo.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use kameo::{actor::ActorId, remote, remote::messaging::SwarmRequest};
use libp2p::{
    Multiaddr, PeerId,
    swarm::{THandlerInEvent, THandlerOutEvent},
};

use crate::protocol::MAX_NAME_LEN;

/// What a peer sent by either of Kameo's protocols.
pub(crate) type FromPeer = THandlerOutEvent<remote::Behaviour>;

/// What it sent by the messaging protocol. The libraries keep these types to themselves, but not their variants.
type Message = THandlerOutEvent<remote::messaging::Behaviour>;

/// What it sent by the registry's Kademlia protocol.
type Registry = THandlerOutEvent<remote::registry::Behaviour>;

/// What is sent to a peer by either of Kameo's protocols.
pub(crate) type ToPeer = THandlerInEvent<remote::Behaviour>;

/// What is sent to it by the registry's Kademlia protocol.
type ToRegistry = THandlerInEvent<remote::registry::Behaviour>;

/// How many registrations of other peers a node keeps. The store takes 1024, so there is always room for the node's own.
const MAX_REGISTRATIONS: usize = 256;

/// How many of them may come from one IP address. A machine that hosts more actors than that should be its own node; and to
/// fill a node, an attacker needs as many addresses as it has identities.
const MAX_PER_ADDRESS: usize = 16;

/// How many peers may register under one name besides this node itself. A Kameo node that is asked for a name gives the first five
/// peers that it knows of, so this node's own actor is always among them.
const MAX_PER_NAME: usize = 4;

/// How many addresses of a peer that registers are kept, and how long each may be, in bytes. An answer to whoever looks the name up
/// carries them all, and must stay below the 16 KiB that Kademlia reads.
const MAX_ADDRESSES: usize = 8;
const MAX_ADDRESS_LEN: usize = 128;

/// How long a registration is counted: as long as Kademlia keeps a provider's record that is not renewed.
const KEPT: Duration = Duration::from_secs(48 * 60 * 60);

/// The longest identifier of an actor's type in a registration, in bytes. It is a path in a program's source or a UUID.
const MAX_TYPE_LEN: usize = 255;

/// The actor id of nobody. What is addressed to it is answered as Kameo answers for an actor that does not run.
const NOBODY: u64 = u64::MAX;

/// What becomes of something that a peer sent.
#[allow(clippy::large_enum_variant, reason = "it is matched at once and never kept")]
pub(crate) enum Verdict {
    /// Kameo may see it.
    Sound(FromPeer),
    /// Kameo may see what is left of it.
    Mended(FromPeer),
    /// Kameo is not to see it. If it waits for an answer, that is this one.
    Refused(Option<ToPeer>),
}

/// Decides what passes.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    /// The registrations that were let in, by whom and for which name, with where from and when.
    registrations: HashMap<(PeerId, Vec<u8>), (IpAddr, Instant)>,
}

impl Admission {
    /// What Kameo is to see of what a peer at this address sent.
    pub(crate) fn admit(&mut self, peer: PeerId, address: IpAddr, event: FromPeer) -> Verdict {
        match event {
            FromPeer::Left(Message::Request { request_id, request, sender }) => {
                let (request, sound) = without_links(request);
                let event = FromPeer::Left(Message::Request { request_id, request, sender });
                if sound { Verdict::Sound(event) } else { Verdict::Mended(event) }
            }
            FromPeer::Right(Registry::PutRecord { record, request_id }) => {
                let name = name_in(record.key.as_ref(), peer).filter(|_| is_registration_of(&record.value, peer));
                if name.is_some_and(|name| self.has_room(peer, address, name)) {
                    Verdict::Sound(FromPeer::Right(Registry::PutRecord { record, request_id }))
                } else {
                    Verdict::Refused(Some(ToPeer::Right(ToRegistry::Reset(request_id))))
                }
            }
            FromPeer::Right(Registry::AddProvider { key, mut provider }) => {
                if provider.node_id != peer || !self.has_room(peer, address, key.as_ref()) {
                    return Verdict::Refused(None);
                }
                let sent = provider.multiaddrs.len();
                bound(&mut provider.multiaddrs);
                let sound = provider.multiaddrs.len() == sent;
                let event = FromPeer::Right(Registry::AddProvider { key, provider });
                if sound { Verdict::Sound(event) } else { Verdict::Mended(event) }
            }
            // What a node that was asked answers. Only that node is ever asked, so nobody is dialled at addresses that it names.
            FromPeer::Right(Registry::GetRecordRes { record, query_id, .. }) => {
                let closer_peers = Vec::new();
                match record {
                    Some(record) if !is_owners(record.key.as_ref(), &record.value) => {
                        Verdict::Mended(FromPeer::Right(Registry::GetRecordRes {
                            record: None,
                            closer_peers,
                            query_id,
                        }))
                    }
                    record => {
                        Verdict::Sound(FromPeer::Right(Registry::GetRecordRes { record, closer_peers, query_id }))
                    }
                }
            }
            FromPeer::Right(Registry::GetProvidersRes { mut provider_peers, query_id, .. }) => {
                provider_peers.iter_mut().for_each(|provider| provider.multiaddrs.clear());
                let closer_peers = Vec::new();
                Verdict::Sound(FromPeer::Right(Registry::GetProvidersRes { closer_peers, provider_peers, query_id }))
            }
            FromPeer::Right(Registry::FindNodeRes { query_id, .. }) => {
                Verdict::Sound(FromPeer::Right(Registry::FindNodeRes { closer_peers: Vec::new(), query_id }))
            }
            other => Verdict::Sound(other),
        }
    }

    /// Whether a peer may register, or renew, a name; if so, it is counted.
    fn has_room(&mut self, peer: PeerId, address: IpAddr, name: &[u8]) -> bool {
        let (now, key) = (Instant::now(), (peer, name.to_vec()));
        if name.is_empty() || name.len() > MAX_NAME_LEN {
            return false;
        }
        self.registrations.retain(|_, (_, at)| now.saturating_duration_since(*at) < KEPT);
        let known = self.registrations.contains_key(&key);
        let from_there = self.registrations.values().filter(|(from, _)| *from == address).count();
        let of_name = self.registrations.keys().filter(|(_, known)| known == name).count();
        let room = known
            || (self.registrations.len() < MAX_REGISTRATIONS && from_there < MAX_PER_ADDRESS && of_name < MAX_PER_NAME);
        if room {
            self.registrations.insert(key, (address, now));
        }
        room
    }
}

/// Lets messages to actors pass, and says so. No actor here is linked to another, so what is said of links is sent to
/// nobody, and answered accordingly.
fn without_links(request: SwarmRequest) -> (SwarmRequest, bool) {
    let nobody = ActorId::new(NOBODY);
    let request = match request {
        SwarmRequest::Ask { .. } | SwarmRequest::Tell { .. } => return (request, true),
        SwarmRequest::Link { actor_remote_id, sibling_id, sibling_remote_id, .. } => {
            SwarmRequest::Link { actor_id: nobody, actor_remote_id, sibling_id, sibling_remote_id }
        }
        SwarmRequest::Unlink { actor_remote_id, sibling_id, .. } => {
            SwarmRequest::Unlink { actor_id: nobody, actor_remote_id, sibling_id }
        }
        SwarmRequest::SignalLinkDied { dead_actor_id, notified_actor_remote_id, stop_reason, .. } => {
            SwarmRequest::SignalLinkDied {
                dead_actor_id,
                notified_actor_id: nobody,
                notified_actor_remote_id,
                stop_reason,
            }
        }
    };
    (request, false)
}

/// The actor's name in the key of a registration by this peer, which is `<name>:meta:<peer id>`.
fn name_in(key: &[u8], peer: PeerId) -> Option<&[u8]> {
    let ending = format!(":meta:{peer}");
    let name = key.strip_suffix(ending.as_bytes())?;
    std::str::from_utf8(name).is_ok_and(|name| !name.contains(":meta:")).then_some(name)
}

/// Drops the addresses that are too many or too long.
fn bound(addresses: &mut Vec<Multiaddr>) {
    addresses.retain(|address| address.len() <= MAX_ADDRESS_LEN);
    addresses.truncate(MAX_ADDRESSES);
}

/// Whether these bytes are a registration of an actor on this peer.
fn is_registration_of(bytes: &[u8], peer: PeerId) -> bool {
    is_registration(bytes) && bytes[9..].starts_with(&peer.to_bytes())
}

/// Whether a registration is that of the peer whose key it has: nobody registers actors in the name of others.
fn is_owners(key: &[u8], bytes: &[u8]) -> bool {
    let owner = std::str::from_utf8(key).ok().and_then(|key| key.rsplit_once(":meta:")?.1.parse().ok());
    owner.is_some_and(|owner| is_registration_of(bytes, owner))
}

/// Whether these bytes are a registration: the length of a peer id in one byte, an actor's number in eight, that peer id,
/// and the identifier of the actor's type. Kameo's own reading of anything else may panic.
pub(crate) fn is_registration(bytes: &[u8]) -> bool {
    let Some((&length, rest)) = bytes.split_first() else { return false };
    let Some((_, rest)) = rest.split_first_chunk::<8>() else { return false };
    let Some((peer, actor_type)) = rest.split_at_checked(length.into()) else { return false };
    PeerId::from_bytes(peer).is_ok()
        && (1..=MAX_TYPE_LEN).contains(&actor_type.len())
        && std::str::from_utf8(actor_type).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kameo::remote::registry::ActorRegistration;
    use std::net::Ipv4Addr;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::BROADCAST);

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
    fn a_registration_is_that_of_its_sender_and_of_its_key() {
        let (peer, other) = (PeerId::random(), PeerId::random());
        assert!(is_registration_of(&registration(peer), peer));
        assert!(!is_registration_of(&registration(other), peer));
        let key = format!("name:meta:{peer}");
        assert!(is_owners(key.as_bytes(), &registration(peer)));
        assert!(!is_owners(key.as_bytes(), &registration(other)));
        assert!(!is_owners(b"name", &registration(peer)));
    }

    #[test]
    fn one_name_has_room_for_this_node_and_few_others() {
        let mut admission = Admission::default();
        let register = |address: u32| (PeerId::random(), IpAddr::V4(address.into()));
        let admitted = (0..20).map(register).filter(|(peer, from)| admission.has_room(*peer, *from, b"name")).count();
        assert_eq!(admitted, MAX_PER_NAME);
        assert!(admission.has_room(PeerId::random(), HERE, b"another name"));
    }

    #[test]
    fn few_and_short_addresses_are_kept() {
        let short: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        let long: Multiaddr = format!("/dns/{}", "x".repeat(MAX_ADDRESS_LEN)).parse().unwrap();
        let mut addresses = [vec![long], vec![short.clone(); 1000]].concat();
        bound(&mut addresses);
        assert_eq!(addresses, vec![short; MAX_ADDRESSES]);
    }

    #[test]
    fn a_peer_registers_only_for_itself() {
        let (peer, other) = (PeerId::random(), PeerId::random());
        let key = format!("some name:meta:{peer}");
        assert_eq!(name_in(key.as_bytes(), peer), Some(&b"some name"[..]));
        assert_eq!(name_in(key.as_bytes(), other), None);
        assert_eq!(name_in(b"some name", peer), None);
        assert_eq!(name_in(format!("a:meta:b:meta:{peer}").as_bytes(), peer), None);
    }

    #[test]
    fn one_address_cannot_fill_the_store_and_what_is_known_may_be_renewed() {
        let mut admission = Admission::default();
        let first = PeerId::random();
        let name = |number: usize| number.to_be_bytes();
        assert!(admission.has_room(first, HERE, &name(0)));
        for number in 1..MAX_PER_ADDRESS {
            assert!(admission.has_room(PeerId::random(), HERE, &name(number)));
        }
        assert!(!admission.has_room(PeerId::random(), HERE, &name(MAX_PER_ADDRESS)));
        assert!(admission.has_room(first, HERE, &name(0)), "a renewal");
        assert!(admission.has_room(PeerId::random(), THERE, &name(MAX_PER_ADDRESS)), "another address");
        assert!(!admission.has_room(PeerId::random(), THERE, b""));
        assert!(!admission.has_room(PeerId::random(), THERE, &[b'x'; MAX_NAME_LEN + 1]));
    }

    #[test]
    fn many_addresses_cannot_fill_it_either() {
        let mut admission = Admission::default();
        let admitted = (0..2 * MAX_REGISTRATIONS as u32)
            .filter(|&number| admission.has_room(PeerId::random(), IpAddr::V4(number.into()), &number.to_be_bytes()))
            .count();
        assert_eq!(admitted, MAX_REGISTRATIONS);
    }

    #[test]
    fn a_stranger_is_not_heard_on_the_death_of_actors() {
        let actor = ActorId::new_with_peer_id(1, PeerId::random());
        let signal = SwarmRequest::SignalLinkDied {
            dead_actor_id: actor,
            notified_actor_id: actor,
            notified_actor_remote_id: "my_app::MyActor".into(),
            stop_reason: kameo::error::ActorStopReason::Killed,
        };
        match without_links(signal) {
            (SwarmRequest::SignalLinkDied { notified_actor_id, .. }, false) => assert_ne!(notified_actor_id, actor),
            other => panic!("{other:?}"),
        }
    }
}
