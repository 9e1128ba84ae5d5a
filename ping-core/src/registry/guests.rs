//! The registrations of other nodes: each by the node itself, few from one address, and few under one name.
//!
//! A registration of a node that has left makes room for a new one, and so does one from an address that has more than
//! its share.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId};

use crate::{
    address::without_peer,
    cluster::record::{Guest, HostedActor, MAX_ADDRESS_LEN, MAX_ADDRESSES},
    protocol::MAX_NAME_LEN,
};

/// How many registrations of other nodes are kept.
const MAX_REGISTRATIONS: usize = 256;

/// How many of them may come from one IP address. A machine with more actors should run its own node; and to fill a
/// node, an attacker needs many addresses.
const MAX_PER_ADDRESS: usize = 16;

/// How many nodes may register under one name.
const MAX_PER_NAME: usize = 4;

/// How long a registration lasts without renewal: as long as Kademlia keeps a provider record.
const LIFETIME: Duration = Duration::from_secs(48 * 60 * 60);

/// A node, and the name of its actor.
type Key = (PeerId, String);

/// The registration of an actor of another node. It comes in two messages, in any order.
struct Registration {
    address: IpAddr,
    renewed: Instant,
    /// Where its node can be reached, once it has said so.
    addresses: Option<Vec<Multiaddr>>,
    /// The actor, once its node has named it.
    actor: Option<HostedActor>,
}

/// The registrations of other nodes.
#[derive(Default)]
pub(super) struct Guests {
    registrations: HashMap<Key, Registration>,
}

impl Guests {
    /// Keeps an actor that a peer at this address registers. Returns whether there is room for it.
    pub(super) fn register(
        &mut self,
        peer: PeerId,
        address: IpAddr,
        actor: HostedActor,
        connected: &HashSet<PeerId>,
    ) -> bool {
        let name = actor.name.clone();
        self.make_room(peer, address, &name, connected).map(|kept| kept.actor = Some(actor)).is_some()
    }

    /// Keeps where a peer at this address can be reached for its actor of this name. Returns whether there is room for
    /// it, and all of it is kept.
    pub(super) fn provide(
        &mut self,
        peer: PeerId,
        address: IpAddr,
        name: &str,
        addresses: Vec<Multiaddr>,
        connected: &HashSet<PeerId>,
    ) -> bool {
        // Kademlia adds the identity, which the directory names itself.
        let mut addresses: Vec<_> = addresses.into_iter().map(without_peer).collect();
        let sent = addresses.len();
        bound(&mut addresses);
        let is_whole = addresses.len() == sent;
        let kept = self.make_room(peer, address, name, connected).map(|kept| kept.addresses = Some(addresses));
        kept.is_some() && is_whole
    }

    /// The actor of this name on a node, if it has registered one.
    pub(super) fn get(&self, peer: PeerId, name: &str) -> Option<&HostedActor> {
        let registration = self.registrations.get(&(peer, name.to_owned()))?;
        registration.actor.as_ref().filter(|_| !registration.is_expired(Instant::now()))
    }

    /// The nodes that say that they have an actor of this name, and where they say that they can be reached.
    pub(super) fn of_name(&self, name: &str) -> impl Iterator<Item = (PeerId, &[Multiaddr])> {
        let now = Instant::now();
        let live = self.registrations.iter().filter(move |((_, of), kept)| of == name && !kept.is_expired(now));
        live.filter_map(|((peer, _), kept)| Some((*peer, kept.addresses.as_deref()?)))
    }

    /// The nodes with actors of which all is known, in the order of peer ids.
    pub(super) fn complete(&self) -> Vec<Guest> {
        let now = Instant::now();
        let mut guests: BTreeMap<PeerId, Guest> = BTreeMap::new();
        for ((peer, _), registration) in self.registrations.iter().filter(|(_, kept)| !kept.is_expired(now)) {
            let Registration { addresses: Some(addresses), actor: Some(actor), .. } = registration else { continue };
            let guest = guests.entry(*peer).or_insert_with(|| Guest {
                peer: *peer,
                addresses: addresses.clone(),
                actors: vec![],
            });
            guest.actors.push(actor.clone());
        }
        let mut guests: Vec<Guest> = guests.into_values().collect();
        for guest in &mut guests {
            guest.actors.sort_by(|one, other| one.name.cmp(&other.name));
        }
        guests
    }

    /// The registration of this name by this peer, renewed; `None` if there is no room for it.
    fn make_room(
        &mut self,
        peer: PeerId,
        address: IpAddr,
        name: &str,
        connected: &HashSet<PeerId>,
    ) -> Option<&mut Registration> {
        if name.is_empty() || name.len() > MAX_NAME_LEN {
            return None;
        }
        let now = Instant::now();
        self.registrations.retain(|_, registration| !registration.is_expired(now));
        let key = (peer, name.to_owned());
        while !self.registrations.contains_key(&key)
            && let Some(rivals) = self.full_for(address, name)
        {
            let loser = self.loser(&rivals, address, connected)?;
            self.registrations.remove(&loser);
        }
        let registration = Registration { address, renewed: now, addresses: None, actor: None };
        let registration = self.registrations.entry(key).or_insert(registration);
        (registration.address, registration.renewed) = (address, now);
        Some(registration)
    }

