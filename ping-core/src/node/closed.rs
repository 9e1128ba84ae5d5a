//! Why a connection ended, in plain words.

use libp2p::swarm::ConnectionError;

use crate::PeerText;

/// Why a connection ended that the system, or its library, took for dead.
const SILENCE: &str = "the other side went silent";

/// Why a QUIC connection ended that the other side answers with a stateless reset.
const UNKNOWN: &str = "the other side no longer knows the connection: it started anew, or heard nothing for too long";

/// The words for this cause.
pub(super) fn explain(cause: &ConnectionError) -> PeerText {
    match cause {
        ConnectionError::KeepAliveTimeout => "it was idle for too long".into(),
        ConnectionError::IO(error) => {
            let text = error.to_string();
            // TCP, yamux, TLS, Noise and QUIC each have words of their own for the same two things.
            if text == "reset by peer" {
                UNKNOWN.into()
            } else if text.contains("timed out") {
                SILENCE.into()
            } else if ["closed", "reset", "Broken pipe", "end of file", "eof"].iter().any(|end| text.contains(end)) {
                "the other side closed it".into()
            } else {
                PeerText::new(text)
            }
        }
    }
}
