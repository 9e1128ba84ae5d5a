//! From nothing but the local network to the actor: mDNS names peers, and the first that has the actor is taken.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use futures::{
    StreamExt,
    future::{LocalBoxFuture, pending},
    stream::FuturesUnordered,
};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use ping_core::node::{Event, without_peer};
use tokio::sync::mpsc;
use tracing::info;

use crate::{
    diagnose::Trouble,
    find::{Finder, Found},
    network::{ENOUGH, Network},
};

/// How many peers are tried at most, and at how many addresses each. Anybody on the network can announce any number of them.
const MAX_PEERS: usize = 256;
const MAX_ADDRESSES: usize = 16;

/// A search on the local network. It goes on after its first success, to name the other servers.
pub(crate) struct Discovery<'a> {
    finder: &'a Finder<'a>,
    events: mpsc::UnboundedReceiver<Event>,
    /// The addresses that each peer announced. The attempt to reach it shares them.
    peers: HashMap<PeerId, Rc<RefCell<Vec<Multiaddr>>>>,
    attempts: FuturesUnordered<LocalBoxFuture<'a, Result<Found, Trouble>>>,
    /// What the node's events say of the connections, in passing.
    pub(crate) network: Network,
}

impl<'a> Discovery<'a> {
    /// Starts a search that listens to a node's events.
    pub(crate) fn new(finder: &'a Finder<'a>, events: mpsc::UnboundedReceiver<Event>) -> Self {
        let (peers, attempts) = (HashMap::new(), FuturesUnordered::new());
        Self { finder, events, peers, attempts, network: Network::default() }
    }

    /// Waits for the next peer on the local network that has the actor. What goes wrong with one peer is noted; the next
    /// one may come at any time.
    pub(crate) async fn next(&mut self) -> Found {
        loop {
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(event) => self.on_event(event),
                    None => pending().await,
                },
                Some(outcome) = self.attempts.next() => match outcome {
                    Ok(found) => return found,
                    Err(trouble) => self.finder.note(trouble),
                },
            }
        }
    }

    /// Names the other servers that have the actor, for as long as it is let, and has nothing more to do with them.
    pub(crate) async fn name_others(&mut self, block: impl Fn(PeerId)) {
        loop {
            let Found { connection, .. } = self.next().await;
            let address = connection.address.with(Protocol::P2p(connection.peer));
            info!("Another server on this network has the actor too: {address}");
            block(connection.peer);
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::RoundTrip { peer, time } => self.network.record(peer, time),
            Event::Discovered { peer, address } => self.on_discovered(peer, without_peer(address)),
            _ => {}
        }
    }

    /// One attempt is made for each peer; it tries all addresses that are known by then.
    fn on_discovered(&mut self, peer: PeerId, address: Multiaddr) {
        if !leads_here(&address) {
            return;
        }
        if let Some(addresses) = self.peers.get(&peer) {
            let mut addresses = addresses.borrow_mut();
            if addresses.len() < MAX_ADDRESSES {
                addresses.push(address);
            }
            return;
        }
        if self.peers.len() >= MAX_PEERS {
            return;
        }
        let addresses = Rc::new(RefCell::new(vec![address]));
        self.peers.insert(peer, Rc::clone(&addresses));
        let finder = self.finder;
        self.attempts.push(Box::pin(async move { finder.at_peer(peer, &addresses).await }));
    }

    /// Waits until there are enough measurements of the connection to a peer.
    pub(crate) async fn enough_round_trips(&mut self, peer: PeerId) {
        while self.network.count(peer) < ENOUGH
            && let Some(event) = self.events.recv().await
        {
            self.on_event(event);
        }
    }
}

/// Whether an address that a peer announced can lead to it from here: its loopback addresses cannot, and its
/// link-local IPv6 addresses lack the interface to take.
fn leads_here(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => !ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => !ip.is_loopback() && !ip.is_unicast_link_local(),
        _ => false,
    }
}
