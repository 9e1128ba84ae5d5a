//! The registry filter: what peers may ask of Kameo's protocols.
//!
//! Kameo 0.22 trusts its peers. A record of one byte panics its registry, any peer may announce the death of any actor,
//! and the registry's store accepts whatever is sent. So a peer's messages pass here first:
//! - Kameo never sees a registration of another node. It stays here, checked and bounded, and this filter answers
//!   look-ups with it. A registration of a peer that has left makes room for a new one, and so does one from an address
//!   that has more than its share.
//! - Messages about links between actors go to no actor, because no actor here is linked.
//! - Answers carry no addresses, so that nobody is dialed at addresses that a peer names.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use kameo::{actor::ActorId, remote, remote::messaging::SwarmRequest};
use libp2p::{
    Multiaddr, PeerId,
    kad::Record,
    swarm::{THandlerInEvent, THandlerOutEvent},
};

use crate::protocol::MAX_NAME_LEN;

/// What a peer sent over either of Kameo's protocols.
pub(super) type FromPeer = THandlerOutEvent<remote::Behaviour>;

/// What a peer sent over the messaging protocol. The libraries keep these types private, but not their variants.
type Message = THandlerOutEvent<remote::messaging::Behaviour>;

/// What a peer sent over the registry's Kademlia protocol.
type Registry = THandlerOutEvent<remote::registry::Behaviour>;

/// What a node sends over either of Kameo's protocols.
pub(super) type ToPeer = THandlerInEvent<remote::Behaviour>;

/// What a node sends over the registry's Kademlia protocol.
type ToRegistry = THandlerInEvent<remote::registry::Behaviour>;

/// How many registrations of other peers a node keeps.
const MAX_REGISTRATIONS: usize = 256;

/// How many of them may come from one IP address. A machine with more actors should run its own node; and to fill a
/// node, an attacker needs many addresses.
const MAX_PER_ADDRESS: usize = 16;

/// How many peers may register under one name besides this node. A Kameo node answers with at most five, so this node's
/// own actor is always among them.
const MAX_PER_NAME: usize = 4;

/// How many addresses of a registered peer are kept, and how long each may be, in bytes. The answer to a look-up
/// carries them all, and must stay below the 16 KiB that Kademlia reads.
const MAX_ADDRESSES: usize = 8;
const MAX_ADDRESS_LEN: usize = 128;

/// How long a registration lasts without renewal: as long as Kademlia keeps a provider record.
const LIFETIME: Duration = Duration::from_secs(48 * 60 * 60);

/// The longest id of an actor's type in a registration, in bytes. It is a path in a program's source, or a UUID.
const MAX_TYPE_LEN: usize = 255;

/// An actor id that no actor has. Kameo answers messages to it as to an actor that has stopped.
const NO_ACTOR: u64 = u64::MAX;

/// What happens to a message from a peer.
#[allow(clippy::large_enum_variant, reason = "it is matched at once and never stored")]
pub(super) enum Verdict {
    /// Kameo handles it.
    Pass(FromPeer),
    /// The filter answers it.
    Answer(ToPeer),
    /// Nothing.
    Drop,
}

/// The registration of another peer's actor.
struct Registration {
    address: IpAddr,
    renewed: Instant,
    /// The message that announced the provider. The type of its provider cannot be named outside its library.
    provider: Option<FromPeer>,
    /// The record with the actor's id.
    record: Option<Record>,
}

/// Checks what peers send, and keeps their registrations.
#[derive(Default)]
pub(super) struct RegistryFilter {
    registrations: HashMap<(PeerId, Vec<u8>), Registration>,
    /// The names that peers asked for and Kameo has not answered yet, in order. Kameo answers in the same order.
    asked: VecDeque<(PeerId, Vec<u8>)>,
}

