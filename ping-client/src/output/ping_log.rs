//! The log lines of a run: each ping and pong while they are slow, and failures.

use std::collections::HashSet;

use tracing::{debug, info, warn};

use crate::{
    pinger::Answer,
    run::{Observer, Pace, Sample, Sending},
    units::milliseconds,
};

/// Logs what happens. Of each kind of failure, when pings are fast, only the first.
pub(super) struct PingLog {
    logs_each: bool,
    failed: HashSet<&'static str>,
}

impl PingLog {
    pub(super) fn new(pace: Pace) -> Self {
        Self { logs_each: pace.is_slow(), failed: HashSet::new() }
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
        match &sample.outcome {
            Ok(answer) if self.logs_each => {
                let time = milliseconds(sample.ended - sample.from);
                match answer.total {
                    Some(total) => info!("Received PONG #{sequence} (total: {total}) {time}"),
                    None => info!("PING #{sequence} was accepted {time}"),
                }
            }
            Ok(_) => {}
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
