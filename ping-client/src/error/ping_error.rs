//! Why one ping got no pong.

use std::{fmt, io, time::Duration};

use kameo::error::RemoteSendError;
use ping_core::PeerText;

/// Why one ping got no pong. Its text names the ping where it matters; its [`summary`](Self::summary) speaks of many.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum PingError {
    /// No pong arrived in time.
    TimedOut { timeout: Option<Duration> },
    /// No answer to another question than a ping arrived in time.
    NoAnswer { timeout: Duration },
    /// The connection was lost before the pong arrived.
    ConnectionLost,
    /// The ping's own stream broke, maybe without the connection.
    StreamBroke,
    /// There was no connection when the ping was due.
    NotConnected,
    /// The pong answers another ping.
    WrongPong { sent: u64, got: u64 },
    /// The payload came back changed.
    Damaged { sequence: u64 },
    /// The actor does not remember the ping's run.
    UnknownRun,
    /// The actor no longer accepts a ping with this number.
    Outside { sequence: u64 },
    /// The server forgot whether it counted the ping.
    Forgotten,
    /// The actor failed on the ping, or has stopped.
    ActorStopped,
    /// The actor had no room for the ping.
    Busy,
    /// The actor rejected the ping.
    Rejected { reason: PeerText },
    /// The ping was in flight when the run ended.
    CutShort,
}

impl PingError {
    /// The name of the cause in `--json`.
    pub(crate) fn cause(&self) -> &'static str {
        match self {
            Self::TimedOut { .. } | Self::NoAnswer { .. } => "timed_out",
            Self::ConnectionLost | Self::StreamBroke => "connection_lost",
            Self::NotConnected => "not_connected",
            Self::WrongPong { .. } => "wrong_pong",
            Self::Damaged { .. } => "damaged",
            Self::UnknownRun => "unknown_run",
            Self::Outside { .. } | Self::Rejected { .. } => "refused_by_actor",
            Self::Forgotten => "forgotten",
            Self::ActorStopped => "actor_stopped",
            Self::Busy => "busy",
            Self::CutShort => "cut_short",
        }
    }

    /// The cause of many such errors, without what is true of one ping alone.
    pub(crate) fn summary(&self) -> String {
        match self {
            Self::WrongPong { .. } => "the pong answers another ping".into(),
            Self::Damaged { .. } => "the payload came back changed".into(),
            Self::Outside { .. } => "the actor no longer accepts a ping with that number".into(),
            one => one.to_string(),
        }
    }

    /// Whether it is certain that the server did not count the ping, or that it did and answered.
    pub(crate) fn is_certain(cause: &str) -> bool {
        ["not_connected", "busy", "refused_by_actor", "damaged", "wrong_pong"].contains(&cause)
    }

    /// Reads Kameo's error of a failed ask or tell.
    pub(crate) fn from_kameo<E: fmt::Debug>(error: &RemoteSendError<E>) -> Self {
        match error {
            RemoteSendError::NetworkTimeout | RemoteSendError::ReplyTimeout => Self::TimedOut { timeout: None },
            RemoteSendError::ConnectionClosed | RemoteSendError::DialFailure => Self::ConnectionLost,
            // QUIC's streams notice the end of their connection before Kameo does.
            RemoteSendError::Io(Some(error)) if error.kind() == io::ErrorKind::NotConnected => Self::ConnectionLost,
            RemoteSendError::Io(_) => Self::StreamBroke,
            RemoteSendError::ActorNotRunning | RemoteSendError::ActorStopped => Self::ActorStopped,
            RemoteSendError::MailboxFull => Self::Busy,
            other => Self::Rejected { reason: PeerText::new(format_args!("{other:?}")) },
        }
    }
}

impl fmt::Display for PingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut { timeout: Some(timeout) } => {
                write!(f, "no pong within {}", humantime::format_duration(*timeout))
            }
            Self::TimedOut { timeout: None } => write!(f, "no pong in time"),
            Self::NoAnswer { timeout } => write!(f, "no answer within {}", humantime::format_duration(*timeout)),
            Self::ConnectionLost => write!(f, "the connection to the server was lost"),
            Self::StreamBroke => write!(f, "the ping's stream broke"),
            Self::NotConnected => write!(f, "there was no connection to the server"),
            Self::WrongPong { sent, got } => write!(f, "the pong to ping #{sent} answers ping #{got}"),
            Self::Damaged { sequence } => write!(f, "the payload of ping #{sequence} came back changed"),
            Self::UnknownRun => write!(f, "the actor does not remember the run"),
            Self::Outside { sequence } => write!(f, "the actor no longer accepts ping #{sequence}"),
            Self::Forgotten => write!(f, "the server forgot whether it counted the ping"),
            Self::ActorStopped => write!(f, "the actor failed on the ping, or has stopped"),
            Self::Busy => write!(f, "the actor's mailbox is full"),
            Self::Rejected { reason } => write!(f, "the actor rejected the ping: {reason}"),
            Self::CutShort => write!(f, "in flight when the run ended"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_names_no_single_ping() {
        for error in [
            PingError::WrongPong { sent: 77, got: 78 },
            PingError::Damaged { sequence: 77 },
            PingError::Outside { sequence: 77 },
        ] {
            assert!(error.to_string().contains("#77"), "{error}");
            assert!(!error.summary().contains("77"), "{}", error.summary());
        }
    }
}
