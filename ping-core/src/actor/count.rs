//! The count: what outlives the actor, and what a restart of it goes on with.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::watch;

use super::{
    batch::Item,
    journal::{Journal, Pending},
    runs::Runs,
};
use crate::{
    lock::lock,
    protocol::{AboutRun, Process, RunCard, RunId, Step, Verdict},
};

/// What the actor has counted. Clones share it.
#[derive(Clone, Debug)]
pub struct Count {
    total: watch::Sender<u64>,
    runs: Arc<Mutex<Runs>>,
    pub(super) journal: Option<Arc<Pending>>,
    /// The number of this process, and when it began to count.
    began: (u64, Instant),
    /// Learns how long handlers of pings take, if anybody asks.
    handler_times: Option<Histogram>,
}

/// Measures one handler until it is dropped.
pub(super) struct Timer(Histogram, Instant);

impl Drop for Timer {
    fn drop(&mut self) {
        self.0.observe(self.1.elapsed().as_secs_f64());
    }
}

impl Count {
    /// A count of nothing, kept in memory alone.
    pub fn new() -> Self {
        let total = watch::Sender::new(0);
        Self { total, runs: Arc::default(), journal: None, began: began(), handler_times: None }
    }

    /// A count that continues from an earlier one. The actor answers a ping only after the journal's reader has stored
    /// the count with it.
    pub fn stored(total: u64, mut runs: Runs) -> (Self, Journal) {
        runs.track_changes();
        let pending = Arc::new(Pending::default());
        let (total, runs) = (watch::Sender::new(total), Arc::new(Mutex::new(runs)));
        let journal = Journal::new(total.clone(), runs.clone(), pending.clone());
        (Self { total, runs, journal: Some(pending), began: began(), handler_times: None }, journal)
    }

    /// Measures, in seconds, how long the actor's handlers of pings take from now on. Those of an actor that is hosted
    /// already do not know of it.
    pub fn time_handlers(&mut self, times: Histogram) {
        self.handler_times = Some(times);
    }

    pub(super) fn timer(&self) -> Option<Timer> {
        self.handler_times.as_ref().map(|times| Timer(times.clone(), Instant::now()))
    }

    /// How many runs are remembered.
    pub fn runs(&self) -> usize {
        lock(&self.runs).len()
    }

    /// The total; wakes its holder when it changes.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.total.subscribe()
    }

    /// The process that counts.
    pub(super) fn process(&self) -> Process {
        let (id, began) = self.began;
        Process { id, uptime_ms: began.elapsed().as_millis().try_into().unwrap_or(u64::MAX) }
    }

    pub(super) fn total(&self) -> u64 {
        *self.total.borrow()
    }

    /// Counts pings; returns the total with them.
    pub(super) fn add(&self, pings: u64) -> u64 {
        self.total.send_if_modified(|total| {
            *total += pings;
            pings > 0
        });
        self.total()
    }

    /// Counts pings of a run, each unless it was counted before; returns the total and one verdict for each ping.
    pub(super) fn add_once(&self, id: RunId, items: impl IntoIterator<Item = Item>) -> (u64, Vec<Verdict>) {
        let mut runs = lock(&self.runs);
        let mut items = items.into_iter();
        let known = runs.change(id, Instant::now(), |run| {
            let verdict = |item| match item {
                Item::Ping(sequence) => Some(run.count(sequence)),
                Item::SettledBelow(floor) => {
                    run.settle_below(floor);
                    None
                }
            };
            items.by_ref().filter_map(verdict).collect()
        });
        let unknown = |item| matches!(item, Item::Ping(_)).then_some(Verdict::UnknownRun);
        let verdicts: Vec<_> = known.unwrap_or_else(|| items.filter_map(unknown).collect());
        // Under the lock, so that the journal never sees a run without its share of the total.
        (self.add(fresh(&verdicts)), verdicts)
    }

    /// Begins, reports or ends a run.
    pub(super) fn about_run(&self, about: AboutRun) -> RunCard {
        let AboutRun { run: id, step, settled_below } = about;
        let (mut runs, now) = (lock(&self.runs), Instant::now());
        if step == Step::Begin {
            runs.begin(id, now);
        }
        let counted = runs.change(id, now, |run| {
            run.settle_below(settled_below);
            run.counted()
        });
        if step == Step::End {
            runs.end(id);
        }
        RunCard { counted, total_pings: self.total() }
    }

    /// Waits until everything counted so far is stored, or cannot be, and closes the journal.
    pub async fn finish(&self) {
        if let Some(pending) = &self.journal {
            pending.finish().await;
        }
    }
}

impl Default for Count {
    fn default() -> Self {
        Self::new()
    }
}

/// How many of these pings arrived for the first time.
pub(crate) fn fresh(verdicts: &[Verdict]) -> u64 {
    verdicts.iter().filter(|verdict| **verdict == Verdict::Fresh).count() as u64
}
/// A number that no other process chooses, and now.
fn began() -> (u64, Instant) {
    (fastrand::u64(..), Instant::now())
}
