//! What can go wrong between the command line and the last pong: the cause as one sentence, and the mend as another.

use std::{fmt, time::Duration};

use kameo::error::RemoteSendError;
use libp2p::{Multiaddr, PeerId};
use ping_core::{
    address::{ServerAddress, Transport},
    dial::DialFailure,
    stream::PROTOCOL,
};

/// Something that keeps the client from its pongs.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    /// The host name has no address.
    Unresolved { host: String, reason: String },
    /// No connection could be made.
    Dial { server: String, failure: DialFailure },
    /// The server answers, but not by the transport that was asked for.
    OtherTransport { server: String, asked: Transport, answers: Multiaddr },
    /// mDNS found nothing.
    NothingDiscovered,
    /// The server ended the connection before it answered anything.
    TurnedAway { peer: PeerId, ours: PeerId },
    /// A libp2p peer without Kameo.
    NotKameo { peer: PeerId, address: Multiaddr },
    /// A Kameo node without such an actor.
    NoSuchActor { peer: PeerId, name: String },
    /// A Kameo node that knows the name, but as that of another peer's actor.
    ActorElsewhere { peer: PeerId, name: String, owner: PeerId },
    /// The name belongs to an actor of another type.
    OtherType { peer: PeerId, name: String },
    /// The server cannot do what is asked of it.
    Unsupported { what: String, limit: u64 },
    /// The server does not speak the stream's protocol.
    NoStream { peer: PeerId },
    /// The actor does not know how to count pings once.
    NoRetry,
    /// The server ended the stream.
    StreamEnded { reason: String },
    /// The actor did not answer a question about itself.
    NoAnswer { failure: PingFailure },
    /// The connection was lost.
    Lost { reason: String },
    /// The user's deadline came before the server was found.
    Deadline { deadline: Duration },
    /// The user interrupted the search.
    Interrupted,
}

impl Trouble {
    /// Nothing at all came back from a server.
    pub(crate) fn no_answer(server: &ServerAddress) -> Self {
        Self::Dial { server: server.to_string(), failure: DialFailure::TimedOut }
    }

