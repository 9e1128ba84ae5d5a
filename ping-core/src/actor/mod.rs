//! The actor that counts pings.
//!
//! [`host`] starts it under a supervisor. What it has counted is a [`Count`], which outlives it: a handler that panics
//! costs one ping its answer, and an actor that crashes restarts with the same count.

pub(crate) mod batch;
mod count;
mod journal;
pub mod runs;
mod supervisor;
mod tally;
mod traced;

use std::{ops::ControlFlow, sync::Arc, time::SystemTime};

use kameo::{
    Actor, RemoteActor, Reply,
    actor::{ActorId, ActorRef, WeakActorRef},
    error::{ActorStopReason, PanicError, RegistryError},
    mailbox::MailboxSender,
    message::{Context, Message},
    remote_message,
    reply::DelegatedReply,
};
use tokio::sync::oneshot;
use tracing::{error, warn};

use crate::{
    PeerText,
    protocol::{
        About, AboutRun, Card, Echo, Echoed, MAX_IN_FLIGHT, MAX_PAYLOAD, Once, OnceReply, Ping, Pong, RunCard, Verdict,
    },
};
use batch::Item;

pub use count::Count;
pub(crate) use count::fresh;
pub use journal::{Entry, Journal};
pub use supervisor::{Hosted, StartError, host};
pub use tally::Tally;
pub(crate) use tally::{Carrier, PINGS};

/// How many messages wait for the actor. A message that finds no room is answered with "busy".
///
/// This is what 128 clients keep in flight together. A waiting ping takes some 200 bytes plus its payload.
pub const MAILBOX_SIZE: usize = 128 * MAX_IN_FLIGHT as usize;

/// How many messages wait for an actor with a mailbox of a limited size.
pub fn waiting(mailbox: &MailboxSender<PingActor>) -> usize {
    let free = mailbox.capacity().zip(mailbox.max_capacity());
    free.map_or(0, |(free, all)| all.saturating_sub(free))
}

/// Counts the pings it gets and answers each with the total.
#[derive(Debug, RemoteActor)]
#[remote_actor(id = "ping_pong_app::PingActor")]
pub struct PingActor {
    count: Count,
}

/// What a [`PingActor`] starts with.
#[derive(Debug)]
pub struct Start {
    count: Count,
    /// The name to register it under.
    name: Option<Arc<str>>,
    /// How often it has been restarted.
    restarts: u32,
}

impl Actor for PingActor {
    type Args = Start;
    type Error = RegistryError;

    async fn on_start(start: Start, actor: ActorRef<Self>) -> Result<Self, RegistryError> {
        if start.restarts > 0 {
            warn!("The actor crashed and restarted with the same count");
        }
        // A crash took the name out of the registry.
        if let Some(name) = start.name {
            actor.register(name).await?;
        }
        Ok(Self { count: start.count })
    }

    /// Continues. The ping whose handler panicked is answered with an error.
    async fn on_panic(
        &mut self,
        _: WeakActorRef<Self>,
        error: PanicError,
    ) -> Result<ControlFlow<ActorStopReason>, RegistryError> {
        error!("The actor panicked and continues with its count: {error}. This is a bug; please report it.");
        Ok(ControlFlow::Continue(()))
    }

    /// Continues. The actor links to no other actor, but any peer can claim that a linked actor died; the default would
    /// stop the actor then.
    async fn on_link_died(
        &mut self,
        _: WeakActorRef<Self>,
        _: ActorId,
        _: ActorStopReason,
    ) -> Result<ControlFlow<ActorStopReason>, RegistryError> {
        Ok(ControlFlow::Continue(()))
    }
}

#[remote_message("a1b2c3d4-e5f6-7890-abcd-ef1234567890")]
impl Message<Ping> for PingActor {
    type Reply = DelegatedReply<Pong>;

    async fn handle(&mut self, ping: Ping, context: &mut Context<Self, Self::Reply>) -> Self::Reply {
        let _timer = self.count.timer();
        let total_pings = self.count.add(1);
        self.answer(context, Pong { message: "PONG".into(), sequence: ping.sequence, total_pings }, ()).await
    }
}

#[remote_message("kameo-ping/about/1")]
impl Message<About> for PingActor {
    type Reply = Card;

    async fn handle(&mut self, _: About, _: &mut Context<Self, Self::Reply>) -> Card {
        Card {
            version: PeerText::new(env!("CARGO_PKG_VERSION")),
            total_pings: self.count.total(),
            max_in_flight: MAX_IN_FLIGHT,
            max_payload: MAX_PAYLOAD,
            time: SystemTime::UNIX_EPOCH.elapsed().ok().and_then(|time| time.as_millis().try_into().ok()),
            process: Some(self.count.process()),
        }
    }
}

#[remote_message("kameo-ping/echo/1")]
impl Message<Echo> for PingActor {
    type Reply = DelegatedReply<Echoed>;

    async fn handle(&mut self, echo: Echo, context: &mut Context<Self, Self::Reply>) -> Self::Reply {
        let _timer = self.count.timer();
        let total_pings = self.count.add(1);
        self.answer(context, Echoed { sequence: echo.sequence, total_pings, payload: echo.payload }, ()).await
    }
}

#[remote_message("kameo-ping/once/1")]
impl Message<Once> for PingActor {
    type Reply = DelegatedReply<OnceReply>;

