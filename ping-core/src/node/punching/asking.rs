//! Relays are asked whether others reach this node where they see it ([`reachability`] has the exchange).

use std::{
    collections::HashMap,
    io,
    time::{Duration, Instant},
};

use futures::FutureExt;
use libp2p::{Multiaddr, PeerId, Swarm, swarm::ConnectionId};
use tokio::{sync::oneshot, time::timeout};
use tracing::debug;

use super::{Punching, Step};
use crate::{
    cluster::is_global,
    nat::reachability,
    node::{behaviour::Behaviour, boxed::Boxed},
    stream::{Ended, Inbound},
    transport::endpoint,
};

/// How many addresses relays try within [`VERDICT_LASTS`]. Behind some routers, each connection has another one.
const MAX_TESTED: usize = 64;

/// How long it is not asked again whether others reach an address. Relays say every five minutes where they see this
/// node.
const VERDICT_LASTS: Duration = Duration::from_secs(15 * 60);

/// When it was asked last whether others reach each address.
#[derive(Default)]
pub(super) struct Tested(HashMap<Multiaddr, Instant>);

impl Tested {
    /// Whether an address is to be tested now.
    fn begin(&mut self, address: &Multiaddr, now: Instant) -> bool {
        self.0.retain(|_, asked| now.saturating_duration_since(*asked) < VERDICT_LASTS);
        self.0.len() < MAX_TESTED && self.0.insert(address.clone(), now).is_none()
    }
}

impl Punching {
    /// This peer is asked for a place, and may be asked whether others reach this node.
    pub(in crate::node) fn on_relay(&mut self, swarm: &mut Swarm<Behaviour>, relay: PeerId) {
        self.relays.insert(relay);
        let seen: Vec<_> = self
            .links
            .iter()
            .filter(|(_, link)| link.peer == relay && link.shows_address())
            .filter_map(|(id, link)| Some((*id, link.observed.clone()?)))
            .collect();
        seen.iter().for_each(|(id, observed)| self.ask(swarm, (relay, *id), observed));
    }

    /// No relay has said whether others reach this node there.
    pub(in crate::node) fn on_not_tested(&mut self, address: &Multiaddr) {
        self.tested.0.remove(address);
    }

    /// Asks a relay whether others reach this node at this address, if that is not known.
    pub(super) fn ask(&mut self, swarm: &mut Swarm<Behaviour>, (by, via): (PeerId, ConnectionId), address: &Multiaddr) {
        let is_of_use = endpoint(address).is_some_and(|(ip, _, transport)| is_global(ip) && transport.is_usual());
        let circuits = swarm.behaviour_mut().circuits.as_mut();
        let Some(questions) = circuits.and_then(|Boxed(circuits)| circuits.questions.as_mut()) else { return };
        if !is_of_use || !self.tested.begin(address, Instant::now()) {
            return;
        }
        let (opening, opened) = oneshot::channel();
        questions.open(by, via, opening);
        let (address, asked, nonces) = (address.clone(), address.clone(), self.nonces.clone());
        let question = async move {
            let stream = opened.await.unwrap_or(Err(Ended::NotConnected)).map_err(io::Error::other)?;
            reachability::ask(stream, &asked, (by, &nonces)).await
        };
        let step = question.map(move |answer| match answer {
            Ok(Some(is_reached)) => Step::Tested { address, by, is_reached },
            other => {
                debug!(%by, ?other, "the relay does not say whether this node is reached");
                Step::NotTested(address)
            }
        });
        self.steps.push(step.boxed());
    }

    /// Hears a relay that came back.
    pub(in crate::node) fn hear(&mut self, Inbound { peer, connection, stream, place }: Inbound) {
        // On a connection that this node made, or through a relay, it proves nothing.
        if self.links.get(&connection).is_none_or(|link| link.is_dialed || link.is_relayed) {
            return;
        }
        let nonces = self.nonces.clone();
        let hear = async move {
            let _ = timeout(reachability::ANSWER_TIMEOUT, reachability::hear(stream, (peer, &nonces))).await;
            drop(place);
            Step::Done
        };
        self.steps.push(hear.boxed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_tested_again_after_a_while_and_not_too_many_are() {
        let (mut tested, now) = (Tested::default(), Instant::now());
        let address = |port: usize| format!("/ip4/198.51.100.1/tcp/{port}").parse::<Multiaddr>().unwrap();
        assert!(tested.begin(&address(1), now) && !tested.begin(&address(1), now));
        assert_eq!((2..1000).filter(|port| tested.begin(&address(*port), now)).count(), MAX_TESTED - 1);
        assert!(tested.begin(&address(1), now + VERDICT_LASTS));
    }
}