    /// Whether trying again cannot help.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Unresolved { .. }
            | Self::OtherTransport { .. }
            | Self::NotKameo { .. }
            | Self::Unsupported { .. }
            | Self::NoStream { .. }
            | Self::NoRetry
            | Self::StreamEnded { .. }
            | Self::NoAnswer { .. }
            | Self::Deadline { .. }
            | Self::Interrupted => true,
            Self::Dial { failure, .. } => {
                matches!(failure, DialFailure::WrongPeer { .. } | DialFailure::Ourselves | DialFailure::Stopped)
            }
            Self::NothingDiscovered
            | Self::NoSuchActor { .. }
            | Self::OtherType { .. }
            | Self::ActorElsewhere { .. }
            | Self::TurnedAway { .. }
            | Self::Lost { .. } => false,
        }
    }

    /// How much this says, for choosing among the troubles of several attempts.
    pub(crate) fn weight(&self) -> u8 {
        match self {
            Self::Dial { failure: DialFailure::Denied, .. } => 0,
            Self::NothingDiscovered => 1,
            Self::Dial { failure: DialFailure::TimedOut | DialFailure::Other(_), .. } => 2,
            Self::Dial { failure: DialFailure::NoRoute, .. } => 3,
            Self::Dial { failure: DialFailure::Refused, .. } => 4,
            Self::Dial { .. } => 5,
            _ => 6,
        }
    }

    /// The name of the cause in `--json`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Unresolved { .. } => "unresolved",
            Self::Dial { failure, .. } => match failure {
                DialFailure::Refused => "refused",
                DialFailure::NoRoute => "no_route",
                DialFailure::TimedOut => "timed_out",
                DialFailure::NotLibp2p(_) => "not_libp2p",
                DialFailure::WrongPeer { .. } => "wrong_peer",
                DialFailure::Ourselves | DialFailure::Denied | DialFailure::Stopped | DialFailure::Other(_) => {
                    "dial_failed"
                }
            },
            Self::OtherTransport { .. } => "other_transport",
            Self::NothingDiscovered => "nothing_discovered",
            Self::TurnedAway { .. } => "turned_away",
            Self::NotKameo { .. } => "not_kameo",
            Self::NoSuchActor { .. } => "no_such_actor",
            Self::ActorElsewhere { .. } => "actor_elsewhere",
            Self::OtherType { .. } => "other_type",
            Self::Unsupported { .. } => "unsupported",
            Self::NoStream { .. } => "no_stream",
            Self::NoRetry => "no_retry",
            Self::StreamEnded { .. } => "stream_ended",
            Self::NoAnswer { failure } => failure.kind,
            Self::Lost { .. } => "connection_lost",
            Self::Deadline { .. } => "deadline",
            Self::Interrupted => "interrupted",
        }
    }

    /// What the user can do about it: one sentence.
    pub(crate) fn mend(&self) -> String {
        match self {
            Self::Unresolved { reason, .. } if reason.contains("emporary failure") => {
                "Check that this machine reaches its name server, or use the server's IP address.".into()
            }
            Self::Unresolved { .. } => "Check the spelling, or use the server's IP address.".into(),
            Self::Dial { failure, .. } => match failure {
                DialFailure::Refused => "Start ping-server there, or check the port.".into(),
                DialFailure::NoRoute => {
                    "Check that both machines are on the same network or both on the internet.".into()
                }
                DialFailure::TimedOut => {
                    "Check the address, and that a firewall lets TCP and UDP through to that port.".into()
                }
                DialFailure::NotLibp2p(_) => {
                    "Check the port: another program seems to listen on it, or a ping-server that has its --max-connections or \
                     another --secret."
                        .into()
                }
                DialFailure::WrongPeer { found, .. } => {
                    format!("If that is the server you mean, end the address with /p2p/{found}.")
                }
                DialFailure::Ourselves | DialFailure::Denied | DialFailure::Stopped | DialFailure::Other(_) => {
                    "Check the address.".into()
                }
            },
            Self::OtherTransport { answers, .. } => format!("Use --server {answers}."),
            Self::NothingDiscovered => {
                "Start ping-server on this network, or, where multicast is blocked, name its address with --server."
                    .into()
            }
            Self::TurnedAway { .. } => {
                "Have the server started with --allow for this client's identity (see ping-client id), or try again later."
                    .into()
            }
            Self::NotKameo { .. } => "Use the connection address that ping-server printed.".into(),
            Self::NoSuchActor { .. } => "Give --name the name that ping-server was started with.".into(),
            Self::ActorElsewhere { owner, .. } => format!("Use the connection address of {owner}."),
            Self::OtherType { .. } => "Give --name the name of a PingActor.".into(),
            Self::Unsupported { limit: 0, .. } => "Leave --size out, or use a ping-server of this version.".into(),
            Self::Unsupported { limit, .. } => format!("Give --size at most {limit}."),
            Self::NoStream { .. } => "Use --mode ask or auto, or a ping-server of this version.".into(),
            Self::NoRetry => "Leave --retry out, or use a ping-server of this version.".into(),
            Self::StreamEnded { .. } => "Check that both programs are of the same version, and start again.".into(),
            Self::NoAnswer { .. } => "Check whether the server still runs, and start again.".into(),
            Self::Lost { .. } => "Check whether the server still runs and the network is up, and start again.".into(),
            Self::Deadline { .. } => "Give it more time with --deadline.".into(),
            Self::Interrupted => "Start again to try longer.".into(),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved { host, reason } => write!(f, "the host name {host} does not resolve: {reason}"),
            Self::Dial { server, failure } => match failure {
                DialFailure::Refused => write!(f, "nothing listens at {server}: connection refused"),
                DialFailure::NoRoute => write!(f, "this machine has no route to {server}"),
                DialFailure::TimedOut => write!(f, "no answer from {server}: timed out"),
                DialFailure::NotLibp2p(reason) => {
                    write!(
                        f,
                        "something answers at {server}, but it is no libp2p peer, takes no more connections, or is private: \
                         {reason}"
                    )
                }
                DialFailure::WrongPeer { expected, found } => {
                    write!(f, "another peer answers at {server}: expected {expected}, found {found}")
                }
                other => write!(f, "cannot connect to {server}: {other}"),
            },
            Self::OtherTransport { server, asked, answers } => {
                let transport = asked.other();
                write!(f, "the server at {server} answers by {transport} ({answers}), but not by {asked}")
            }
            Self::NothingDiscovered => write!(f, "mDNS found no server on the local network"),
            Self::TurnedAway { peer, ours } => write!(
                f,
                "the server {peer} ended the connection at once: it does not let this client ({ours}) in, has as many \
                 connections as it takes, or is just stopping"
            ),
            Self::NotKameo { peer, address } => {
                write!(f, "the peer {peer} at {address} speaks libp2p, but does not host Kameo actors")
            }
            Self::NoSuchActor { peer, name } => write!(f, "the server {peer} has no actor named '{name}'"),
            Self::ActorElsewhere { peer, name, owner } => {
                write!(f, "the server {peer} has no actor named '{name}' itself; it knows of one at {owner}")
            }
            Self::OtherType { peer, name } => {
                write!(f, "the actor named '{name}' at {peer} is not a PingActor but of another type")
            }
            Self::Unsupported { what, limit: 0 } => write!(f, "the server's program does not know {what}"),
            Self::Unsupported { what, limit } => write!(f, "the server does not take {what}, but {limit} at most"),
            Self::NoStream { peer } => {
                write!(f, "the server {peer} does not speak {PROTOCOL}, which --mode stream needs")
            }
            Self::NoRetry => write!(f, "the server's program cannot tell a ping that is sent again from a new one"),
            Self::StreamEnded { reason } => write!(f, "the stream to the actor ended: {reason}"),
            Self::NoAnswer { failure } => {
                write!(f, "the actor does not answer what it is asked about itself: {}", failure.message)
            }
            Self::Lost { reason } => write!(f, "the connection to the server was lost: {reason}"),
            Self::Deadline { deadline } => {
                write!(f, "the deadline of {} came before the server was found", humantime::format_duration(*deadline))
            }
            Self::Interrupted => write!(f, "interrupted before the server was found"),
        }
    }
}

