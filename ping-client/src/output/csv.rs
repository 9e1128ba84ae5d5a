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
    /// How long the reader has let the run wait, in all and at a time.
    held_up: (Duration, Duration),
}

impl Csv {
    /// Writes the header into a new file. Fails if it cannot be written.
    pub(super) fn new(out: Box<dyn Write>, path: &Path) -> Result<Self> {
        let mut out = BufWriter::with_capacity(64 * 1024, out);
        writeln!(out, "{HEADER}").and_then(|()| out.flush()).map_err(|error| super::unwritable(path, &error))?;
        Ok(Self { out, start: None, flushed: Instant::now(), failed: None, held_up: (Duration::ZERO, Duration::ZERO) })
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
        let began = Instant::now();
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
        let took = began.elapsed();
        self.held_up = (self.held_up.0 + took, self.held_up.1.max(took));
        // A reader that has seen enough, such as head, is no error.
        if let Err(error) = row.and(flush)
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            self.failed.get_or_insert(error);
        }
    }

    fn late(&mut self, _: u64, _: Answer) {}

    fn held_up(&self) -> (Duration, Duration) {
        self.held_up
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::{answered, sending};

    /// A reader that takes its time.
    struct Slow(Duration);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            std::thread::sleep(self.0);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_pauses_is_blamed_for_the_time_that_it_takes() {
        let pause = Duration::from_millis(20);
        let mut csv = Csv::new(Box::new(Slow(pause)), Path::new("-")).unwrap();
        let start = Instant::now();
        for n in 1..=5000 {
            csv.sending(sending(n, start));
            csv.outcome(&answered(n, start, Duration::from_micros(1)));
        }
        let (total, longest) = csv.held_up();
        assert!(longest >= pause && total >= longest, "{total:?} {longest:?}");
    }
}
