//! The pauses between attempts.

use std::time::Duration;

use tokio::time::sleep;

/// The first pause; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_millis(250);

/// Pauses that double from 5 ms to 250 ms.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(MAX_PAUSE);
        pause
    }

    pub(crate) async fn wait(&mut self) {
        sleep(self.next()).await;
    }
}
