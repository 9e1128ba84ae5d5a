//! `--state`: a file that keeps what was counted, whatever becomes of the process.
//!
//! A thread of its own writes. What comes while it syncs is written together with the next sync, so that many pings share one.

use std::{convert::Infallible, path::Path, thread, time::Instant};

use anyhow::{Result, anyhow};
use ping_core::{
    actor::{Count, Entry, Journal},
    runs::{Run, RunId, Runs},
};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition, WriteTransaction};
use tokio::sync::{oneshot, watch};

/// The total, under the one key there is.
const TOTAL: TableDefinition<'_, (), u64> = TableDefinition::new("total");

/// The parts of each run.
const RUNS: TableDefinition<'_, (u64, u64), (u64, u64, Vec<u64>)> = TableDefinition::new("runs");

/// How much of the file is kept in memory, in bytes: what it holds of some hundred runs that are under way.
const CACHE: usize = 4 * 1024 * 1024;

/// A file that is kept up to date. It is locked for as long as this process runs.
#[derive(Debug)]
pub(crate) struct State {
    /// The total in the file.
    pub(crate) total: watch::Receiver<u64>,
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
        let (total, runs) = read(&database).map_err(|error| {
            anyhow!("cannot read the state file {}: {error}. Name another one with --state.", path.display())
        })?;
        let (count, journal) = Count::kept(total, runs);
        let (failing, failed) = oneshot::channel();
        let (kept, total) = watch::channel(total);
        let path = path.to_owned();
        thread::Builder::new().name("state".into()).spawn(move || {
            let Err(error) = keep(&database, &journal, &kept);
            let _ = failing.send(unwritable(&path, &error));
        })?;
        Ok((Self { total, failed }, count))
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

/// Writes what there is to keep for as long as it can.
fn keep(database: &Database, journal: &Journal, kept: &watch::Sender<u64>) -> Result<Infallible, redb::Error> {
    loop {
        let entry = journal.next();
        let write = database.begin_write()?;
        put(&write, &entry)?;
        write.commit()?;
        kept.send_if_modified(|total| std::mem::replace(total, entry.total) != entry.total);
        entry.is_kept();
    }
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
    use ping_core::runs::Verdict;

    #[test]
    fn what_was_kept_is_there_again() {
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
