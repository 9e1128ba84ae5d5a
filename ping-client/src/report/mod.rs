//! The result of a run, in the form that was asked for.

mod json;
mod text;

use std::{
    io::{self, Write},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId};

use crate::{diagnose::Trouble, stats::Stats};

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
    /// The counts and round-trip times.
    pub(crate) stats: Stats,
    /// What ended the run early, or kept it from starting.
    pub(crate) trouble: Option<Trouble>,
}

/// The server that was pinged.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) peer: PeerId,
    pub(crate) address: Multiaddr,
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

/// A duration in milliseconds, to three significant digits or to the microsecond.
pub(crate) fn milliseconds(duration: Duration) -> String {
    format!("{} ms", digits(duration.as_secs_f64() * 1e3))
}

/// A number to three significant digits, but to no more than three decimals.
fn digits(number: f64) -> String {
    let decimals = match number {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{number:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_are_shown() {
        for (microseconds, text) in [(1, "0.001 ms"), (312, "0.312 ms"), (1234, "1.23 ms"), (202_900, "203 ms")] {
            assert_eq!(milliseconds(Duration::from_micros(microseconds)), text);
        }
    }
}
