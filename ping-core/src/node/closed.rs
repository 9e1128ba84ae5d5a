//! Why a connection ended, in plain words.

use libp2p::swarm::ConnectionError;

use super::Ending;
use crate::PeerText;

/// Why a connection ended that the system, or its library, took for dead.
const SILENCE: &str = "the other side went silent";

/// Why a QUIC connection ended that the other side answers with a stateless reset.
const UNKNOWN: &str = "the other side no longer knows the connection: it started anew, or heard nothing for too long";

/// How a connection with this cause ended, and the words for it.
pub(super) fn explain(cause: &ConnectionError) -> (Ending, PeerText) {
    match cause {
        ConnectionError::KeepAliveTimeout => (Ending::Closed, "it was idle for too long".into()),
        ConnectionError::IO(error) => {
            let text = error.to_string();
            // TCP, yamux, TLS, Noise and QUIC each have words of their own for the same two things.
            if text == "reset by peer" {
                (Ending::Forgotten, UNKNOWN.into())
            } else if text.contains("timed out") {
                (Ending::Silent, SILENCE.into())
            } else if ["closed", "reset", "Broken pipe", "end of file", "eof"].iter().any(|end| text.contains(end)) {
                (Ending::Left, "the other side closed it".into())
            } else {
                (Ending::Failed, PeerText::new(text))
            }
        }
    }
}
