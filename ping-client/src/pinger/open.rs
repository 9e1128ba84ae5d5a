//! Opens a pinger on a connection, and notices when the connection is gone.

use std::{
    mem,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures::{FutureExt, future::LocalBoxFuture};
use kameo::actor::RemoteActorRef;
use libp2p::{PeerId, swarm::ConnectionId};
use ping_core::{Connection, Node, PeerText, PingActor};
use tokio::{
    sync::{
        oneshot::{self, error::TryRecvError},
        watch,
    },
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::{
    About, ActorHandle, Mode, Outcome, Path, PathKind, Pinger, PingerPlan, Progress, about,
    ask::AskPinger,
    direct::Direct,
    draining::Draining,
    questions::{RunState, no_answer},
    renewal::renewal,
    sampling::Sampling,
    spare::Spare,
    stream::StreamPinger,
    twins::Twins,
};
use crate::{
    error::Error,
    find::{Finder, Found, PathChoice, Place},
    run::LATE_GRACE,
};

/// How long to wait before reconnecting to a server that answers, but does not serve.
const REOPEN_PAUSE: Duration = Duration::from_millis(250);

/// Opens pingers, one connection after the other.
pub(crate) struct Opener<'a> {
    node: &'a Node,
    name: &'a str,
    find_timeout: Duration,
    /// The identity of the first connection.
    peer: PeerId,
    /// Where to reconnect to it, if that is wanted.
    place: Option<Place>,
    /// Whether pings leave a relay for a direct path.
    leaves_relay: bool,
    plan: PingerPlan,
    /// When the server last gave a sign of life.
    last_heard: watch::Receiver<Option<Instant>>,
    /// Who hosted the actor at first.
    pub(crate) twins: Twins,
    has_warned_of_twins: bool,
    run: Option<RunState>,
}

/// What was learned when a pinger was opened.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// How the pings are carried; never [`Mode::Auto`].
    pub(crate) mode: Mode,
    /// How many pings the actor had counted before, if it said so.
    pub(crate) total: Option<u64>,
    /// What the actor says about itself, if it was asked.
    pub(crate) about: About,
}

/// A pinger on a connection, or, while it moves to another, on two.
pub(super) struct Connected<'a> {
    node: &'a Node,
    pub(super) pinger: Box<dyn Pinger + 'a>,
    pub(super) actor: ActorHandle,
    id: ConnectionId,
    closed: oneshot::Receiver<PeerText>,
    /// The connection before.
    draining: Option<Draining<'a>>,
    /// After how long nobody waits for a ping on it any more.
    drain_time: Duration,
    pub(super) path: Path,
    /// The way that pings take once they have moved.
    next_path: Path,
    /// For what does not depend on one connection.
    spare: Option<Spare<'a>>,
    /// Of a connection through a relay.
    direct: Option<Direct<'a>>,
    renewal: Option<LocalBoxFuture<'a, Connection>>,
    pub(super) facts: Facts,
    pub(super) remembers_run: bool,
}

impl<'a> Opener<'a> {
    /// An opener for the actor `name` on the server that has the connection `first` and is found again in `place`.
    pub(crate) fn new(
        node: &'a Node,
        (name, find_timeout): (&'a str, Duration),
        place: Place,
        first: &Connection,
        plan: &PingerPlan,
        last_heard: watch::Receiver<Option<Instant>>,
    ) -> Self {
        Self {
            node,
            name,
            find_timeout,
            peer: first.peer,
            leaves_relay: matches!(&place, Place::Ticket(route) if route.choice == PathChoice::Any),
            place: plan.reconnects.then(|| match place {
                Place::Address(server) => Place::Address(server.with_peer(first.peer)),
                announced => announced,
            }),
            plan: plan.clone(),
            last_heard,
            twins: Twins::default(),
            has_warned_of_twins: false,
            run: plan.retries.then(RunState::new),
        }
    }

    /// When the connection was last known to work: at the server's last sign of life, if it gives any.
    pub(super) fn last_heard(&self) -> Instant {
        self.last_heard.borrow().unwrap_or_else(Instant::now)
    }

    /// Whether it can connect again.
    pub(super) fn can_reopen(&self) -> bool {
        self.place.is_some()
    }

    /// Opens a pinger on the first connection, or, if that is lost before anything can be sent, on another.
    pub(super) async fn open_first(
        &mut self,
        actor: RemoteActorRef<PingActor>,
        mut connection: Connection,
    ) -> Result<Connected<'a>, Error> {
        let error = match self.open(&actor, connection.peer, connection.id).await {
            Ok(opened) => return Ok(self.connected(opened, actor, connection)),
            Err(error) => error,
        };
        if matches!(connection.closed.try_recv(), Err(TryRecvError::Empty)) || !self.can_reopen() {
            return Err(error);
        }
        timeout(self.find_timeout, self.reopen()).await.unwrap_or(Err(error))
    }

