//! The ways by which others than its neighbours reach the server, and the ticket that names them.

use std::future::pending;

use libp2p::{Multiaddr, PeerId};
use ping_core::{
    Transport,
    cluster::is_global,
    nat::{Mapping, MappingEvent, Ticket},
    transport::endpoint,
};
use tokio::sync::mpsc;

/// What becomes of a way to the server.
#[derive(Debug)]
pub(crate) enum Way {
    /// A relay holds a place for it, at these addresses of the relay.
    Held { relay: PeerId, addresses: Vec<Multiaddr> },
    /// The place is lost.
    Lost { relay: PeerId, reason: String },
    /// Of a port that the router forwards.
    Mapping(MappingEvent),
}

/// Whether something is known already.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    New,
    Known,
}

/// The ways that there are.
#[derive(Debug)]
pub(crate) struct Ways {
    peer: PeerId,
    /// Where everyone reaches the server, as far as its addresses tell.
    addresses: Vec<Multiaddr>,
    relays: Vec<(PeerId, Vec<Multiaddr>)>,
    mapped: Vec<Mapping>,
    /// Where a relay got to the server.
    reached: Vec<Multiaddr>,
    /// The transports by which none did, over IPv4 or IPv6.
    not_reached: Vec<(Transport, bool)>,
    changes: mpsc::UnboundedReceiver<Way>,
}

impl Ways {
    /// Those of the server `peer` at these addresses, of which all that others than its neighbours reach are named.
    pub(crate) fn new(peer: PeerId, addresses: &[Multiaddr], changes: mpsc::UnboundedReceiver<Way>) -> Self {
        let is_public = |address: &&Multiaddr| endpoint(address).is_none_or(|(ip, ..)| is_global(ip));
        let addresses = addresses.iter().filter(is_public).cloned().collect();
        Self {
            peer,
            addresses,
            relays: Vec::new(),
            mapped: Vec::new(),
            reached: Vec::new(),
            not_reached: Vec::new(),
            changes,
        }
    }

    /// Waits for the next change. Never resolves once the node has stopped.
    pub(crate) async fn next(&mut self) -> Way {
        let Some(way) = self.changes.recv().await else { return pending().await };
        match &way {
            Way::Held { relay, addresses } => {
                self.relays.retain(|(known, _)| known != relay);
                self.relays.push((*relay, addresses.clone()));
            }
            Way::Lost { relay, .. } => self.relays.retain(|(known, _)| known != relay),
            Way::Mapping(MappingEvent::Mapped(mapping)) => self.mapped.push(*mapping),
            Way::Mapping(MappingEvent::Lost(mapping, _)) => self.mapped.retain(|known| known != mapping),
            Way::Mapping(MappingEvent::Failed(..)) => {}
        }
        way
    }

    /// A relay has tried to get to the server. Behind some routers each connection has another port, which is no news.
    pub(crate) fn on_tested(&mut self, address: &Multiaddr, is_reached: bool) -> Verdict {
        let kind_of = |address: &Multiaddr| endpoint(address).map(|(ip, _, transport)| (transport, ip.is_ipv4()));
        let Some(kind) = kind_of(address) else { return Verdict::Known };
        let before = (self.reached.contains(address), self.not_reached.contains(&kind));
        // Where it was reached by the same transport before, it is no more.
        self.reached.retain(|known| kind_of(known) != Some(kind));
        self.not_reached.retain(|known| *known != kind);
        match is_reached {
            true => self.reached.push(address.clone()),
            false => self.not_reached.push(kind),
        }
        if before == (is_reached, !is_reached) { Verdict::Known } else { Verdict::New }
    }

    /// The ticket, if there is a way that the server's addresses do not name.
    pub(crate) fn ticket(&self) -> Option<String> {
        let mapped = self.mapped.iter().filter(|mapping| is_global(mapping.address.ip())).map(multiaddr);
        let mut addresses: Vec<_> = mapped.chain(self.addresses.iter().cloned()).collect();
        let reached = self.reached.iter().filter(|address| !addresses.contains(address)).cloned();
        addresses.extend(reached.collect::<Vec<_>>());
        let has_more = !self.relays.is_empty() || addresses.len() > self.addresses.len();
        let ticket = Ticket { peer: self.peer, addresses, relays: self.relays.clone() };
        ticket.to_word().filter(|_| has_more)
    }
}

/// Where others reach a port that the router forwards.
pub(crate) fn multiaddr(mapping: &Mapping) -> Multiaddr {
    mapping.transport.multiaddr(mapping.address.ip(), mapping.address.port())
}
