//! What the client's own clocks say of a run.

use std::time::{Duration, Instant, SystemTime};

/// The shortest run whose processor time says anything.
const MIN_RUN: Duration = Duration::from_millis(100);

/// Reads the clocks when a run starts, to compare them when it has ended.
#[derive(Debug)]
pub(crate) struct Clock {
    steady: Instant,
    wall: SystemTime,
    cpu: Option<Duration>,
}

/// The clocks of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    /// The share of the run in which the client computed, from 0 to 1, if the system tells and the run was long enough.
    pub(crate) busy: Option<f64>,
    /// How far the system's clock moved against the steady one.
    pub(crate) jump: Duration,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { steady: Instant::now(), wall: SystemTime::now(), cpu: cpu_time() }
    }

    pub(crate) fn stop(&self) -> Clocks {
        let steady = self.steady.elapsed();
        let cpu = cpu_time().zip(self.cpu).map(|(now, then)| now.saturating_sub(then));
        let jump = match SystemTime::now().duration_since(self.wall) {
            Ok(wall) => wall.abs_diff(steady),
            Err(back) => back.duration() + steady,
        };
        let busy = cpu.filter(|_| steady >= MIN_RUN).map(|cpu| cpu.as_secs_f64() / steady.as_secs_f64());
        Clocks { busy, jump }
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
