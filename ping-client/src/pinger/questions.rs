//! What the client asks the actor beside the pings.

use std::time::Duration;

use kameo::{actor::RemoteActorRef, error::RemoteSendError};
use ping_core::{
    PingActor,
    protocol::{About as AboutMessage, AboutRun, Card, RunCard, RunId, Step},
};
use tokio::time::timeout;
use tracing::debug;

use super::ActorHandle;
use crate::error::{Error, PingError};

/// How long the actor has to answer a question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What the actor says about itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum About {
    /// This.
    Card(Card),
    /// It belongs to a program that does not know the question.
    OtherProgram,
    /// It was not asked, or did not answer in time.
    #[default]
    Unknown,
}

impl About {
    pub(crate) fn card(&self) -> Option<&Card> {
        if let Self::Card(card) = self { Some(card) } else { None }
    }
}

/// Asks the actor about itself. Fails if it rejects the question.
pub(crate) async fn about(actor: &RemoteActorRef<PingActor>) -> Result<About, Error> {
    match timeout(ANSWER_TIMEOUT, actor.ask(&AboutMessage {}).send()).await {
        Ok(Ok(card)) => Ok(About::Card(card)),
        Ok(Err(RemoteSendError::UnknownMessage { .. })) => Ok(About::OtherProgram),
        Ok(Err(error)) => Err(Error::NoAnswer { error: PingError::from_kameo(&error) }),
        Err(_) => {
            debug!("the actor does not answer a question about itself");
            Ok(About::Unknown)
        }
    }
}

/// Begins a run, or asks whether the actor remembers it. Fails if the actor does not know the question, or does not
/// answer.
pub(super) async fn about_run(actor: &RemoteActorRef<PingActor>, run: RunId, step: Step) -> Result<RunCard, Error> {
    // What is settled, the pings say.
    let question = AboutRun { run, step, settled_below: 0 };
    match timeout(ANSWER_TIMEOUT, actor.ask(&question).send()).await {
        Ok(Ok(card)) => Ok(card),
        Ok(Err(RemoteSendError::UnknownMessage { .. })) => Err(Error::NoRetry),
        Ok(Err(error)) => Err(Error::NoAnswer { error: PingError::from_kameo(&error) }),
        Err(_) => Err(Error::NoAnswer { error: no_answer() }),
    }
}

/// The run whose pings are counted once.
pub(super) struct RunState {
    pub(super) id: RunId,
    has_begun: bool,
    /// Whether the actor once forgot it. It then continued under another id.
    pub(super) was_forgotten: bool,
    /// Whether that has still to be reported.
    pub(super) is_unreported: bool,
}

impl RunState {
    pub(super) fn new() -> Self {
        Self { id: random_run_id(), has_begun: false, was_forgotten: false, is_unreported: false }
    }

    /// Begins the run, or continues it. If the actor forgot it, it continues under another id.
    pub(super) async fn join(&mut self, actor: &RemoteActorRef<PingActor>) -> Result<(), Error> {
        if self.has_begun && about_run(actor, self.id, Step::Look).await?.counted.is_none() {
            *self = Self { was_forgotten: true, is_unreported: true, ..Self::new() };
        }
        if !self.has_begun {
            about_run(actor, self.id, Step::Begin).await?;
            self.has_begun = true;
        }
        Ok(())
    }
}

/// 128 bits that no other client chooses.
fn random_run_id() -> RunId {
    // Without the system's random numbers no connection could be secured either.
    let half = || getrandom::u64().unwrap_or_default();
    RunId(half(), half())
}

/// How many pings of the run the actor has counted; `None` if it forgot some, or cannot be asked.
pub(crate) async fn count_of_run(handle: &ActorHandle) -> Option<u64> {
    count(handle, Step::Look).await
}

/// The same, and ends the run.
pub(crate) async fn end_run(handle: &ActorHandle) -> Option<u64> {
    count(handle, Step::End).await
}

/// The actor did not answer a question in time.
pub(super) fn no_answer() -> PingError {
    PingError::NoAnswer { timeout: ANSWER_TIMEOUT }
}

async fn count(handle: &ActorHandle, step: Step) -> Option<u64> {
    match about_run(&handle.actor, handle.run?, step).await {
        Ok(card) => card.counted.filter(|_| handle.remembers_run),
        Err(error) => {
            debug!(%error, "the run's count is not known");
            None
        }
    }
}
