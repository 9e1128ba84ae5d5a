//! The actor that counts pings.
//!
//! It runs under a supervisor. What it counted is [`Count`], which outlives it: a handler that panics costs one ping its
//! answer, and an actor that ends all the same is started again where it stopped.

use std::{
    mem,
    ops::ControlFlow,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use kameo::{
    Actor, RemoteActor, Reply,
    actor::{ActorId, ActorRef, Spawn, WeakActorRef},
    error::{ActorStopReason, Infallible, PanicError, RegistryError},
    mailbox,
    message::{Context, Message},
    remote_message,
    reply::DelegatedReply,
};
use tokio::sync::{Semaphore, oneshot, watch};
use tracing::{error, warn};

use crate::{
    protocol::{
        About, AboutRun, Card, Echo, Echoed, MAX_IN_FLIGHT, MAX_PAYLOAD, Once, OnceReply, Ping, Pong, RunCard, Step,
    },
    runs::{Run, RunId, Runs, Verdict},
};

/// How many messages wait for the actor at most. A client's message that finds no room is answered with "busy".
///
/// That is what 128 clients may have under way together; waiting pings take some 200 bytes each, and their payloads.
pub const MAILBOX: usize = 128 * MAX_IN_FLIGHT as usize;

/// What an actor has counted. Clones share it.
#[derive(Clone, Debug)]
pub struct Count {
    total: watch::Sender<u64>,
    runs: Arc<Mutex<Runs>>,
    journal: Option<Arc<Pending>>,
}

impl Count {
    /// Nothing counted yet, and nothing kept.
    pub fn new() -> Self {
        Self { total: watch::Sender::new(0), runs: Arc::default(), journal: None }
    }

    /// A count that goes on from what was counted before. No ping is answered before the journal's reader has kept it.
    pub fn kept(total: u64, mut runs: Runs) -> (Self, Journal) {
        runs.watch_changes();
        let pending = Arc::new(Pending::default());
        let (total, runs) = (watch::Sender::new(total), Arc::new(Mutex::new(runs)));
        let journal = Journal { total: total.clone(), runs: runs.clone(), pending: pending.clone() };
        (Self { total, runs, journal: Some(pending) }, journal)
    }

    /// The total, for whoever wants to be woken when it changes.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.total.subscribe()
    }

    fn total(&self) -> u64 {
        *self.total.borrow()
    }

    /// Counts pings; returns the total with them.
    fn add(&self, pings: u64) -> u64 {
        self.total.send_if_modified(|total| {
            *total += pings;
            pings > 0
        });
        self.total()
    }

    fn runs(&self) -> MutexGuard<'_, Runs> {
        lock(&self.runs)
    }

    /// Counts pings of a run, each unless it was counted before; appends what became of each.
    fn add_once(&self, id: RunId, items: impl IntoIterator<Item = Item>, verdicts: &mut Vec<Verdict>) -> u64 {
        let mut runs = self.runs();
        let mut run = runs.get(id, Instant::now());
        for item in items {
            match (item, &mut run) {
                (Item::Ping(number), Some(run)) => verdicts.push(run.count(number)),
                (Item::Ping(_), None) => verdicts.push(Verdict::UnknownRun),
                (Item::Settled { below }, Some(run)) => run.settle_below(below),
                (Item::Settled { .. }, None) => {}
            }
        }
        // Within the lock: whoever keeps the runs keeps a total that has all that they have.
        self.add(fresh(verdicts))
    }

    /// Waits until all that was counted before is kept, or cannot be.
    pub async fn finish(&self) {
        if let Some(pending) = &self.journal {
            let (kept, safe) = oneshot::channel();
            pending.add(Some(kept));
            let _ = safe.await;
        }
    }
}

impl Default for Count {
    fn default() -> Self {
        Self::new()
    }
}

/// A panic cannot leave behind what is half changed: nothing between the steps of a change can panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What has changed since the journal was last read. However much that is, it takes no more room than what is counted, and a
/// place for each that waits.
#[derive(Debug)]
struct Pending {
    changes: Mutex<Changes>,
    wake: Condvar,
    /// For as many replies as may wait. When there are more, because the disk stalls, the actor waits, and its mailbox fills.
    places: Arc<Semaphore>,
}

impl Default for Pending {
    fn default() -> Self {
        Self { changes: Mutex::default(), wake: Condvar::new(), places: Arc::new(Semaphore::new(MAILBOX)) }
    }
}

