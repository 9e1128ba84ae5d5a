//! `--csv`: one row for each ping, written as the run goes.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::create;
use crate::{
    lane::Answer,
    run::{Observer, Sample},
};

/// The columns. Times are nanoseconds; offsets count from the first ping's due time.
const HEADER: &str = "sequence,intended_ns,sent_ns,received_ns,rtt_ns,outcome";

/// How long a row may wait before it is written, when others keep coming.
const STALE: Duration = Duration::from_millis(500);

/// The file under way.
pub(crate) struct Csv {
    out: BufWriter<File>,
    start: Option<Instant>,
    flushed: Instant,
    failed: Option<io::Error>,
}

impl Csv {
    /// Opens the file and writes its header.
    ///
    /// # Errors
    ///
    /// When the file exists and may not be overwritten, or cannot be written.
    pub(crate) fn create(path: &Path, overwrite: bool) -> Result<Self> {
        let mut out = BufWriter::with_capacity(64 * 1024, create(path, overwrite)?);
        writeln!(out, "{HEADER}").and_then(|()| out.flush()).map_err(|error| super::unwritable(path, &error))?;
        Ok(Self { out, start: None, flushed: Instant::now(), failed: None })
    }

    /// Writes what is left.
    ///
    /// # Errors
    ///
    /// When this or any row before could not be written.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.out.flush(),
        }
    }
}

impl Observer for Csv {
    fn sending(&mut self, _: u64, now: Instant) {
        self.start.get_or_insert(now);
    }

    fn outcome(&mut self, sample: &Sample) {
        let Some(start) = self.start else { return };
        let offset = |moment: Instant| {
            // What was due before the first ping was sent has a negative offset of some microseconds.
            match moment.checked_duration_since(start) {
                Some(after) => after.as_nanos().cast_signed(),
                None => -(start - moment).as_nanos().cast_signed(),
            }
        };
        let Sample { sequence, due, sent, from, ended, outcome } = sample;
        let (due, sent) = (offset(*due), offset(*sent));
        let row = match outcome {
            Ok(_) => {
                let rtt = (*ended - *from).as_nanos();
                writeln!(self.out, "{sequence},{due},{sent},{},{rtt},ok", offset(*ended))
            }
            Err(failure) => writeln!(self.out, "{sequence},{due},{sent},,,{}", failure.kind),
        };
        let flush = if ended.saturating_duration_since(self.flushed) >= STALE {
            self.flushed = *ended;
            self.out.flush()
        } else {
            Ok(())
        };
        if let Err(error) = row.and(flush) {
            self.failed.get_or_insert(error);
        }
    }

    fn late(&mut self, _: u64, _: Answer) {}
}
