//! Whether the measurement itself can be trusted.

use std::time::{Duration, Instant, SystemTime};

use crate::{schedule::Pace, stats::Stats};

/// How busy the client's one thread may be before its own speed is what is measured. With a tenth of its time left,
/// a ping seldom waits for another one's work.
const BUSY: f64 = 0.9;

/// The shortest run of which the client's load says anything.
const LONG_ENOUGH: Duration = Duration::from_millis(100);

/// How much of the target rate counts as reaching it.
const REACHED: f64 = 0.98;

/// How far the system's clock may drift from the steady one in a run without having been set.
const JUMP: Duration = Duration::from_millis(500);

/// Looks at the clocks when a run starts, to compare when it has ended.
#[derive(Debug)]
pub(crate) struct Watch {
    steady: Instant,
    wall: SystemTime,
    cpu: Option<Duration>,
}

/// What the clocks say of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    /// The part of the run in which the client computed, from 0 to 1, if the system tells and the run was long enough.
    pub(crate) busy: Option<f64>,
    /// By how much the system's clock ran ahead (or behind) of the steady one.
    pub(crate) jump: Duration,
}

impl Watch {
    pub(crate) fn start() -> Self {
        Self { steady: Instant::now(), wall: SystemTime::now(), cpu: cpu_time() }
    }

    pub(crate) fn stop(&self) -> Clocks {
        let steady = self.steady.elapsed();
        let cpu = cpu_time().zip(self.cpu).map(|(now, then)| now.saturating_sub(then));
        let wall = match SystemTime::now().duration_since(self.wall) {
            Ok(wall) => wall.abs_diff(steady),
            Err(back) => back.duration() + steady,
        };
        let busy = cpu.filter(|_| steady >= LONG_ENOUGH).map(|cpu| cpu.as_secs_f64() / steady.as_secs_f64());
        Clocks { busy, jump: wall }
    }
}

/// The processor time that this process has used.
#[cfg(unix)]
fn cpu_time() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
}

#[cfg(not(unix))]
fn cpu_time() -> Option<Duration> {
    None
}

/// What the reader of the figures should know about how they came about, one sentence each.
pub(crate) fn warnings(stats: &Stats, pace: Pace, clocks: Clocks) -> Vec<String> {
    let mut warnings = Vec::new();
    let count = stats.rtt.count();
    // A percentile wants at least one time beyond it.
    for (name, needed) in [("p90", 10), ("p99", 100)] {
        if (1..needed).contains(&count) {
            warnings
                .push(format!("{count} pongs are too few for a {name}, which wants {needed}; it is but the maximum"));
            break;
        }
    }
    if let Some(busy) = clocks.busy.filter(|busy| *busy > BUSY) {
        warnings.push(format!(
            "the client's processor was busy for {:.0} % of the run: the figures measure this machine too",
            busy * 100.0
        ));
    }
    if let (Pace::Rate(target), Some(rate)) = (pace, stats.rate())
        && rate < target * REACHED
        && count > 10
    {
        warnings.push(format!("the target of {target} pings a second was not reached, but {rate:.1}"));
    }
    if clocks.jump > JUMP {
        warnings.push(format!(
            "the system's clock jumped by {:.1} s during the run, or the machine slept",
            clocks.jump.as_secs_f64()
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{run::Observer, stats::tests::answered};

    fn calm() -> Clocks {
        Clocks { busy: Some(0.2), jump: Duration::ZERO }
    }

    fn stats(pongs: u64, over: Duration) -> Stats {
        let mut stats = Stats::new();
        let start = Instant::now();
        for sequence in 1..=pongs {
            let sent = start + over.mul_f64(sequence as f64 / pongs as f64);
            stats.sending(sequence, if sequence == 1 { start } else { sent });
            stats.outcome(&answered(sequence, sent, Duration::ZERO));
        }
        stats
    }

    #[test]
    fn nothing_is_said_of_a_sound_measurement() {
        let stats = stats(1000, Duration::from_secs(10));
        assert!(warnings(&stats, Pace::Rate(100.0), calm()).is_empty());
    }

    #[test]
    fn too_few_samples_a_busy_client_a_missed_rate_and_a_jump_are_told() {
        let stats = stats(50, Duration::from_secs(10));
        let clocks = Clocks { busy: Some(0.97), jump: Duration::from_secs(3) };
        let warnings = warnings(&stats, Pace::Rate(100.0), clocks).join("\n");
        for text in ["too few for a p99", "busy for 97 %", "target of 100", "jumped by 3.0 s"] {
            assert!(warnings.contains(text), "{text}: {warnings}");
        }
    }
}