impl RegistryFilter {
    /// Decides about a message of a peer at this address, and whether it is one that a well-behaved Kameo node sends.
    pub(super) fn check(
        &mut self,
        peer: PeerId,
        address: IpAddr,
        connected: &HashSet<PeerId>,
        message: FromPeer,
    ) -> (Verdict, bool) {
        match message {
            FromPeer::Left(Message::Request { request_id, request, sender }) => {
                let (request, is_sound) = without_links(request);
                (Verdict::Pass(FromPeer::Left(Message::Request { request_id, request, sender })), is_sound)
            }
            FromPeer::Right(Registry::PutRecord { record, request_id }) => {
                let name = name_in(record.key.as_ref(), peer).filter(|_| is_registration_of(&record.value, peer));
                let kept = name.and_then(|name| self.make_room(peer, address, name, connected));
                let Some(registration) = kept else {
                    return (Verdict::Answer(ToPeer::Right(ToRegistry::Reset(request_id))), false);
                };
                let (key, value) = (record.key.clone(), record.value.clone());
                registration.record = Some(record);
                (Verdict::Answer(ToPeer::Right(ToRegistry::PutRecordRes { key, value, request_id })), true)
            }
            FromPeer::Right(Registry::AddProvider { key, mut provider }) => {
                let sent = provider.multiaddrs.len();
                bound(&mut provider.multiaddrs);
                let is_sound = provider.multiaddrs.len() == sent;
                let is_own = provider.node_id == peer;
                let kept = is_own.then(|| self.make_room(peer, address, key.as_ref(), connected)).flatten();
                let Some(registration) = kept else { return (Verdict::Drop, false) };
                registration.provider = Some(FromPeer::Right(Registry::AddProvider { key, provider }));
                (Verdict::Drop, is_sound)
            }
            FromPeer::Right(Registry::GetProvidersReq { key, request_id }) => {
                self.asked.push_back((peer, key.to_vec()));
                (Verdict::Pass(FromPeer::Right(Registry::GetProvidersReq { key, request_id })), true)
            }
            FromPeer::Right(Registry::GetRecord { key, request_id }) => match self.record(key.as_ref()) {
                Some(record) => {
                    let (record, closer_peers) = (Some(record), Vec::new());
                    let answer = ToRegistry::GetRecordRes { record, closer_peers, request_id };
                    (Verdict::Answer(ToPeer::Right(answer)), true)
                }
                None => (Verdict::Pass(FromPeer::Right(Registry::GetRecord { key, request_id })), true),
            },
            answer => check_answer(answer),
        }
    }

    /// Adds the registered peers to Kameo's answer to a look-up, if the message is one.
    pub(super) fn add_providers(&mut self, peer: PeerId, message: &mut ToPeer) {
        let ToPeer::Right(ToRegistry::GetProvidersRes { provider_peers, .. }) = message else { return };
        let Some((_, name)) = self.asked.pop_front().filter(|(asker, _)| *asker == peer) else { return };
        let now = Instant::now();
        for ((owner, of), registration) in &self.registrations {
            if *of == name
                && *owner != peer
                && !registration.is_expired(now)
                && let Some(FromPeer::Right(Registry::AddProvider { provider, .. })) = &registration.provider
            {
                provider_peers.push(provider.clone());
            }
        }
    }

    fn record(&self, key: &[u8]) -> Option<Record> {
        let (name, owner) = std::str::from_utf8(key).ok()?.rsplit_once(":meta:")?;
        let registration = self.registrations.get(&(owner.parse().ok()?, name.into()))?;
        registration.record.clone().filter(|_| !registration.is_expired(Instant::now()))
    }

