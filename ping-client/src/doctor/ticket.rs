//! The steps of a ticket: each address of the server, each relay, the way through it, and the way past it.

use std::{cell::RefCell, time::Instant};

use futures::future::{join_all, pending};
use libp2p::{Multiaddr, PeerId};
use ping_core::{
    Connection, Transport,
    nat::{Ticket, circuit, relay_of},
};
use tokio::time::timeout;

use super::{
    Outcome,
    checks::{Checks, STEP_TIMEOUT},
};
use crate::{find::resolve, pinger::Path};

impl Checks<'_> {
    /// Tries every way that a ticket names. Returns the connection that a ping would use in the end.
    pub(super) async fn by_ticket(&mut self, ticket: &Ticket) -> Option<Connection> {
        let first = self.count();
        let mut reached = self.reach("address", &ticket.addresses, ticket.peer).await;
        let mut direct = None;
        for (relay, addresses) in &ticket.relays {
            let Some(at) = self.reach("relay", addresses, *relay).await else { continue };
            if direct.is_some() {
                // It leaves no room for another connection to the server.
                continue;
            }
            let address = circuit(&at, *relay);
            let Some(relayed) = self.dial_at("circuit", address.clone(), Some(ticket.peer)).await else { continue };
            reached.get_or_insert(address);
            direct = self.direct_path(ticket, &relayed.address).await;
            self.node.close(relayed.id);
            if direct.is_none() {
                self.leave(relayed).await;
            }
        }
        let address = reached?;
        self.forgive(first);
        match direct {
            Some(connection) => Some(connection),
            None => self.node.dial(address, Some(ticket.peer)).await.ok(),
        }
    }

    /// Tries all addresses of a peer. Returns the first that works.
    async fn reach(&mut self, step: &'static str, addresses: &[Multiaddr], peer: PeerId) -> Option<Multiaddr> {
        let mut first = None;
        for address in addresses {
            for address in self.resolve_part(address).await {
                if let Some(connection) = self.dial_at(step, address, Some(peer)).await {
                    first.get_or_insert_with(|| connection.address.clone());
                    self.leave(connection).await;
                }
            }
        }
        first
    }

    /// Whether there is a direct path beside the one through a relay at this address.
    ///
    /// In the meantime, the node is connected to the other relays of the ticket, by the same transport: where several
    /// peers see it tells how this side's router maps. A run is, because it tries all relays at once.
    async fn direct_path(&mut self, ticket: &Ticket, relayed: &Multiaddr) -> Option<Connection> {
        let began = Instant::now();
        let transport = Path::of(relayed).transport;
        let others = ticket.relays.iter().filter(|(relay, _)| Some(*relay) != relay_of(relayed));
        let seen_by = RefCell::new(Vec::new());
        let be_seen = async {
            let dials = others.map(async |(relay, addresses)| {
                let resolved = join_all(addresses.iter().map(resolve)).await.concat();
                let alike = resolved.into_iter().filter(|address| Transport::of(address) == transport);
                let dialed = join_all(alike.map(|address| self.node.dial(address, Some(*relay)))).await;
                seen_by.borrow_mut().extend(dialed.into_iter().flatten());
            });
            join_all(dials).await;
            pending().await
        };
        let direct = tokio::select! {
            direct = self.node.direct(ticket.peer) => direct,
            never = be_seen => never,
        };
        let took = Some(began.elapsed());
        for connection in seen_by.into_inner() {
            self.leave(connection).await;
        }
        match direct {
            Ok(connection) => {
                let path = Path::beside_relayed(&connection).kind.name();
                self.add("direct path", Outcome::Passed, took, format!("{path}: {}", connection.address));
                Some(connection)
            }
            Err(reason) => {
                self.add("direct path", Outcome::NotNeeded, took, format!("{reason}; pings stay on the relay"));
                None
            }
        }
    }

    /// Closes a connection before the next is made: a node has one with a peer.
    pub(super) async fn leave(&self, mut connection: Connection) {
        self.node.disconnect(connection.peer);
        let _ = timeout(STEP_TIMEOUT, &mut connection.closed).await;
    }

    async fn resolve_part(&mut self, address: &Multiaddr) -> Vec<Multiaddr> {
        let began = Instant::now();
        let resolved = resolve(address).await;
        if resolved.is_empty() {
            self.add("resolve", Outcome::Failed, Some(began.elapsed()), format!("{address} does not resolve"));
        }
        resolved
    }
}
