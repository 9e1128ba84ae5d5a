//! `--warmup`: the pings before those that are reported.

use std::{pin::Pin, time::Instant};

use super::Measured;
use crate::{
    figures::Figures,
    pinger::{About, about, count_of_run},
    plan::Plan,
    run::{End, Limit, Schedule, Stop, run},
};

/// Sends the pings of the warm-up, and asks how many of them the actor has counted.
pub(super) async fn warm_up(
    plan: &Plan,
    limit: Limit,
    measured: &mut Measured<'_>,
    mut stop: Pin<&mut impl Future<Output = Stop>>,
) {
    let mut figures = Figures::new();
    let schedule = Schedule::start(plan.run.pace, limit, Instant::now());
    let result = run(&mut *measured.pinger, (schedule, 0), plan.run.timeout, &mut figures, stop.as_mut()).await;
    (measured.first_pong, measured.warm_up_pings) = (figures.first_answer, result.last_sequence);
    (measured.end, measured.counted_before) = (result.end, None);
    if !matches!(measured.end, End::Complete) {
        return;
    }
    tokio::select! {
        () = measured.count_warm_up() => {}
        stop = stop => measured.end = End::Stopped(stop),
    }
}

impl Measured<'_> {
    /// Asks how many pings the actor has counted before the run.
    async fn count_warm_up(&mut self) {
        let Some(handle) = self.pinger.actor() else { return };
        if handle.run.is_some() {
            self.counted_before = count_of_run(&handle).await;
        }
        if self.facts.mode.tells() {
            self.total_before =
                about(&handle.actor).await.ok().as_ref().and_then(About::card).map(|card| card.total_pings);
        }
    }
}
