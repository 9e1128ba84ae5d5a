//! From a server that was lost back to its actor.

use std::time::Duration;

use futures::{StreamExt, stream::FuturesUnordered};
use libp2p::PeerId;
use ping_core::{Connection, DialError, ServerAddress};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::{
    Finder, Found, Route,
    mdns::{Announced, keep_asking},
};
use crate::{backoff::Backoff, error::Error};

/// How long an attempt to reconnect may stay unanswered before another one is made beside it. Its packets may have been
/// lost with the link, and TCP would resend them only after a second, and then after two more.
const NEXT_ATTEMPT_AFTER: Duration = Duration::from_millis(300);

/// How many such attempts are made at a time. The node gives up each after nine seconds.
const MAX_ATTEMPTS: usize = 32;

/// The same through a relay, which is asked for ten connections at a time at most.
const MAX_ATTEMPTS_BY_RELAY: usize = 4;

/// Where a server is that was found before. Both follow a server that moves.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// Where the user said. A name is resolved each time.
    Address(ServerAddress),
    /// Where its ticket says.
    Ticket(Route),
    /// At one of the addresses that it announces on the local network.
    Announced(PeerId, Announced),
}

impl Finder<'_> {
    /// Reconnects to a server and looks up its actor, for as long as it takes. The user has been told already. Fails
    /// only if another identity answers there now, or this node has failed.
    pub(crate) async fn again(&self, place: &Place) -> Result<Found, Error> {
        match place {
            Place::Address(server) => self.until_found(MAX_ATTEMPTS, || self.connect_once(server)).await,
            Place::Ticket(route) => self.until_found(MAX_ATTEMPTS_BY_RELAY, || self.connect_by_ticket(route)).await,
            Place::Announced(peer, addresses) => tokio::select! {
                found = self.until_found(MAX_ATTEMPTS, || self.connect_to_announced(*peer, addresses)) => found,
                never = keep_asking() => match never {},
            },
        }
    }

    async fn until_found(
        &self,
        most: usize,
        connect: impl AsyncFn() -> Result<Connection, Error>,
    ) -> Result<Found, Error> {
        self.has_warned.set(true);
        let mut attempts = FuturesUnordered::new();
        let mut backoff = Backoff::new();
        let mut next = Instant::now();
        loop {
            let is_full = attempts.len() >= most;
            tokio::select! {
                // Many attempts may end at once when a server that was stopped goes on. One of them succeeds, and does
                // not wait for a pause after those that made way for it.
                Some(outcome) = attempts.next() => match outcome {
                    Err(Error::Dial { error: DialError::WrongPeer { .. } | DialError::Stopped, .. }) | Ok(_) => {
                        return outcome;
                    }
                    Err(error) => {
                        debug!(%error, "reconnecting");
                        next = next.min(Instant::now() + backoff.next());
                    }
                },
                () = sleep_until(next), if !is_full => {
                    attempts.push(self.attempt(&connect, || self.started));
                    next = Instant::now() + NEXT_ATTEMPT_AFTER;
                }
            }
        }
    }
}
