//! Everything that a session found out.

use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use ping_core::{PeerText, Transport, nat::is_circuit};

use super::{Clocks, Figures, Origin, Times};
use crate::{
    error::Error,
    pinger::{Counters, Mode},
    run::Pace,
};

/// Everything that a session found out.
#[derive(Debug)]
pub(crate) struct SessionResult {
    /// The server, if it was found.
    pub(crate) server: Option<Server>,
    /// The name that was looked for.
    pub(crate) name: String,
    /// How long each step took, as far as it was reached.
    pub(crate) phases: Phases,
    /// What was sent, and how.
    pub(crate) load: Load,
    pub(crate) figures: Figures,
    /// The round trips of the connection, without the actor.
    pub(crate) network: Times,
    /// How many told pings the server counted, by its total before and after.
    pub(crate) arrived: Option<u64>,
    /// What happened to the pings besides their outcomes.
    pub(crate) counters: Counters,
    /// Whether pings were resent and counted once.
    pub(crate) retries: bool,
    /// How many of the pings the server counted, if it says so.
    pub(crate) counted: Option<u64>,
    /// The client's own clocks, if there was a run.
    pub(crate) clocks: Option<Clocks>,
    /// When and where it was measured.
    pub(crate) origin: Origin,
    /// The gates that the run fails, one sentence each.
    pub(crate) gates: Vec<String>,
    /// What the reader of the figures should know about how they were measured.
    pub(crate) notes: Vec<String>,
    /// What ended the run early, or kept it from starting.
    pub(crate) error: Option<Error>,
    /// The command line, to find out later what was run.
    pub(crate) command: String,
}

/// What was sent, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) mode: Mode,
    pub(crate) pace: Pace,
    /// Bytes of payload of each ping.
    pub(crate) size: u64,
}

/// The server that was pinged.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) peer: PeerId,
    pub(crate) address: Multiaddr,
    pub(crate) version: ServerVersion,
}

impl Server {
    /// The transport of the first connection.
    pub(crate) fn transport(&self) -> Option<Transport> {
        Transport::of(&self.address)
    }

    /// What secures it.
    pub(crate) fn security(&self) -> Option<&'static str> {
        self.transport().map(Transport::security)
    }

    /// Both in words.
    pub(crate) fn path(&self) -> Option<String> {
        if is_circuit(&self.address) {
            // Noise inside the circuit, end to end.
            return Some("through a relay, secured by Noise end to end".into());
        }
        Some(format!("direct, by {}, secured by {}", self.transport()?, self.security()?))
    }
}

/// The version of the server's program.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ServerVersion {
    /// It is a ping-server of this version.
    Known(PeerText),
    /// It is another program.
    OtherProgram,
    /// It was not asked, or did not answer.
    Unknown,
}

/// The steps to the first pong. Each lasts from the end of the one before; together they last from the start of the
/// process to the first pong.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Phases {
    /// Until an address to connect to was known.
    pub(crate) find: Option<Duration>,
    /// Until the connection was established.
    pub(crate) connect: Option<Duration>,
    /// Until the registry named the actor.
    pub(crate) lookup: Option<Duration>,
    /// Until the first pong.
    pub(crate) first_pong: Option<Duration>,
    /// All of them.
    pub(crate) total_to_first_pong: Option<Duration>,
}

impl SessionResult {
    /// The result before anything has happened.
    pub(crate) fn nothing_yet(name: &str, load: Load) -> Self {
        Self {
            server: None,
            name: name.to_owned(),
            phases: Phases::default(),
            load,
            figures: Figures::new(),
            network: Times::new(),
            arrived: None,
            counters: Counters::default(),
            retries: false,
            counted: None,
            clocks: None,
            origin: Origin::here(),
            gates: Vec::new(),
            notes: Vec::new(),
            error: None,
            command: std::env::args_os().map(|it| it.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" "),
        }
    }

    /// Pings of which nothing tells whether the server counted them.
    pub(crate) fn unknown(&self) -> u64 {
        // A tell is accepted before it is counted, and a server that ends in between does not count it.
        let accepted_in_vain = self.load.mode == Mode::Tell && self.counters.reconnects > 0;
        match self.counted {
            Some(_) => 0,
            None if accepted_in_vain => self.figures.unknown() + self.figures.received,
            None => self.figures.unknown(),
        }
    }

    /// What the actor adds to the network, as the difference of the medians: the network's, the actor's, and the
    /// overhead. The overhead is 0 where the actor's median is not above the network's.
    pub(crate) fn network_and_actor(&self) -> Option<(Duration, Duration, Duration)> {
        let network = self.network.summary()?.p50;
        let actor = self.figures.rtt.summary()?.p50;
        Some((network, actor, actor.saturating_sub(network)))
    }

    /// Whether the network's median exceeds the actor's, so that the overhead says nothing.
    pub(crate) fn is_overhead_clamped(&self) -> bool {
        self.network_and_actor().is_some_and(|(network, actor, _)| network > actor)
    }

    /// Bytes of payload a second, sent and sent back.
    pub(crate) fn throughput(&self) -> Option<(f64, f64)> {
        let rate = self.figures.rate().filter(|_| self.load.size > 0)?;
        let there = rate * self.load.size as f64;
        Some((there, if self.load.mode.tells() { 0.0 } else { there }))
    }
}