#[derive(Debug, Default)]
struct Changes {
    any: bool,
    waiting: Vec<oneshot::Sender<()>>,
    /// Nobody reads any more.
    closed: bool,
}

impl Pending {
    /// Takes note that something was counted, and who waits until that is kept. Drops the latter if it cannot be.
    fn add(&self, waiting: Option<oneshot::Sender<()>>) {
        let mut changes = lock(&self.changes);
        if !changes.closed {
            changes.any = true;
            changes.waiting.extend(waiting);
            self.wake.notify_one();
        }
    }
}

/// What there is to keep of a [`Count`], for the one who keeps it. When this is dropped, no more pings are answered.
#[derive(Debug)]
pub struct Journal {
    total: watch::Sender<u64>,
    runs: Arc<Mutex<Runs>>,
    pending: Arc<Pending>,
}

/// How things stand.
#[derive(Debug)]
pub struct Entry {
    /// How many pings were counted in all.
    pub total: u64,
    /// The runs that have changed; nothing is left of those that ended or were forgotten.
    pub runs: Vec<(RunId, Option<Run>)>,
    waiting: Vec<oneshot::Sender<()>>,
}

impl Entry {
    /// An entry that nobody waits for.
    pub fn new(total: u64, runs: Vec<(RunId, Option<Run>)>) -> Self {
        Self { total, runs, waiting: Vec::new() }
    }

    /// Lets the pings be answered that waited for this.
    pub fn is_kept(self) {
        // Whoever asked may have gone.
        for waiting in self.waiting {
            let _ = waiting.send(());
        }
    }
}

impl Journal {
    /// Blocks until something has changed; returns all that has.
    pub fn next(&self) -> Entry {
        let changes = lock(&self.pending.changes);
        let changes = self.pending.wake.wait_while(changes, |changes| !changes.any);
        let changes = mem::take(&mut *changes.unwrap_or_else(PoisonError::into_inner));
        // A ping of a run is counted in both under this lock, so none is in the one and not in the other.
        let mut runs = lock(&self.runs);
        Entry { waiting: changes.waiting, ..Entry::new(*self.total.borrow(), runs.take_changed()) }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        *lock(&self.pending.changes) = Changes { closed: true, ..Changes::default() };
        self.pending.places.close();
    }
}

/// How many pings came for the first time.
pub(crate) fn fresh(verdicts: &[Verdict]) -> u64 {
    verdicts.iter().filter(|verdict| **verdict == Verdict::Fresh).count() as u64
}

/// Pings that reached this process together, over a [`stream`](crate::stream). It stays within the process.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) pings: Pings,
    /// Payloads that the actor sends back.
    pub(crate) payloads: Vec<Bytes>,
}

/// What is said on a stream about the pings of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Item {
    /// The ping of this number.
    Ping(u64),
    /// No ping below this number will be sent again.
    Settled { below: u64 },
}

/// The pings of a [`Batch`].
#[derive(Clone, Debug)]
pub(crate) enum Pings {
    /// So many.
    Plain(u64),
    /// Pings that may have come before.
    OfRun { run: RunId, items: Vec<Item> },
}

/// The answer to a [`Batch`].
#[derive(Clone, Debug, Reply)]
pub(crate) struct Counted {
    /// How many pings the actor has counted, from all clients, these included.
    pub(crate) total: u64,
    /// What became of each ping of a run.
    pub(crate) verdicts: Vec<Verdict>,
    /// The payloads, as they came.
    pub(crate) payloads: Vec<Bytes>,
}

/// What an actor starts with.
#[derive(Debug)]
pub struct Start {
    count: Count,
    /// The name to register it under.
    name: Option<Arc<str>>,
    /// How often it was started before.
    restarts: u32,
}

/// Counts the pings it gets and answers each with the total.
#[derive(Debug, RemoteActor)]
#[remote_actor(id = "ping_pong_app::PingActor")]
pub struct PingActor {
    count: Count,
}

