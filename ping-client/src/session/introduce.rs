//! Who was found, and how long that took.

use std::time::Instant;

use libp2p::multiaddr::Protocol;
use ping_core::{Connection, ServerAddress, nat::is_circuit, program::RESULT};
use tracing::{info, warn};

use crate::{figures::Phases, find::Found};

/// The steps until the actor was found.
pub(super) fn phases(found: &Found, started: Instant) -> Phases {
    Phases {
        find: Some(found.address_known - started),
        connect: Some(found.connected - found.address_known),
        lookup: Some(found.looked_up - found.connected),
        ..Phases::default()
    }
}

/// Reports who was found, and, where the user required no identity, whose was accepted.
pub(super) fn introduce(connection: &Connection, server: Option<&ServerAddress>, has_ticket: bool) {
    let address = connection.address.clone().with(Protocol::P2p(connection.peer));
    match server {
        Some(ServerAddress { peer: Some(_), .. }) => info!("Connected to {address}"),
        Some(_) => {
            info!("Connected to {address}");
            warn!(target: RESULT, "Accepted identity {} unchecked; to check it, use {address}", connection.peer);
        }
        None if has_ticket => {
            info!("Connected {} {address}", if is_circuit(&address) { "through a relay:" } else { "directly:" })
        }
        None => info!("Found {address}; to check its identity, give this address to --server"),
    }
}
