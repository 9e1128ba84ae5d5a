//! What a service manager is told: that the server is ready, works, and stops (sd_notify(3)). Without one, nothing is.

use std::{convert::Infallible, future::pending};

/// The server can be reached.
pub(crate) fn ready() {
    #[cfg(unix)]
    tell(&[sd_notify::NotifyState::Ready]);
}

/// It no longer can.
pub(crate) fn stopping() {
    #[cfg(unix)]
    tell(&[sd_notify::NotifyState::Stopping]);
}

/// Shows twice in each watchdog interval that the server's thread works. Never resolves.
pub(crate) async fn keep_watchdog() -> Infallible {
    #[cfg(unix)]
    if let Some(interval) = sd_notify::watchdog_enabled() {
        loop {
            tell(&[sd_notify::NotifyState::Watchdog]);
            tokio::time::sleep(interval / 2).await;
        }
    }
    pending().await
}

#[cfg(unix)]
fn tell(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager hears nothing");
    }
}
