//! The signals by which a user or a supervisor stops a program.

use std::io;

#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};
#[cfg(windows)]
use tokio::signal::windows::{CtrlBreak, CtrlC, CtrlClose, ctrl_break, ctrl_c, ctrl_close};

/// On Unix SIGINT (Ctrl-C), SIGTERM and SIGHUP; on Windows Ctrl-C, Ctrl-Break and the end of the console.
///
/// A SIGHUP that is ignored when the program starts, as `nohup` arranges, stays ignored.
#[derive(Debug)]
pub struct StopSignals {
    #[cfg(unix)]
    signals: Vec<Signal>,
    #[cfg(windows)]
    signals: (CtrlC, CtrlBreak, CtrlClose),
}

impl StopSignals {
    /// From now on these signals do not end the process by themselves.
    ///
    /// # Errors
    ///
    /// When the system does not let them be handled.
    #[cfg(unix)]
    pub fn new() -> io::Result<Self> {
        let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate()];
        if !ignores_hangup() {
            kinds.push(SignalKind::hangup());
        }
        Ok(Self { signals: kinds.into_iter().map(signal).collect::<io::Result<_>>()? })
    }

    /// From now on these signals do not end the process by themselves.
    ///
    /// # Errors
    ///
    /// When the system does not let them be handled.
    #[cfg(windows)]
    pub fn new() -> io::Result<Self> {
        Ok(Self { signals: (ctrl_c()?, ctrl_break()?, ctrl_close()?) })
    }

    /// Waits for the next signal.
    #[cfg(unix)]
    pub async fn next(&mut self) {
        let each = self.signals.iter_mut().map(|signal| Box::pin(signal.recv()));
        futures::future::select_all(each).await;
    }

    /// Waits for the next signal.
    #[cfg(windows)]
    pub async fn next(&mut self) {
        let (ctrl_c, ctrl_break, ctrl_close) = &mut self.signals;
        tokio::select! {
            _ = ctrl_c.recv() => {}
            _ = ctrl_break.recv() => {}
            _ = ctrl_close.recv() => {}
        }
    }
}

/// Whether this process ignores SIGHUP. Only Linux tells without a system call that needs unsafe code.
#[cfg(unix)]
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // Signal n is bit n - 1.
    mask.is_some_and(|mask| mask >> (SignalKind::hangup().as_raw_value() - 1) & 1 == 1)
}
