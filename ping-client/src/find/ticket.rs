//! From a ticket to a connection, directly or through a relay.

use std::time::Duration;

use futures::{
    FutureExt,
    future::{join_all, select_ok},
};
use libp2p::{Multiaddr, PeerId};
use ping_core::{
    Connection, DialError, ServerAddress,
    nat::{Ticket, circuit, is_circuit},
};
use serde::Serialize;
use tracing::info;

use super::{Finder, Found};
use crate::{error::Error, units::counted};

/// How long an address is tried before the next one is tried beside it: the least that RFC 8305 allows. The addresses
/// of a ticket are of different transports, all but one of which a network may drop.
const HEAD_START: Duration = Duration::from_millis(10);

/// Which paths to a server pings may take.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PathChoice {
    /// A relay until there is a direct path
    #[default]
    Any,
    /// A direct path alone; a relay only helps to make it
    Direct,
    /// A relay alone
    Relay,
}

/// The ways to a server that its ticket names.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) ticket: Ticket,
    pub(crate) choice: PathChoice,
}

impl Finder<'_> {
    /// Finds the actor on the server that a ticket names. Fails only if another attempt could not succeed.
    pub(crate) async fn by_ticket(&self, route: &Route) -> Result<Found, Error> {
        let Ticket { peer, addresses, relays } = &route.ticket;
        let directly = counted(addresses.len() as u64, "address");
        let relays = counted(relays.len() as u64, "relay");
        match (addresses.is_empty(), route.ticket.relays.is_empty()) {
            (false, true) => info!("Connecting to {peer} directly at {directly}"),
            (false, false) => info!("Connecting to {peer} directly at {directly} and through {relays}"),
            (true, _) => info!("Connecting to {peer} through {relays}"),
        }
        let known = self.started;
        self.retrying(|| self.connect_by_ticket(route), || known).await
    }

    /// Connects to the server that a ticket names, directly or through a relay; the first to answer wins.
    pub(super) async fn connect_by_ticket(&self, route: &Route) -> Result<Connection, Error> {
        let Ticket { peer, addresses, relays } = &route.ticket;
        // All at once: a router that drops what comes unasked would cost the time of a direct attempt otherwise.
        let direct = self.dial_resolved(addresses, *peer).boxed_local();
        let relayed = relays.iter().map(|relay| self.connect_through(relay, *peer).boxed_local());
        let (connection, _) = select_ok([direct].into_iter().chain(relayed)).await?;
        if route.choice != PathChoice::Direct || !is_circuit(&connection.address) {
            return Ok(connection);
        }
        let direct = self.node.direct(*peer).await;
        self.node.close(connection.id);
        direct.map_err(|reason| Error::NoDirectPath { peer: *peer, reason })
    }

    /// Connects to a relay, by the first of its addresses that answers, and through it to a server.
    async fn connect_through(
        &self,
        (relay, addresses): &(PeerId, Vec<Multiaddr>),
        server: PeerId,
    ) -> Result<Connection, Error> {
        let at = match self.dial_resolved(addresses, *relay).await {
            Ok(connection) => {
                self.relays.borrow_mut().insert(*relay, connection.address.clone());
                connection.address
            }
            // Another attempt has connected to it.
            Err(error @ Error::Dial { error: DialError::Denied, .. }) => {
                let known = self.relays.borrow().get(relay).or(addresses.first()).cloned();
                known.ok_or(error)?
            }
            Err(error) => return Err(error),
        };
        let server_by_relay = format!("{server} through relay {relay}");
        let connected = self.dial_all(vec![circuit(&at, *relay)], Some(server), server_by_relay, HEAD_START).await;
        if matches!(connected, Err(Error::Dial { error: DialError::TimedOut, .. })) {
            // What it does not answer takes one of its ten places for a minute.
            self.node.disconnect(*relay);
        }
        connected
    }

    async fn dial_resolved(&self, addresses: &[Multiaddr], peer: PeerId) -> Result<Connection, Error> {
        let resolved = join_all(addresses.iter().map(resolve)).await.concat();
        self.dial_all(resolved, Some(peer), peer.to_string(), HEAD_START).await
    }
}

/// The same address with the IP addresses of its host, if that is a name. Those of a name that does not resolve are
/// none.
pub(crate) async fn resolve(address: &Multiaddr) -> Vec<Multiaddr> {
    let Ok(server) = address.to_string().parse::<ServerAddress>() else { return vec![address.clone()] };
    let ips = server.resolve().await.unwrap_or_default();
    let at = |ip| server.transports().iter().map(move |transport| (ip, *transport));
    ips.into_iter().flat_map(at).map(|(ip, transport)| server.multiaddr_at(ip, transport)).collect()
}
