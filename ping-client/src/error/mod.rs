//! What can go wrong between the command line and the last pong: a cause as one sentence, and its help as another.

mod ping_error;

use std::{any::Any, fmt, io, time::Duration};

use libp2p::{Multiaddr, PeerId};
use ping_core::{
    DialError, PeerText, ServerAddress, Transport,
    cluster::AskError,
    hardening::culprit,
    node::{RelayFailure, is_mdns_port_taken},
    protocol::STREAM_PROTOCOL,
};

pub(crate) use ping_error::PingError;

/// Why there are no pongs, or no more.
#[derive(Clone, Debug)]
pub(crate) enum Error {
    /// The host name has no address. `certain` if the name does not exist, and a later attempt would not find it.
    Unresolved { host: String, reason: String, certain: bool },
    /// No connection could be made.
    Dial { server: String, error: DialError },
    /// The server answers over another transport than the one that was asked for.
    OtherTransport { server: String, asked: Transport, answers_by: Transport, at: Multiaddr },
    /// mDNS found nothing.
    NothingDiscovered,
    /// The server closed the connection before it answered anything.
    TurnedAway { peer: PeerId, ours: PeerId },
    /// A libp2p peer without Kameo.
    NotKameo { peer: PeerId, address: Multiaddr },
    /// A peer that does not answer the look-up.
    NoLookUp { peer: PeerId },
    /// A Kameo node without such an actor.
    NoSuchActor { peer: PeerId, name: String },
    /// A Kameo node that knows the name, but as that of another peer's actor.
    ActorElsewhere { peer: PeerId, name: String, owner: PeerId },
    /// The name belongs to an actor of another type.
    OtherType { peer: PeerId, name: String },
    /// The server does not support a payload of this size. `limit` is the largest that it supports.
    Unsupported { size: u64, limit: u64 },
    /// The server does not speak the stream protocol.
    NoStream { peer: PeerId },
    /// The actor cannot count a resent ping once.
    NoRetry,
    /// The server ended the stream.
    StreamEnded { reason: PeerText },
    /// The actor did not answer a question about itself.
    NoAnswer { error: PingError },
    /// The connection was lost.
    Lost { reason: PeerText },
    /// The user's deadline passed before the server was found.
    Deadline { deadline: Duration },
    /// The user interrupted the search. `last` is what stood in the way until then.
    Interrupted { last: Option<String> },
    /// The peer does not answer questions about its directory.
    NoDirectory { peer: PeerId, error: AskError },
    /// No member of the cluster hosts such an actor.
    NoMemberHosts { name: String },
    /// No direct path was found, and a relay was not wanted.
    NoDirectPath { peer: PeerId, reason: String },
    /// The result could not be written.
    Output { kind: io::ErrorKind, reason: String },
    /// This program failed, or the library `culprit` in it.
    Bug { reason: PeerText, culprit: Option<String> },
}

impl Error {
    /// Nothing came back from a server.
    pub(crate) fn no_answer(server: &ServerAddress) -> Self {
        Self::Dial { server: server.to_string(), error: DialError::TimedOut }
    }

    /// Something could not be written.
    pub(crate) fn output(error: &io::Error) -> Self {
        Self::Output { kind: error.kind(), reason: error.to_string() }
    }

    /// This program's node failed.
    pub(crate) fn node_failed(reason: &str) -> Self {
        Self::Bug { reason: PeerText::new(format_args!("the network task failed: {reason}")), culprit: culprit() }
    }

    /// Something of this machine failed.
    pub(crate) fn own(error: &anyhow::Error) -> Self {
        Self::Bug { reason: PeerText::new(format_args!("{error:#}")), culprit: None }
    }

