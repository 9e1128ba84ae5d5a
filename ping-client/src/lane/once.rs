//! `--retry`: a run whose pings the actor counts once each, however often they are sent.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, VecDeque},
    pin::Pin,
    rc::Rc,
    task::Context,
    time::Duration,
};

use kameo::{actor::RemoteActorRef, error::RemoteSendError};
use ping_core::{
    actor::PingActor,
    protocol::{AboutRun, RunCard, Step},
    runs::{RunId, WINDOW},
};
use tokio::time::{Sleep, sleep, timeout};
use tracing::debug;

use super::{Answer, Lane, Outcome};
use crate::diagnose::{PingFailure, Trouble};

/// How long the actor may take to say how a run stands.
const ABOUT_TIMEOUT: Duration = Duration::from_secs(10);

/// After how many more settled pings the actor is told of them. Its window is a hundred times as wide.
const TELL_EVERY: u64 = 1024;

/// How long to wait before a ping is sent again on a connection that stands: something is wrong with its server.
const REST: Duration = Duration::from_millis(100);

/// A run by its name, and what the actor said of it.
#[derive(Debug)]
pub(crate) struct OnceRun {
    id: Cell<RunId>,
    begun: Cell<bool>,
    /// Whether the actor once did not remember it.
    forgotten: Cell<bool>,
    /// Whether that has still to be told to whoever waits for the pings.
    untold: Cell<bool>,
    /// No ping below this number will be sent again.
    settled_below: Cell<u64>,
    /// What of that the actor was last told by a question.
    told_below: Cell<u64>,
    /// How often a ping was sent again.
    resent: Cell<u64>,
    /// How many pings were counted before the measured ones, if that is known.
    before: Cell<Option<u64>>,
    /// The actor, which is another one after a restart of the server.
    actor: RefCell<Option<RemoteActorRef<PingActor>>>,
}

impl OnceRun {
    /// A run of a new, random name. With a warm-up, not all of its pings are measured.
    pub(crate) fn new(warms_up: bool) -> Self {
        Self {
            id: Cell::new(random_id()),
            begun: Cell::new(false),
            forgotten: Cell::new(false),
            untold: Cell::new(false),
            settled_below: Cell::new(1),
            told_below: Cell::new(1),
            resent: Cell::new(0),
            before: Cell::new((!warms_up).then_some(0)),
            actor: RefCell::new(None),
        }
    }

    pub(crate) fn id(&self) -> RunId {
        self.id.get()
    }

    pub(crate) fn settled_below(&self) -> u64 {
        self.settled_below.get()
    }

    pub(crate) fn resent(&self) -> u64 {
        self.resent.get()
    }

    /// Begins the run, or goes on with it. Returns whether all of it is remembered; if not, it goes on under a new name, and it is said
    /// again until someone has heard it.
    ///
    /// # Errors
    ///
    /// When the actor does not know how, or gives no answer.
    pub(crate) async fn join(&self, actor: &RemoteActorRef<PingActor>) -> Result<bool, Trouble> {
        if self.begun.get() && self.ask(actor, Step::Look).await?.counted.is_none() {
            self.forgotten.set(true);
            self.untold.set(true);
            self.id.set(random_id());
            self.begun.set(false);
        }
        if !self.begun.get() {
            self.ask(actor, Step::Begin).await?;
            self.begun.set(true);
        }
        self.actor.replace(Some(actor.clone()));
        Ok(!self.untold.get())
    }

    /// Takes note of what was counted until now: the measured pings come after it.
    pub(crate) async fn measure_from_here(&self) {
        self.before.set(self.counted(Step::Look).await);
    }

    /// Ends the run; says how many of its measured pings the actor counted. None is known if it forgot some, or cannot be asked.
    pub(crate) async fn end(&self) -> Option<u64> {
        let counted = self.counted(Step::End).await?;
        if self.forgotten.get() { None } else { counted.checked_sub(self.before.get()?) }
    }

    async fn counted(&self, step: Step) -> Option<u64> {
        let actor = self.actor.borrow().clone()?;
        match self.ask(&actor, step).await {
            Ok(card) => card.counted,
            Err(trouble) => {
                debug!(%trouble, "the run's count is not known");
                None
            }
        }
    }

