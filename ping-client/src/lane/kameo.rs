//! Kameo's own messages: each is a request on a substream of its own.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use kameo::{actor::RemoteActorRef, error::RemoteSendError};
use ping_core::{
    actor::PingActor,
    protocol::{About, Card, Echo, Once, Ping, SAFE_IN_FLIGHT},
    runs::Verdict,
};
use tokio::time::sleep;

use super::{Answer, Lane, OnceRun, Outcome, Payloads, Terms};
use crate::diagnose::{PingFailure, Trouble};

/// How many bytes of payload may be in flight. Each is held several times over on its way through Kameo, and all of them
/// share the connection: the fewer there are, the sooner each is through.
const MAX_BYTES_IN_FLIGHT: u64 = 4 * 1024 * 1024;

/// The pause after the first "busy"; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// The longest pause after a "busy".
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Pings by Kameo's ask or tell.
pub(crate) struct KameoLane {
    actor: RemoteActorRef<PingActor>,
    tell: bool,
    payloads: Payloads,
    width: usize,
    timeout: Duration,
    once: Option<Rc<OnceRun>>,
    busy: Arc<AtomicU64>,
    in_flight: FuturesUnordered<BoxFuture<'static, (u64, Outcome)>>,
    /// Whether Kameo says that the connection is gone. Whoever holds the connection learns it within a moment; until then, every
    /// further ping would fail at once.
    lost: bool,
}

impl KameoLane {
    /// A lane to this actor. `card` is what it says of itself, if it knows how to.
    ///
    /// # Errors
    ///
    /// When the actor cannot do what is asked of it.
    pub(crate) fn new(
        actor: RemoteActorRef<PingActor>,
        tell: bool,
        card: Option<&Card>,
        terms: &Terms,
    ) -> Result<Self, Trouble> {
        let Terms { size, timeout, once, busy } = terms.clone();
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
            timeout,
            once,
            busy,
            in_flight: FuturesUnordered::new(),
            lost: false,
        })
    }
}

impl Lane for KameoLane {
    fn has_room(&self) -> bool {
        !self.lost && self.in_flight.len() < self.width
    }

    fn send(&mut self, number: u64) {
        let (actor, tell, timeout, busy) = (self.actor.clone(), self.tell, self.timeout, self.busy.clone());
        let parcel = self.parcel(number);
        let ping = async move {
            let started = Instant::now();
            let mut pause = FIRST_PAUSE;
            loop {
                let outcome = if tell { parcel.tell(&actor).await } else { parcel.ask(&actor).await };
                // A busy actor has not counted it.
                if !matches!(&outcome, Err(failure) if failure.is_busy()) || started.elapsed() + pause >= timeout {
                    return (number, outcome);
                }
                busy.fetch_add(1, Ordering::Relaxed);
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        };
        self.in_flight.push(ping.boxed());
    }

    /// Kameo itself gives up each request that stays without an answer.
    fn forget(&mut self) {}

    /// What was asked is on its way.
    fn give_up(&mut self, _: u64) {}

    /// Each ping says it anew.
    fn settle_below(&mut self, _: u64) {}

    fn poll(&mut self, context: &mut Context<'_>, settled: &mut Vec<(u64, Outcome)>) -> Poll<Result<(), Trouble>> {
        while let Poll::Ready(Some(ended)) = self.in_flight.poll_next_unpin(context) {
            self.lost |= ended.1.as_ref().is_err_and(|failure| *failure == PingFailure::lost());
            settled.push(ended);
        }
        if settled.is_empty() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl KameoLane {
    fn parcel(&self, sequence: u64) -> Parcel {
        let payload: Vec<u8> = self.payloads.of(sequence).into();
        match &self.once {
            Some(once) => Parcel::Once(Once { run: once.id(), settled_below: once.settled_below(), sequence, payload }),
            None if payload.is_empty() => Parcel::Ping(Ping { message: "PING".into(), sequence }),
            None => Parcel::Echo(Echo { sequence, payload }),
        }
    }
}

/// A ping as the message that carries it.
enum Parcel {
    Ping(Ping),
    Echo(Echo),
    Once(Once),
}

impl Parcel {
    async fn ask(&self, actor: &RemoteActorRef<PingActor>) -> Outcome {
        let failed = |error| PingFailure::from_send_error(&error);
        match self {
            Self::Ping(ping) => {
                let pong = actor.ask(ping).try_send().await.map_err(failed)?;
                check_sequence(ping.sequence, pong.sequence)?;
                Ok(Answer { total: Some(pong.total_pings) })
            }
            Self::Echo(echo) => {
                let echoed = actor.ask(echo).try_send().await.map_err(failed)?;
                check_sequence(echo.sequence, echoed.sequence)?;
                check_payload(echo.sequence, &echo.payload, &echoed.payload)?;
                Ok(Answer { total: Some(echoed.total_pings) })
            }
            Self::Once(once) => {
                let reply = actor.ask(once).try_send().await.map_err(failed)?;
                match reply.verdict {
                    Verdict::Fresh | Verdict::Again => {}
                    Verdict::UnknownRun => return Err(PingFailure::unknown_run()),
                    Verdict::Settled | Verdict::Outside => return Err(PingFailure::outside(once.sequence)),
                }
                check_sequence(once.sequence, reply.sequence)?;
                check_payload(once.sequence, &once.payload, &reply.payload)?;
                Ok(Answer { total: Some(reply.total_pings) })
            }
        }
    }

    async fn tell(&self, actor: &RemoteActorRef<PingActor>) -> Outcome {
        let told = match self {
            Self::Ping(ping) => actor.tell(ping).try_send_ack().await,
            Self::Echo(echo) => actor.tell(echo).try_send_ack().await,
            Self::Once(once) => actor.tell(once).try_send_ack().await,
        };
        told.map(|()| Answer { total: None }).map_err(|error| PingFailure::from_send_error(&error))
    }
}

fn check_payload(sequence: u64, sent: &[u8], got: &[u8]) -> Result<(), PingFailure> {
    if sent == got { Ok(()) } else { Err(PingFailure::damaged(sequence)) }
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
