//! From the local network to the actor: mDNS names peers, and the first that has the actor is taken.

use std::{
    cell::RefCell,
    collections::HashMap,
    convert::Infallible,
    future::pending,
    net::IpAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use futures::{StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use ping_core::{Connection, Event, Transport, address::without_peer, node::ask_mdns, transport::endpoint};
use tokio::{sync::mpsc, time::sleep};
use tracing::{debug, info};

use super::{Finder, Found};
use crate::{error::Error, plan::Wanted};

/// How many peers are tried, and at how many addresses each. Anyone on the network can announce any number of them.
const MAX_PEERS: usize = 256;
const MAX_ADDRESSES: usize = 40;

/// How often a search asks who is there, beside libp2p's mDNS, which asks ever more rarely.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// The addresses that a peer announces, the latest first.
pub(crate) type Announced = Rc<RefCell<Vec<Multiaddr>>>;

/// A search on the local network. It continues for a moment after its success, to name the other servers.
///
/// It reads the node's events, and passes on the round trips among them.
pub(crate) struct Search<'a> {
    finder: &'a Finder<'a>,
    events: mpsc::UnboundedReceiver<Event>,
    /// The addresses that each peer announced, shared with the attempt to reach it.
    peers: HashMap<PeerId, Announced>,
    attempts: FuturesUnordered<LocalBoxFuture<'a, (PeerId, Result<Found, Error>)>>,
    wanted: Wanted,
    /// How many servers have the actor.
    found: u32,
}

/// Gets the peer and the time of each round trip that the node measures.
pub(crate) type OnRoundTrip<'a> = &'a mut dyn FnMut(PeerId, Duration);

impl<'a> Search<'a> {
    /// A search among the peers that the node's events name.
    pub(crate) fn new(finder: &'a Finder<'a>, events: mpsc::UnboundedReceiver<Event>) -> Self {
        Self {
            finder,
            events,
            peers: HashMap::new(),
            attempts: FuturesUnordered::new(),
            wanted: Wanted::default(),
            found: 0,
        }
    }

    /// The same for what the user wants.
    pub(crate) fn wanting(self, wanted: Wanted) -> Self {
        Self { wanted, ..self }
    }

    /// The finder that it searches with.
    pub(crate) fn finder(&self) -> &'a Finder<'a> {
        self.finder
    }

    /// What a peer announces, now and later.
    pub(crate) fn announced(&self, peer: &PeerId) -> Announced {
        self.peers.get(peer).cloned().unwrap_or_default()
    }

    /// Waits for the next peer that has the actor. An error with one peer is remembered; the next may appear at any
    /// time.
    pub(crate) async fn next(&mut self, on_round_trip: OnRoundTrip<'_>) -> Found {
        loop {
            tokio::select! {
                event = receive(&mut self.events) => self.on_event(event, on_round_trip),
                Some((peer, outcome)) = self.attempts.next() => match outcome {
                    Ok(found) => {
                        self.found += 1;
                        return found;
                    }
                    Err(error) => {
                        self.finder.note(error);
                        self.finder.node.disconnect(peer);
                    }
                },
            }
        }
    }

    /// Names the other servers that have the actor, and calls `block` with them. Never ends.
    pub(crate) async fn name_others(
        &mut self,
        pinged: PeerId,
        block: impl Fn(PeerId),
        on_round_trip: OnRoundTrip<'_>,
    ) -> Infallible {
        loop {
            let Found { connection, .. } = self.next(on_round_trip).await;
            let address = connection.address.with(Protocol::P2p(connection.peer));
            info!("{} servers found, pinging {pinged}; choose this one with ping-client {address}", self.found);
            block(connection.peer);
        }
    }

    /// Handles the next event of the node.
    pub(crate) async fn next_event(&mut self, on_round_trip: OnRoundTrip<'_>) {
        let event = receive(&mut self.events).await;
        self.on_event(event, on_round_trip);
    }

    fn on_event(&mut self, event: Event, on_round_trip: OnRoundTrip<'_>) {
        match event {
            Event::RoundTrip { peer, time } => on_round_trip(peer, time),
            Event::Discovered { peer, address } => self.on_discovered(peer, without_peer(address)),
            other => debug!(?other, "event"),
        }
    }

    /// Starts one search for each peer; it tries all addresses that are known by then.
    fn on_discovered(&mut self, peer: PeerId, address: Multiaddr) {
        if !is_reachable_from_here(&address) || self.wanted.peer.is_some_and(|wanted| wanted != peer) {
            return;
        }
        let mut new = over_all_transports(&address, self.finder.node.is_private());
        new.retain(|address| self.wanted.is_met_by(address));
        if new.is_empty() {
            return;
        }
        if let Some(addresses) = self.peers.get(&peer) {
            let mut addresses = addresses.borrow_mut();
            addresses.retain(|known| !new.contains(known));
            addresses.splice(0..0, new);
            addresses.truncate(MAX_ADDRESSES);
            return;
        }
        if self.peers.len() >= MAX_PEERS {
            return;
        }
        let addresses = Rc::new(RefCell::new(new));
        self.peers.insert(peer, Rc::clone(&addresses));
        let finder = self.finder;
        self.attempts.push(Box::pin(async move { (peer, finder.at_peer(peer, &addresses).await) }));
    }
}

impl Wanted {
    fn is_met_by(&self, address: &Multiaddr) -> bool {
        let Some((ip, _, transport)) = endpoint(address) else { return false };
        self.version.is_none_or(|version| version.is_of(ip)) && self.transport.is_none_or(|wanted| wanted == transport)
    }
}

impl Finder<'_> {
    /// Finds the actor on this peer, at one of these addresses; more may be added during the search. Fails only if
    /// another attempt could not succeed, or if the search is over.
    async fn at_peer(&self, peer: PeerId, addresses: &RefCell<Vec<Multiaddr>>) -> Result<Found, Error> {
        let known = Instant::now();
        self.retrying(|| self.connect_to_announced(peer, addresses), || known).await
    }

    /// Connects to a peer at one of the addresses that it announces by now.
    pub(super) async fn connect_to_announced(
        &self,
        peer: PeerId,
        addresses: &RefCell<Vec<Multiaddr>>,
    ) -> Result<Connection, Error> {
        let addresses = addresses.borrow().clone();
        let server = addresses.first().map(ToString::to_string).unwrap_or_default();
        self.dial_or_explain(addresses, Some(peer), server).await
    }
}

