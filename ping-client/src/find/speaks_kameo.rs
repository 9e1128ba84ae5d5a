//! From a connection over which the registry does not answer to whether the peer speaks Kameo at all.

use std::{iter::once, time::Duration};

use kameo::{
    actor::{ActorId, RemoteActorRef},
    error::RemoteSendError,
};
use libp2p::PeerId;
use ping_core::{PingActor, protocol::Ping};
use serde::{
    Deserialize,
    de::value::{BytesDeserializer, Error as ValueError, SeqDeserializer},
};
use tokio::time::timeout;
use tracing::debug;

/// How long a peer has to answer whether it speaks Kameo at all.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a peer understands Kameo's messages. It is asked to ping an actor that it cannot have: a Kameo node says so,
/// and any other does not understand the question.
pub(crate) async fn speaks_kameo(peer: PeerId) -> bool {
    let no_actor = ActorId::new_with_peer_id(u64::MAX, peer).to_bytes();
    let fields = SeqDeserializer::<_, ValueError>::new(once(BytesDeserializer::new(&no_actor)));
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
