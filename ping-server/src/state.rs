//! `--state`: a file that stores the count, so that it outlives the process.
//!
//! A thread of its own writes. What is counted during one sync is written with the next, so many pings share one.

use std::{fs, future::pending, path::Path, thread, time::Instant};

use anyhow::{Result, anyhow, bail};
use ping_core::{
    actor::{
        Count, Entry, Journal,
        runs::{Run, Runs},
    },
    program::metrics::histogram,
    protocol::RunId,
};
use prometheus_client::metrics::histogram::Histogram;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition, WriteTransaction};
use tokio::sync::{oneshot, watch};

/// The total, under its only key.
const TOTAL: TableDefinition<'_, (), u64> = TableDefinition::new("total");

/// The parts of each run.
const RUNS: TableDefinition<'_, (u64, u64), (u64, u64, Vec<u64>)> = TableDefinition::new("runs");

/// The upper end of the first bucket of the times of writing, in seconds, and how many buckets there are, each twice
/// as long as the one before: to 4 s.
const FIRST_BUCKET: f64 = 64e-6;
const BUCKETS: u16 = 17;

/// How much of the file is cached, in bytes: some hundred runs.
const CACHE_SIZE: usize = 4 * 1024 * 1024;

/// A file that is kept up to date. It stays locked while this process runs.
#[derive(Debug)]
pub(crate) struct State {
    /// The total in the file.
    pub(crate) total: watch::Receiver<u64>,
    /// Resolves when the file is closed, to the reason if it could not be written. Then no ping is answered.
    closed: Option<oneshot::Receiver<anyhow::Error>>,
    /// How long it took to write the file each time, in seconds.
    pub(crate) write_times: Histogram,
}

impl State {
    /// Opens the file, or creates it, and reads the count. Fails if it cannot be opened, is something else, or is in
    /// use.
    pub(crate) fn open(path: &Path) -> Result<(Self, Count)> {
        if fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0) {
            bail!("the state file {} is empty: its count is lost. Remove it to count from 0.", path.display());
        }
        let database =
            Database::builder().set_cache_size(CACHE_SIZE).create(path).map_err(|error| explain(path, error))?;
        let file = FileId::of(path);
        let (total, runs) = read(&database).map_err(|error| {
            anyhow!("cannot read the state file {}: {error}. Name another file with --state.", path.display())
        })?;
        let (count, journal) = Count::stored(total, runs);
        let (closing, closed) = oneshot::channel();
        let (stored, total) = watch::channel(total);
        let path = path.to_owned();
        let write_times = histogram(FIRST_BUCKET, 2.0, BUCKETS);
        let times = write_times.clone();
        thread::Builder::new().name("state".into()).spawn(move || {
            let is_in_place = || FileId::of(&path) == file;
            let outcome = store(&database, &journal, &stored, &times, is_in_place);
            // Closing the file spares the next start its repair.
            drop((database, journal));
            if let Err(error) = outcome {
                let _ = closing.send(error.explain(&path));
            }
        })?;
        Ok((Self { total, closed: Some(closed), write_times }, count))
    }

    /// Waits until the file can no longer be written, and returns why.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        let Some(closed) = &mut self.closed else { return pending().await };
        let failure = closed.await;
        self.closed = None;
        failure.unwrap_or_else(|_| {
            anyhow!("the thread that writes the state file ended. This is a bug; please report it.")
        })
    }

    /// Waits until the file is closed, so that it needs no repair when it is opened next. The count must be finished.
    /// Returns why the file could not be written, unless [`failed`](Self::failed) has.
    pub(crate) async fn close(self) -> Option<anyhow::Error> {
        self.closed?.await.ok()
    }
}

/// What identifies a file under whatever name, where the system lets a file be removed while it is open.
#[derive(Clone, Copy, Debug, PartialEq)]
struct FileId(Option<(u64, u64)>);

impl FileId {
    #[cfg(unix)]
    fn of(path: &Path) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self(fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino())))
    }

    #[cfg(not(unix))]
    fn of(_: &Path) -> Self {
        Self(None)
    }
}

/// Why the count can no longer be stored.
enum StoreError {
    Unwritable(redb::Error),
    /// The file was removed or replaced: what is written goes nowhere.
    Gone,
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        Self::Unwritable(error.into())
    }
}

impl StoreError {
    fn explain(&self, path: &Path) -> anyhow::Error {
        let path = path.display();
        match self {
            Self::Unwritable(error) => anyhow!(
                "cannot write the state file {path}: {error}. Pings can no longer be stored, so none are answered. \
                 Make room, or name another file with --state, and start again."
            ),
            Self::Gone => anyhow!(
                "the state file {path} was removed or replaced. Pings can no longer be stored, so none are answered. \
                 Put it back, or name another file with --state, and start again."
            ),
        }
    }
}

