//! Who sends the pings.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use libp2p::PeerId;

use crate::lock::lock;

/// The ids of the messages that are pings.
pub(crate) const PINGS: [&str; 4] =
    ["a1b2c3d4-e5f6-7890-abcd-ef1234567890", "kameo-ping/echo/1", "kameo-ping/once/1", "kameo-ping/traced/1"];

/// How a ping was carried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Carrier {
    Ask,
    Tell,
    Stream,
}

/// How many pings each peer has sent since they were last taken out, also those that are not counted because the actor
/// has counted them before, or is busy. Clones share it.
///
/// It grows by an entry for each peer that pings until it is [taken](Self::take).
#[derive(Clone, Debug, Default)]
pub struct Tally {
    senders: Arc<Mutex<HashMap<PeerId, u64>>>,
    /// By [`Carrier`].
    carried: Arc<[AtomicU64; 3]>,
}

impl Tally {
    pub(crate) fn add(&self, peer: PeerId, pings: u64, by: Carrier) {
        if pings > 0 {
            *lock(&self.senders).entry(peer).or_default() += pings;
            self.carried[by as usize].fetch_add(pings, Ordering::Relaxed);
        }
    }

    /// How many pings were sent in all by asks, tells and streams, under these names.
    pub fn carried(&self) -> [(&'static str, u64); 3] {
        [("ask", Carrier::Ask), ("tell", Carrier::Tell), ("stream", Carrier::Stream)]
            .map(|(name, by)| (name, self.carried[by as usize].load(Ordering::Relaxed)))
    }

    /// Takes out what was sent since the last time.
    pub fn take(&self) -> HashMap<PeerId, u64> {
        std::mem::take(&mut *lock(&self.senders))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        PingActor,
        protocol::{Echo, Once, Ping, Traced},
    };
    use kameo::remote::RemoteMessage;

    #[test]
    fn the_ids_are_those_of_the_messages() {
        fn id<M>() -> &'static str
        where
            PingActor: RemoteMessage<M>,
        {
            <PingActor as RemoteMessage<M>>::REMOTE_ID
        }
        assert_eq!(PINGS, [id::<Ping>(), id::<Echo>(), id::<Once>(), id::<Traced>()]);
    }

    #[test]
    fn pings_are_taken_out_once() {
        let (tally, peer) = (Tally::default(), PeerId::random());
        tally.add(peer, 2, Carrier::Ask);
        tally.add(peer, 3, Carrier::Stream);
        tally.add(PeerId::random(), 0, Carrier::Tell);
        assert_eq!(tally.take(), HashMap::from([(peer, 5)]));
        assert!(tally.take().is_empty());
        assert_eq!(tally.carried(), [("ask", 2), ("tell", 0), ("stream", 3)]);
    }
}
