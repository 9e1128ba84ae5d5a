//! Attempts side by side, of which the first to succeed is of use (RFC 8305).

use std::{future::Future, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::sleep;

/// Attempts that each begin a moment after the one before, or as soon as that has failed.
#[derive(Debug)]
pub struct Staggered<I: Iterator> {
    left: I,
    running: FuturesUnordered<I::Item>,
    head_start: Duration,
}

impl<F: Future, I: ExactSizeIterator<Item = F>> Staggered<I> {
    /// These attempts, each with this head start before the next.
    pub fn new(attempts: I, head_start: Duration) -> Self {
        Self { left: attempts, running: FuturesUnordered::new(), head_start }
    }

    /// Begins the next attempt, and waits until one has ended; `None` when all have. Dropping the attempts gives up
    /// those that run.
    pub async fn next(&mut self) -> Option<F::Output> {
        loop {
            self.running.extend(self.left.next());
            tokio::select! {
                outcome = self.running.next() => return outcome,
                () = sleep(self.head_start), if self.left.len() > 0 => {}
            }
        }
    }
}