/// Why one ping got no pong: the name of the cause in `--json`, and a sentence.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PingFailure {
    pub(crate) kind: &'static str,
    pub(crate) message: String,
}

impl PingFailure {
    /// No pong came in time.
    pub(crate) fn timed_out(timeout: Duration) -> Self {
        Self { kind: "timed_out", message: format!("no pong within {}", humantime::format_duration(timeout)) }
    }

    /// The connection was lost before the pong came.
    pub(crate) fn lost() -> Self {
        Self { kind: "connection_lost", message: "the connection to the server was lost".into() }
    }

    /// There was no connection when the ping was to be sent.
    pub(crate) fn not_connected() -> Self {
        Self { kind: "not_connected", message: "there was no connection to the server".into() }
    }

    /// The pong answers another ping.
    pub(crate) fn wrong_sequence(sent: u64, got: u64) -> Self {
        Self { kind: "wrong_pong", message: format!("the pong to ping #{sent} answers ping #{got}") }
    }

    /// The payload came back changed.
    pub(crate) fn damaged(sequence: u64) -> Self {
        Self { kind: "damaged", message: format!("the payload of ping #{sequence} came back changed") }
    }

    /// The actor knows nothing of the ping's run.
    pub(crate) fn unknown_run() -> Self {
        Self { kind: "unknown_run", message: "the actor does not remember the run".into() }
    }

    /// The actor takes no ping of this number.
    pub(crate) fn outside(sequence: u64) -> Self {
        Self { kind: "refused_by_actor", message: format!("the actor takes no ping of number {sequence} any more") }
    }

    /// It is not known whether the ping was counted, and never will be.
    pub(crate) fn forgotten() -> Self {
        Self { kind: "forgotten", message: "the server does not remember whether it counted the ping".into() }
    }

    /// Whether the connection was lost with it.
    pub(crate) fn is_lost(&self) -> bool {
        self.kind == "connection_lost"
    }

    /// Whether the actor failed on it, or was gone.
    pub(crate) fn is_actor_gone(&self) -> bool {
        self.kind == "actor_stopped"
    }

    /// Whether its run is not known.
    pub(crate) fn is_unknown_run(&self) -> bool {
        self.kind == "unknown_run"
    }

    /// Whether the actor had no room for it.
    pub(crate) fn is_busy(&self) -> bool {
        self.kind == "busy"
    }

    /// Reads Kameo's account of a failed ask.
    pub(crate) fn from_send_error<E: fmt::Debug>(error: &RemoteSendError<E>) -> Self {
        let (kind, message) = match error {
            RemoteSendError::NetworkTimeout | RemoteSendError::ReplyTimeout => {
                ("timed_out", "the server did not answer in time".into())
            }
            RemoteSendError::ConnectionClosed | RemoteSendError::DialFailure => return Self::lost(),
            RemoteSendError::Io(_) => ("connection_lost", "the ping's stream broke off".into()),
            RemoteSendError::ActorNotRunning | RemoteSendError::ActorStopped => {
                ("actor_stopped", "the actor failed on the ping, or does not run any more".into())
            }
            RemoteSendError::MailboxFull => ("busy", "the actor's mailbox is full".into()),
            other => ("refused_by_actor", format!("the actor did not accept the ping: {other:?}")),
        };
        Self { kind, message }
    }
}
