//! Kameo's own messages: each is a request on a substream of its own.

use std::task::{Context, Poll};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use kameo::{actor::RemoteActorRef, error::RemoteSendError};
use ping_core::{
    actor::PingActor,
    protocol::{About, Card, Echo, Ping, SAFE_IN_FLIGHT},
};

use super::{Answer, Lane, Outcome, Payloads, Progress};
use crate::diagnose::{PingFailure, Trouble};

/// How many bytes of payload may be in flight. Each is held several times over on its way through Kameo, and all of them
/// share the connection: the fewer there are, the sooner each is through.
const MAX_BYTES_IN_FLIGHT: u64 = 4 * 1024 * 1024;

/// Pings by Kameo's ask or tell.
pub(crate) struct KameoLane {
    actor: RemoteActorRef<PingActor>,
    tell: bool,
    payloads: Payloads,
    width: usize,
    sent: u64,
    in_flight: FuturesUnordered<BoxFuture<'static, (u64, Outcome)>>,
    /// Whether Kameo says that the connection is gone. Whoever holds the connection learns it within a moment; until then, every
    /// further ping would fail at once.
    lost: bool,
}

impl KameoLane {
    /// A lane for pings of `size` bytes of payload. `card` is what the actor says of itself, if it knows how to.
    ///
    /// # Errors
    ///
    /// When the actor cannot do what is asked of it.
    pub(crate) fn new(
        actor: RemoteActorRef<PingActor>,
        tell: bool,
        size: u64,
        card: Option<&Card>,
    ) -> Result<Self, Trouble> {
        let (allowed, largest) = card.map_or((SAFE_IN_FLIGHT, 0), |card| (card.max_in_flight, card.max_payload));
        if size > largest {
            return Err(Trouble::Unsupported { what: format!("payloads of {size} bytes"), limit: largest });
        }
        let by_bytes = MAX_BYTES_IN_FLIGHT.checked_div(size).unwrap_or(u64::MAX).max(1);
        let width = usize::try_from(by_bytes.min(allowed.into())).unwrap_or(usize::MAX).max(1);
        Ok(Self {
            actor,
            tell,
            payloads: Payloads::new(size),
            width,
            sent: 0,
            in_flight: FuturesUnordered::new(),
            lost: false,
        })
    }
}

impl Lane for KameoLane {
    fn has_room(&self) -> bool {
        !self.lost && self.in_flight.len() < self.width
    }

    fn send(&mut self) -> u64 {
        self.sent += 1;
        let number = self.sent;
        let (actor, payload) = (self.actor.clone(), self.payloads.of(number).into());
        let ping = if self.tell { tell(actor, number, payload).boxed() } else { ask(actor, number, payload).boxed() };
        self.in_flight.push(ping.map(move |outcome| (number, outcome)).boxed());
        number
    }

    /// Kameo itself gives up each request that stays without an answer.
    fn forget(&mut self, _: usize) {}

    fn poll(
        &mut self,
        context: &mut Context<'_>,
        settled: &mut Vec<(u64, Outcome)>,
    ) -> Poll<Result<Progress, Trouble>> {
        while let Poll::Ready(Some(ended)) = self.in_flight.poll_next_unpin(context) {
            self.lost |= ended.1.as_ref().is_err_and(|failure| *failure == PingFailure::lost());
            settled.push(ended);
        }
        if settled.is_empty() { Poll::Pending } else { Poll::Ready(Ok(Progress::Settled)) }
    }
}

async fn ask(actor: RemoteActorRef<PingActor>, sequence: u64, payload: Vec<u8>) -> Outcome {
    if payload.is_empty() {
        let pong = actor.ask(&Ping { message: "PING".into(), sequence }).send().await;
        let pong = pong.map_err(|error| PingFailure::from_send_error(&error))?;
        check_sequence(sequence, pong.sequence)?;
        return Ok(Answer { total: Some(pong.total_pings) });
    }
    let echo = Echo { sequence, payload };
    let echoed = actor.ask(&echo).send().await.map_err(|error| PingFailure::from_send_error(&error))?;
    check_sequence(sequence, echoed.sequence)?;
    if echoed.payload != echo.payload {
        return Err(PingFailure::damaged(sequence));
    }
    Ok(Answer { total: Some(echoed.total_pings) })
}

async fn tell(actor: RemoteActorRef<PingActor>, sequence: u64, payload: Vec<u8>) -> Outcome {
    let told = if payload.is_empty() {
        actor.tell(&Ping { message: "PING".into(), sequence }).send_ack().await
    } else {
        actor.tell(&Echo { sequence, payload }).send_ack().await
    };
    told.map(|()| Answer { total: None }).map_err(|error| PingFailure::from_send_error(&error))
}

fn check_sequence(sent: u64, got: u64) -> Result<(), PingFailure> {
    if sent == got { Ok(()) } else { Err(PingFailure::wrong_sequence(sent, got)) }
}

/// Asks the actor about itself; `None` if it is of a program that does not know this question.
///
/// # Errors
///
/// When there is no answer at all.
pub(crate) async fn ask_about(actor: &RemoteActorRef<PingActor>) -> Result<Option<Card>, PingFailure> {
    match actor.ask(&About {}).send().await {
        Ok(card) => Ok(Some(card)),
        Err(RemoteSendError::UnknownMessage { .. }) => Ok(None),
        Err(error) => Err(PingFailure::from_send_error(&error)),
    }
}
