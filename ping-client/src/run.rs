//! The pings: sent as the schedule says, as many at a time as the lane carries, until the run ends.

use std::{pin::pin, time::Instant};

use futures::{FutureExt, StreamExt, future::OptionFuture, stream::FuturesUnordered};
use tokio::sync::oneshot;

use crate::{
    diagnose::{PingFailure, Trouble},
    lane::{Lane, Outcome, Settled},
    schedule::{Schedule, wait_until},
};

/// One ping and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Its number, counted from 1.
    pub(crate) sequence: u64,
    /// When the schedule wanted it sent.
    pub(crate) due: Instant,
    /// When it was sent.
    pub(crate) sent: Instant,
    /// From when its latency counts.
    pub(crate) from: Instant,
    /// When its outcome was known.
    pub(crate) ended: Instant,
    /// What became of it.
    pub(crate) outcome: Outcome,
}

/// Who is told what happens in a run, as it happens.
pub(crate) trait Observer {
    /// A ping leaves.
    fn sending(&mut self, sequence: u64, now: Instant);

    /// A ping's outcome is known.
    fn outcome(&mut self, sample: &Sample);

    /// A ping that had timed out was answered after all.
    fn late(&mut self, sequence: u64);
}

/// Sends the pings of a schedule until all outcomes are known or the connection is lost. Dropping the future ends the
/// run earlier.
///
/// # Errors
///
/// When the connection is lost before the last outcome is known.
pub(crate) async fn run(
    lane: &Lane,
    mut schedule: Schedule,
    closed: &mut oneshot::Receiver<String>,
    observer: &mut dyn Observer,
) -> Result<(), Trouble> {
    let mut in_flight = FuturesUnordered::new();
    // Pings whose time is up, but which may yet be answered. They hold their place on the lane.
    let mut overdue = FuturesUnordered::new();
    let mut lost = None;
    loop {
        let due = if lost.is_none() { schedule.due(Instant::now()) } else { None };
        if due.is_none() && in_flight.is_empty() {
            return lost.map_or(Ok(()), Err);
        }
        let room = in_flight.len() < schedule.width() && in_flight.len() + overdue.len() < lane.width();
        let next = pin!(OptionFuture::from(due.filter(|_| room).map(|due| wait_until(due).map(move |()| due))));
        tokio::select! {
            biased;
            Some((sequence, due, sent, settled)) = in_flight.next() => {
                let ended = Instant::now();
                let outcome = match settled {
                    Settled::InTime(outcome) => outcome,
                    Settled::Overdue(ping) => {
                        overdue.push(ping.map(move |outcome| (sequence, outcome)));
                        Err(PingFailure::timed_out(lane.timeout()))
                    }
                };
                let from = schedule.latency_from(due, sent);
                observer.outcome(&Sample { sequence, due, sent, from, ended, outcome });
            }
            Some((sequence, outcome)) = overdue.next() => {
                if outcome.is_ok() {
                    observer.late(sequence);
                }
            }
            reason = &mut *closed, if lost.is_none() => {
                // The pings in flight fail on their own within a moment.
                lost = Some(Trouble::Lost { reason: reason.unwrap_or_else(|_| "the node stopped".into()) });
            }
            Some(due) = next => {
                let sequence = schedule.take();
                let sent = Instant::now();
                observer.sending(sequence, sent);
                in_flight.push(lane.ping(sequence).map(move |settled| (sequence, due, sent, settled)));
            }
        }
    }
}