    /// The registration of this name by this peer, renewed; `None` if there is no room for it.
    fn make_room(
        &mut self,
        peer: PeerId,
        address: IpAddr,
        name: &[u8],
        connected: &HashSet<PeerId>,
    ) -> Option<&mut Registration> {
        if name.is_empty() || name.len() > MAX_NAME_LEN || std::str::from_utf8(name).is_err() {
            return None;
        }
        let now = Instant::now();
        self.registrations.retain(|_, registration| !registration.is_expired(now));
        let key = (peer, name.to_vec());
        while !self.registrations.contains_key(&key)
            && let Some(rivals) = self.full_for(address, name)
        {
            let loser = self.loser(&rivals, address, connected)?;
            self.registrations.remove(&loser);
        }
        let registration = Registration { address, renewed: now, provider: None, record: None };
        let registration = self.registrations.entry(key).or_insert(registration);
        (registration.address, registration.renewed) = (address, now);
        Some(registration)
    }

    /// Which of these registrations goes for a new one from this address, if one does: the oldest of a peer that has
    /// left, or else the newest from the address that has the most, if it has at least two more than this one.
    fn loser(
        &self,
        rivals: &[(PeerId, Vec<u8>)],
        address: IpAddr,
        connected: &HashSet<PeerId>,
    ) -> Option<(PeerId, Vec<u8>)> {
        let of = |key: &(PeerId, Vec<u8>)| self.registrations.get(key).map(|kept| (kept.address, kept.renewed));
        let gone = rivals.iter().filter(|(peer, _)| !connected.contains(peer));
        if let Some(oldest) = gone.min_by_key(|key| of(key).map(|(_, renewed)| renewed)) {
            return Some(oldest.clone());
        }
        let mut by_address: HashMap<IpAddr, usize> = HashMap::new();
        for (from, _) in rivals.iter().filter_map(of) {
            *by_address.entry(from).or_default() += 1;
        }
        let own = by_address.get(&address).copied().unwrap_or(0);
        let (greediest, _) =
            by_address.into_iter().filter(|(_, count)| *count >= own + 2).max_by_key(|entry| entry.1)?;
        let theirs = rivals.iter().filter(|key| of(key).is_some_and(|(from, _)| from == greediest));
        theirs.max_by_key(|key| of(key).map(|(_, renewed)| renewed)).cloned()
    }

    /// The registrations of which one must go before a new one of this name from this address; `None` if there is room.
    fn full_for(&self, address: IpAddr, name: &[u8]) -> Option<Vec<(PeerId, Vec<u8>)>> {
        let rivals = |is_rival: &dyn Fn(&[u8], IpAddr) -> bool| -> Vec<_> {
            let all = self.registrations.iter();
            let rivals = all.filter(|((_, name), registration)| is_rival(name, registration.address));
            rivals.map(|(key, _)| key.clone()).collect()
        };
        let of_name = rivals(&|other, _| other == name);
        if of_name.len() >= MAX_PER_NAME {
            return Some(of_name);
        }
        let from_address = rivals(&|_, other| other == address);
        if from_address.len() >= MAX_PER_ADDRESS {
            return Some(from_address);
        }
        (self.registrations.len() >= MAX_REGISTRATIONS).then(|| rivals(&|_, _| true))
    }
}

impl Registration {
    fn is_expired(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.renewed) >= LIFETIME
    }
}

/// Decides about what a node that was asked answers. Only that node is ever asked, so nobody is dialed at the addresses
/// that it names.
fn check_answer(answer: FromPeer) -> (Verdict, bool) {
    let closer_peers = Vec::new();
    let (answer, is_sound) = match answer {
        FromPeer::Right(Registry::GetRecordRes { record, query_id, .. }) => {
            let sent = record.is_some();
            let record = record.filter(|record| is_owners(record.key.as_ref(), &record.value));
            let is_sound = record.is_some() == sent;
            (FromPeer::Right(Registry::GetRecordRes { record, closer_peers, query_id }), is_sound)
        }
        FromPeer::Right(Registry::GetProvidersRes { mut provider_peers, query_id, .. }) => {
            provider_peers.iter_mut().for_each(|provider| provider.multiaddrs.clear());
            (FromPeer::Right(Registry::GetProvidersRes { closer_peers, provider_peers, query_id }), true)
        }
        FromPeer::Right(Registry::FindNodeRes { query_id, .. }) => {
            (FromPeer::Right(Registry::FindNodeRes { closer_peers, query_id }), true)
        }
        other => (other, true),
    };
    (Verdict::Pass(answer), is_sound)
}

