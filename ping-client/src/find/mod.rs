//! From an address, or nothing but the local network, to the actor: resolve, connect, look up, and time each step.
//!
//! - `look_up`: from a connection to the actor.
//! - `mdns`: from the local network to peers to try.
//! - `other_transports`: whether a server that does not answer would over another transport.
//! - `speaks_kameo`: whether a peer without a registry is a Kameo node at all.
//! - `ticket`: from a ticket to a connection, directly or through a relay.
//! - `again`: back to a server that was lost.

mod again;
mod look_up;
mod mdns;
mod other_transports;
mod speaks_kameo;
mod ticket;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt,
    rc::Rc,
    time::{Duration, Instant},
};

use futures::{future::select_ok, stream::LocalBoxStream};
use kameo::actor::RemoteActorRef;
use libp2p::{Multiaddr, PeerId};
use ping_core::{
    Connection, DialError, Node, PingActor, ServerAddress, Transport,
    node::Staggered,
    program::STEP,
    transport::{endpoint, is_prohibited},
};
use tokio::{sync::watch, time::timeout};
use tracing::{debug, info, warn};

use crate::{backoff::Backoff, error::Error, units::milliseconds};

pub(crate) use again::Place;
pub(crate) use look_up::name_rivals;
pub(crate) use mdns::{Search, keep_asking};
pub(crate) use speaks_kameo::speaks_kameo;
pub(crate) use ticket::{PathChoice, Route, resolve};

/// Within this time one of several transports usually answers, even on a slow link.
const USUAL_ANSWER: Duration = Duration::from_secs(1);

/// How long an address is tried before the next one is tried beside it. RFC 8305 recommends 250 ms and allows 10; a
/// server here has few addresses, most of them on the local network.
const HEAD_START: Duration = Duration::from_millis(50);

/// How long a search continues after its success, to name the other servers.
const NAMING_TIME: Duration = Duration::from_secs(1);

/// The actor, and how it was found.
pub(crate) struct Found {
    pub(crate) actor: RemoteActorRef<PingActor>,
    /// The other peers that registered an actor under the name, as far as the registry knows. The stream may take a
    /// while to end.
    pub(crate) others: LocalBoxStream<'static, PeerId>,
    pub(crate) connection: Connection,
    /// When an address to connect to was known.
    pub(crate) address_known: Instant,
    /// When the connection was established.
    pub(crate) connected: Instant,
    /// When the registry named the actor.
    pub(crate) looked_up: Instant,
}

/// Gets the errors of a search that goes on.
#[derive(Clone)]
pub(crate) struct OnFailure(pub(crate) Rc<dyn Fn(&Error)>);

impl fmt::Debug for OnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnFailure")
    }
}

/// Finds an actor by name, and remembers what stood in the way.
#[derive(Debug)]
pub(crate) struct Finder<'a> {
    node: &'a Node,
    name: &'a str,
    time_limit: Duration,
    started: Instant,
    /// The most telling error so far.
    error: RefCell<Option<Error>>,
    /// How many attempts have failed.
    failures: watch::Sender<u32>,
    on_failure: Option<OnFailure>,
    has_warned: Cell<bool>,
    /// Whether the address leaves the transport open.
    tries_all_transports: Cell<bool>,
    /// The address at which each relay was last reached.
    relays: RefCell<HashMap<PeerId, Multiaddr>>,
    /// When the actor was found.
    found: Cell<Option<Instant>>,
    /// When the server's name was first resolved.
    address_known: Cell<Option<Instant>>,
    /// The peer that was asked for the actor and has not answered, and since when.
    asked: Cell<Option<(PeerId, Instant)>>,
}

impl<'a> Finder<'a> {
    /// Looks for the actor `name` for at most `time_limit`.
    pub(crate) fn new(node: &'a Node, name: &'a str, time_limit: Duration) -> Self {
        Self {
            node,
            name,
            time_limit,
            started: Instant::now(),
            error: RefCell::new(None),
            failures: watch::Sender::new(0),
            on_failure: None,
            has_warned: Cell::new(false),
            tries_all_transports: Cell::new(false),
            relays: RefCell::default(),
            found: Cell::new(None),
            address_known: Cell::new(None),
            asked: Cell::new(None),
        }
    }

    /// Tells each failed attempt to somebody, with the most telling error so far.
    pub(crate) fn telling(mut self, on_failure: Option<OnFailure>) -> Self {
        self.on_failure = on_failure;
        self
    }

