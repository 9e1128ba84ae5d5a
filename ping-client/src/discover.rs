//! From nothing but the local network to the actor: mDNS names peers, and the first that has the actor is taken.

use std::collections::HashSet;

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
};

/// A search on the local network. It goes on after its first success, to name the other servers.
pub(crate) struct Discovery<'a> {
    finder: &'a Finder<'a>,
    events: mpsc::UnboundedReceiver<Event>,
    tried: HashSet<(PeerId, Multiaddr)>,
    attempts: FuturesUnordered<LocalBoxFuture<'a, Result<Found, Trouble>>>,
}

impl<'a> Discovery<'a> {
    /// Starts a search that listens to a node's events.
    pub(crate) fn new(finder: &'a Finder<'a>, events: mpsc::UnboundedReceiver<Event>) -> Self {
        Self { finder, events, tried: HashSet::new(), attempts: FuturesUnordered::new() }
    }

    /// Waits for the next peer on the local network that has the actor.
    ///
    /// # Errors
    ///
    /// None: what goes wrong with one peer is noted, and the next one may come at any time.
    pub(crate) async fn next(&mut self) -> Result<Found, Trouble> {
        loop {
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(Event::Discovered { peer, address }) => self.on_discovered(peer, &address),
                    Some(_) => {}
                    None => pending().await,
                },
                Some(outcome) = self.attempts.next() => match outcome {
                    Ok(found) => return Ok(found),
                    Err(trouble) => self.finder.note(trouble),
                },
            }
        }
    }

    /// Names the other servers that have the actor, each once, for as long as it is let.
    pub(crate) async fn name_others(&mut self, chosen: PeerId, disconnect: impl Fn(PeerId)) {
        let mut named = HashSet::from([chosen]);
        loop {
            if let Ok(Found { connection, .. }) = self.next().await
                && named.insert(connection.peer)
            {
                let address = connection.address.with(Protocol::P2p(connection.peer));
                info!("Another server on this network has the actor too: {address}");
                disconnect(connection.peer);
            }
        }
    }

    fn on_discovered(&mut self, peer: PeerId, address: &Multiaddr) {
        let address = without_peer(address.clone());
        if leads_here(&address) && self.tried.insert((peer, address.clone())) {
            let finder = self.finder;
            self.attempts.push(Box::pin(async move { finder.at_peer(peer, &address).await }));
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