    /// Reconnects to the server and opens a pinger, for as long as it takes. Fails if the server is not what it was.
    pub(super) async fn reopen(&mut self) -> Result<Connected<'a>, Error> {
        let Some(place) = self.place.clone() else {
            return Err(Error::Lost { reason: "the address of the server is not known".into() });
        };
        loop {
            // The stream may have ended before the connection under it, or the connection may be of no use.
            self.node.disconnect(self.peer);
            let finder = Finder::new(self.node, self.name, self.find_timeout);
            let Found { actor, mut connection, .. } = finder.again(&place).await?;
            let twins = self.twins.clone();
            let opening =
                async { tokio::join!(self.open(&actor, connection.peer, connection.id), twins.is_another(&actor)) };
            let opened = tokio::select! {
                (opened, is_another) = opening => {
                    self.warn_of_twins(is_another, &connection);
                    opened
                }
                reason = &mut connection.closed => {
                    Err(Error::Lost { reason: reason.unwrap_or_else(|_| "the node stopped".into()) })
                }
            };
            match opened {
                Ok(opened) => return Ok(self.connected(opened, actor, connection)),
                Err(error @ (Error::NoStream { .. } | Error::NoRetry | Error::Unsupported { .. })) => {
                    return Err(error);
                }
                Err(error) => {
                    debug!(%error, "lost again");
                    sleep(REOPEN_PAUSE).await;
                }
            }
        }
    }

    /// Tells once that another machine has the server's identity.
    fn warn_of_twins(&mut self, is_another: bool, Connection { peer, address, .. }: &Connection) {
        if is_another && !mem::replace(&mut self.has_warned_of_twins, true) {
            warn!(
                "Two machines have the identity {peer}: {address} is not the one that answered before. Perhaps a disk \
                 was cloned. Give one of them another key"
            );
        }
    }

    /// Opens a pinger to an actor that was found.
    async fn open(
        &mut self,
        actor: &RemoteActorRef<PingActor>,
        peer: PeerId,
        connection: ConnectionId,
    ) -> Result<(Box<dyn Pinger + 'a>, Facts), Error> {
        if let Some(run) = &mut self.run {
            run.join(actor).await?;
        }
        let run = self.run.as_ref().map(|run| run.id);
        let (mode, size) = (self.plan.mode, self.plan.size);
        if mode.streams() {
            match StreamPinger::open(self.node, (peer, connection), mode == Mode::StreamTell, size, run).await {
                Ok((pinger, total)) => {
                    self.plan.mode = if mode == Mode::Auto { Mode::Stream } else { mode };
                    let facts = Facts { mode: self.plan.mode, total: Some(total), about: About::Unknown };
                    return Ok((Box::new(pinger), facts));
                }
                Err(error @ Error::NoStream { .. }) if mode == Mode::Auto => {
                    warn!("{error}; using Kameo's ask instead");
                    self.plan.mode = Mode::Ask;
                }
                Err(error) => return Err(error),
            }
        }
        let mode = self.plan.mode;
        // The question costs a round trip, and any Kameo node can answer an ask without a payload.
        let about = match size > 0 || mode == Mode::Tell {
            true => about(actor).await?,
            false if self.plan.traces => about(actor).await.unwrap_or_default(),
            false => About::Unknown,
        };
        if size > 0 && about == About::Unknown {
            return Err(Error::NoAnswer { error: no_answer() });
        }
        let max_payload = about.card().map_or(0, |card| card.max_payload);
        let mut pinger = AskPinger::new(actor.clone(), mode == Mode::Tell, max_payload, run, &self.plan)?;
        match &about {
            _ if !self.plan.traces => {}
            About::Card(_) => pinger.sample(Sampling::of(peer)),
            About::OtherProgram => warn!("The actor is of another program and takes no traced pings; none are traced"),
            About::Unknown => warn!("The actor does not say whether it takes traced pings; none are traced"),
        }
        let facts = Facts { mode, total: about.card().map(|card| card.total_pings), about };
        Ok((Box::new(pinger), facts))
    }

    fn connected(
        &mut self,
        (pinger, facts): (Box<dyn Pinger + 'a>, Facts),
        actor: RemoteActorRef<PingActor>,
        connection: Connection,
    ) -> Connected<'a> {
        let remembers_all = self.run.as_ref().is_none_or(|run| !run.was_forgotten);
        let run = self.run.as_ref().map(|run| run.id);
        let remembers_run = self.run.as_mut().is_none_or(|run| !mem::take(&mut run.is_unreported));
        let actor = ActorHandle { actor, run, remembers_run: remembers_all };
        let path = Path::of(&connection.address);
        let is_relayed = path.kind == PathKind::Relayed;
        // A circuit is of one connection to its relay.
        let spare = (self.can_reopen() && !is_relayed).then(|| Spare::new(self.node, &connection));
        let direct = (is_relayed && self.leaves_relay).then(|| Direct::new(self.node, connection.peer));
        let renewal = renewal(self.node, &connection);
        Connected {
            node: self.node,
            pinger,
            actor,
            id: connection.id,
            closed: connection.closed,
            draining: None,
            drain_time: 2 * self.plan.timeout + LATE_GRACE,
            path,
            next_path: path,
            spare,
            direct,
            renewal,
            facts,
            remembers_run,
        }
    }
}