    /// Runs a search until it succeeds, cannot succeed, or the time is up. Then its error is the most telling one, or
    /// `otherwise`.
    pub(crate) async fn within_limit<T>(
        &self,
        search: impl Future<Output = Result<T, Error>>,
        otherwise: impl FnOnce() -> Error,
    ) -> Result<T, Error> {
        match timeout(self.time_limit, search).await {
            Ok(outcome) => {
                self.found.set(Some(Instant::now()));
                if outcome.is_ok() && self.has_warned.get() {
                    info!("Found after {:.1} s", self.started.elapsed().as_secs_f64());
                }
                outcome
            }
            Err(_) => Err(self.error().unwrap_or_else(otherwise)),
        }
    }

    /// The most telling error so far: a look-up that hangs, or else what failed.
    pub(crate) fn error(&self) -> Option<Error> {
        let patience = USUAL_ANSWER.min(self.time_limit / 2);
        let silent = self.asked.get().filter(|(_, since)| since.elapsed() >= patience);
        silent.map(|(peer, _)| Error::NoLookUp { peer }).or_else(|| self.error.borrow().clone())
    }

    /// Whether the search is over. Other servers get a moment, because a server listens before it registers its actor.
    fn is_over(&self) -> bool {
        self.found.get().is_some_and(|found| found.elapsed() >= NAMING_TIME)
    }

    /// Finds the actor on the server at this address. Fails only if another attempt could not succeed.
    pub(crate) async fn at(&self, server: &ServerAddress) -> Result<Found, Error> {
        info!("Connecting to {server} by {}", names(server.transports(), self.node.is_private()));
        self.tries_all_transports.set(server.transport.is_none());
        let known = || self.address_known.get().unwrap_or(self.started);
        let search = self.retrying(|| self.connect(server), known);
        let Some(asked) = server.transport else { return search.await };
        tokio::select! {
            outcome = search => outcome,
            error = self.try_other_transports(server, asked) => Err(error),
        }
    }

    /// Connects to the server at this address, whatever it hosts. Fails only if another attempt could not succeed.
    pub(crate) async fn reach(&self, server: &ServerAddress) -> Result<Connection, Error> {
        self.tries_all_transports.set(server.transport.is_none());
        let mut backoff = Backoff::new();
        loop {
            match self.connect(server).await {
                Err(error) if !error.is_final() => self.note(error),
                outcome => return outcome,
            }
            backoff.wait().await;
        }
    }

    /// Connects and looks up repeatedly, until the actor is found or another attempt could not succeed.
    async fn retrying(
        &self,
        connect: impl AsyncFn() -> Result<Connection, Error>,
        address_known: impl Fn() -> Instant,
    ) -> Result<Found, Error> {
        let mut backoff = Backoff::new();
        loop {
            match self.attempt(&connect, &address_known).await {
                Err(error) if !error.is_final() && !self.is_over() => self.note(error),
                outcome => return outcome,
            }
            backoff.wait().await;
        }
    }

    async fn attempt(
        &self,
        connect: impl AsyncFn() -> Result<Connection, Error>,
        address_known: impl Fn() -> Instant,
    ) -> Result<Found, Error> {
        let mut connection = connect().await?;
        let connected = Instant::now();
        let took = milliseconds(connected - address_known());
        debug!(target: STEP, "Connected to {} and secured, {took}", connection.address);
        let looked_up = tokio::select! {
            actor = self.look_up((connection.peer, connection.id), &connection.address) => actor,
            _ = &mut connection.closed => {
                Err(Error::TurnedAway { peer: connection.peer, ours: self.node.peer() })
            }
        };
        self.asked.set(None);
        // A peer has one connection at a time. The next attempt makes its own.
        let (actor, others) = looked_up.inspect_err(|_| self.node.close(connection.id))?;
        debug!(target: STEP, "Looked up {}, {}", self.name, milliseconds(connected.elapsed()));
        Ok(Found { actor, others, connection, address_known: address_known(), connected, looked_up: Instant::now() })
    }

    /// Tries every address of the server over every transport asked for, all at once; the first to answer wins.
    async fn connect(&self, server: &ServerAddress) -> Result<Connection, Error> {
        let by_transport = server.transports().iter().map(|&transport| {
            Box::pin(async move {
                // A transport that is refused at once is tried again while another still waits for an answer.
                let mut backoff = Backoff::new();
                loop {
                    match self.connect_or_explain(server, transport).await {
                        Err(error) if !error.is_final() && server.transport.is_none() => self.note(error),
                        outcome => return outcome,
                    }
                    backoff.wait().await;
                }
            })
        });
        select_ok(by_transport).await.map(|(connected, _)| connected)
    }

    /// The same, once.
    async fn connect_once(&self, server: &ServerAddress) -> Result<Connection, Error> {
        let by_transport = server.transports().iter().map(|&transport| Box::pin(self.connect_over(server, transport)));
        select_ok(by_transport).await.map(|(connected, _)| connected)
    }

