//! From a connection to the actor.

use std::{
    collections::BTreeSet,
    future::{pending, ready},
    time::Instant,
};

use futures::{
    StreamExt,
    stream::{self, LocalBoxStream},
};
use kameo::{actor::RemoteActorRef, error::RegistryError};
use libp2p::{Multiaddr, PeerId, swarm::ConnectionId};
use ping_core::{PingActor, registry::look_up};
use tracing::{debug, warn};

use super::{Finder, speaks_kameo::speaks_kameo};
use crate::{backoff::Backoff, error::Error};

/// The actor, and the other peers that registered one under its name.
pub(crate) type LookedUp = (RemoteActorRef<PingActor>, LocalBoxStream<'static, PeerId>);

impl Finder<'_> {
    /// Asks the registry for the actor until it names the one on `peer`.
    pub(super) async fn look_up(
        &self,
        (peer, connection): (PeerId, ConnectionId),
        address: &Multiaddr,
    ) -> Result<LookedUp, Error> {
        let mut backoff = Backoff::new();
        let mut is_kameo = false;
        loop {
            self.asked.set(Some((peer, Instant::now())));
            let own = look_up(self.node, (peer, connection), self.name).await;
            match own.map(|own| own.and_then(|actor| actor.remote_ref(peer))) {
                Ok(Some(actor)) => {
                    self.asked.set(None);
                    return Ok((actor, self.all_of_the_name()));
                }
                Ok(None) => {}
                Err(error) => debug!(%error, "the peer does not say which actor it has"),
            }
            // Kameo's own look-up tells what is there instead.
            let looked_up = self.look_up_once(peer).await;
            self.asked.set(None);
            let error = match looked_up {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            if error.is_final() || self.is_over() {
                return Err(error);
            }
            if !is_kameo {
                if !speaks_kameo(peer).await {
                    return Err(Error::NotKameo { peer, address: address.clone() });
                }
                is_kameo = true;
            }
            self.note(error);
            backoff.wait().await;
        }
    }

    /// The peers that registered an actor of this name. They are asked for when the first is wanted.
    fn all_of_the_name(&self) -> LocalBoxStream<'static, PeerId> {
        let name = self.name.to_owned();
        let all = stream::once(async move { RemoteActorRef::<PingActor>::lookup_all(name) }).flatten();
        all.filter_map(async |answer| answer.ok()?.id().peer_id().copied()).boxed_local()
    }

    /// Asks once, as any Kameo program does.
    pub(crate) async fn look_up_once(&self, peer: PeerId) -> Result<LookedUp, Error> {
        let name = || self.name.to_owned();
        let mut answers = RemoteActorRef::<PingActor>::lookup_all(self.name);
        let mut wrong = Error::NoSuchActor { peer, name: name() };
        let mut others = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(actor) => match actor.id().peer_id() {
                    Some(owner) if *owner == peer => {
                        let more = answers.filter_map(async |answer| answer.ok()?.id().peer_id().copied());
                        return Ok((actor, stream::iter(others).chain(more).boxed_local()));
                    }
                    Some(owner) => {
                        others.push(*owner);
                        wrong = Error::ActorElsewhere { peer, name: name(), owner: *owner };
                    }
                    None => {}
                },
                Err(RegistryError::BadActorType) => wrong = Error::OtherType { peer, name: name() },
                Err(error) => debug!(%error, "look-up"),
            }
        }
        Err(wrong)
    }
}

/// Names the other peers that registered an actor of this name. Never resolves.
pub(crate) async fn name_rivals(others: LocalBoxStream<'static, PeerId>, peer: PeerId) {
    let others: BTreeSet<PeerId> = others.filter(|other| ready(*other != peer)).collect().await;
    if !others.is_empty() {
        let names: Vec<_> = others.iter().map(ToString::to_string).collect();
        warn!("Other peers registered an actor with this name too: {}. This run pings {peer}", names.join(", "));
    }
    pending().await
}
