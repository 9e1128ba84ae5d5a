//! What a member says of others that it cannot reach.

use std::time::{Duration, Instant};

use libp2p::PeerId;
use tracing::debug;

use super::{Behaviour, Task};
use crate::cluster::record::{Obituary, Stamp, Statement, Witness};

/// How often a member looks for others that nobody is linked to.
const DOUBT_INTERVAL: Duration = Duration::from_secs(5);

/// When a named witness says that a member is gone, at random within this time, so that not all do at once; and when
/// another member that lost its link does.
const WITNESS_DELAY: Duration = Duration::from_millis(10);
const OTHERS_DELAY: Duration = Duration::from_millis(1000);
const OTHERS_SPREAD: Duration = Duration::from_millis(500);

impl Behaviour {
    /// Looks now and then for members that nobody is linked to.
    pub(super) fn doubt_unwitnessed(&mut self, now: Instant) {
        if self.links.doubted.is_some_and(|last| now.saturating_duration_since(last) < DOUBT_INTERVAL) {
            return;
        }
        self.links.doubted = Some(now);
        let unwitnessed = self.shared.directory().unwitnessed(now);
        for (peer, names_this_node) in unwitnessed {
            if names_this_node {
                self.plan_to_accuse(peer);
            } else if self.shared.addresses(&peer).is_empty() {
                self.shared.directory().missed(&peer, now);
            } else {
                self.check(peer, now);
            }
        }
    }

    /// This node cannot reach a member, and says so unless the member is heard of in time.
    pub(super) fn plan_to_accuse(&mut self, peer: PeerId) {
        if self.is_to_accuse(&peer) {
            return;
        }
        let (stamp, is_witness) = {
            let directory = self.shared.directory();
            let Some(member) = directory.get(&peer).filter(|member| !member.is_gone) else { return };
            let witnesses = &member.record.witnesses;
            (member.record.stamp, witnesses.is_empty() || witnesses.contains(&Witness::from(&self.shared.me)))
        };
        let (earliest, spread) =
            if is_witness { (Duration::ZERO, WITNESS_DELAY) } else { (OTHERS_DELAY, OTHERS_SPREAD) };
        self.plan(Instant::now() + earliest + spread.mul_f64(fastrand::f64()), Task::Accuse(peer, stamp));
    }

    /// Whether that is planned.
    pub(super) fn is_to_accuse(&self, peer: &PeerId) -> bool {
        self.tasks.iter().any(|(_, task)| matches!(task, Task::Accuse(subject, _) if subject == peer))
    }

    pub(super) fn accuse(&mut self, subject: PeerId, stamp: Stamp) {
        let known = self.shared.directory().get(&subject).filter(|it| !it.is_gone).map(|it| it.record.stamp);
        let Some(now) = known.filter(|_| !self.links.has(&subject)) else { return };
        if now != stamp {
            debug!(%subject, "has written since");
        }
        if let Some(obituary) = self.sign(&Statement::Obituary(Obituary { subject, stamp: now })) {
            self.say(&obituary);
        }
        // One that has just joined names no witnesses yet, and this node has tried for itself.
        let mut directory = self.shared.directory();
        if directory.get(&subject).is_some_and(|member| member.record.witnesses.is_empty()) {
            directory.missed(&subject, Instant::now());
        }
        drop(directory);
        self.react();
    }
}