impl PingActor {
    /// Replies when what was counted is kept, if it is to be. If it cannot be, there is no reply.
    async fn answer<R: Reply<Value = R>>(
        &self,
        context: &mut Context<Self, DelegatedReply<R>>,
        reply: R,
    ) -> DelegatedReply<R> {
        let Some(pending) = &self.count.journal else { return context.reply(reply) };
        let (delegated, sender) = context.reply_sender();
        let Some(sender) = sender else {
            pending.add(None);
            return delegated;
        };
        let place = match pending.places.clone().try_acquire_owned() {
            Ok(place) => Ok(place),
            Err(_) => {
                // What was counted is to be kept meanwhile.
                pending.add(None);
                pending.places.clone().acquire_owned().await
            }
        };
        // There are no more places when nothing can be kept any more.
        if let Ok(place) = place {
            let (kept, safe) = oneshot::channel();
            pending.add(Some(kept));
            tokio::spawn(async move {
                if safe.await.is_ok() {
                    sender.send(reply);
                }
                drop(place);
            });
        }
        delegated
    }
}

impl Actor for PingActor {
    type Args = Start;
    type Error = RegistryError;

    async fn on_start(start: Start, actor: ActorRef<Self>) -> Result<Self, RegistryError> {
        if start.restarts > 0 {
            warn!("The actor ended and was started again; its count goes on");
        }
        // The end of the one before took the name out of the registry.
        if let Some(name) = start.name {
            actor.register(name).await?;
        }
        Ok(Self { count: start.count })
    }

    /// Goes on. The ping whose handler panicked is answered with an error.
    async fn on_panic(
        &mut self,
        _: WeakActorRef<Self>,
        error: PanicError,
    ) -> Result<ControlFlow<ActorStopReason>, RegistryError> {
        error!("The actor panicked, and goes on with its count: {error}. This is a bug; please report it.");
        Ok(ControlFlow::Continue(()))
    }

    /// Goes on. The actor links to no other, yet any peer on the network can send it word of a death; the default
    /// would stop the actor on that word.
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
        let total_pings = self.count.add(1);
        self.answer(context, Pong { message: "PONG".into(), sequence: ping.sequence, total_pings }).await
    }
}

#[remote_message("kameo-ping/about/1")]
impl Message<About> for PingActor {
    type Reply = Card;

    async fn handle(&mut self, _: About, _: &mut Context<Self, Self::Reply>) -> Card {
        Card {
            version: env!("CARGO_PKG_VERSION").into(),
            total_pings: self.count.total(),
            max_in_flight: MAX_IN_FLIGHT,
            max_payload: MAX_PAYLOAD,
        }
    }
}

#[remote_message("kameo-ping/echo/1")]
impl Message<Echo> for PingActor {
    type Reply = DelegatedReply<Echoed>;

    async fn handle(&mut self, echo: Echo, context: &mut Context<Self, Self::Reply>) -> Self::Reply {
        let total_pings = self.count.add(1);
        self.answer(context, Echoed { sequence: echo.sequence, total_pings, payload: echo.payload }).await
    }
}

#[remote_message("kameo-ping/once/1")]
impl Message<Once> for PingActor {
    type Reply = DelegatedReply<OnceReply>;

    async fn handle(&mut self, once: Once, context: &mut Context<Self, Self::Reply>) -> Self::Reply {
        let Once { run, settled_below, sequence, payload } = once;
        let mut verdicts = Vec::new();
        let items = [Item::Settled { below: settled_below }, Item::Ping(sequence)];
        let total_pings = self.count.add_once(run, items, &mut verdicts);
        let verdict = verdicts.pop().unwrap_or(Verdict::UnknownRun);
        self.answer(context, OnceReply { sequence, total_pings, verdict, payload }).await
    }
}

#[remote_message("kameo-ping/run/1")]
impl Message<AboutRun> for PingActor {
    type Reply = DelegatedReply<RunCard>;

    async fn handle(&mut self, about: AboutRun, context: &mut Context<Self, Self::Reply>) -> Self::Reply {
        let AboutRun { run: id, step, settled_below } = about;
        let counted = {
            let (mut runs, now) = (self.count.runs(), Instant::now());
            if step == Step::Begin {
                runs.begin(id, now);
            }
            let counted = runs.get(id, now).map(|run| {
                run.settle_below(settled_below);
                run.counted()
            });
            if step == Step::End {
                runs.end(id);
            }
            counted
        };
        let card = RunCard { counted, total_pings: self.count.total() };
        self.answer(context, card).await
    }
}

impl Message<Batch> for PingActor {
    type Reply = DelegatedReply<Counted>;

