//! The way that pings take to the actor and back.

mod again;
mod kameo;
mod once;
mod payloads;
mod stream;

use std::{
    rc::Rc,
    sync::{Arc, atomic::AtomicU64},
    task::{Context, Poll},
    time::Duration,
};

use serde::Serialize;

use crate::diagnose::{PingFailure, Trouble};

pub(crate) use again::{AgainLane, Connect, Connected, Interruptions};
pub(crate) use kameo::{KameoLane, ask_about};
pub(crate) use once::OnceRun;
pub(crate) use payloads::Payloads;
pub(crate) use stream::StreamLane;

/// How pings are carried.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Kameo's ask: every ping is answered by the actor
    #[default]
    Ask,
    /// Kameo's tell: no pong; what arrived is read from the server's total at the end
    Tell,
    /// One stream for all pings to the same actor: every ping is answered by it
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

/// What came back to one ping.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Answer {
    /// The actor's total, if it answered itself.
    pub(crate) total: Option<u64>,
}

/// What became of one ping.
pub(crate) type Outcome = Result<Answer, PingFailure>;

/// What all lanes of a run have in common.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// Bytes of payload of each ping.
    pub(crate) size: u64,
    /// How long a ping may take.
    pub(crate) timeout: Duration,
    /// The run, if its pings are counted once each.
    pub(crate) once: Option<Rc<OnceRun>>,
    /// How often a ping was answered with "busy", and sent again.
    pub(crate) busy: Arc<AtomicU64>,
}

/// The way to one actor, over one connection.
pub(crate) trait Lane {
    /// Whether it takes another ping now. If not, it does when the fate of one that is under way is known.
    fn has_room(&self) -> bool;

    /// Takes a ping of this number. It is sent by [`poll`](Self::poll).
    fn send(&mut self, number: u64);

    /// Stops to wait for one of the pings. It no longer takes up room.
    fn forget(&mut self);

    /// Takes note that a ping's time is up: it need not be sent if it was not yet.
    fn give_up(&mut self, number: u64);

    /// Takes note that no ping below this number will be sent again.
    fn settle_below(&mut self, number: u64);

    /// Resolves when the fate of at least one ping is known, having added it to `settled` by its number, or when there is
    /// room again.
    ///
    /// # Errors
    ///
    /// When the lane is of no more use.
    fn poll(&mut self, context: &mut Context<'_>, settled: &mut Vec<(u64, Outcome)>) -> Poll<Result<(), Trouble>>;
}

/// What [`AgainLane`] has to tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Progress {
    /// Pings were settled, or there is room again.
    Settled,
    /// The connection was lost. Pings that were under way and are not settled will never be; new ones are taken when there is
    /// room.
    Lost,
}
