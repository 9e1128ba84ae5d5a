//! From an address to the actor: resolve, connect, look up, and time each step.

use std::{
    cell::{Cell, RefCell},
    time::{Duration, Instant},
};

use futures::{
    StreamExt,
    future::select_ok,
    stream::{self, FuturesUnordered, LocalBoxStream},
};
use kameo::{
    actor::{ActorId, RemoteActorRef},
    error::{RegistryError, RemoteSendError},
};
use libp2p::{Multiaddr, PeerId};
use ping_core::{
    actor::PingActor,
    address::{ServerAddress, Transport},
    dial::DialFailure,
    node::{Connection, Node},
    protocol::Ping,
};
use serde::{
    Deserialize,
    de::value::{BytesDeserializer, Error as ValueError, SeqDeserializer},
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use crate::diagnose::Trouble;

/// The first pause before something is tried again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// The longest pause before something is tried again.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// How long an attempt to connect again may stay without an answer before another one is made beside it. What it sent may
/// have been lost with the link, and TCP alone would send it again only after a second, and then after two more.
const ANOTHER_ATTEMPT: Duration = Duration::from_millis(300);

/// How many such attempts are under way at most. The node gives each up after ten seconds.
const MAX_ATTEMPTS: usize = 32;

/// Within this time one of two transports usually answers, on the slowest link too.
const BOTH_ANSWER: Duration = Duration::from_secs(1);

/// How long to wait for a peer's answer to the question whether it speaks Kameo at all.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The actor, and how it was found.
pub(crate) struct Found {
    pub(crate) actor: RemoteActorRef<PingActor>,
    /// Who else offers an actor of that name, as far as the registry knows. It may take a while to say.
    pub(crate) others: LocalBoxStream<'static, PeerId>,
    pub(crate) connection: Connection,
    /// When an address to connect to was known.
    pub(crate) address_known: Instant,
    /// When the connection stood.
    pub(crate) connected: Instant,
    /// When the registry had named the actor.
    pub(crate) looked_up: Instant,
}

/// Finds the actor, and keeps account of what stood in the way.
#[derive(Debug)]
pub(crate) struct Finder<'a> {
    node: &'a Node,
    name: &'a str,
    patience: Duration,
    /// The most telling trouble so far.
    trouble: RefCell<Option<Trouble>>,
    /// How many attempts have failed.
    failures: watch::Sender<u32>,
    started: Instant,
    warned: Cell<bool>,
    /// Whether the address leaves the transport open.
    tries_both: Cell<bool>,
    /// When the server's name was first resolved.
    address_known: Cell<Option<Instant>>,
}

impl<'a> Finder<'a> {
    /// Looks for the actor `name`, for as long as `patience` lasts.
    pub(crate) fn new(node: &'a Node, name: &'a str, patience: Duration) -> Self {
        Self {
            node,
            name,
            patience,
            trouble: RefCell::new(None),
            failures: watch::Sender::new(0),
            started: Instant::now(),
            warned: Cell::new(false),
            tries_both: Cell::new(false),
            address_known: Cell::new(None),
        }
    }

    /// Drives a search until it succeeds, cannot succeed any more, or patience runs out.
    ///
    /// # Errors
    ///
    /// The trouble that says most about why.
    pub(crate) async fn within_patience(
        &self,
        search: impl Future<Output = Result<Found, Trouble>>,
        otherwise: impl FnOnce() -> Trouble,
    ) -> Result<Found, Trouble> {
        match timeout(self.patience, search).await {
            Ok(outcome) => {
                if outcome.is_ok() && self.warned.get() {
                    info!("Found it after {:.1} s", self.started.elapsed().as_secs_f64());
                }
                outcome
            }
            Err(_) => Err(self.trouble().unwrap_or_else(otherwise)),
        }
    }

