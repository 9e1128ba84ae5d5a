//! Places on relays, which the swarm knows as listeners.

use std::{collections::HashMap, io};

use libp2p::{Multiaddr, TransportError, core::transport::ListenerId};
use tokio::sync::oneshot;

use super::Reservation;
use crate::address::without_peer;

type Reply = oneshot::Sender<Result<Reservation, String>>;

/// The places on relays that a node has, and those that it has asked for.
#[derive(Default)]
pub(super) struct Reservations {
    asked: HashMap<ListenerId, Reply>,
    /// Gets the reason when a place is lost.
    held: HashMap<ListenerId, oneshot::Sender<String>>,
}

impl Reservations {
    /// Asks for a place with a listener on the address of a relay's circuits.
    pub(super) fn ask(&mut self, listener: Result<ListenerId, TransportError<io::Error>>, reply: Reply) {
        match listener {
            Ok(listener) => drop(self.asked.insert(listener, reply)),
            Err(error) => drop(reply.send(Err(error.to_string()))),
        }
    }

    /// A relay gave a place.
    ///
    /// # Errors
    ///
    /// The listener to remove, if nobody waits for the place any more.
    pub(super) fn on_given(&mut self, listener: ListenerId, address: Multiaddr) -> Result<(), ListenerId> {
        let Some(reply) = self.asked.remove(&listener) else { return Ok(()) };
        let (losing, lost) = oneshot::channel();
        reply.send(Ok(Reservation { address: without_peer(address), lost })).map_err(|_| listener)?;
        self.held.insert(listener, losing);
        Ok(())
    }

    /// A relay gave no place, or took it back.
    pub(super) fn on_closed(&mut self, listener: ListenerId, reason: io::Result<()>) {
        let reason = reason.map_or_else(|error| innermost(&error), |()| "the connection to it was lost".into());
        if let Some(reply) = self.asked.remove(&listener) {
            let _ = reply.send(Err(reason));
        } else if let Some(losing) = self.held.remove(&listener) {
            let _ = losing.send(reason);
        }
    }
}

/// The words of the cause of an error, under all that wraps it.
fn innermost(error: &io::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
