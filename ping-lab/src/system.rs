//! Time limits, files, and what the system says of a process.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// How long any one event may take, on a slow machine that is busy with other work too.
pub const DEADLINE: Duration = Duration::from_secs(180);

/// How long a program may take that runs to its end.
pub const RUN_DEADLINE: Duration = Duration::from_secs(15 * 60);

/// How long to wait before a condition is checked again.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits until something holds; `what` says what, for the message if it does not within the deadline.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        thread::sleep(PAUSE);
    }
}

/// A file below a folder of the test's own.
pub fn file(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().to_owned()
}

/// Whether a process with this number runs.
#[cfg(unix)]
pub fn is_running(id: u32) -> bool {
    use std::process::Command;

    crate::finish(Command::new("kill").args(["-0", &id.to_string()])).code == Some(0)
}

/// Whether this process, and those that it starts, ignore the end of the terminal, as under `nohup`.
#[cfg(unix)]
pub fn ignores_hangups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // The last bit is that of signal 1.
    ignored.is_some_and(|bits| bits.trim().ends_with(['1', '3', '5', '7', '9', 'b', 'd', 'f']))
}

/// The memory that a process occupies, in bytes.
#[cfg(target_os = "linux")]
pub fn memory(process: u32) -> u64 {
    memory_as(process, "VmRSS:")
}

/// The most memory that a process has occupied so far, in bytes.
#[cfg(target_os = "linux")]
pub fn most_memory(process: u32) -> u64 {
    memory_as(process, "VmHWM:")
}

#[cfg(target_os = "linux")]
fn memory_as(process: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// How long the threads of a process have run on a processor.
#[cfg(target_os = "linux")]
pub fn cpu_time(process: u32) -> std::time::Duration {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let nanoseconds = threads.map(|thread| {
        // In the first column, as the kernel's documentation of the scheduler's statistics says.
        let times = std::fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap_or_default();
        times.split(' ').next().and_then(|time| time.parse::<u64>().ok()).unwrap_or(0)
    });
    std::time::Duration::from_nanos(nanoseconds.sum())
}

/// How many files and sockets a process has open.
#[cfg(target_os = "linux")]
pub fn open_files(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}