    async fn connect_over(&self, server: &ServerAddress, transport: Transport) -> Result<Connection, Error> {
        let addresses = self.addresses(server, transport).await?;
        self.dial_all(addresses, server.peer, format!("{server} over {transport}"), HEAD_START).await
    }

    /// The same, and finds out more about a failure.
    async fn connect_or_explain(&self, server: &ServerAddress, transport: Transport) -> Result<Connection, Error> {
        let addresses = self.addresses(server, transport).await?;
        self.dial_or_explain(addresses, server.peer, format!("{server} over {transport}")).await
    }

    /// Where the server can be reached over this transport.
    async fn addresses(&self, server: &ServerAddress, transport: Transport) -> Result<Vec<Multiaddr>, Error> {
        let ips = server.resolve().await.map_err(|error| Error::Unresolved {
            host: server.host(),
            reason: error.to_string(),
            certain: error.kind() == std::io::ErrorKind::NotFound,
        })?;
        if self.address_known.get().is_none() {
            self.address_known.set(Some(Instant::now()));
            let list: Vec<_> = ips.iter().map(ToString::to_string).collect();
            let took = milliseconds(self.started.elapsed());
            debug!(target: STEP, "Resolved {} to {}, {took}", server.host(), list.join(", "));
        }
        Ok(ips.into_iter().map(|ip| server.multiaddr_at(ip, transport)).collect())
    }

    /// Dials these addresses, each a moment after the one before it, or as soon as that has failed (RFC 8305); the
    /// first to answer wins. If none does, the error is the one that says most. `server` is what they are called then.
    async fn dial_all(
        &self,
        addresses: Vec<Multiaddr>,
        expected: Option<PeerId>,
        server: String,
        head_start: Duration,
    ) -> Result<Connection, Error> {
        let dials = addresses.into_iter().map(|address| self.node.dial(address, expected));
        let mut dials = Staggered::new(dials, head_start);
        let mut failure: Option<Error> = None;
        while let Some(outcome) = dials.next().await {
            match outcome {
                Ok(connection) => return Ok(connection),
                // There is a connection to this peer already; no other address makes another.
                Err(error @ DialError::Denied) if expected.is_some() => return Err(Error::Dial { server, error }),
                Err(error) => {
                    let error = Error::Dial { server: server.clone(), error };
                    if failure.as_ref().is_none_or(|known| known.weight() < error.weight()) {
                        failure = Some(error);
                    }
                }
            }
        }
        Err(failure.unwrap_or(Error::Dial { server, error: DialError::TimedOut }))
    }

    /// The same, and finds out whether a firewall is the cause of a failure. The system says the same of a firewall
    /// that refuses packets as of a missing route, and to QUIC nothing.
    async fn dial_or_explain(
        &self,
        addresses: Vec<Multiaddr>,
        expected: Option<PeerId>,
        server: String,
    ) -> Result<Connection, Error> {
        let first = addresses.first().and_then(endpoint);
        let mut outcome = self.dial_all(addresses, expected, server, HEAD_START).await;
        if let Err(Error::Dial { error: error @ (DialError::NoRoute | DialError::TimedOut), .. }) = &mut outcome
            && let Some((ip, port, transport)) = first
            && is_prohibited(transport, (ip, port).into()).await
        {
            *error = DialError::Prohibited;
        }
        outcome
    }

    /// Remembers an error, and tells the user of the first one.
    fn note(&self, error: Error) {
        debug!(%error, "trying again");
        self.failures.send_modify(|failures| *failures += 1);
        if self.found.get().is_some() {
            return;
        }
        // While several transports are tried, one that is refused says little: another may still answer.
        let is_early = self.tries_all_transports.get() && self.started.elapsed() < USUAL_ANSWER;
        if !is_early && error.weight() > 0 && !self.has_warned.replace(true) {
            let left = self.time_limit.saturating_sub(self.started.elapsed());
            warn!("{error}; trying for another {:.0} s", left.as_secs_f64());
        }
        let mut known = self.error.borrow_mut();
        if known.as_ref().is_none_or(|known| known.weight() <= error.weight()) {
            *known = Some(error);
        }
        if let (Some(OnFailure(tell)), Some(known), false) = (&self.on_failure, &*known, is_early) {
            tell(known);
        }
    }
}

/// The transports that are tried, in words.
fn names(transports: &[Transport], is_private: bool) -> String {
    // As people say it.
    let usable = transports.iter().rev().filter(|transport| !is_private || transport.takes_secret());
    usable.map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}