impl Connected<'_> {
    /// Why pings stay on a relay, once that is known.
    pub(super) fn why_relayed(&self) -> Option<&str> {
        self.direct.as_ref()?.failure()
    }

    /// Polls the pinger, and fails when the connection is gone.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        resolved: &mut Vec<(u64, Outcome)>,
    ) -> Poll<Result<Progress, Error>> {
        let polled = self.pinger.poll(context, resolved);
        if !self.pinger.is_moving() {
            self.path = self.next_path;
        }
        match polled {
            Poll::Ready(Err(Error::Lost { reason })) => {
                // What the pinger noticed first, the connection can often explain.
                let reason = self.closed.try_recv().unwrap_or(reason);
                return Poll::Ready(Err(Error::Lost { reason }));
            }
            Poll::Pending => {}
            ready => return ready,
        }
        if let Some(draining) = &mut self.draining {
            if draining.poll(context, self.pinger.has_drained()).is_ready() {
                self.draining = None;
                self.pinger.lose_old();
                return Poll::Ready(Ok(Progress::Resolved));
            }
        } else if let Some(Poll::Ready((connection, path))) = self.direct.as_mut().map(|direct| direct.poll(context)) {
            self.next_path = path;
            return self.move_to(connection);
        } else if let Some(Poll::Ready(connection)) = self.renewal.as_mut().map(|another| another.poll_unpin(context)) {
            return self.move_to(connection);
        } else if let Some(Poll::Ready(connection)) = self.spare.as_mut().map(|spare| spare.poll(context)) {
            return self.move_to(connection);
        }
        let reason = ready!(self.closed.poll_unpin(context)).unwrap_or_else(|_| "the node stopped".into());
        Poll::Ready(Err(Error::Lost { reason }))
    }

    /// New pings take this connection, and the one before is closed when what is in flight there is answered.
    fn move_to(&mut self, connection: Connection) -> Poll<Result<Progress, Error>> {
        self.renewal = renewal(self.node, &connection);
        let Connection { id, closed, .. } = connection;
        let old = (mem::replace(&mut self.id, id), mem::replace(&mut self.closed, closed));
        self.draining = Some(Draining::new(self.node, old, self.drain_time));
        self.pinger.move_to(id);
        Poll::Ready(Ok(Progress::Resolved))
    }
}