    async fn handle(&mut self, once: Once, context: &mut Context<Self, Self::Reply>) -> Self::Reply {
        let _timer = self.count.timer();
        let Once { run, settled_below, sequence, payload } = once;
        let items = [Item::SettledBelow(settled_below), Item::Ping(sequence)];
        let (total_pings, verdicts) = self.count.add_once(run, items);
        let verdict = verdicts.first().copied().unwrap_or(Verdict::UnknownRun);
        self.answer(context, OnceReply { sequence, total_pings, verdict, payload }, ()).await
    }
}

#[remote_message("kameo-ping/run/1")]
impl Message<AboutRun> for PingActor {
    type Reply = DelegatedReply<RunCard>;

    async fn handle(&mut self, about: AboutRun, context: &mut Context<Self, Self::Reply>) -> Self::Reply {
        let card = self.count.about_run(about);
        self.answer(context, card, ()).await
    }
}

impl PingActor {
    /// Replies at once, or, if the count is stored, as soon as it is. If it cannot be stored, there is no reply. Drops
    /// `until_then` afterwards.
    async fn answer<R: Reply<Value = R>>(
        &self,
        context: &mut Context<Self, DelegatedReply<R>>,
        reply: R,
        until_then: impl Send + 'static,
    ) -> DelegatedReply<R> {
        let Some(pending) = &self.count.journal else { return context.reply(reply) };
        let (delegated, sender) = context.reply_sender();
        let Some(sender) = sender else {
            pending.add(None);
            return delegated;
        };
        if let Some(place) = pending.place().await {
            let (stored, safe) = oneshot::channel();
            pending.add(Some(stored));
            tokio::spawn(async move {
                if safe.await.is_ok() {
                    sender.send(reply);
                }
                drop((place, until_then));
            });
        }
        delegated
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{RunId, Step};

    async fn hosted(count: &Count) -> Hosted {
        host(count.clone(), None).await.unwrap()
    }

    fn ping(sequence: u64) -> Ping {
        Ping { message: String::new(), sequence }
    }

    fn once(sequence: u64) -> Once {
        Once { run: RunId(1, 2), settled_below: 0, sequence, payload: Vec::new() }
    }

    fn about(step: Step) -> AboutRun {
        AboutRun { run: RunId(1, 2), step, settled_below: 0 }
    }

    struct Panic;

    impl Message<Panic> for PingActor {
        type Reply = ();

        #[allow(clippy::panic, reason = "the test is about a panic")]
        async fn handle(&mut self, _: Panic, _: &mut Context<Self, ()>) {
            panic!("on request");
        }
    }

    #[tokio::test]
    async fn the_actor_counts_every_ping_and_repeats_its_sequence() {
        let count = Count::new();
        let Hosted { actor, .. } = &hosted(&count).await;
        for sequence in [7, 3] {
            let pong = actor.ask(ping(sequence)).await.unwrap();
            assert_eq!(pong.sequence, sequence);
        }
        assert_eq!(*count.watch().borrow(), 2);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_to_the_client_that_caused_it_and_to_no_other() {
        let count = Count::new();
        let Hosted { actor, .. } = &hosted(&count).await;
        for sequence in 1..=20 {
            assert!(actor.ask(Panic).await.is_err());
            assert_eq!(actor.ask(ping(sequence)).await.unwrap().total_pings, sequence);
        }
    }

    #[tokio::test]
    async fn an_actor_that_ends_restarts_with_its_count() {
        let count = Count::new();
        let Hosted { actor, gave_up, .. } = &mut hosted(&count).await;
        assert_eq!(actor.ask(ping(1)).await.unwrap().total_pings, 1);
        actor.kill();
        let again = async {
            loop {
                match actor.ask(ping(2)).await {
                    Ok(pong) => break pong,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        let pong = tokio::time::timeout(std::time::Duration::from_secs(60), again).await.unwrap();
        assert_eq!(pong.total_pings, 2);
        assert!(gave_up.try_recv().is_err());
    }

    #[tokio::test]
    async fn pings_of_a_run_are_counted_once_until_it_ends() {
        let count = Count::new();
        let Hosted { actor, .. } = &hosted(&count).await;
        assert_eq!(actor.ask(once(1)).await.unwrap().verdict, Verdict::UnknownRun);
        assert_eq!(actor.ask(about(Step::Look)).await.unwrap().counted, None);
        assert_eq!(actor.ask(about(Step::Begin)).await.unwrap().counted, Some(0));
        for (sequence, verdict) in [(1, Verdict::Fresh), (1, Verdict::Again), (2, Verdict::Fresh)] {
            assert_eq!(actor.ask(once(sequence)).await.unwrap().verdict, verdict);
        }
        assert_eq!(actor.ask(about(Step::Begin)).await.unwrap().counted, Some(2), "asked twice, begun once");
        let card = actor.ask(about(Step::End)).await.unwrap();
        assert_eq!((card.counted, card.total_pings), (Some(2), 2));
        assert_eq!(actor.ask(once(3)).await.unwrap().verdict, Verdict::UnknownRun);
    }

    #[test]
    fn each_call_counts_only_its_own_pings() {
        let count = Count::new();
        let id = RunId(3, 4);
        count.about_run(AboutRun { run: id, step: Step::Begin, settled_below: 0 });
        assert_eq!(count.add_once(id, [Item::Ping(1), Item::Ping(2)]).0, 2);
        assert_eq!(count.add_once(id, [Item::Ping(2), Item::Ping(3)]), (3, vec![Verdict::Again, Verdict::Fresh]));
    }
}
