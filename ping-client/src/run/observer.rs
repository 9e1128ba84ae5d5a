//! Who sees what happens in a run, as it happens.

use std::{
    io,
    time::{Duration, Instant},
};

use crate::{
    figures::Phases,
    pinger::{Answer, Outcome, Path},
};

/// One ping and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Its number, counted from 1.
    pub(crate) sequence: u64,
    /// When the schedule wanted it sent.
    pub(crate) due: Instant,
    /// When it was sent. Pings that are sent together share one reading of the clock.
    pub(crate) sent: Instant,
    /// When its latency starts.
    pub(crate) from: Instant,
    /// When its outcome was known. Outcomes that become known together share one reading of the clock.
    pub(crate) ended: Instant,
    /// What became of it.
    pub(crate) outcome: Outcome,
}

/// A ping that is sent now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sending {
    /// Its number, counted from 1.
    pub(crate) sequence: u64,
    pub(crate) now: Instant,
    /// Whether there is a connection to send it on.
    pub(crate) is_connected: bool,
}

/// Sees what happens in a run.
pub(crate) trait Observer {
    /// The actor was found, after these steps.
    fn found(&mut self, _now: Instant, _phases: &Phases) {}

    /// A ping is sent.
    fn sending(&mut self, sending: Sending);

    /// A ping's outcome is known.
    fn outcome(&mut self, sample: &Sample);

    /// A ping that had timed out was answered after all.
    fn late(&mut self, sequence: u64, answer: Answer);

    /// There was no connection from one moment to another.
    fn outage(&mut self, _from: Instant, _to: Instant) {}

    /// From now on, pings take this way.
    fn path(&mut self, _now: Instant, _path: Path) {}

    /// How often it wants a [`tick`](Self::tick), if at all.
    fn tick_every(&self) -> Option<Duration> {
        None
    }

    /// Time has passed, whether or not anything happened.
    fn tick(&mut self, _now: Instant) {}

    /// The user asks for the figures so far.
    fn interim(&mut self, _now: Instant) {}

    /// The machine slept, or this program was stopped, for this time. That many pings were due then and were not sent.
    fn slept(&mut self, _slept: Duration, _missed: u64) {}

    /// For how long the run has waited for this observer's output in all, and at a time.
    fn held_up(&self) -> (Duration, Duration) {
        (Duration::ZERO, Duration::ZERO)
    }

    /// The run is over. Fails if something that was seen could not be recorded.
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}