/// Readdresses messages about links to no actor; returns whether the request is sound. Kameo then answers that the
/// actor has stopped.
fn without_links(request: SwarmRequest) -> (SwarmRequest, bool) {
    let actor_id = ActorId::new(NO_ACTOR);
    let request = match request {
        SwarmRequest::Ask { .. } | SwarmRequest::Tell { .. } => return (request, true),
        SwarmRequest::Link { actor_remote_id, sibling_id, sibling_remote_id, .. } => {
            SwarmRequest::Link { actor_id, actor_remote_id, sibling_id, sibling_remote_id }
        }
        SwarmRequest::Unlink { actor_remote_id, sibling_id, .. } => {
            SwarmRequest::Unlink { actor_id, actor_remote_id, sibling_id }
        }
        SwarmRequest::SignalLinkDied { dead_actor_id, notified_actor_remote_id, stop_reason, .. } => {
            SwarmRequest::SignalLinkDied {
                dead_actor_id,
                notified_actor_id: actor_id,
                notified_actor_remote_id,
                stop_reason,
            }
        }
    };
    (request, false)
}

/// The actor's name in the key of a record by this peer, which is `<name>:meta:<peer id>`.
fn name_in(key: &[u8], peer: PeerId) -> Option<&[u8]> {
    let ending = format!(":meta:{peer}");
    let name = key.strip_suffix(ending.as_bytes())?;
    std::str::from_utf8(name).is_ok_and(|name| !name.contains(":meta:")).then_some(name)
}

/// Drops the addresses that are too long, and those above the limit.
fn bound(addresses: &mut Vec<Multiaddr>) {
    addresses.retain(|address| address.len() <= MAX_ADDRESS_LEN);
    addresses.truncate(MAX_ADDRESSES);
}

/// Whether these bytes register an actor on this peer.
fn is_registration_of(bytes: &[u8], peer: PeerId) -> bool {
    is_registration(bytes) && bytes[9..].starts_with(&peer.to_bytes())
}

/// Whether a registration is that of the peer in its key. Nobody registers an actor for another peer.
fn is_owners(key: &[u8], bytes: &[u8]) -> bool {
    let owner = std::str::from_utf8(key).ok().and_then(|key| key.rsplit_once(":meta:")?.1.parse().ok());
    owner.is_some_and(|owner| is_registration_of(bytes, owner))
}

