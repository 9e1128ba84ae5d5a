//! From a connection to the actor.

use std::time::Duration;

use futures::{
    StreamExt,
    stream::{self, LocalBoxStream},
};
use kameo::{
    actor::{ActorId, RemoteActorRef},
    error::{RegistryError, RemoteSendError},
};
use libp2p::{Multiaddr, PeerId};
use ping_core::{PingActor, protocol::Ping};
use serde::{
    Deserialize,
    de::value::{BytesDeserializer, Error as ValueError, SeqDeserializer},
};
use tokio::time::timeout;
use tracing::debug;

use super::Finder;
use crate::{backoff::Backoff, error::Error};

/// How long a peer has to answer whether it speaks Kameo at all.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The actor, and the other peers that registered one under its name.
type LookedUp = (RemoteActorRef<PingActor>, LocalBoxStream<'static, PeerId>);

impl Finder<'_> {
    /// Asks the registry for the actor until it names the one on `peer`.
    pub(super) async fn look_up(&self, peer: PeerId, address: &Multiaddr) -> Result<LookedUp, Error> {
        let mut backoff = Backoff::new();
        let mut is_kameo = false;
        loop {
            let error = match self.look_up_once(peer).await {
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

    async fn look_up_once(&self, peer: PeerId) -> Result<LookedUp, Error> {
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

/// Whether a peer understands Kameo's messages. It is asked to ping an actor that it cannot have: a Kameo node says so,
/// and any other does not understand the question.
async fn speaks_kameo(peer: PeerId) -> bool {
    let no_actor = ActorId::new_with_peer_id(u64::MAX, peer).to_bytes();
    let fields = SeqDeserializer::<_, ValueError>::new(std::iter::once(BytesDeserializer::new(&no_actor)));
    let Ok(no_actor) = RemoteActorRef::<PingActor>::deserialize(fields) else { return true };
    let ping = Ping { message: String::new(), sequence: 0 };
    // A single failure may be a stream that broke because the server is just stopping.
    for _ in 0..2 {
        let answer = timeout(PROBE_TIMEOUT, no_actor.ask(&ping).send()).await;
        if !matches!(answer, Ok(Err(RemoteSendError::UnsupportedProtocols | RemoteSendError::Io(_)))) {
            debug!(?answer, "the peer speaks Kameo");
            return true;
        }
    }
    false
}
