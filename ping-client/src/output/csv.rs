//! `--csv`: one row for each ping, written as the run goes.

use std::{
    io::{self, BufWriter, Write},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    pinger::Answer,
    run::{Observer, Sample, Sending},
};

/// The columns. Times are in nanoseconds since the first ping was sent.
const HEADER: &str = "sequence,intended_ns,sent_ns,received_ns,rtt_ns,outcome";

/// How long a row waits before it is written, while others follow.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);

/// The file in progress.
pub(super) struct Csv {
    out: BufWriter<Box<dyn Write>>,
    start: Option<Instant>,
    flushed: Instant,
    failed: Option<io::Error>,
}

impl Csv {
    /// Writes the header into a new file. Fails if it cannot be written.
    pub(super) fn new(out: Box<dyn Write>, path: &Path) -> Result<Self> {
        let mut out = BufWriter::with_capacity(64 * 1024, out);
        writeln!(out, "{HEADER}").and_then(|()| out.flush()).map_err(|error| super::unwritable(path, &error))?;
        Ok(Self { out, start: None, flushed: Instant::now(), failed: None })
    }
}

impl Observer for Csv {
    fn sending(&mut self, Sending { now, .. }: Sending) {
        self.start.get_or_insert(now);
    }

    fn outcome(&mut self, sample: &Sample) {
        let Some(start) = self.start else { return };
        let offset = |moment: Instant| {
            // The first ping was due some microseconds before it was sent.
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
            Err(error) => writeln!(self.out, "{sequence},{due},{sent},,,{}", error.cause()),
        };
        let flush = if ended.saturating_duration_since(self.flushed) >= FLUSH_INTERVAL {
            self.flushed = *ended;
            self.out.flush()
        } else {
            Ok(())
        };
        // A reader that has seen enough, such as head, is no error.
        if let Err(error) = row.and(flush)
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            self.failed.get_or_insert(error);
        }
    }

    fn late(&mut self, _: u64, _: Answer) {}

    fn finish(&mut self) -> io::Result<()> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => match self.out.flush() {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                flushed => flushed,
            },
        }
    }
}
