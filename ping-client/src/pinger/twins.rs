//! Notices that two machines have the identity of the server: a cloned disk, or a key that was copied.
//!
//! The actor tells which process hosts it, and for how long. Another process that already ran while the first one was
//! seen runs beside it, so it is no restart.

use std::{
    cell::Cell,
    future::pending,
    rc::Rc,
    time::{Duration, Instant},
};

use kameo::actor::RemoteActorRef;
use ping_core::{PingActor, protocol::Card};
use tokio::time::sleep;

use super::{About, about};

/// The question waits until the first pongs have arrived.
const ASK_AFTER: Duration = Duration::from_secs(1);

/// A process that hosted the actor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Host {
    id: u64,
    /// When it started, at the latest.
    started: Instant,
    /// When it said so.
    seen: Instant,
}

impl Host {
    /// The host that has just answered with this card, if it says which it is.
    pub(crate) fn of(card: &Card) -> Option<Self> {
        let (seen, process) = (Instant::now(), card.process?);
        let started = seen.checked_sub(Duration::from_millis(process.uptime_ms))?;
        Some(Self { id: process.id, started, seen })
    }

    /// Whether this host has the same identity as an earlier one and ran while that was seen. Then both run now, or
    /// did.
    pub(crate) fn is_twin_of(&self, earlier: &Self) -> bool {
        self.id != earlier.id && self.started < earlier.seen
    }
}

/// The host of the first connection of a run. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Twins(Rc<Cell<Option<Host>>>);

impl Twins {
    /// Learns who hosts the actor. Never resolves.
    pub(crate) async fn learn(&self, actor: &RemoteActorRef<PingActor>) {
        sleep(ASK_AFTER).await;
        self.0.set(host_of(actor).await);
        pending().await
    }

    /// Whether the actor that was reached now is on another machine than the first one.
    pub(super) async fn is_another(&self, actor: &RemoteActorRef<PingActor>) -> bool {
        let Some(first) = self.0.get() else { return false };
        host_of(actor).await.is_some_and(|host| host.is_twin_of(&first))
    }
}

/// Asks the actor who hosts it.
pub(crate) async fn host_of(actor: &RemoteActorRef<PingActor>) -> Option<Host> {
    about(actor).await.ok().as_ref().and_then(About::card).and_then(Host::of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_no_twin_and_a_process_that_ran_all_the_time_is() {
        let now = Instant::now() + Duration::from_secs(1000);
        let host = |id, started, seen| Host {
            id,
            started: now - Duration::from_secs(started),
            seen: now - Duration::from_secs(seen),
        };
        let first = host(1, 900, 100);
        assert!(!host(2, 50, 0).is_twin_of(&first), "it started after the first was seen");
        assert!(host(2, 500, 0).is_twin_of(&first));
        assert!(!host(1, 900, 0).is_twin_of(&first));
    }
}