    /// Which of these registrations goes for a new one from this address, if one does: the oldest of a peer that has
    /// left, or else the newest from the address that has the most, if it has at least two more than this one.
    fn loser(&self, rivals: &[Key], address: IpAddr, connected: &HashSet<PeerId>) -> Option<Key> {
        let of = |key: &Key| self.registrations.get(key).map(|kept| (kept.address, kept.renewed));
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
    fn full_for(&self, address: IpAddr, name: &str) -> Option<Vec<Key>> {
        let rivals = |is_rival: &dyn Fn(&str, IpAddr) -> bool| -> Vec<_> {
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

/// Drops the addresses that are too long, and those above the limit.
fn bound(addresses: &mut Vec<Multiaddr>) {
    addresses.retain(|address| address.len() <= MAX_ADDRESS_LEN);
    addresses.truncate(MAX_ADDRESSES);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::BROADCAST);

    /// The registrations of a node, and the peers that are connected to it.
    #[derive(Default)]
    struct Node {
        guests: Guests,
        connected: HashSet<PeerId>,
    }

    impl Node {
        /// Whether a peer that is connected may register.
        fn admits(&mut self, peer: PeerId, address: IpAddr, name: &str) -> bool {
            self.connected.insert(peer);
            let actor = HostedActor { name: name.into(), sequence: 1, remote_id: "my_app::MyActor".into() };
            self.guests.register(peer, address, actor, &self.connected)
        }
    }

    #[test]
    fn one_name_has_room_for_four_connected_peers() {
        let mut node = Node::default();
        let register = |address: u32| (PeerId::random(), IpAddr::V4(address.into()));
        let admitted = (0..20).map(register).filter(|(peer, from)| node.admits(*peer, *from, "name")).count();
        assert_eq!(admitted, MAX_PER_NAME);
        assert!(node.admits(PeerId::random(), HERE, "another name"));
    }

    #[test]
    fn a_peer_that_left_makes_room_and_is_no_longer_looked_up() {
        let mut node = Node::default();
        let peers: Vec<_> = (0..20).map(|_| PeerId::random()).collect();
        for peer in &peers {
            assert!(node.admits(*peer, HERE, "name"), "each restart registers anew");
            assert!(node.guests.get(*peer, "name").is_some());
            node.connected.remove(peer);
        }
        let found = |peer: &PeerId| node.guests.get(*peer, "name").is_some();
        assert_eq!(peers.iter().filter(|peer| found(peer)).count(), MAX_PER_NAME);
        assert!(found(&peers[19]) && !found(&peers[0]), "the oldest go first");
    }

    #[test]
    fn a_guest_is_complete_with_its_addresses_and_its_actors() {
        let mut node = Node::default();
        let (peer, address): (_, Multiaddr) = (PeerId::random(), "/ip4/127.0.0.1/tcp/1".parse().unwrap());
        assert!(node.admits(peer, HERE, "b"));
        assert!(node.guests.complete().is_empty());
        for name in ["b", "a"] {
            assert!(node.admits(peer, HERE, name));
            assert!(node.guests.provide(peer, HERE, name, vec![address.clone()], &node.connected));
        }
        let guests = node.guests.complete();
        let names = |guest: &Guest| guest.actors.iter().map(|actor| actor.name.clone()).collect::<Vec<_>>();
        assert_eq!(
            (guests.len(), names(&guests[0]), &guests[0].addresses),
            (1, vec!["a".into(), "b".into()], &vec![address])
        );
        assert_eq!(node.guests.of_name("a").count(), 1);
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
    fn one_address_cannot_fill_the_store_and_a_known_peer_may_renew() {
        let mut node = Node::default();
        let first = PeerId::random();
        let name = |number: usize| number.to_string();
        assert!(node.admits(first, HERE, &name(0)));
        for number in 1..MAX_PER_ADDRESS {
            assert!(node.admits(PeerId::random(), HERE, &name(number)));
        }
        assert!(!node.admits(PeerId::random(), HERE, &name(MAX_PER_ADDRESS)));
        assert!(node.admits(first, HERE, &name(0)), "a renewal");
        assert!(node.admits(PeerId::random(), THERE, &name(MAX_PER_ADDRESS)), "another address");
        assert!(!node.admits(PeerId::random(), THERE, ""));
        assert!(!node.admits(PeerId::random(), THERE, &"x".repeat(MAX_NAME_LEN + 1)));
    }

    #[test]
    fn no_address_holds_the_places_of_another() {
        let mut node = Node::default();
        let address = |number: u32| IpAddr::V4(number.into());
        for _ in 0..MAX_PER_NAME {
            assert!(node.admits(PeerId::random(), HERE, "name"));
        }
        assert!(!node.admits(PeerId::random(), HERE, "name"), "its own share is full");
        for there in 1..MAX_PER_NAME as u32 {
            assert!(node.admits(PeerId::random(), address(there), "name"), "{there}");
        }
        assert!(!node.admits(PeerId::random(), address(99), "name"), "four addresses have one place each");
        for number in 0..MAX_REGISTRATIONS {
            let from = address(1000 + (number / MAX_PER_ADDRESS) as u32);
            node.admits(PeerId::random(), from, &format!("other {number}"));
        }
        assert_eq!(node.guests.registrations.len(), MAX_REGISTRATIONS);
        assert!(node.admits(PeerId::random(), address(99), "its own"), "sixteen addresses have all places");
        assert_eq!(node.guests.registrations.len(), MAX_REGISTRATIONS);
    }

    #[test]
    fn many_addresses_cannot_fill_it_either() {
        let mut node = Node::default();
        let admitted = (0..2 * MAX_REGISTRATIONS as u32)
            .filter(|number| node.admits(PeerId::random(), IpAddr::V4((*number).into()), &number.to_string()))
            .count();
        assert_eq!(admitted, MAX_REGISTRATIONS);
    }
}
