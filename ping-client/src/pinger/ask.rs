//! `--mode ask` and `tell`: Kameo's own messages, each a request on a substream of its own.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use kameo::actor::RemoteActorRef;
use libp2p::swarm::ConnectionId;
use ping_core::{
    PingActor,
    protocol::{Echo, MAX_IN_FLIGHT, Once, Ping, RunId, Traced, Verdict},
    traces::PingSpan,
};
use tokio::time::sleep;

use super::{Answer, Counters, Outcome, Pinger, PingerPlan, Progress, payloads::Payloads, sampling::Sampling};
use crate::error::{Error, PingError};

/// How many bytes of payload may be in flight. Each is held several times on its way through Kameo, and all of them
/// share the connection: the fewer there are, the sooner each arrives.
const MAX_BYTES_IN_FLIGHT: u64 = 4 * 1024 * 1024;

/// The pause after the first "busy"; each further one is twice as long.
const FIRST_BUSY_PAUSE: Duration = Duration::from_millis(1);

/// The longest pause after a "busy".
const MAX_BUSY_PAUSE: Duration = Duration::from_millis(100);

/// A ping in flight.
struct Sent {
    sequence: u64,
    /// How often the actor was busy, and what became of it.
    outcome: BoxFuture<'static, (u64, Outcome)>,
}

impl Future for Sent {
    type Output = (u64, u64, Outcome);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (busy, outcome) = ready!(self.outcome.poll_unpin(context));
        Poll::Ready((self.sequence, busy, outcome))
    }
}

/// Pings by Kameo's ask or tell.
pub(super) struct AskPinger {
    actor: RemoteActorRef<PingActor>,
    tells: bool,
    payloads: Payloads,
    width: usize,
    timeout: Duration,
    /// The run that the pings belong to, if they are counted once.
    run: Option<RunId>,
    /// No ping below this number will be sent again.
    settled_below: u64,
    busy: u64,
    /// Chooses the pings that are traced, if any are.
    sampling: Option<Sampling>,
    in_flight: FuturesUnordered<Sent>,
    /// What is in flight on the connection before.
    on_old: FuturesUnordered<Sent>,
    /// What was lost with that.
    lost: Vec<u64>,
    /// Whether Kameo says that the connection is gone. The layer around learns it within a moment; until then, every
    /// further ping would fail at once.
    is_lost: bool,
}

impl AskPinger {
    /// A pinger for this actor, which takes payloads of up to `max_payload` bytes. Fails if that is too little.
    pub(super) fn new(
        actor: RemoteActorRef<PingActor>,
        tells: bool,
        max_payload: u64,
        run: Option<RunId>,
        plan: &PingerPlan,
    ) -> Result<Self, Error> {
        if plan.size > max_payload {
            return Err(Error::Unsupported { size: plan.size, limit: max_payload });
        }
        let by_bytes = MAX_BYTES_IN_FLIGHT.checked_div(plan.size).unwrap_or(u64::MAX).max(1);
        let width = usize::try_from(by_bytes.min(MAX_IN_FLIGHT.into())).unwrap_or(usize::MAX);
        Ok(Self {
            actor,
            tells,
            payloads: Payloads::new(plan.size),
            width,
            timeout: plan.timeout,
            run,
            settled_below: 0,
            busy: 0,
            sampling: None,
            in_flight: FuturesUnordered::new(),
            on_old: FuturesUnordered::new(),
            lost: Vec::new(),
            is_lost: false,
        })
    }

    /// Traces some of the pings from now on.
    pub(super) fn sample(&mut self, sampling: Sampling) {
        self.sampling = Some(sampling);
    }

    fn message(&self, sequence: u64, span: Option<&PingSpan>) -> Message {
        let payload: Vec<u8> = self.payloads.of(sequence).into();
        if let Some(span) = span {
            return Message::Traced(Traced { sequence, context: span.context(), payload });
        }
        match self.run {
            Some(run) => Message::Once(Once { run, settled_below: self.settled_below, sequence, payload }),
            None if payload.is_empty() => Message::Ping(Ping { message: "PING".into(), sequence }),
            None => Message::Echo(Echo { sequence, payload }),
        }
    }
}

impl Pinger for AskPinger {
    fn has_room(&self) -> bool {
        !self.is_lost && self.in_flight.len() + self.on_old.len() < self.width
    }