fn explain(path: &Path, error: DatabaseError) -> anyhow::Error {
    let path = path.display();
    match error {
        DatabaseError::DatabaseAlreadyOpen => {
            anyhow!("the state file {path} is in use by another process. Stop it, or name another file with --state.")
        }
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
            anyhow!("the file {path} is not a state file. Name another file with --state.")
        }
        error => anyhow!("cannot open the state file {path}: {error}. Name another file with --state."),
    }
}

fn read(database: &Database) -> Result<(u64, Runs), redb::Error> {
    // Opening a table for writing creates it.
    let write = database.begin_write()?;
    write.open_table(TOTAL)?;
    write.open_table(RUNS)?;
    write.commit()?;
    let read = database.begin_read()?;
    let total = read.open_table(TOTAL)?.get(())?.map_or(0, |total| total.value());
    let (mut runs, now) = (Runs::default(), Instant::now());
    for entry in read.open_table(RUNS)?.iter()? {
        let (id, run) = entry?;
        let ((high, low), (counted, floor, words)) = (id.value(), run.value());
        runs.restore(RunId(high, low), Run::from_parts(counted, floor, words), now);
    }
    Ok((total, runs))
}

/// Stores the count until it is finished or that fails.
fn store(
    database: &Database,
    journal: &Journal,
    stored: &watch::Sender<u64>,
    times: &Histogram,
    is_in_place: impl Fn() -> bool,
) -> Result<(), StoreError> {
    while let Some(entry) = journal.next() {
        if !is_in_place() {
            return Err(StoreError::Gone);
        }
        let started = Instant::now();
        let write = database.begin_write()?;
        put(&write, &entry)?;
        write.commit()?;
        times.observe(started.elapsed().as_secs_f64());
        stored.send_if_modified(|total| std::mem::replace(total, entry.total) != entry.total);
        entry.stored();
    }
    Ok(())
}

fn put(write: &WriteTransaction, entry: &Entry) -> Result<(), redb::Error> {
    write.open_table(TOTAL)?.insert((), entry.total)?;
    let mut runs = write.open_table(RUNS)?;
    for (RunId(high, low), run) in &entry.runs {
        match run {
            Some(run) => drop(runs.insert((*high, *low), run.parts())?),
            None => drop(runs.remove((*high, *low))?),
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use ping_core::protocol::Verdict;
    #[cfg(unix)]
    use ping_core::{actor::host, protocol::Ping};
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    #[test]
    fn what_was_stored_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let mut first = Run::default();
        first.settle_below(100);
        assert_eq!(first.count(101), Verdict::Fresh);
        {
            let database = Database::create(&path).unwrap();
            assert_eq!(read(&database).unwrap().0, 0);
            let write = |total, runs| {
                let entry = Entry::new(total, runs);
                let write = database.begin_write().unwrap();
                put(&write, &entry).unwrap();
                write.commit().unwrap();
            };
            write(1, vec![(RunId(1, 1), Some(first.clone())), (RunId(2, 2), Some(Run::default()))]);
            write(3, vec![(RunId(2, 2), None)]);
            assert!(State::open(&path).unwrap_err().to_string().contains("in use"));
        }
        let (total, mut runs) = read(&Database::open(&path).unwrap()).unwrap();
        assert_eq!(total, 3);
        assert_eq!(runs.change(RunId(1, 1), Instant::now(), |run| run.clone()), Some(first));
        assert!(runs.change(RunId(2, 2), Instant::now(), |_| ()).is_none());
    }

    #[tokio::test]
    async fn a_closed_file_needs_no_repair() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let (state, count) = State::open(&path).unwrap();
        count.finish().await;
        assert!(state.close().await.is_none());
        let is_repaired = Arc::new(AtomicBool::new(false));
        let repaired = is_repaired.clone();
        let mut builder = Database::builder();
        builder.set_repair_callback(move |_| repaired.store(true, Ordering::SeqCst));
        builder.open(&path).unwrap();
        assert!(!is_repaired.load(Ordering::SeqCst));
    }

    #[test]
    fn an_empty_file_is_not_a_count_of_0() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        fs::write(&path, "").unwrap();
        let error = State::open(&path).unwrap_err().to_string();
        assert!(error.contains("is empty"), "{error}");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn nothing_is_counted_once_the_file_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let (mut state, count) = State::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let hosted = host(count.clone(), None).await.unwrap();
        hosted.actor.tell(Ping { message: String::new(), sequence: 1 }).await.unwrap();
        let failure = state.failed().await.to_string();
        assert!(failure.contains("was removed"), "{failure}");
        assert_eq!(*state.total.borrow(), 0);
    }

    #[test]
    fn a_file_that_is_something_else_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "not a database, but somebody's notes").unwrap();
        let error = State::open(&path).unwrap_err().to_string();
        assert!(error.contains("not a state file"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "not a database, but somebody's notes");
        let error = State::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("--state"), "{error}");
    }
}
