//! The pings: when each is sent, how long its pong is waited for, and when the run ends.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt, future::OptionFuture, stream::FuturesUnordered};
use kameo::actor::RemoteActorRef;
use ping_core::protocol::{Ping, PingActor};
use tokio::{
    sync::oneshot,
    time::{sleep_until, timeout},
};
use tracing::{debug, info, warn};

use crate::{
    diagnose::{PingFailure, Trouble},
    report::milliseconds,
    stats::Stats,
};

/// How many pings may be in flight on the one connection. Below the 100 requests at a time that a Kameo node serves
/// on a connection; what exceeds it waits its turn.
const MAX_IN_FLIGHT: usize = 64;

/// The shortest interval at which each ping and pong is logged.
const FEW: Duration = Duration::from_millis(100);

/// What to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// How many pings.
    pub(crate) count: u64,
    /// The time from one ping to the next; zero sends the next when the pong is in.
    pub(crate) interval: Duration,
    /// How long to wait for each pong.
    pub(crate) timeout: Duration,
}

/// Sends the pings of a plan until all outcomes are known or the connection is lost. Dropping the future ends the run
/// earlier; what it measured until then is in `stats`.
///
/// # Errors
///
/// When the connection is lost before the last outcome is known.
pub(crate) async fn run(
    actor: &RemoteActorRef<PingActor>,
    closed: &mut oneshot::Receiver<String>,
    plan: Plan,
    stats: &mut Stats,
) -> Result<(), Trouble> {
    let each = plan.interval >= FEW;
    let mut in_flight = FuturesUnordered::new();
    let mut due = tokio::time::Instant::now();
    let mut lost = None;
    loop {
        let more = stats.sent < plan.count && lost.is_none();
        let room = if plan.interval.is_zero() { in_flight.is_empty() } else { in_flight.len() < MAX_IN_FLIGHT };
        let next = pin!(OptionFuture::from((more && room).then(|| wait_until(due))));
        tokio::select! {
            biased;
            Some((sequence, sent, outcome)) = in_flight.next() => {
                settle(sequence, sent, outcome, each, stats);
                if in_flight.is_empty() && stats.sent == plan.count {
                    return lost.map_or(Ok(()), Err);
                }
            }
            Some(()) = next => {
                due += plan.interval;
                let sent = Instant::now();
                stats.sending(sent);
                let sequence = stats.sent;
                if each {
                    info!("Sending PING #{sequence}");
                }
                in_flight.push(ping(actor, sequence, plan.timeout).map(move |outcome| (sequence, sent, outcome)));
            }
            reason = &mut *closed, if lost.is_none() => {
                // The pings in flight fail on their own within a moment.
                lost = Some(Trouble::Lost { reason: reason.unwrap_or_else(|_| "the node stopped".into()) });
            }
        }
        if in_flight.is_empty()
            && let Some(trouble) = lost.take()
        {
            return Err(trouble);
        }
    }
}

/// Waits for a moment that may have passed; a timer alone would round even that up to the next millisecond.
async fn wait_until(due: tokio::time::Instant) {
    if due > tokio::time::Instant::now() {
        sleep_until(due).await;
    }
}

/// One ping and its outcome: the actor's total and when the pong came, or why none did.
async fn ping(
    actor: &RemoteActorRef<PingActor>,
    sequence: u64,
    patience: Duration,
) -> Result<(u64, Instant), PingFailure> {
    let ping = Ping { message: "PING".into(), sequence };
    match timeout(patience, actor.ask(&ping).send()).await {
        Ok(Ok(pong)) if pong.sequence == sequence => Ok((pong.total_pings, Instant::now())),
        Ok(Ok(pong)) => Err(PingFailure::wrong_sequence(sequence, pong.sequence)),
        Ok(Err(error)) => Err(PingFailure::from_send_error(&error)),
        Err(_) => Err(PingFailure::timed_out(patience)),
    }
}

fn settle(sequence: u64, sent: Instant, outcome: Result<(u64, Instant), PingFailure>, each: bool, stats: &mut Stats) {
    match outcome {
        Ok((total, received)) => {
            let rtt = received - sent;
            stats.pong(rtt, total, received);
            if each {
                info!("Received PONG #{sequence} (total: {total}) {}", milliseconds(rtt));
            }
        }
        Err(failure) => {
            let first = stats.failure(&failure, Instant::now());
            if each || first {
                warn!("PING #{sequence}: {}", failure.message);
            } else {
                debug!("PING #{sequence}: {}", failure.message);
            }
        }
    }
}