/// Whether these bytes are a registration: the length of a peer id in one byte, an actor's number in eight, that peer
/// id, and the id of the actor's type. Kameo may panic when it parses anything else.
pub fn is_registration(bytes: &[u8]) -> bool {
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

    /// A filter, and the peers that are connected to its node.
    #[derive(Default)]
    struct Node {
        filter: RegistryFilter,
        connected: HashSet<PeerId>,
    }

    impl Node {
        /// Whether a peer that is connected may register.
        fn admits(&mut self, peer: PeerId, address: IpAddr, name: &[u8]) -> bool {
            self.connected.insert(peer);
            self.filter.make_room(peer, address, name, &self.connected).is_some()
        }
    }

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
    fn a_registration_belongs_to_its_sender_and_to_its_key() {
        let (peer, other) = (PeerId::random(), PeerId::random());
        assert!(is_registration_of(&registration(peer), peer));
        assert!(!is_registration_of(&registration(other), peer));
        let key = format!("name:meta:{peer}");
        assert!(is_owners(key.as_bytes(), &registration(peer)));
        assert!(!is_owners(key.as_bytes(), &registration(other)));
        assert!(!is_owners(b"name", &registration(peer)));
    }

    #[test]
    fn one_name_has_room_for_four_connected_peers() {
        let mut node = Node::default();
        let register = |address: u32| (PeerId::random(), IpAddr::V4(address.into()));
        let admitted = (0..20).map(register).filter(|(peer, from)| node.admits(*peer, *from, b"name")).count();
        assert_eq!(admitted, MAX_PER_NAME);
        assert!(node.admits(PeerId::random(), HERE, b"another name"));
    }

    #[test]
    fn a_peer_that_left_makes_room_and_is_no_longer_looked_up() {
        let mut node = Node::default();
        let peers: Vec<_> = (0..20).map(|_| PeerId::random()).collect();
        for peer in &peers {
            assert!(node.admits(*peer, HERE, b"name"), "each restart registers anew");
            let key = format!("name:meta:{peer}").into_bytes();
            let record = Some(Record::new(key.clone(), registration(*peer)));
            node.filter.registrations.get_mut(&(*peer, b"name".to_vec())).unwrap().record = record;
            assert!(node.filter.record(&key).is_some());
            node.connected.remove(peer);
        }
        let found = |peer: &PeerId| node.filter.record(format!("name:meta:{peer}").as_bytes()).is_some();
        assert_eq!(peers.iter().filter(|peer| found(peer)).count(), MAX_PER_NAME);
        assert!(found(&peers[19]) && !found(&peers[0]), "the oldest go first");
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
    fn one_address_cannot_fill_the_store_and_a_known_peer_may_renew() {
        let mut node = Node::default();
        let first = PeerId::random();
        let name = |number: usize| number.to_string().into_bytes();
        assert!(node.admits(first, HERE, &name(0)));
        for number in 1..MAX_PER_ADDRESS {
            assert!(node.admits(PeerId::random(), HERE, &name(number)));
        }
        assert!(!node.admits(PeerId::random(), HERE, &name(MAX_PER_ADDRESS)));
        assert!(node.admits(first, HERE, &name(0)), "a renewal");
        assert!(node.admits(PeerId::random(), THERE, &name(MAX_PER_ADDRESS)), "another address");
        assert!(!node.admits(PeerId::random(), THERE, b""));
        assert!(!node.admits(PeerId::random(), THERE, &[b'x'; MAX_NAME_LEN + 1]));
        assert!(!node.admits(PeerId::random(), THERE, &[0xff]));
    }

    #[test]
    fn no_address_holds_the_places_of_another() {
        let mut node = Node::default();
        let address = |number: u32| IpAddr::V4(number.into());
        for _ in 0..MAX_PER_NAME {
            assert!(node.admits(PeerId::random(), HERE, b"name"));
        }
        assert!(!node.admits(PeerId::random(), HERE, b"name"), "its own share is full");
        for there in 1..MAX_PER_NAME as u32 {
            assert!(node.admits(PeerId::random(), address(there), b"name"), "{there}");
        }
        assert!(!node.admits(PeerId::random(), address(99), b"name"), "four addresses have one place each");
        for number in 0..MAX_REGISTRATIONS {
            let from = address(1000 + (number / MAX_PER_ADDRESS) as u32);
            node.admits(PeerId::random(), from, format!("other {number}").as_bytes());
        }
        assert_eq!(node.filter.registrations.len(), MAX_REGISTRATIONS);
        assert!(node.admits(PeerId::random(), address(99), b"its own"), "sixteen addresses have all places");
        assert_eq!(node.filter.registrations.len(), MAX_REGISTRATIONS);
    }

    #[test]
    fn many_addresses_cannot_fill_it_either() {
        let mut node = Node::default();
        let admitted = (0..2 * MAX_REGISTRATIONS as u32)
            .filter(|number| node.admits(PeerId::random(), IpAddr::V4((*number).into()), number.to_string().as_bytes()))
            .count();
        assert_eq!(admitted, MAX_REGISTRATIONS);
    }

    #[test]
    fn a_stranger_cannot_announce_the_death_of_an_actor() {
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
