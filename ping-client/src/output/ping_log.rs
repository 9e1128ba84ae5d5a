//! The log lines of a run: each ping and pong while they are slow, and failures.

use std::collections::HashSet;

use ping_core::program::STEP;
use tracing::{debug, info, warn};

use crate::{
    error::PingError,
    pinger::Answer,
    run::{Observer, Pace, Sample, Sending},
    units::milliseconds,
};

/// Logs what happens. Of each kind of failure, when pings are fast, only the first.
pub(super) struct PingLog {
    logs_each: bool,
    was_answered: bool,
    failed: HashSet<&'static str>,
}

impl PingLog {
    pub(super) fn new(pace: Pace) -> Self {
        Self { logs_each: pace.is_slow(), was_answered: false, failed: HashSet::new() }
    }
}

impl Observer for PingLog {
    fn sending(&mut self, Sending { sequence, is_connected, .. }: Sending) {
        if self.logs_each && is_connected {
            info!("Sending PING #{sequence}");
        }
    }

    fn outcome(&mut self, sample: &Sample) {
        let sequence = sample.sequence;
        if sample.outcome.is_ok() && !std::mem::replace(&mut self.was_answered, true) {
            debug!(target: STEP, "First pong, {}", milliseconds(sample.ended - sample.from));
        }
        match &sample.outcome {
            Ok(answer) if self.logs_each => {
                let time = milliseconds(sample.ended - sample.from);
                match answer.total {
                    Some(total) => info!("Received PONG #{sequence} (total: {total}) {time}"),
                    None => info!("PING #{sequence} was accepted {time}"),
                }
            }
            // The end of the run says why.
            Ok(_) | Err(PingError::CutShort) => {}
            Err(error) if self.failed.insert(error.cause()) || self.logs_each => {
                warn!("PING #{sequence}: {error}");
            }
            Err(error) => debug!("PING #{sequence}: {error}"),
        }
    }

    fn late(&mut self, sequence: u64, _: Answer) {
        if self.logs_each {
            info!("The answer to PING #{sequence} arrived too late");
        }
    }
}
