//! The result of a run, in the forms that were asked for.

mod csv;
mod html;
mod json;
mod text;

use std::{
    env,
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
    time::Duration,
};

use anyhow::{Result, anyhow};
use libp2p::{Multiaddr, PeerId};

use crate::{
    args::Args,
    diagnose::Trouble,
    lane::{Interruptions, Mode},
    schedule::Pace,
    stats::{Stats, Times},
    warnings::Clocks,
};

pub(crate) use csv::Csv;
pub(crate) use html::Html;
pub(crate) use json::Json;
pub(crate) use text::Text;

/// Everything that a run found out.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The server, if it was found.
    pub(crate) server: Option<Server>,
    /// The name that was looked for.
    pub(crate) name: String,
    /// How long each step took, as far as it was reached.
    pub(crate) phases: Phases,
    /// What was sent, and how.
    pub(crate) load: Load,
    /// The counts and times.
    pub(crate) stats: Stats,
    /// The bare round trips of the connection, without the actor.
    pub(crate) network: Times,
    /// How many told pings the server counted, by its total before and after.
    pub(crate) arrived: Option<u64>,
    /// How often the connection was lost and made again.
    pub(crate) interruptions: Interruptions,
    /// How often a ping was sent again because the actor was busy.
    pub(crate) busy: u64,
    /// How often a ping was sent again because its connection was lost, if that was wanted.
    pub(crate) resent: Option<u64>,
    /// How many of the pings the server counted, if it says so.
    pub(crate) counted: Option<u64>,
    /// What the clocks say of the run.
    pub(crate) clocks: Option<Clocks>,
    /// What the reader of the figures should know about how they came about.
    pub(crate) warnings: Vec<String>,
    /// What ended the run early, or kept it from starting.
    pub(crate) trouble: Option<Trouble>,
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

impl Outcome {
    /// The outcome before anything has happened.
    pub(crate) fn nothing_yet(args: &Args) -> Self {
        Self {
            server: None,
            name: args.name.clone(),
            phases: Phases::default(),
            load: Load { mode: args.mode, pace: args.pace(), size: args.size },
            stats: Stats::new(),
            network: Times::new(),
            arrived: None,
            interruptions: Interruptions::default(),
            busy: 0,
            resent: None,
            counted: None,
            clocks: None,
            warnings: Vec::new(),
            trouble: None,
            command: env::args().collect::<Vec<_>>().join(" "),
        }
    }

    /// How many pings the server may have counted, or not.
    pub(crate) fn unknown(&self) -> u64 {
        // What is told is accepted before it is counted, and a server that ends in between does not count it.
        let accepted_in_vain = self.load.mode == Mode::Tell && self.interruptions.count > 0;
        match self.counted {
            Some(_) => 0,
            None if accepted_in_vain => self.stats.unknown() + self.stats.received,
            None => self.stats.unknown(),
        }
    }

    /// What the actor costs beyond the network, as the difference of the medians: the network's, the actor's, and the
    /// overhead.
    pub(crate) fn network_against_actor(&self) -> Option<(Duration, Duration, Duration)> {
        let network = self.network.figures()?.p50;
        let actor = self.stats.rtt.figures()?.p50;
        Some((network, actor, actor.saturating_sub(network)))
    }

    /// Bytes of payload a second that went there, and that came back.
    pub(crate) fn throughput(&self) -> Option<(f64, f64)> {
        let rate = self.stats.rate().filter(|_| self.load.size > 0)?;
        let there = rate * self.load.size as f64;
        Some((there, if self.load.mode.tells() { 0.0 } else { there }))
    }
}

/// The server that was pinged.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) peer: PeerId,
    pub(crate) address: Multiaddr,
    /// The version of its program, if it said it.
    pub(crate) version: Option<String>,
}

/// The steps to the first pong. Each lasts from the end of the one before; together they last from the start of the
/// process to the first pong.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Phases {
    /// Until an address to connect to was known.
    pub(crate) find: Option<Duration>,
    /// Until the connection stood.
    pub(crate) connect: Option<Duration>,
    /// Until the registry had named the actor.
    pub(crate) lookup: Option<Duration>,
    /// Until the first pong.
    pub(crate) first_pong: Option<Duration>,
    /// All of them.
    pub(crate) total_to_first_pong: Option<Duration>,
}

/// One form of a result.
pub(crate) trait Report {
    /// Writes the result.
    ///
    /// # Errors
    ///
    /// When the output is closed or full.
    fn write(&self, outcome: &Outcome, out: &mut dyn Write) -> io::Result<()>;
}

/// Opens a file for a report, before the run, so that what is wrong with it shows before anything is measured.
///
/// # Errors
///
/// When the file exists and may not be overwritten, or cannot be made.
pub(crate) fn create(path: &Path, overwrite: bool) -> Result<File> {
    let mut options = OpenOptions::new();
    options.write(true);
    if overwrite {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    options.open(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            anyhow!("{} exists already. Name another file, or overwrite it with --force.", path.display())
        }
        _ => unwritable(path, &error),
    })
}

/// A file that cannot be written, with the mend.
pub(crate) fn unwritable(path: &Path, error: &io::Error) -> anyhow::Error {
    anyhow!(
        "cannot write {}: {error}. Name a file in a folder that you may write to and that has room.",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_existing_file_is_overwritten_only_by_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        create(&path, false).unwrap();
        let error = create(&path, false).unwrap_err().to_string();
        assert!(error.contains("--force"), "{error}");
        create(&path, true).unwrap();
        let error = create(&folder.path().join("no/such/folder"), true).unwrap_err().to_string();
        assert!(error.contains("cannot write"), "{error}");
    }
}