    async fn ask(&self, actor: &RemoteActorRef<PingActor>, step: Step) -> Result<RunCard, Trouble> {
        let about = AboutRun { run: self.id.get(), step, settled_below: self.settled_below.get() };
        match timeout(ABOUT_TIMEOUT, actor.ask(&about).send()).await {
            Ok(Ok(card)) => {
                self.told_below.set(about.settled_below);
                Ok(card)
            }
            Ok(Err(RemoteSendError::UnknownMessage { .. })) => Err(Trouble::NoRetry),
            Ok(Err(error)) => Err(Trouble::NoAnswer { failure: PingFailure::from_send_error(&error) }),
            Err(_) => Err(Trouble::NoAnswer { failure: PingFailure::timed_out(ABOUT_TIMEOUT) }),
        }
    }
}

/// 128 bits that no other client comes upon.
fn random_id() -> RunId {
    // Without the system's random numbers no connection could have been secured either.
    let half = || getrandom::u64().unwrap_or_default();
    RunId(half(), half())
}

/// The pings of a run that may have to be sent again.
pub(super) struct Unsettled {
    run: Rc<OnceRun>,
    numbers: BTreeSet<u64>,
    /// Those of them that wait to be sent again.
    waiting: VecDeque<u64>,
    /// What the actor was last told of settled pings.
    told: u64,
    sent: u64,
    /// How long to wait before something is sent again on the same connection.
    rest: Option<Pin<Box<Sleep>>>,
}

impl Unsettled {
    pub(super) fn new(run: Rc<OnceRun>) -> Self {
        Self { run, numbers: BTreeSet::new(), waiting: VecDeque::new(), told: 0, sent: 0, rest: None }
    }

    /// Whether another ping may be sent. What the connection took with it goes first.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.is_empty() && self.sent + 1 < self.told + WINDOW
    }

    pub(super) fn on_sent(&mut self, number: u64) {
        self.sent = number;
        self.numbers.insert(number);
    }

    /// Takes out of `settled` what is not settled, but will be sent again. Returns whether the actor does not remember the run.
    pub(super) fn on_settled(&mut self, lane: &mut dyn Lane, settled: &mut Vec<(u64, Outcome)>) -> bool {
        let mut forgotten = false;
        settled.retain_mut(|(number, outcome)| {
            // The actor acknowledges what it is told in order, also what it did not count because it had been given up.
            if matches!(outcome, Ok(Answer { total: None })) && !self.numbers.contains(number) {
                *outcome = Err(PingFailure::outside(*number));
            }
            let retried = match outcome {
                Err(failure) if failure.is_unknown_run() => {
                    forgotten = true;
                    true
                }
                Err(failure) => failure.is_lost() || failure.is_actor_gone(),
                Ok(_) => false,
            };
            if retried && self.numbers.contains(number) {
                self.waiting.push_back(*number);
                self.rest.get_or_insert_with(|| Box::pin(sleep(REST)));
                return false;
            }
            self.numbers.remove(number);
            !retried
        });
        self.settle(lane);
        forgotten
    }

    /// Nobody waits for this ping any more.
    pub(super) fn give_up(&mut self, number: u64) {
        self.numbers.remove(&number);
        self.run.settled_below.set(self.settled_below());
    }

    fn settled_below(&self) -> u64 {
        self.numbers.first().copied().unwrap_or(self.sent + 1)
    }

    fn settle(&mut self, lane: &mut dyn Lane) {
        let below = self.settled_below();
        self.run.settled_below.set(below);
        if below >= self.told + TELL_EVERY {
            lane.settle_below(below);
            self.told = below;
        }
    }

    /// Sends again what waits for it, as much as there is room for, and not without a rest.
    pub(super) fn resend(&mut self, context: &mut Context<'_>, lane: &mut dyn Lane) {
        if self.rest.as_mut().is_some_and(|rest| rest.as_mut().poll(context).is_pending()) {
            return;
        }
        self.rest = None;
        while lane.has_room()
            && let Some(number) = self.waiting.pop_front()
        {
            if self.numbers.contains(&number) {
                lane.send(number);
                self.run.resent.set(self.run.resent.get() + 1);
            }
        }
    }

    /// There is a new connection: whatever is unsettled is to be sent again, if the run is remembered. If not, nobody will
    /// ever know what became of it.
    pub(super) fn on_connected(&mut self, remembered: bool, settled: &mut Vec<(u64, Outcome)>) {
        // The look at the run has told it what was settled by then.
        self.told = self.run.told_below.get();
        self.rest = None;
        self.run.untold.set(false);
        if remembered {
            self.waiting = self.numbers.iter().copied().collect();
        } else {
            self.waiting.clear();
            let forgotten = std::mem::take(&mut self.numbers).into_iter();
            settled.extend(forgotten.map(|number| (number, Err(PingFailure::forgotten()))));
        }
    }
}