    fn send(&mut self, sequence: u64) {
        let (actor, tells, timeout) = (self.actor.clone(), self.tells, self.timeout);
        let mut span = self.sampling.as_mut().and_then(|sampling| sampling.begin(sequence, Instant::now()));
        let message = self.message(sequence, span.as_ref());
        let ping = async move {
            let started = Instant::now();
            let (mut pause, mut busy) = (FIRST_BUSY_PAUSE, 0);
            loop {
                let outcome = if tells { message.tell(&actor).await } else { message.ask(&actor).await };
                // A busy actor has not counted the ping.
                if outcome != Err(PingError::Busy) || started.elapsed() + pause >= timeout {
                    match (&mut span, &outcome) {
                        (Some(span), Ok(_)) => span.succeed(),
                        (Some(span), Err(error)) => span.fail(error.cause(), error),
                        _ => {}
                    }
                    return (busy, outcome);
                }
                busy += 1;
                sleep(pause).await;
                pause = (pause * 2).min(MAX_BUSY_PAUSE);
            }
        };
        self.in_flight.push(Sent { sequence, outcome: ping.boxed() });
    }

    fn poll(&mut self, context: &mut Context<'_>, resolved: &mut Vec<(u64, Outcome)>) -> Poll<Result<Progress, Error>> {
        resolved.extend(self.lost.drain(..).map(|sequence| (sequence, Err(PingError::ConnectionLost))));
        while let Poll::Ready(Some((sequence, busy, outcome))) = self.on_old.poll_next_unpin(context) {
            self.busy += busy;
            resolved.push((sequence, outcome));
        }
        while let Poll::Ready(Some((sequence, busy, outcome))) = self.in_flight.poll_next_unpin(context) {
            self.busy += busy;
            self.is_lost |= outcome == Err(PingError::ConnectionLost);
            resolved.push((sequence, outcome));
        }
        if resolved.is_empty() { Poll::Pending } else { Poll::Ready(Ok(Progress::Resolved)) }
    }

    fn has_drained(&self) -> bool {
        self.on_old.is_empty()
    }

    /// The node puts Kameo's messages on the new connection.
    fn move_to(&mut self, _: ConnectionId) {
        self.on_old.extend(mem::take(&mut self.in_flight));
        self.is_lost = false;
    }

    fn lose_old(&mut self) {
        self.lost.extend(mem::take(&mut self.on_old).iter().map(|sent| sent.sequence));
    }

    /// The next pings say it.
    fn settle_below(&mut self, floor: u64) {
        self.settled_below = floor;
    }

    fn counters(&self) -> Counters {
        Counters { busy: self.busy, ..Counters::default() }
    }
}

/// The message that carries a ping.
enum Message {
    Ping(Ping),
    Echo(Echo),
    Once(Once),
    Traced(Traced),
}

impl Message {
    async fn ask(&self, actor: &RemoteActorRef<PingActor>) -> Outcome {
        let failed = |error| PingError::from_kameo(&error);
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
            Self::Traced(traced) => {
                let echoed = actor.ask(traced).try_send().await.map_err(failed)?;
                check_sequence(traced.sequence, echoed.sequence)?;
                check_payload(traced.sequence, &traced.payload, &echoed.payload)?;
                Ok(Answer { total: Some(echoed.total_pings) })
            }
            Self::Once(once) => {
                let reply = actor.ask(once).try_send().await.map_err(|error| PingError::from_kameo(&error))?;
                match reply.verdict {
                    Verdict::Fresh | Verdict::Again => {}
                    Verdict::UnknownRun => return Err(PingError::UnknownRun),
                    Verdict::Settled | Verdict::Outside => {
                        return Err(PingError::Outside { sequence: once.sequence });
                    }
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
            Self::Traced(traced) => actor.tell(traced).try_send_ack().await,
        };
        told.map(|()| Answer { total: None }).map_err(|error| PingError::from_kameo(&error))
    }
}

fn check_payload(sequence: u64, sent: &[u8], got: &[u8]) -> Result<(), PingError> {
    if sent == got { Ok(()) } else { Err(PingError::Damaged { sequence }) }
}

fn check_sequence(sent: u64, got: u64) -> Result<(), PingError> {
    if sent == got { Ok(()) } else { Err(PingError::WrongPong { sent, got }) }
}
