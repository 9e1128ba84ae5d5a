//! `--state`: a file that keeps what was counted, whatever becomes of the process.
//!
//! A thread of its own writes. What comes while it syncs is written together with the next sync, so that many pings share one.

use std::{collections::HashMap, path::Path, thread, time::Instant};

use anyhow::{Result, anyhow};
use ping_core::{
    actor::{Count, Entry},
    runs::{Run, RunId, Runs},
};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition, WriteTransaction};
use tokio::sync::{mpsc, oneshot};

/// The total, under the one key there is.
const TOTAL: TableDefinition<'_, (), u64> = TableDefinition::new("total");

/// The parts of each run.
const RUNS: TableDefinition<'_, (u64, u64), (u64, u64, Vec<u64>)> = TableDefinition::new("runs");

/// How much of the file is kept in memory, in bytes: more than it ever holds of runs that are under way.
const CACHE: usize = 4 * 1024 * 1024;

/// A file that is kept up to date. It is locked for as long as this process has it.
#[derive(Debug)]
pub(crate) struct State {
    journal: mpsc::UnboundedSender<Entry>,
    /// Resolves to the reason when the file cannot be written any more. No ping is answered then.
    pub(crate) failed: oneshot::Receiver<anyhow::Error>,
}

impl State {
    /// Opens the file, or makes it, and reads what was counted.
    ///
    /// # Errors
    ///
    /// When it cannot be opened, is something else, or is in use.
    pub(crate) fn open(path: &Path) -> Result<(Self, Count)> {
        let database = Database::builder().set_cache_size(CACHE).create(path).map_err(|error| explain(path, error))?;
        let (total, runs) =
            read(&database).map_err(|error| anyhow!("cannot read the state file {}: {error}", path.display()))?;
        let (journal, entries) = mpsc::unbounded_channel();
        let (failing, failed) = oneshot::channel();
        let count = Count::new(total, runs, Some(journal.clone()));
        let path = path.to_owned();
        thread::Builder::new().name("state".into()).spawn(move || {
            if let Err(error) = keep(&database, entries) {
                let _ = failing.send(unwritable(&path, &error));
            }
        })?;
        Ok((Self { journal, failed }, count))
    }

    /// Waits until everything that was counted is in the file, or cannot be.
    pub(crate) async fn finish(self, total: u64) {
        let (kept, safe) = oneshot::channel();
        let _ = self.journal.send(Entry { total, run: None, forgotten: Vec::new(), kept });
        let _ = safe.await;
    }
}

fn unwritable(path: &Path, error: &redb::Error) -> anyhow::Error {
    anyhow!(
        "cannot write the state file {}: {error}. Pings can no longer be kept, so none are answered. Make room, or name another file \
         with --state, and start again.",
        path.display()
    )
}

fn explain(path: &Path, error: DatabaseError) -> anyhow::Error {
    let path = path.display();
    match error {
        DatabaseError::DatabaseAlreadyOpen => {
            anyhow!("the state file {path} is in use by another process. Stop it, or name another file with --state.")
        }
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
            anyhow!("the file {path} is something else than a state file. Name another one with --state.")
        }
        error => anyhow!("cannot open the state file {path}: {error}. Name another one with --state."),
    }
}

fn read(database: &Database) -> Result<(u64, Runs), redb::Error> {
    // Tables exist from the first time that they are written to.
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

/// Writes entries until no more can come.
fn keep(database: &Database, mut entries: mpsc::UnboundedReceiver<Entry>) -> Result<(), redb::Error> {
    let mut batch = Vec::new();
    while entries.blocking_recv_many(&mut batch, usize::MAX) > 0 {
        let write = database.begin_write()?;
        put(&write, &batch)?;
        write.commit()?;
        for entry in batch.drain(..) {
            // Whoever asked may have gone.
            let _ = entry.kept.send(());
        }
    }
    Ok(())
}

fn put(write: &WriteTransaction, batch: &[Entry]) -> Result<(), redb::Error> {
    // Later entries hold whatever earlier ones did.
    if let Some(last) = batch.last() {
        write.open_table(TOTAL)?.insert((), last.total)?;
    }
    let mut changed: HashMap<RunId, Option<&Run>> = HashMap::new();
    for entry in batch {
        changed.extend(entry.forgotten.iter().map(|id| (*id, None)));
        changed.extend(entry.run.iter().map(|(id, run)| (*id, run.as_ref())));
    }
    let mut runs = write.open_table(RUNS)?;
    for (RunId(high, low), run) in changed {
        match run {
            Some(run) => drop(runs.insert((high, low), run.parts())?),
            None => drop(runs.remove((high, low))?),
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::panic, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use ping_core::runs::Verdict;

    fn counted(count: &Count) -> u64 {
        *count.watch().borrow()
    }

    async fn keep_entry(state: &State, total: u64, run: Option<(RunId, Option<Run>)>, forgotten: Vec<RunId>) {
        let (kept, safe) = oneshot::channel();
        state.journal.send(Entry { total, run, forgotten, kept }).unwrap();
        safe.await.unwrap();
    }

    #[tokio::test]
    async fn what_was_kept_is_there_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let (state, count) = State::open(&path).unwrap();
        assert_eq!(counted(&count), 0);
        let [mut first, second] = [Run::default(), Run::default()];
        first.settle_below(100);
        assert_eq!(first.count(101), Verdict::Fresh);
        keep_entry(&state, 1, Some((RunId(1, 1), Some(first.clone()))), Vec::new()).await;
        keep_entry(&state, 2, Some((RunId(2, 2), Some(second))), Vec::new()).await;
        keep_entry(&state, 3, None, vec![RunId(2, 2)]).await;
        assert!(State::open(&path).unwrap_err().to_string().contains("in use"));
        drop((state, count));
        // The thread closes the file in its own time.
        let database = loop {
            match Database::open(&path) {
                Ok(database) => break database,
                Err(DatabaseError::DatabaseAlreadyOpen) => thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        };
        let (total, mut runs) = read(&database).unwrap();
        assert_eq!(total, 3);
        assert_eq!(runs.get(RunId(1, 1), Instant::now()), Some(&mut first));
        assert!(runs.get(RunId(2, 2), Instant::now()).is_none());
    }

    #[test]
    fn a_file_that_is_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "not a database, but somebody's notes").unwrap();
        let error = State::open(&path).unwrap_err().to_string();
        assert!(error.contains("something else"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "not a database, but somebody's notes");
        let error = State::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("--state"), "{error}");
    }
}
