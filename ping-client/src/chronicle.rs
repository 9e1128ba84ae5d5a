//! The log lines of a run: each ping and pong while they are few, and failures.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use tracing::{debug, info, warn};

use crate::{
    lane::Answer,
    run::{Observer, Sample},
    schedule::Pace,
    units::milliseconds,
};

/// The shortest interval at which each ping and pong is logged.
const FEW: Duration = Duration::from_millis(100);

/// Logs what happens. Of each kind of failure, when pings are many, only the first.
pub(crate) struct Chronicle {
    each: bool,
    failed: HashSet<&'static str>,
}

impl Chronicle {
    pub(crate) fn new(pace: Pace) -> Self {
        Self { each: is_leisurely(pace), failed: HashSet::new() }
    }
}

/// Whether pings are few enough for a person to follow each.
pub(crate) fn is_leisurely(pace: Pace) -> bool {
    match pace {
        Pace::Interval(interval) => interval >= FEW,
        Pace::Rate(rate) => rate <= 1.0 / FEW.as_secs_f64(),
        Pace::Closed(_) => false,
    }
}

impl Observer for Chronicle {
    fn sending(&mut self, sequence: u64, _: Instant) {
        if self.each {
            info!("Sending PING #{sequence}");
        }
    }

    fn outcome(&mut self, sample: &Sample) {
        let sequence = sample.sequence;
        match &sample.outcome {
            Ok(answer) if self.each => {
                let time = milliseconds(sample.ended - sample.from);
                match answer.total {
                    Some(total) => info!("Received PONG #{sequence} (total: {total}) {time}"),
                    None => info!("PING #{sequence} was accepted {time}"),
                }
            }
            Ok(_) => {}
            Err(failure) if self.failed.insert(failure.kind) || self.each => {
                warn!("PING #{sequence}: {}", failure.message);
            }
            Err(failure) => debug!("PING #{sequence}: {}", failure.message),
        }
    }

    fn late(&mut self, sequence: u64, _: Answer) {
        if self.each {
            info!("PONG #{sequence} came after all, too late");
        }
    }
}
