//! What the client asks the actor after a run.

use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use super::Measured;
use crate::{
    error::Error,
    figures::{ServerVersion, SessionResult},
    pinger::{About, Mode, about, end_run},
    run::{End, Stop},
};

/// How long to wait, after a run, for the server's count of its pings.
pub(crate) const COUNT_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the actor what it counted, and who it is.
pub(super) async fn conclude(measured: &Measured<'_>, shows_version: bool, result: &mut SessionResult) {
    let Measured { pinger, facts, .. } = measured;
    let mut about_server = facts.about.clone();
    if let Some(handle) = pinger.actor() {
        if handle.run.is_some() {
            let counted = timeout(COUNT_TIMEOUT, end_run(&handle)).await.ok().flatten();
            let measured_only = counted.zip(measured.counted_before).and_then(|(all, before)| all.checked_sub(before));
            result.counted = measured_only;
        }
        if matches!(measured.end, End::Complete) && (facts.mode.tells() || shows_version) {
            match about(&handle.actor).await {
                Ok(about) => about_server = about,
                // The pings themselves have been measured.
                Err(error) => warn!("The server's total could not be read after the run: {error}"),
            }
        }
    }
    conclude_tells(measured, &about_server, result);
    if let Some(server) = &mut result.server {
        server.version = match about_server {
            About::Card(card) => ServerVersion::Known(card.version),
            About::OtherProgram => ServerVersion::OtherProgram,
            About::Unknown => ServerVersion::Unknown,
        };
    }
}

/// How many told pings arrived.
fn conclude_tells(measured: &Measured<'_>, about: &About, result: &mut SessionResult) {
    let is_complete = matches!(measured.end, End::Complete);
    if measured.facts.mode == Mode::StreamTell && is_complete {
        // Each was acknowledged, some of them late.
        result.arrived = Some(result.figures.received + result.figures.late);
    }
    let Some(card) = about.card().filter(|_| is_complete && measured.facts.mode.tells()) else { return };
    result.figures.server_total = Some(card.total_pings);
    if measured.facts.mode == Mode::Tell {
        // A server that was restarted may count from 0 again.
        let before = measured.total_before.filter(|_| result.counters.reconnects == 0);
        result.arrived = before.map(|before| card.total_pings.saturating_sub(before));
    }
}

/// Reports what ended the run early.
pub(super) fn note_end(end: End, result: &mut SessionResult) {
    match end {
        End::Complete => {}
        End::Failed(error) => result.error = Some(error),
        End::Stopped(Stop::Interrupted) => result.notes.push("the run was interrupted".into()),
        End::Stopped(Stop::Deadline(deadline)) => {
            result.notes.push(format!("the deadline of {} ended the run", humantime::format_duration(deadline)));
        }
        End::Stopped(Stop::NodeFailed(reason)) => result.error = Some(Error::node_failed(&reason)),
    }
}
