//! What happened in a part of a run, for figures during it.

use crate::{
    figures::Times,
    run::Sample,
    units::{digits, ms},
};

/// The pings of a part of a run whose outcome became known in it.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) times: Times,
    pub(super) lost: u64,
}

impl Window {
    pub(super) fn new() -> Self {
        Self { times: Times::new(), lost: 0 }
    }

    pub(super) fn record(&mut self, sample: &Sample) {
        match sample.outcome {
            Ok(_) => self.times.record(sample.ended - sample.from),
            Err(_) => self.lost += 1,
        }
    }

    /// The times in milliseconds, or nothing if there are none.
    pub(super) fn times_text(&self) -> String {
        let Some(summary) = self.times.summary() else { return String::new() };
        let [p50, p99, max] = [summary.p50, summary.p99, summary.max].map(|time| digits(ms(time)));
        format!("p50 {p50} p99 {p99} max {max} ms")
    }
}
