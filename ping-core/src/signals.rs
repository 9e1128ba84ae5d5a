//! The signals by which a user or a supervisor asks a program to stop.

use std::io;

#[cfg(unix)]
use tokio::signal::unix::{Signal as First, Signal as Second, SignalKind, signal};
#[cfg(windows)]
use tokio::signal::windows::{CtrlBreak as Second, CtrlC as First, ctrl_break, ctrl_c};

/// Asks to stop: on Unix SIGINT, which Ctrl-C sends, and SIGTERM; on Windows Ctrl-C and Ctrl-Break.
#[derive(Debug)]
pub struct StopSignals {
    first: First,
    second: Second,
}

impl StopSignals {
    /// From now on these signals no longer end the process by themselves.
    ///
    /// # Errors
    ///
    /// When the system does not let them be handled.
    pub fn new() -> io::Result<Self> {
        #[cfg(unix)]
        return Ok(Self { first: signal(SignalKind::interrupt())?, second: signal(SignalKind::terminate())? });
        #[cfg(windows)]
        return Ok(Self { first: ctrl_c()?, second: ctrl_break()? });
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.first.recv() => {}
            _ = self.second.recv() => {}
        }
    }
}
