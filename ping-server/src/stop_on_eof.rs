//! `--stop-on-eof`: a server that ends with the program that started it.

use std::{future::pending, io::Read, thread};

use anyhow::{Context as _, Result};
use tokio::sync::oneshot;

/// Waits for the end of standard input, or for ever.
///
/// # Errors
///
/// When the system has no thread left for it.
pub(crate) async fn end_of_input(is_wanted: bool) -> Result<()> {
    if !is_wanted {
        return pending().await;
    }
    // A thread of its own: a blocking read cannot be given up, and must not delay the end of the process.
    let (ended, end) = oneshot::channel();
    let thread = thread::Builder::new().spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut ignored = [0; 1024];
        while matches!(stdin.read(&mut ignored), Ok(1..)) {}
        ended.send(())
    });
    thread.context("cannot watch standard input; raise the limit of threads, or omit --stop-on-eof")?;
    let _ = end.await;
    Ok(())
}
