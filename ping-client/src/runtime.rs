//! The runtime that every command runs on.

use anyhow::Result;
use tokio::runtime::Builder;

/// Runs the work of a command to its end, on one thread: a ping costs a handful of wake-ups, and between threads each
/// costs more than the work it brings.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(work);
    // A name server that does not answer must not delay the end.
    runtime.shutdown_background();
    outcome
}