    /// What a panic of this program says.
    pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Self::Bug { reason: text.unwrap_or("it panicked").into(), culprit: culprit() }
    }

    /// Whether another attempt cannot succeed.
    pub(crate) fn is_final(&self) -> bool {
        match self {
            Self::Unresolved { certain, .. } => *certain,
            Self::OtherTransport { .. }
            | Self::NotKameo { .. }
            | Self::Unsupported { .. }
            | Self::NoStream { .. }
            | Self::NoRetry
            | Self::StreamEnded { .. }
            | Self::NoAnswer { .. }
            | Self::Deadline { .. }
            | Self::Interrupted { .. }
            | Self::NoDirectory { error: AskError::Unsupported, .. }
            | Self::NoMemberHosts { .. }
            | Self::NoDirectPath { .. }
            | Self::Output { .. }
            | Self::Bug { .. } => true,
            Self::Dial { error, .. } => {
                matches!(error, DialError::WrongPeer { .. } | DialError::Ourselves | DialError::Stopped)
            }
            Self::NothingDiscovered
            | Self::NoLookUp { .. }
            | Self::NoSuchActor { .. }
            | Self::OtherType { .. }
            | Self::NoDirectory { .. }
            | Self::ActorElsewhere { .. }
            | Self::TurnedAway { .. }
            | Self::Lost { .. } => false,
        }
    }

    /// How much this says, for choosing among the errors of several attempts.
    pub(crate) fn weight(&self) -> u8 {
        match self {
            Self::Dial { error: DialError::Denied, .. } => 0,
            Self::NothingDiscovered => 1,
            Self::Dial { error: DialError::TimedOut | DialError::Other(_), .. } => 2,
            Self::Dial { error: DialError::NoRoute, .. } => 3,
            Self::Dial { error: DialError::Refused | DialError::Prohibited | DialError::ByRelay(_), .. } => 4,
            Self::Dial { .. } => 5,
            _ => 6,
        }
    }

    /// The name of the cause in `--json`.
    pub(crate) fn cause(&self) -> &'static str {
        match self {
            Self::Unresolved { .. } => "unresolved",
            Self::Dial { error, .. } => match error {
                DialError::Refused => "refused",
                DialError::NoRoute => "no_route",
                DialError::Prohibited => "prohibited",
                DialError::TimedOut => "timed_out",
                DialError::NotLibp2p(_) => "not_libp2p",
                DialError::WrongPeer { .. } => "wrong_peer",
                DialError::ByRelay(RelayFailure::Full) => "relay_full",
                DialError::ByRelay(RelayFailure::NoPlace) => "not_on_relay",
                DialError::ByRelay(_) => "relay_failed",
                DialError::Ourselves | DialError::Denied | DialError::Stopped | DialError::Other(_) => "dial_failed",
            },
            Self::OtherTransport { .. } => "other_transport",
            Self::NothingDiscovered => "nothing_discovered",
            Self::TurnedAway { .. } => "turned_away",
            Self::NotKameo { .. } => "not_kameo",
            Self::NoLookUp { .. } => "look_up_timed_out",
            Self::NoSuchActor { .. } => "no_such_actor",
            Self::ActorElsewhere { .. } => "actor_elsewhere",
            Self::OtherType { .. } => "other_type",
            Self::Unsupported { .. } => "unsupported",
            Self::NoStream { .. } => "no_stream",
            Self::NoRetry => "no_retry",
            Self::StreamEnded { .. } => "stream_ended",
            Self::NoAnswer { error } => error.cause(),
            Self::Lost { .. } => "connection_lost",
            Self::Deadline { .. } => "deadline",
            Self::Interrupted { .. } => "interrupted",
            Self::NoDirectory { .. } => "no_directory",
            Self::NoMemberHosts { .. } => "no_such_actor",
            Self::NoDirectPath { .. } => "no_direct_path",
            Self::Output { .. } => "output",
            Self::Bug { .. } => "bug",
        }
    }

    /// What the user can do about it: one sentence.
    pub(crate) fn help(&self) -> String {
        match self {
            Self::Unresolved { certain: false, .. } => {
                "Check that this machine reaches its name server, or use the server's IP address.".into()
            }
            Self::Unresolved { .. } => "Check the spelling, or use the server's IP address.".into(),
            Self::Dial { error, .. } => dial_help(error),
            Self::OtherTransport { at, .. } => format!("Use {at}."),
            Self::NothingDiscovered if is_mdns_port_taken() => {
                "Another program has UDP port 5353 for itself, which mDNS needs: stop that program, or give the \
                 server's address."
                    .into()
            }
            Self::NothingDiscovered => {
                "Start ping-server on this network, or, where multicast is blocked, give its address.".into()
            }
            Self::TurnedAway { .. } => {
                "Start the server with --allow for this client's identity (see ping-client id), or try again later."
                    .into()
            }
            Self::NotKameo { .. } => "Use the connection address that ping-server printed.".into(),
            Self::NoLookUp { .. } => "Check that the server is not overloaded or suspended, and start again.".into(),
            Self::NoSuchActor { .. } | Self::NoMemberHosts { .. } => {
                "Set --name to the name that ping-server was started with.".into()
            }
            Self::NoDirectPath { .. } => "Omit --path direct to ping through the relay.".into(),
            Self::ActorElsewhere { owner, .. } => format!("Use the connection address of {owner}."),
            Self::OtherType { .. } => "Set --name to the name of a PingActor.".into(),
            Self::Unsupported { limit: 0, .. } => "Omit --size, or use a ping-server of this version.".into(),
            Self::Unsupported { limit, .. } => format!("Give --size at most {limit}."),
            Self::NoStream { .. } => "Use --mode ask or auto, or a ping-server of this version.".into(),
            Self::NoRetry => "Omit --retry, or use a ping-server of this version.".into(),
            Self::StreamEnded { .. } => "Check that both programs have the same version, and start again.".into(),
            Self::NoAnswer { .. } => "Check that the server still runs, and start again.".into(),
            Self::Lost { .. } => "Check that the server still runs and the network is up, and start again.".into(),
            Self::Deadline { .. } => "Allow more time with --deadline.".into(),
            Self::Interrupted { last: Some(_) } => "Fix that, or start again to search longer.".into(),
            Self::Interrupted { last: None } => "Start again to search longer.".into(),
            Self::NoDirectory { error: AskError::Unsupported, .. } => {
                "Give the address of a ping-server of this version.".into()
            }
            Self::NoDirectory { .. } => "Check that the server still runs, or ask another member.".into(),
            Self::Output { .. } => "Make room, or choose another place.".into(),
            Self::Bug { culprit: None, .. } => "This is a bug; please report it.".into(),
            Self::Bug { culprit: Some(culprit), .. } => {
                format!("This is a bug in {culprit}, which a server should not be able to cause; please report it.")
            }
        }
    }
}