    async fn handle(&mut self, batch: Batch, context: &mut Context<Self, Self::Reply>) -> Self::Reply {
        let mut verdicts = Vec::new();
        let total = match batch.pings {
            // Nothing to keep, if a journal is kept at all.
            Pings::Plain(0) => {
                let total = self.count.total();
                return context.reply(Counted { total, verdicts, payloads: batch.payloads });
            }
            Pings::Plain(pings) => self.count.add(pings),
            Pings::OfRun { run, items } => {
                verdicts.reserve(items.len());
                self.count.add_once(run, items, &mut verdicts)
            }
        };
        self.answer(context, Counted { total, verdicts, payloads: batch.payloads }).await
    }
}

/// Starts a [`PingActor`] again whenever it ends.
struct Supervisor {
    gave_up: Option<oneshot::Sender<String>>,
}

impl Actor for Supervisor {
    type Args = oneshot::Sender<String>;
    type Error = Infallible;

    async fn on_start(gave_up: Self::Args, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(Self { gave_up: Some(gave_up) })
    }

    /// Kameo tells of the deaths that it does not mend: too many within too short a time.
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

/// A [`PingActor`] and its supervisor. Without this, the actor stops.
#[derive(Debug)]
pub struct Hosted {
    /// The actor. It stays the same when it is started again.
    pub actor: ActorRef<PingActor>,
    /// Resolves when the actor has ended too often to be started again, to the reason of the last time.
    pub gave_up: oneshot::Receiver<String>,
    _supervisor: ActorRef<Supervisor>,
}

/// Why the actor could not be started.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the actor could not be started: {0}")]
pub struct NotStarted(String);

/// Starts an actor under supervision, and registers it if it is given a name.
///
/// # Errors
///
/// When it cannot be registered.
pub async fn host(count: Count, name: Option<&str>) -> Result<Hosted, NotStarted> {
    let (giving_up, gave_up) = oneshot::channel();
    let supervisor = Supervisor::spawn(giving_up);
    let (name, starts) = (name.map(Arc::<str>::from), AtomicU32::new(0));
    let start =
        move || Start { count: count.clone(), name: name.clone(), restarts: starts.fetch_add(1, Ordering::Relaxed) };
    let actor = PingActor::supervise_with(&supervisor, start).spawn_with_mailbox(mailbox::bounded(MAILBOX)).await;
    actor.wait_for_startup_with_result(|started| started.map_err(|error| NotStarted(error.to_string()))).await?;
    Ok(Hosted { actor, gave_up, _supervisor: supervisor })
}

#[cfg(test)]
mod tests {
    use super::*;

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

        #[allow(clippy::panic, reason = "it is what is tested")]
        async fn handle(&mut self, _: Panic, _: &mut Context<Self, ()>) {
            panic!("as it was asked to");
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
    async fn a_panic_is_an_error_to_whoever_caused_it_and_to_nobody_else() {
        let count = Count::new();
        let Hosted { actor, .. } = &hosted(&count).await;
        for sequence in 1..=20 {
            assert!(actor.ask(Panic).await.is_err());
            assert_eq!(actor.ask(ping(sequence)).await.unwrap().total_pings, sequence);
        }
    }

    #[tokio::test]
    async fn an_actor_that_ends_is_started_again_with_its_count() {
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

    #[tokio::test]
    async fn no_ping_is_answered_before_it_is_kept() {
        let (count, journal) = Count::kept(10, Runs::default());
        let Hosted { actor, .. } = &hosted(&count).await;
        let (first, second) = (actor.clone(), actor.clone());
        let begun = tokio::spawn(async move { first.ask(about(Step::Begin)).await });
        while lock(&journal.pending.changes).waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        let asked = tokio::spawn(async move { second.ask(once(1)).await });
        while lock(&journal.pending.changes).waiting.len() < 2 {
            tokio::task::yield_now().await;
        }
        let entry = journal.next();
        assert_eq!(entry.total, 11, "the second does not wait for the first");
        assert!(entry.runs.iter().all(|(id, run)| (*id, run.as_ref().map(Run::counted)) == (RunId(1, 2), Some(1))));
        assert!(!begun.is_finished() && !asked.is_finished());
        entry.is_kept();
        assert_eq!(asked.await.unwrap().unwrap().verdict, Verdict::Fresh);
        // What is counted is kept with its run, whatever wakes the keeper.
        count.add_once(RunId(1, 2), [Item::Ping(2)], &mut Vec::new());
        journal.pending.add(None);
        let entry = journal.next();
        assert_eq!((entry.total, entry.runs[0].1.as_ref().map(Run::counted)), (12, Some(2)));
        // What cannot be kept is not answered.
        drop(journal);
        assert!(actor.ask(ping(1)).await.is_err());
    }
}
