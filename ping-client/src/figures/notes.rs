//! Notes on the measurement itself: what the reader of the figures should know, one sentence each.

use std::time::Duration;

use super::SessionResult;
use crate::{
    error::PingError,
    run::Pace,
    units::{counted, percent},
};

/// The share of the run in which the client's one thread may compute before its own speed is what is measured. With a
/// tenth of its time left, a ping seldom waits for another's work.
const MAX_BUSY: f64 = 0.9;

/// The share of the target rate that counts as reaching it.
const MIN_TARGET_SHARE: f64 = 0.98;

/// The fewest pings of which a rate says anything.
const MIN_PINGS_FOR_RATE: u64 = 10;

/// How many pongs a percentile needs for at least one of them to lie beyond it.
const MIN_PONGS: [(&str, u64); 2] = [("p90", 10), ("p99", 100)];

/// How far the system's clock may move against the steady one in a run without having been set.
const MAX_CLOCK_JUMP: Duration = Duration::from_millis(500);

/// The notes on a result.
pub(crate) fn notes(result: &SessionResult) -> Vec<String> {
    let all = [few_pongs, timeouts, busy_client, missed_rate, clamped_overhead, slept, clock_jump];
    all.iter().filter_map(|note| note(result)).collect()
}

fn few_pongs(result: &SessionResult) -> Option<String> {
    let count = result.figures.rtt.count();
    let (name, needed) = MIN_PONGS.into_iter().find(|(_, needed)| (1..*needed).contains(&count))?;
    Some(format!("{name} needs at least {needed} pongs (got {count}); the value shown is the maximum"))
}

/// Percentiles leave out what timed out, and so look better than they are.
fn timeouts(result: &SessionResult) -> Option<String> {
    let figures = &result.figures;
    let timed_out = figures.lost_by(&PingError::TimedOut { timeout: None });
    (timed_out > 0 && figures.received > 0).then(|| {
        format!("{timed_out} of {} pings exceeded the timeout; percentiles are of those answered", figures.sent)
    })
}

fn busy_client(result: &SessionResult) -> Option<String> {
    let busy = result.clocks?.busy.filter(|busy| *busy > MAX_BUSY)?;
    Some(format!(
        "the client's processor was busy for {} of the run: the figures measure this machine too",
        percent(busy)
    ))
}

fn missed_rate(result: &SessionResult) -> Option<String> {
    let Pace::Rate(target) = result.load.pace else { return None };
    let rate = result.figures.send_rate()?;
    (rate < target * MIN_TARGET_SHARE && result.figures.sent > MIN_PINGS_FOR_RATE)
        .then(|| format!("target rate missed: {rate:.1} of {target} pings/s"))
}

/// In a short run, the network has few samples. Under load, its pings queue behind those to the actor.
fn clamped_overhead(result: &SessionResult) -> Option<String> {
    if !result.is_overhead_clamped() {
        return None;
    }
    let is_load = !matches!(result.load.pace, Pace::Closed(1) | Pace::Interval(_));
    let reason = if is_load { "; under load the two are not comparable" } else { "" };
    let samples = counted(result.network.count(), "sample");
    Some(format!("overhead unknown: the network's round trip ({samples}) is not below the actor's{reason}"))
}

fn slept(result: &SessionResult) -> Option<String> {
    let slept = result.figures.slept;
    (!slept.is_zero()).then(|| {
        format!("this machine slept, or this program was stopped, for {:.1} s of the run", slept.as_secs_f64())
    })
}

fn clock_jump(result: &SessionResult) -> Option<String> {
    let jump = result.clocks?.jump;
    (jump > MAX_CLOCK_JUMP && result.figures.slept.is_zero()).then(|| {
        format!("the system's clock jumped by {:.1} s during the run, or the machine slept", jump.as_secs_f64())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        figures::{
            Clocks, Load,
            tests::{answered, sending},
        },
        pinger::Mode,
        run::{Observer, Sample},
    };
    use std::time::Instant;

    /// The result of pings at an even rate, of which every `lost_every`th is lost.
    fn result(pings: u64, over: Duration, pace: Pace, lost_every: u64) -> SessionResult {
        let load = Load { mode: Mode::Ask, pace, size: 0 };
        let mut result = SessionResult::nothing_yet("name", load);
        let start = Instant::now();
        for sequence in 1..=pings {
            let sent = start + over.mul_f64((sequence - 1) as f64 / (pings - 1) as f64);
            result.figures.sending(sending(sequence, sent));
            let mut sample = answered(sequence, sent, Duration::from_millis(1));
            if sequence % lost_every == 0 {
                sample = Sample { outcome: Err(PingError::TimedOut { timeout: None }), ..sample };
            }
            result.figures.outcome(&sample);
        }
        result.clocks = Some(Clocks { busy: Some(0.2), jump: Duration::ZERO });
        result
    }

    #[test]
    fn a_sound_measurement_has_no_notes() {
        let result = result(1000, Duration::from_secs(10), Pace::Rate(100.0), u64::MAX);
        assert_eq!(notes(&result), [""; 0]);
    }

    #[test]
    fn too_few_pongs_a_busy_client_a_missed_rate_and_a_jump_are_noted() {
        let mut result = result(50, Duration::from_secs(10), Pace::Rate(100.0), u64::MAX);
        result.clocks = Some(Clocks { busy: Some(0.97), jump: Duration::from_secs(3) });
        result.network.record(Duration::from_secs(1));
        let notes = notes(&result).join("\n");
        for text in [
            "p99 needs at least 100 pongs (got 50)",
            "busy for 97 %",
            "target rate missed: 4.9 of 100 pings/s",
            "overhead unknown: the network's round trip (1 sample) is not below the actor's; under load",
            "jumped by 3.0 s",
        ] {
            assert!(notes.contains(text), "{text}: {notes}");
        }
    }

    #[test]
    fn a_lost_ping_was_sent_all_the_same() {
        let result = result(500, Duration::from_secs(10), Pace::Rate(50.0), 12);
        assert_eq!(notes(&result), ["41 of 500 pings exceeded the timeout; percentiles are of those answered"]);
    }
}