fn dial_help(error: &DialError) -> String {
    match error {
        DialError::Refused => "Start ping-server there, or check the port.".into(),
        DialError::Prohibited => {
            "Let TCP and UDP through to that port in the firewall of the server's machine, or of the network between."
                .into()
        }
        DialError::NoRoute => "Check that both machines are on the same network, or both on the internet.".into(),
        DialError::TimedOut => "Check the address, and that a firewall lets TCP and UDP through to that port.".into(),
        DialError::NotLibp2p(_) => {
            "Check the port: another program may listen on it, or a ping-server that reached its \
             --max-connections or has another --secret."
                .into()
        }
        DialError::WrongPeer { found, .. } => {
            format!("If that is the right server, end the address with /p2p/{found}.")
        }
        DialError::ByRelay(RelayFailure::Full) => {
            "Try again later, or ask who runs the relay for a higher limit of --circuits.".into()
        }
        DialError::ByRelay(RelayFailure::NoPlace) => {
            "Check that the server runs, and use the ticket that it has printed last.".into()
        }
        DialError::ByRelay(RelayFailure::Unreachable) => "Check that the server runs, and try again.".into(),
        DialError::ByRelay(RelayFailure::Refused) => "Ask who runs the relay to let this client through.".into(),
        DialError::Stopped => "This is a bug; please report it.".into(),
        DialError::Ourselves | DialError::Denied | DialError::Other(_) => "Check the address.".into(),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved { host, reason, .. } => write!(f, "the host name {host} does not resolve: {reason}"),
            Self::Dial { server, error } => fmt_dial(server, error, f),
            Self::OtherTransport { server, asked, answers_by, at } => {
                write!(f, "the server at {server} answers over {answers_by} ({at}), but not over {asked}")
            }
            Self::NothingDiscovered => write!(f, "mDNS found no server on the local network"),
            Self::TurnedAway { peer, ours } => write!(
                f,
                "the server {peer} closed the connection at once: it does not allow this client ({ours}), has \
                 reached its limit of connections, or is stopping"
            ),
            Self::NotKameo { peer, address } => {
                write!(f, "the peer {peer} at {address} speaks libp2p, but does not host Kameo actors")
            }
            Self::NoLookUp { peer } => {
                write!(f, "the server {peer} is connected, but does not answer the look-up of the actor")
            }
            Self::NoSuchActor { peer, name } => write!(f, "the server {peer} has no actor named '{name}'"),
            Self::ActorElsewhere { peer, name, owner } => {
                write!(f, "the server {peer} has no actor named '{name}' itself; it knows one at {owner}")
            }
            Self::OtherType { peer, name } => {
                write!(f, "the actor named '{name}' at {peer} is not a PingActor")
            }
            Self::Unsupported { size, limit: 0 } => {
                write!(f, "the server does not support payloads (--size is {size})")
            }
            Self::Unsupported { size, limit } => {
                write!(f, "the server supports payloads of at most {limit} bytes (--size is {size})")
            }
            Self::NoStream { peer } => {
                write!(f, "the server {peer} does not speak {STREAM_PROTOCOL}, which --mode stream needs")
            }
            Self::NoRetry => write!(f, "the server cannot tell a resent ping from a new one"),
            Self::StreamEnded { reason } => write!(f, "the stream to the actor ended: {reason}"),
            Self::NoAnswer { error } => write!(f, "the actor did not answer a query: {error}"),
            Self::Lost { reason } => write!(f, "the connection to the server was lost: {reason}"),
            Self::Deadline { deadline } => {
                write!(
                    f,
                    "the deadline of {} passed before the server was found",
                    humantime::format_duration(*deadline)
                )
            }
            Self::Interrupted { last: Some(last) } => {
                write!(f, "interrupted before the server was found; until then: {last}")
            }
            Self::Interrupted { last: None } => write!(f, "interrupted before the server was found"),
            Self::NoDirectory { peer, error } => write!(f, "the server {peer} does not list its cluster: {error}"),
            Self::NoDirectPath { peer, reason } => write!(f, "no direct path to {peer}: {reason}"),
            Self::NoMemberHosts { name } => write!(f, "no member of the cluster hosts an actor named '{name}'"),
            Self::Output { reason, .. } => write!(f, "cannot write the result: {reason}"),
            Self::Bug { reason, culprit: None } => write!(f, "ping-client itself failed: {reason}"),
            Self::Bug { reason, culprit: Some(culprit) } => {
                write!(f, "{culprit}, a library of ping-client, failed: {reason}")
            }
        }
    }
}

fn fmt_dial(server: &str, error: &DialError, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match error {
        DialError::Refused => write!(f, "nothing listens at {server}: connection refused"),
        DialError::Prohibited => write!(f, "a firewall refuses packets to {server} (ICMP: prohibited)"),
        DialError::NoRoute => write!(f, "this machine has no route to {server}"),
        DialError::TimedOut => write!(f, "no answer from {server}: timed out"),
        DialError::ByRelay(failure) => write!(f, "{failure} ({server})"),
        DialError::NotLibp2p(reason) => write!(
            f,
            "something answers at {server}, but it is not a libp2p peer, accepts no more connections, has a --secret, \
             or speaks WebSocket (--transport ws or wss): {reason}"
        ),
        DialError::WrongPeer { expected, found } => {
            write!(f, "another peer answers at {server}: expected {expected}, found {found}")
        }
        other => write!(f, "cannot connect to {server}: {other}"),
    }
}
