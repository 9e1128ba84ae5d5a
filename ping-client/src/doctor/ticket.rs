//! The steps of a ticket: each address of the server, each relay, the way through it, and the way past it.

use std::time::Instant;

use libp2p::{Multiaddr, PeerId};
use ping_core::{
    Connection,
    nat::{Ticket, circuit},
};
use tokio::time::timeout;

use super::{
    Outcome,
    checks::{Checks, STEP_TIMEOUT},
};
use crate::{
    find::{leave_relay, resolve},
    pinger::Path,
};

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

    /// Whether there is a direct path beside the one through a relay.
    async fn direct_path(&mut self, ticket: &Ticket, relayed: &Multiaddr) -> Option<Connection> {
        let began = Instant::now();
        let direct = leave_relay(self.node, ticket, relayed).await;
        let took = Some(began.elapsed());
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
