//! The way that one ping takes to the actor and back.

use std::{pin::pin, time::Duration};

use futures::{
    FutureExt,
    future::{BoxFuture, Either, select},
};
use kameo::{actor::RemoteActorRef, error::RemoteSendError};
use ping_core::protocol::{About, Card, Echo, Ping, PingActor, SAFE_IN_FLIGHT};
use serde::Serialize;
use tokio::time::sleep;

use crate::diagnose::{PingFailure, Trouble};

/// How many bytes of payload may be in flight. Each is held several times over on its way through Kameo.
const MAX_BYTES_IN_FLIGHT: u64 = 16 * 1024 * 1024;

/// How a ping is carried.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Kameo's ask: every ping is answered by the actor
    #[default]
    Ask,
    /// Kameo's tell: no pong; what arrived is read from the server's total at the end
    Tell,
}

/// What came back to one ping.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Answer {
    /// The actor's total, if it answered itself.
    pub(crate) total: Option<u64>,
}

pub(crate) type Outcome = Result<Answer, PingFailure>;

/// A ping's outcome, or the ping itself, still under way, when its time is up.
pub(crate) enum Settled {
    InTime(Outcome),
    Overdue(BoxFuture<'static, Outcome>),
}

/// The way to one actor.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    actor: RemoteActorRef<PingActor>,
    mode: Mode,
    size: u64,
    timeout: Duration,
    in_flight: usize,
}

impl Lane {
    /// A lane for pings of `size` bytes of payload. `card` is what the actor says of itself, if it knows how to.
    ///
    /// # Errors
    ///
    /// When the actor cannot do what is asked of it.
    pub(crate) fn new(
        actor: RemoteActorRef<PingActor>,
        mode: Mode,
        size: u64,
        timeout: Duration,
        card: Option<&Card>,
    ) -> Result<Self, Trouble> {
        let (allowed, largest) = card.map_or((SAFE_IN_FLIGHT, 0), |card| (card.max_in_flight, card.max_payload));
        if size > largest {
            return Err(Trouble::Unsupported { what: format!("payloads of {size} bytes"), limit: largest });
        }
        let by_bytes = MAX_BYTES_IN_FLIGHT.checked_div(size).unwrap_or(u64::MAX).max(1);
        let in_flight = usize::try_from(by_bytes.min(allowed.into())).unwrap_or(usize::MAX).max(1);
        Ok(Self { actor, mode, size, timeout, in_flight })
    }

    /// How long a ping may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How many pings the lane carries at a time; more must wait their turn.
    pub(crate) fn width(&self) -> usize {
        self.in_flight
    }

    /// Sends one ping and waits for its outcome, for as long as its timeout lets.
    pub(crate) async fn ping(&self, sequence: u64) -> Settled {
        let (lane, timeout) = (self.clone(), self.timeout);
        let outcome = async move { lane.carry(sequence).await }.boxed();
        match select(outcome, pin!(sleep(timeout))).await {
            Either::Left((outcome, _)) => Settled::InTime(outcome),
            Either::Right(((), outcome)) => Settled::Overdue(outcome),
        }
    }

    async fn carry(&self, sequence: u64) -> Outcome {
        match (self.mode, self.size) {
            (Mode::Ask, 0) => {
                let pong = self.actor.ask(&Ping { message: "PING".into(), sequence }).send().await;
                let pong = pong.map_err(|error| PingFailure::from_send_error(&error))?;
                check_sequence(sequence, pong.sequence)?;
                Ok(Answer { total: Some(pong.total_pings) })
            }
            (Mode::Ask, size) => {
                let echo = Echo { sequence, payload: payload(sequence, size) };
                let echoed = self.actor.ask(&echo).send().await;
                let echoed = echoed.map_err(|error| PingFailure::from_send_error(&error))?;
                check_sequence(sequence, echoed.sequence)?;
                if echoed.payload != echo.payload {
                    return Err(PingFailure::damaged(sequence));
                }
                Ok(Answer { total: Some(echoed.total_pings) })
            }
            (Mode::Tell, 0) => {
                let told = self.actor.tell(&Ping { message: "PING".into(), sequence }).send_ack().await;
                told.map(|()| Answer { total: None }).map_err(|error| PingFailure::from_send_error(&error))
            }
            (Mode::Tell, size) => {
                let told = self.actor.tell(&Echo { sequence, payload: payload(sequence, size) }).send_ack().await;
                told.map(|()| Answer { total: None }).map_err(|error| PingFailure::from_send_error(&error))
            }
        }
    }
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

fn check_sequence(sent: u64, got: u64) -> Result<(), PingFailure> {
    if sent == got { Ok(()) } else { Err(PingFailure::wrong_sequence(sent, got)) }
}

/// Bytes that differ from ping to ping, so that one ping's payload cannot pass for another's.
fn payload(sequence: u64, size: u64) -> Vec<u8> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    sequence.to_le_bytes().into_iter().cycle().take(size).collect()
}