/// Asks the local network again and again who is there. Never ends.
pub(crate) async fn keep_asking() -> Infallible {
    loop {
        sleep(ASK_EVERY).await;
        ask_mdns();
    }
}

/// The next event of the node. Never resolves once the node has failed, which the session notices.
async fn receive(events: &mut mpsc::UnboundedReceiver<Event>) -> Event {
    match events.recv().await {
        Some(event) => event,
        None => pending().await,
    }
}

/// Whether an address that a peer announced can lead to it from here. Its loopback addresses cannot, and its link-local
/// IPv6 addresses lack the interface. An address that names more than an IP address, a port and a transport could hold
/// any text.
fn is_reachable_from_here(address: &Multiaddr) -> bool {
    match endpoint(address) {
        Some((IpAddr::V4(ip), ..)) => !ip.is_loopback(),
        Some((IpAddr::V6(ip), ..)) => !ip.is_loopback() && !ip.is_unicast_link_local(),
        None => false,
    }
}

/// An address, and those of the other transports at the same port: a server announces one of them.
fn over_all_transports(address: &Multiaddr, is_private: bool) -> Vec<Multiaddr> {
    let Some((ip, port, announced)) = endpoint(address) else { return Vec::new() };
    let others = Transport::usable(is_private).filter(|transport| *transport != announced);
    [address.clone()].into_iter().chain(others.map(|transport| transport.multiaddr(ip, port))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_can_be_dialed_from_here_are_tried() {
        for (text, reachable) in [
            ("/ip4/192.0.2.1/tcp/1", true),
            ("/ip6/2001:db8::1/udp/1/quic-v1", true),
            ("/ip4/127.0.0.1/tcp/1", false),
            ("/ip6/fe80::1/tcp/1", false),
            ("/ip4/192.0.2.1/udp/1", false),
            ("/dns4/host/tcp/1", false),
            ("/ip4/192.0.2.1/tcp/1/dns/\u{1b}[2J\u{202e}", false),
        ] {
            assert_eq!(is_reachable_from_here(&text.parse().unwrap()), reachable, "{text:?}");
        }
    }
}
