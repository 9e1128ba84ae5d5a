//! How pings travel to the actor and back.
//!
//! A [`Pinger`] sends pings and reports their outcomes. Each layer around another is one file:
//! - `ask` and `stream` send them, over Kameo's messages or over one stream.
//! - `sampling` chooses the pings that are traced.
//! - `open` opens one of these on a connection, and notices when the connection is gone.
//! - `path`: whether they take a relay.
//! - `direct` leaves a relay as soon as there is a direct connection.
//! - `spare` makes another connection beside one that is silent.
//! - `renewal` makes another through a relay, whose time is limited.
//! - `draining` closes the one that pings have left.
//! - `reconnect` opens another when the connection is lost.
//! - `twins` notices that another machine with the same identity answers then.
//! - `retry` resends what was lost with it.
//! - `spread` spreads pings over several of these.

mod ask;
mod direct;
mod draining;
mod open;
mod path;
mod payloads;
mod questions;
mod reconnect;
mod renewal;
mod retry;
mod sampling;
mod spare;
mod spread;
mod stream;
mod twins;

use std::{
    task::{Context, Poll},
    time::Duration,
};

use kameo::actor::RemoteActorRef;
use libp2p::swarm::ConnectionId;
use ping_core::{PeerText, PingActor, protocol::RunId};
use serde::Serialize;

use crate::error::{Error, PingError};

pub(crate) use open::{Facts, Opener};
pub(crate) use path::{Path, PathKind};
pub(crate) use questions::{About, about, count_of_run, end_run};
pub(crate) use reconnect::Reconnect;
pub(crate) use retry::Retry;
pub(crate) use spread::{Lane, LaneOf, Spread};
pub(crate) use twins::{Host, Twins, host_of};

/// How pings are carried.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Kameo's ask: the actor answers every ping
    #[default]
    Ask,
    /// Kameo's tell: no pong; the server's total after the run shows what arrived
    Tell,
    /// One stream for all pings to the same actor, which answers every ping
    Stream,
    /// One stream for all pings, which the actor counts and acknowledges
    StreamTell,
    /// stream if the server speaks it, otherwise ask
    Auto,
}

impl Mode {
    /// Whether the actor does not answer each ping itself.
    pub(crate) fn tells(self) -> bool {
        matches!(self, Self::Tell | Self::StreamTell)
    }

    /// Whether a stream is wanted.
    pub(crate) fn streams(self) -> bool {
        matches!(self, Self::Stream | Self::StreamTell | Self::Auto)
    }
}

/// What pings carry, and what happens when the connection is lost.
#[derive(Clone, Debug)]
pub(crate) struct PingerPlan {
    pub(crate) mode: Mode,
    /// Bytes of payload of each ping.
    pub(crate) size: u64,
    /// How long a ping may take.
    pub(crate) timeout: Duration,
    /// Whether a lost connection is made again.
    pub(crate) reconnects: bool,
    /// Whether pings are resent, and counted once.
    pub(crate) retries: bool,
    /// Whether some are traced.
    pub(crate) traces: bool,
}

/// What came back to one ping.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Answer {
    /// The actor's total, if the actor itself answered.
    pub(crate) total: Option<u64>,
}

/// What became of one ping.
pub(crate) type Outcome = Result<Answer, PingError>;

/// What a poll of a [`Pinger`] returned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Progress {
    /// Outcomes are known, or there is room again.
    Resolved,
    /// The connection was lost. The outcomes of the pings in flight will never be known.
    Lost,
    /// There is a connection again. `remembers_run` unless pings are counted once and the actor forgot some.
    Reconnected { remembers_run: bool },
}

/// What happened to the pings of a pinger besides their outcomes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Counters {
    /// How often the connection was lost and made again.
    pub(crate) reconnects: u64,
    /// How long that took in all.
    pub(crate) down: Duration,
    /// How often the actor was busy, and the ping was sent again.
    pub(crate) busy: u64,
    /// How often a ping was resent because its connection was lost.
    pub(crate) resent: u64,
}

/// The actor at the other end of a connection, for questions beside the pings.
#[derive(Clone, Debug)]
pub(crate) struct ActorHandle {
    pub(crate) actor: RemoteActorRef<PingActor>,
    /// The run that the pings belong to, if they are counted once.
    pub(crate) run: Option<RunId>,
    /// Whether the actor remembers all of the run.
    pub(crate) remembers_run: bool,
}

/// Sends pings to the actor, and reports their outcomes.
pub(crate) trait Pinger {
    /// Whether it takes another ping now. If not, it does after the next progress.
    fn has_room(&self) -> bool;

    /// Takes the ping with this number. [`poll`](Self::poll) sends it.
    fn send(&mut self, sequence: u64);

    /// Resolves when there is progress; appends the outcomes to `resolved`, each with the ping's number.
    ///
    /// # Errors
    ///
    /// When the pinger can no longer be used.
    fn poll(&mut self, context: &mut Context<'_>, resolved: &mut Vec<(u64, Outcome)>) -> Poll<Result<Progress, Error>>;

    /// The way that pings take now, if there is one for all of them.
    fn path(&self) -> Option<Path> {
        None
    }

    /// Why pings stay on a relay, once that is known.
    fn why_relayed(&self) -> Option<&str> {
        None
    }

    /// Whether there is a connection.
    fn is_connected(&self) -> bool {
        true
    }

    /// How many of the pings in flight wait for a connection that is lost, while others could be sent. They do not keep
    /// those back.
    fn waiting(&self) -> usize {
        0
    }

    /// The time of a ping is up: it need not be sent if it is not sent yet.
    fn give_up(&mut self, _sequence: u64) {}

    /// Nobody waits for a ping any more. It takes up no room from now on.
    fn forget(&mut self, _sequence: u64) {}

    /// No ping below this number will be sent again.
    fn settle_below(&mut self, _floor: u64) {}

    /// Sends on another connection to the same server from now on. Answers still arrive on the one before.
    fn move_to(&mut self, _connection: ConnectionId) {}

    /// Whether pings still take the connection before.
    fn is_moving(&self) -> bool {
        false
    }

    /// Whether everything is answered that was in flight when pings moved to another connection.
    fn has_drained(&self) -> bool {
        true
    }

    /// The connection before is closed. What is in flight there is lost. A stream learns it by itself.
    fn lose_old(&mut self) {}

    /// The connection is of no use: do as when it is lost.
    fn drop_connection(&mut self, reason: PeerText) -> Result<Progress, Error> {
        Err(Error::Lost { reason })
    }

    /// What happened besides the outcomes.
    fn counters(&self) -> Counters {
        Counters::default()
    }

    /// The actor, if there is a connection.
    fn actor(&self) -> Option<ActorHandle> {
        None
    }
}
