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
        let hangup = (!ignores_hangup()).then(SignalKind::hangup);
        Self::of([SignalKind::interrupt(), SignalKind::terminate()].into_iter().chain(hangup))
    }

    /// The same for a program to which a SIGHUP means something else: [`Hangups`], where there are any.
    ///
    /// # Errors
    ///
    /// When the system does not let them be handled.
    #[cfg(unix)]
    pub fn without_hangup() -> io::Result<(Self, Option<Hangups>)> {
        let signals = Self::of([SignalKind::interrupt(), SignalKind::terminate()])?;
        Ok((signals, Some(Hangups(signal(SignalKind::hangup())?))))
    }

    /// The same for a program to which a SIGHUP means something else: [`Hangups`], where there are any.
    ///
    /// # Errors
    ///
    /// When the system does not let them be handled.
    #[cfg(windows)]
    pub fn without_hangup() -> io::Result<(Self, Option<Hangups>)> {
        Ok((Self::new()?, None))
    }

    #[cfg(unix)]
    fn of(kinds: impl IntoIterator<Item = SignalKind>) -> io::Result<Self> {
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

/// The SIGHUPs that a program gets.
#[derive(Debug)]
pub struct Hangups(#[cfg(unix)] Signal);

impl Hangups {
    /// Waits for the next one.
    pub async fn next(&mut self) {
        #[cfg(unix)]
        let _ = self.0.recv().await;
        #[cfg(windows)]
        std::future::pending().await
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