    /// The most telling trouble so far.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.trouble.borrow().clone()
    }

    /// Finds the actor on the server at this address.
    ///
    /// # Errors
    ///
    /// Only a trouble that trying again cannot mend.
    pub(crate) async fn at(&self, server: &ServerAddress) -> Result<Found, Trouble> {
        self.tries_both.set(server.transport.is_none());
        let known = || self.address_known.get().unwrap_or(self.started);
        let search = self.retrying(|| self.connect(server), known);
        let Some(asked) = server.transport.filter(|_| !self.node.is_private()) else { return search.await };
        tokio::select! {
            outcome = search => outcome,
            trouble = self.try_other_transport(server, asked) => Err(trouble),
        }
    }

    /// Connects again to a server and looks its actor up, for as long as it takes. The user has been told already.
    ///
    /// # Errors
    ///
    /// When another identity answers there now.
    pub(crate) async fn again(&self, server: &ServerAddress) -> Result<Found, Trouble> {
        let mut attempts = FuturesUnordered::new();
        let mut pause = Pause::new();
        loop {
            if attempts.len() < MAX_ATTEMPTS {
                attempts.push(self.attempt(server));
            }
            tokio::select! {
                Some(outcome) = attempts.next() => match outcome {
                    Err(Trouble::Dial { failure: DialFailure::WrongPeer { .. }, .. }) | Ok(_) => return outcome,
                    Err(trouble) => {
                        debug!(%trouble, "connecting again");
                        pause.wait().await;
                    }
                },
                () = sleep(ANOTHER_ATTEMPT) => {}
            }
        }
    }

    /// Tries every address of the server once, all at once.
    async fn attempt(&self, server: &ServerAddress) -> Result<Found, Trouble> {
        let connect = async || {
            let transports = server.transports().iter();
            let by_transport = transports.map(|&transport| Box::pin(self.connect_by(server, transport)));
            select_ok(by_transport).await.map(|(connected, _)| connected)
        };
        self.once(connect, || self.started).await
    }

    /// Finds the actor on this peer, at one of these addresses; more may come while it is looked for.
    ///
    /// # Errors
    ///
    /// Only a trouble that trying again cannot mend.
    pub(crate) async fn at_peer(&self, peer: PeerId, addresses: &RefCell<Vec<Multiaddr>>) -> Result<Found, Trouble> {
        let known = Instant::now();
        let connect = async || {
            let addresses = addresses.borrow().clone();
            let server = addresses.first().map(ToString::to_string).unwrap_or_default();
            self.dial_all(addresses, Some(peer), server).await
        };
        self.retrying(connect, || known).await
    }

    /// Connects and looks up again and again, until the actor is found or there is no hope.
    async fn retrying(
        &self,
        connect: impl AsyncFn() -> Result<Connection, Trouble>,
        address_known: impl Fn() -> Instant,
    ) -> Result<Found, Trouble> {
        let mut pause = Pause::new();
        loop {
            match self.once(&connect, &address_known).await {
                Err(trouble) if !trouble.is_final() => self.note(trouble),
                outcome => return outcome,
            }
            pause.wait().await;
        }
    }

    async fn once(
        &self,
        connect: impl AsyncFn() -> Result<Connection, Trouble>,
        address_known: impl Fn() -> Instant,
    ) -> Result<Found, Trouble> {
        let mut connection = connect().await?;
        let connected = Instant::now();
        let (actor, others) = tokio::select! {
            actor = self.look_up(connection.peer, &connection.address) => actor?,
            _ = &mut connection.closed => {
                return Err(Trouble::TurnedAway { peer: connection.peer, ours: self.node.peer() });
            }
        };
        Ok(Found { actor, others, connection, address_known: address_known(), connected, looked_up: Instant::now() })
    }

    /// Tries every address of the server by every transport asked for, all at once; the first to answer wins.
    async fn connect(&self, server: &ServerAddress) -> Result<Connection, Trouble> {
        let by_transport = server.transports().iter().map(|&transport| {
            Box::pin(async move {
                // A transport that is refused at once is tried again while the other still waits for an answer.
                let mut pause = Pause::new();
                loop {
                    match self.connect_by(server, transport).await {
                        Err(trouble) if !trouble.is_final() && server.transport.is_none() => self.note(trouble),
                        outcome => return outcome,
                    }
                    pause.wait().await;
                }
            })
        });
        select_ok(by_transport).await.map(|(connected, _)| connected)
    }

    async fn connect_by(&self, server: &ServerAddress, transport: Transport) -> Result<Connection, Trouble> {
        let ips = server
            .resolve()
            .await
            .map_err(|error| Trouble::Unresolved { host: server.host(), reason: error.to_string() })?;
        if self.address_known.get().is_none() {
            self.address_known.set(Some(Instant::now()));
        }
        let addresses = ips.into_iter().map(|ip| transport.multiaddr(ip, server.port)).collect();
        self.dial_all(addresses, server.peer, format!("{server} by {transport}")).await
    }

    /// Dials all these addresses at once; the first to answer wins. `server` is what they are called when none does.
    async fn dial_all(
        &self,
        addresses: Vec<Multiaddr>,
        expected: Option<PeerId>,
        server: String,
    ) -> Result<Connection, Trouble> {
        let dials = addresses.into_iter().map(|address| Box::pin(self.node.dial(address, expected)));
        select_ok(dials).await.map(|(connection, _)| connection).map_err(|failure| Trouble::Dial { server, failure })
    }

    /// Once the transport that was asked for has failed, or patience is half gone, finds out whether the server answers
    /// by the other one. Never returns if it does not.
    async fn try_other_transport(&self, server: &ServerAddress, asked: Transport) -> Trouble {
        let mut failures = self.failures.subscribe();
        // The sender lives as long as this finder.
        let _ = timeout(self.patience / 2, failures.wait_for(|failures| *failures > 0)).await;
        let mut pause = Pause::new();
        let connection = loop {
            match self.connect_by(server, asked.other()).await {
                Ok(connection) => break connection,
                // QUIC never hears of a missing route; TCP does, and what it hears holds for both.
                Err(trouble @ Trouble::Dial { failure: DialFailure::NoRoute, .. }) => self.note(trouble),
                Err(trouble) => debug!(%trouble, "the other transport does not answer either"),
            }
            pause.wait().await;
        };
        let Connection { peer, address, closed } = connection;
        // The connection gives way to one by the transport that was asked for, if there can be one.
        self.node.disconnect(peer);
        let _ = closed.await;
        let trouble = Trouble::OtherTransport { server: server.to_string(), asked, answers: address };
        self.trouble.replace(Some(trouble.clone()));
        // The server is up now, which it may not have been when the asked transport failed: it gets another try.
        let failures_before = *failures.borrow();
        let _ = failures.wait_for(|failures| *failures > failures_before).await;
        trouble
    }

    /// Asks the registry for the actor until it names the one on `peer`.
    async fn look_up(
        &self,
        peer: PeerId,
        address: &Multiaddr,
    ) -> Result<(RemoteActorRef<PingActor>, LocalBoxStream<'static, PeerId>), Trouble> {
        let mut pause = Pause::new();
        let mut known_to_speak_kameo = false;
        loop {
            let trouble = match self.look_up_once(peer).await {
                Ok(found) => return Ok(found),
                Err(trouble) => trouble,
            };
            if trouble.is_final() {
                return Err(trouble);
            }
            if !known_to_speak_kameo {
                if !speaks_kameo(peer).await {
                    return Err(Trouble::NotKameo { peer, address: address.clone() });
                }
                known_to_speak_kameo = true;
            }
            self.note(trouble);
            pause.wait().await;
        }
    }

    async fn look_up_once(
        &self,
        peer: PeerId,
    ) -> Result<(RemoteActorRef<PingActor>, LocalBoxStream<'static, PeerId>), Trouble> {
        let name = || self.name.to_owned();
        let mut answers = RemoteActorRef::<PingActor>::lookup_all(self.name);
        let mut trouble = Trouble::NoSuchActor { peer, name: name() };
        let mut others = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(actor) => match actor.id().peer_id() {
                    Some(owner) if *owner == peer => {
                        let more = answers.filter_map(async |answer| answer.ok()?.id().peer_id().copied());
                        return Ok((actor, stream::iter(others).chain(more).boxed_local()));
                    }
                    Some(owner) => {
                        others.push(*owner);
                        trouble = Trouble::ActorElsewhere { peer, name: name(), owner: *owner };
                    }
                    None => {}
                },
                Err(RegistryError::BadActorType) => trouble = Trouble::OtherType { peer, name: name() },
                Err(error) => debug!(%error, "look-up"),
            }
        }
        Err(trouble)
    }

    /// Keeps account of a trouble, and tells the user of the first one.
    pub(crate) fn note(&self, trouble: Trouble) {
        debug!(%trouble, "trying again");
        self.failures.send_modify(|failures| *failures += 1);
        if trouble.weight() == 0 {
            return;
        }
        // Where two transports are tried, one that is refused says little while the other may yet answer.
        let early = self.tries_both.get() && self.started.elapsed() < BOTH_ANSWER;
        if !early && !self.warned.replace(true) {
            let left = self.patience.saturating_sub(self.started.elapsed());
            warn!("{trouble}; trying for another {:.0} s", left.as_secs_f64());
        }
        let mut known = self.trouble.borrow_mut();
        if known.as_ref().is_none_or(|known| known.weight() <= trouble.weight()) {
            *known = Some(trouble);
        }
    }
}

/// The pauses between attempts, longer each time.
#[derive(Debug)]
struct Pause(Duration);

impl Pause {
    fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    async fn wait(&mut self) {
        sleep(self.0).await;
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
    }
}

/// Whether a peer understands Kameo's messages. It is asked to ping an actor that it cannot have: a Kameo node says so,
/// any other does not understand the question.
async fn speaks_kameo(peer: PeerId) -> bool {
    let nobody = ActorId::new_with_peer_id(u64::MAX, peer).to_bytes();
    let fields = SeqDeserializer::<_, ValueError>::new(std::iter::once(BytesDeserializer::new(&nobody)));
    let Ok(nobody) = RemoteActorRef::<PingActor>::deserialize(fields) else { return true };
    let ping = Ping { message: String::new(), sequence: 0 };
    // Once could be a stream that broke because the server is just stopping.
    for _ in 0..2 {
        let answer = timeout(PROBE_TIMEOUT, nobody.ask(&ping).send()).await;
        if !matches!(answer, Ok(Err(RemoteSendError::UnsupportedProtocols | RemoteSendError::Io(_)))) {
            debug!(?answer, "the peer speaks Kameo");
            return true;
        }
    }
    false
}
