//! The supervisor, which restarts the actor when it ends.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use kameo::{
    Actor,
    actor::{ActorId, ActorRef, Spawn, WeakActorRef},
    error::{ActorStopReason, Infallible},
    mailbox,
};
use tokio::sync::oneshot;

use super::{Count, MAILBOX_SIZE, PingActor, Start};

/// Restarts a [`PingActor`] when it ends.
#[derive(Debug)]
struct Supervisor {
    gave_up: Option<oneshot::Sender<String>>,
}

impl Actor for Supervisor {
    type Args = oneshot::Sender<String>;
    type Error = Infallible;

    async fn on_start(gave_up: Self::Args, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(Self { gave_up: Some(gave_up) })
    }

    /// Kameo reports only the deaths after which it does not restart the actor: too many in too short a time.
    async fn on_link_died(
        &mut self,
        _: WeakActorRef<Self>,
        _: ActorId,
        reason: ActorStopReason,
    ) -> Result<ControlFlow<ActorStopReason>, Infallible> {
        if let Some(gave_up) = self.gave_up.take() {
            let _ = gave_up.send(reason.to_string());
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// A [`PingActor`] and its supervisor. The actor stops when this is dropped.
#[derive(Debug)]
pub struct Hosted {
    /// The actor. The reference stays valid through restarts.
    pub actor: ActorRef<PingActor>,
    /// Resolves to the last reason when the actor has crashed too often to be restarted.
    pub gave_up: oneshot::Receiver<String>,
    _supervisor: ActorRef<Supervisor>,
}

/// Why the actor could not be started.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the actor could not be started: {0}")]
pub struct StartError(String);

/// Starts an actor under supervision, and registers it under `name` if there is one.
///
/// # Errors
///
/// When the actor cannot be registered.
pub async fn host(count: Count, name: Option<&str>) -> Result<Hosted, StartError> {
    let (giving_up, gave_up) = oneshot::channel();
    let supervisor = Supervisor::spawn(giving_up);
    let (name, starts) = (name.map(Arc::<str>::from), AtomicU32::new(0));
    let start =
        move || Start { count: count.clone(), name: name.clone(), restarts: starts.fetch_add(1, Ordering::Relaxed) };
    let actor = PingActor::supervise_with(&supervisor, start).spawn_with_mailbox(mailbox::bounded(MAILBOX_SIZE)).await;
    actor.wait_for_startup_with_result(|started| started.map_err(|error| StartError(error.to_string()))).await?;
    Ok(Hosted { actor, gave_up, _supervisor: supervisor })
}
