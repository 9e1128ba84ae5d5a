//! Who sends the pings.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use libp2p::PeerId;

use crate::lock::lock;

/// The ids of the messages that are pings.
pub(crate) const PINGS: [&str; 3] = ["a1b2c3d4-e5f6-7890-abcd-ef1234567890", "kameo-ping/echo/1", "kameo-ping/once/1"];

/// How many pings each peer has sent since they were last taken out, also those that are not counted because the actor
/// has counted them before, or is busy. Clones share it.
///
/// It grows by an entry for each peer that pings until it is [taken](Self::take).
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Mutex<HashMap<PeerId, u64>>>);

impl Tally {
    pub(crate) fn add(&self, peer: PeerId, pings: u64) {
        if pings > 0 {
            *lock(&self.0).entry(peer).or_default() += pings;
        }
    }

    /// Takes out what was sent since the last time.
    pub fn take(&self) -> HashMap<PeerId, u64> {
        std::mem::take(&mut *lock(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        PingActor,
        protocol::{Echo, Once, Ping},
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
        assert_eq!(PINGS, [id::<Ping>(), id::<Echo>(), id::<Once>()]);
    }

    #[test]
    fn pings_are_taken_out_once() {
        let (tally, peer) = (Tally::default(), PeerId::random());
        tally.add(peer, 2);
        tally.add(peer, 3);
        tally.add(PeerId::random(), 0);
        assert_eq!(tally.take(), HashMap::from([(peer, 5)]));
        assert!(tally.take().is_empty());
    }
}
