//! The journal: what a program that stores the [`Count`](super::Count) reads from it.
//!
//! Its reader blocks in a thread of its own. What is counted while it writes is stored by its next write, so many pings
//! share one.

use std::{
    mem,
    sync::{Arc, Condvar, Mutex, PoisonError},
};

use tokio::sync::{Semaphore, oneshot, watch};

use super::{
    MAILBOX_SIZE,
    runs::{Run, Runs},
};
use crate::{lock::lock, protocol::RunId};

/// What has changed since the journal was last read. It takes no more room than the count itself, plus a place for each
/// waiting reply.
#[derive(Debug)]
pub(super) struct Pending {
    changes: Mutex<Changes>,
    wake: Condvar,
    /// One for each reply that may wait. When a stalled disk uses them up, the actor waits and its mailbox fills.
    places: Arc<Semaphore>,
}

impl Default for Pending {
    fn default() -> Self {
        Self { changes: Mutex::default(), wake: Condvar::new(), places: Arc::new(Semaphore::new(MAILBOX_SIZE)) }
    }
}

#[derive(Debug, Default)]
struct Changes {
    any: bool,
    waiting: Vec<oneshot::Sender<()>>,
    /// Nothing more will be counted.
    finished: bool,
    /// The journal is gone, so nothing more can be stored.
    closed: bool,
}

impl Pending {
    /// Marks that something was counted, and who waits until it is stored. Drops the latter if it cannot be.
    pub(super) fn add(&self, waiting: Option<oneshot::Sender<()>>) {
        let mut changes = lock(&self.changes);
        if !changes.closed {
            changes.any = true;
            changes.waiting.extend(waiting);
            self.wake.notify_one();
        }
    }

    /// Waits for a place among the replies that wait. Returns `None` when
    /// nothing can be stored any more.
    pub(super) async fn place(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        match self.places.clone().try_acquire_owned() {
            Ok(place) => Some(place),
            Err(_) => {
                // What was counted is stored in the meantime.
                self.add(None);
                self.places.clone().acquire_owned().await.ok()
            }
        }
    }

    /// Waits until everything counted so far is stored, or cannot be, and lets the journal's reader end.
    pub(super) async fn finish(&self) {
        let (stored, safe) = oneshot::channel();
        self.add(Some(stored));
        let _ = safe.await;
        lock(&self.changes).finished = true;
        self.wake.notify_one();
    }
}

/// What there is to store of a [`Count`](super::Count). When it is dropped, the actor answers no more pings.
#[derive(Debug)]
pub struct Journal {
    total: watch::Sender<u64>,
    runs: Arc<Mutex<Runs>>,
    pending: Arc<Pending>,
}

/// The count at one moment.
#[derive(Debug)]
pub struct Entry {
    /// How many pings are counted in all.
    pub total: u64,
    /// The runs that have changed; `None` stands for a run that ended or was forgotten.
    pub runs: Vec<(RunId, Option<Run>)>,
    waiting: Vec<oneshot::Sender<()>>,
}

impl Entry {
    /// An entry that no reply waits for.
    pub fn new(total: u64, runs: Vec<(RunId, Option<Run>)>) -> Self {
        Self { total, runs, waiting: Vec::new() }
    }

    /// Releases the replies that waited until this entry was stored.
    pub fn stored(self) {
        for waiting in self.waiting {
            // The client may be gone.
            let _ = waiting.send(());
        }
    }
}

impl Journal {
    pub(super) fn new(total: watch::Sender<u64>, runs: Arc<Mutex<Runs>>, pending: Arc<Pending>) -> Self {
        Self { total, runs, pending }
    }

    /// Blocks until something has changed, and returns all that has; `None` when the count is finished.
    pub fn next(&self) -> Option<Entry> {
        let changes = lock(&self.pending.changes);
        let changes = self.pending.wake.wait_while(changes, |changes| !changes.any && !changes.finished);
        let mut changes = changes.unwrap_or_else(PoisonError::into_inner);
        if !changes.any {
            return None;
        }
        changes.any = false;
        let waiting = mem::take(&mut changes.waiting);
        drop(changes);
        // `Count::add_once` changes both under this lock, so no ping is in one and missing from the other.
        let mut runs = lock(&self.runs);
        Some(Entry { waiting, ..Entry::new(*self.total.borrow(), runs.take_changed()) })
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        *lock(&self.pending.changes) = Changes { closed: true, ..Changes::default() };
        self.pending.places.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        actor::{Count, batch::Item, host},
        protocol::{AboutRun, Once, Ping, Step, Verdict},
    };

    const RUN: RunId = RunId(1, 2);

    async fn waiting_replies(journal: &Journal, replies: usize) {
        while lock(&journal.pending.changes).waiting.len() < replies {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn no_ping_is_answered_before_it_is_stored() {
        let (count, journal) = Count::stored(10, Runs::default());
        let hosted = host(count.clone(), None).await.unwrap();
        let (first, second) = (hosted.actor.clone(), hosted.actor.clone());
        let begin = AboutRun { run: RUN, step: Step::Begin, settled_below: 0 };
        let begun = tokio::spawn(async move { first.ask(begin).await });
        waiting_replies(&journal, 1).await;
        let once = Once { run: RUN, settled_below: 0, sequence: 1, payload: Vec::new() };
        let asked = tokio::spawn(async move { second.ask(once).await });
        waiting_replies(&journal, 2).await;
        let entry = journal.next().unwrap();
        assert_eq!(entry.total, 11, "the second ping does not wait for the first");
        assert!(entry.runs.iter().all(|(id, run)| (*id, run.as_ref().map(Run::counted)) == (RUN, Some(1))));
        assert!(!begun.is_finished() && !asked.is_finished());
        entry.stored();
        assert_eq!(asked.await.unwrap().unwrap().verdict, Verdict::Fresh);
        // A run and the total are stored together, whatever wakes the reader.
        count.add_once(RUN, [Item::Ping(2)]);
        journal.pending.add(None);
        let entry = journal.next().unwrap();
        assert_eq!((entry.total, entry.runs[0].1.as_ref().map(Run::counted)), (12, Some(2)));
        // A ping that cannot be stored is not answered.
        drop(journal);
        assert!(hosted.actor.ask(Ping { message: String::new(), sequence: 1 }).await.is_err());
    }

    #[tokio::test]
    async fn a_finished_count_is_stored_and_ends_its_journal() {
        let (count, journal) = Count::stored(0, Runs::default());
        count.add(3);
        let reader = std::thread::spawn(move || {
            let mut totals = Vec::new();
            while let Some(entry) = journal.next() {
                totals.push(entry.total);
                entry.stored();
            }
            totals
        });
        count.finish().await;
        assert_eq!(reader.join().unwrap(), [3]);
    }
}
