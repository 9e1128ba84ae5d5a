//! The steps from a name to a pong, in the order in which a ping takes them.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant, SystemTime},
};

use futures::future::join_all;
use kameo::actor::RemoteActorRef;
use libp2p::{Multiaddr, PeerId};
use ping_core::{
    Connection, Event, Node, PingActor, ServerAddress, Transport,
    protocol::Ping,
    transport::{Interfaces, source_of},
};
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot::error::TryRecvError},
    time::{sleep, timeout},
};

use super::{
    Check, DoctorArgs, Outcome,
    name_servers::{ask, name_servers},
};
use crate::{
    args::Target,
    error::{Error, PingError},
    find::{Finder, speaks_kameo},
    pinger::{About, Host, about, host_of},
    units::ms,
};

/// How long a step may take that waits for an answer.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// How many of those that answer by mDNS are named.
const MAX_NAMED: usize = 8;

/// How long to listen for the answers of mDNS.
const MDNS_TIME: Duration = Duration::from_millis(1500);

/// How long a payload may take, in round trips of a ping that has just been answered, and at least.
const SIZE_ROUND_TRIPS: u32 = 8;
const SIZE_TIMEOUT: Duration = Duration::from_secs(1);

/// How far two clocks may differ before that is worth a word.
const MAX_SKEW: Duration = Duration::from_secs(1);

/// Walks the steps.
pub(super) struct Checks<'a> {
    args: &'a DoctorArgs,
    pub(super) node: &'a Node,
    events: mpsc::UnboundedReceiver<Event>,
    steps: Vec<Check>,
}

impl<'a> Checks<'a> {
    pub(super) fn new(args: &'a DoctorArgs, node: &'a Node, events: mpsc::UnboundedReceiver<Event>) -> Self {
        Self { args, node, events, steps: Vec::new() }
    }

    pub(super) fn into_steps(self) -> Vec<Check> {
        self.steps
    }

    /// Takes all steps, as far as they lead.
    pub(super) async fn run(&mut self, is_mdns_port_taken: bool) {
        let connection = match &self.args.target {
            Target::At(server) => self.by_address(server).await,
            Target::Ticket(ticket) => self.by_ticket(ticket).await,
            // The command line was checked.
            Target::Peer(_) => None,
        };
        if let Some(mut connection) = connection {
            self.identity(connection.peer);
            if let Some(actor) = self.find(&mut connection).await {
                self.ping(&actor, &connection).await;
            }
        }
        self.mdns(is_mdns_port_taken).await;
    }

    async fn by_address(&mut self, server: &ServerAddress) -> Option<Connection> {
        let ips = self.resolve(server).await?;
        self.connect(server, &ips).await
    }

    pub(super) fn add(&mut self, step: &'static str, outcome: Outcome, time: Option<Duration>, detail: impl ToString) {
        let detail = detail.to_string();
        self.steps.push(Check { step, outcome, ms: time.map(ms), detail });
    }

    async fn resolve(&mut self, server: &ServerAddress) -> Option<Vec<IpAddr>> {
        let began = Instant::now();
        let resolved = timeout(STEP_TIMEOUT, server.resolve()).await;
        let took = Some(began.elapsed());
        let host = server.host();
        if host.parse::<IpAddr>().is_err() {
            self.name_servers(&host).await;
        }
        match resolved {
            Ok(Ok(ips)) => {
                let list: Vec<_> = ips.iter().map(ToString::to_string).collect();
                let detail = if list == [host.clone()] { "an IP address".into() } else { list.join(", ") };
                self.add("resolve", Outcome::Passed, took, detail);
                Some(ips)
            }
            Ok(Err(error)) => {
                self.add("resolve", Outcome::Failed, took, format!("{host} does not resolve: {error}"));
                None
            }
            Err(_) => {
                self.add("resolve", Outcome::Failed, took, format!("no name server answers for {host}"));
                None
            }
        }
    }

    /// What each name server of this machine says, and how fast.
    async fn name_servers(&mut self, name: &str) {
        let servers = name_servers();
        let answers = join_all(servers.iter().map(|server| ask(*server, name))).await;
        for (server, answer) in servers.iter().zip(answers) {
            match answer {
                Ok((answer, time)) => {
                    self.add("name server", Outcome::Passed, Some(time), format!("{server} {answer}"));
                }
                Err(error) => {
                    self.add("name server", Outcome::NotNeeded, None, format!("{server} does not answer: {error}"));
                }
            }
        }
    }

    /// Tries every address over every transport that was asked for. Returns the connection that a ping would use.
    async fn connect(&mut self, server: &ServerAddress, ips: &[IpAddr]) -> Option<Connection> {
        let (first, interfaces) = (self.steps.len(), Interfaces::now());
        // TCP first: a refusal tells more than silence.
        let transports: Vec<_> = server
            .transports()
            .iter()
            .copied()
            .rev()
            .filter(|transport| transport.takes_secret() || !self.node.is_private())
            .collect();
        // The connection that stands, and where the last one led.
        let (mut last, mut used): (Option<Connection>, _) = (None, None);
        let mut hosts: Vec<(IpAddr, PeerId, Host)> = Vec::new();
        for &ip in ips {
            // Neither step says more of a link-local address, whose interface is given, than the dial does.
            let is_given = server.host().contains('%');
            match if is_given { Ok(ip) } else { source_of(ip) } {
                Ok(_) if is_given => {}
                Ok(source) => {
                    let interface = interfaces.name(source).unwrap_or("an unknown interface");
                    self.add("route", Outcome::Passed, None, format!("to {ip} from {source} on {interface}"));
                }
                Err(error) => {
                    self.add("route", Outcome::Failed, None, format!("no route to {ip}: {error}"));
                    continue;
                }
            }
            for &transport in &transports {
                if transport != Transport::Quic && !is_given && !self.tcp((ip, server.port).into()).await {
                    continue;
                }
                // A node has one connection with a peer.
                if let Some(before) = last.take() {
                    self.leave(before).await;
                }
                if let Some(connection) = self.dial(server, transport, ip).await {
                    if ips.len() > 1 {
                        let peer = connection.peer;
                        hosts.extend(self.host(peer).await.map(|host| (ip, peer, host)));
                    }
                    used = Some((connection.address.clone(), connection.peer));
                    last = Some(connection);
                }
            }
        }
        if used.is_some() {
            self.forgive(first);
        }
        self.twins(&hosts);
        let (address, peer) = used?;
        if let Some(mut connection) = last
            && connection.closed.try_recv() == Err(TryRecvError::Empty)
        {
            return Some(connection);
        }
        // It made way for one that failed.
        self.node.dial(address, Some(peer)).await.ok()
    }

    /// One way is enough: what failed since this step is not needed.
    pub(super) fn forgive(&mut self, first: usize) {
        let failed = self.steps[first..].iter_mut().filter(|check| check.outcome == Outcome::Failed);
        failed.for_each(|check| check.outcome = Outcome::NotNeeded);
    }

    /// How many steps there are so far.
    pub(super) fn count(&self) -> usize {
        self.steps.len()
    }

    /// The process that hosts the peer's actor.
    async fn host(&self, peer: PeerId) -> Option<Host> {
        let finder = Finder::new(self.node, &self.args.search.name, STEP_TIMEOUT);
        let (actor, _) = timeout(STEP_TIMEOUT, finder.look_up_once(peer)).await.ok()?.ok()?;
        host_of(&actor).await
    }

    /// Whether addresses with one identity lead to two machines.
    fn twins(&mut self, hosts: &[(IpAddr, PeerId, Host)]) {
        let pairs = hosts.iter().enumerate().flat_map(|(n, later)| hosts[..n].iter().map(move |first| (first, later)));
        for ((first, first_peer, first_host), (later, peer, host)) in pairs {
            if peer == first_peer && host.is_twin_of(first_host) {
                let detail = format!("{first} and {later} are two machines with one identity; give one another key");
                return self.add("machine", Outcome::Failed, None, detail);
            }
        }
    }

    async fn tcp(&mut self, socket: SocketAddr) -> bool {
        let began = Instant::now();
        let connected = timeout(STEP_TIMEOUT, TcpStream::connect(socket)).await;
        let took = Some(began.elapsed());
        let (outcome, detail) = match connected {
            Ok(Ok(_)) => (Outcome::Passed, format!("{socket} accepts connections")),
            Ok(Err(error)) => (Outcome::Failed, format!("{socket}: {error}")),
            Err(_) => (Outcome::Failed, format!("{socket}: no answer; a firewall may drop the packets")),
        };
        self.add("tcp", outcome, took, detail);
        outcome == Outcome::Passed
    }

    /// Makes a secure connection.
    async fn dial(&mut self, server: &ServerAddress, transport: Transport, ip: IpAddr) -> Option<Connection> {
        let step = match transport {
            Transport::Quic => "quic",
            Transport::Tcp => "secure tcp",
            Transport::Ws | Transport::Wss => "websocket",
        };
        self.dial_at(step, server.multiaddr_at(ip, transport), server.peer).await
    }

    /// The same at a multiaddr.
    pub(super) async fn dial_at(
        &mut self,
        step: &'static str,
        address: Multiaddr,
        expected: Option<PeerId>,
    ) -> Option<Connection> {
        let began = Instant::now();
        let dialed = self.node.dial(address.clone(), expected).await;
        let took = Some(began.elapsed());
        match dialed {
            Ok(connection) => {
                self.add(step, Outcome::Passed, took, format!("handshake with {}", connection.peer));
                Some(connection)
            }
            Err(error) => {
                let error = Error::Dial { server: format!("{address}"), error };
                self.add(step, Outcome::Failed, took, format!("{error}. {}", error.help()));
                None
            }
        }
    }

    fn identity(&mut self, peer: PeerId) {
        let detail = match &self.args.target {
            Target::At(ServerAddress { peer: Some(_), .. }) | Target::Ticket(_) => format!("{peer}, as required"),
            _ => format!("{peer}, unchecked; /p2p/{peer} at the end of the address requires it"),
        };
        self.add("identity", Outcome::Passed, None, detail);
    }

    async fn find(&mut self, connection: &mut Connection) -> Option<RemoteActorRef<PingActor>> {
        let (peer, began) = (connection.peer, Instant::now());
        let speaks = speaks_kameo(peer).await;
        let (outcome, detail) = match speaks {
            true => (Outcome::Passed, "the peer speaks Kameo's protocol"),
            false => (Outcome::Failed, "the peer does not speak Kameo's protocol: it is another libp2p program"),
        };
        self.add("kameo", outcome, Some(began.elapsed()), detail);
        if !speaks {
            return None;
        }
        let began = Instant::now();
        let finder = Finder::new(self.node, &self.args.search.name, STEP_TIMEOUT);
        let found = finder.within_limit(finder.look_up_once(peer), || Error::NoLookUp { peer }).await;
        let took = Some(began.elapsed());
        match found {
            Ok((actor, _)) => {
                self.add("registry", Outcome::Passed, took, format!("names {} on this peer", self.args.search.name));
                Some(actor)
            }
            Err(error) => {
                // What was asked on a connection that the server closes has no answer.
                let is_open = connection.closed.try_recv() == Err(TryRecvError::Empty);
                let error = if is_open { error } else { Error::TurnedAway { peer, ours: self.node.peer() } };
                self.add("registry", Outcome::Failed, took, format!("{error}. {}", error.help()));
                None
            }
        }
    }

    /// Asks the actor about itself, and pings it once without a payload, and with larger ones.
    async fn ping(&mut self, actor: &RemoteActorRef<PingActor>, connection: &Connection) {
        let asked = SystemTime::now();
        let began = Instant::now();
        let told = about(actor).await;
        let took = began.elapsed();
        let card = match told {
            Ok(About::Card(card)) => {
                let detail = format!("version {}, has counted {} pings", card.version, card.total_pings);
                self.add("actor", Outcome::Passed, Some(took), detail);
                Some(card)
            }
            Ok(About::OtherProgram) => {
                self.add("actor", Outcome::NotNeeded, Some(took), "it belongs to another Kameo program");
                None
            }
            Ok(About::Unknown) => {
                self.add("actor", Outcome::NotNeeded, Some(took), "it does not say anything of itself");
                None
            }
            Err(error) => {
                self.add("actor", Outcome::NotNeeded, Some(took), error);
                None
            }
        };
        if let Some(time) = card.as_ref().and_then(|card| card.time) {
            self.clock(asked + took / 2, time);
        }
        let began = Instant::now();
        let ping = Ping { message: "PING".into(), sequence: 1 };
        let (outcome, detail) = match timeout(STEP_TIMEOUT, actor.ask(&ping).send()).await {
            Ok(Ok(pong)) => (Outcome::Passed, format!("total pings: {}", pong.total_pings)),
            Ok(Err(error)) => (Outcome::Failed, PingError::from_kameo(&error).to_string()),
            Err(_) => (Outcome::Failed, PingError::TimedOut { timeout: Some(STEP_TIMEOUT) }.to_string()),
        };
        let took = began.elapsed();
        self.add("ping", outcome, Some(took), detail);
        if outcome == Outcome::Passed && card.is_some() {
            self.sizes(actor, connection, SIZE_TIMEOUT.max(SIZE_ROUND_TRIPS * took)).await;
        }
    }

    fn clock(&mut self, here: SystemTime, there: u64) {
        let Some(there) = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(there)) else {
            return self.add("clock", Outcome::NotNeeded, None, "the server's is set to no time of this age");
        };
        let (skew, which) = match there.duration_since(here) {
            Ok(ahead) => (ahead, "ahead of"),
            Err(behind) => (behind.duration(), "behind"),
        };
        let detail = format!("the server's is {:.3} s {which} this one", skew.as_secs_f64());
        self.add("clock", if skew < MAX_SKEW { Outcome::Passed } else { Outcome::NotNeeded }, None, detail);
    }

    async fn mdns(&mut self, is_port_taken: bool) {
        if is_port_taken {
            return self.add("mdns", Outcome::NotNeeded, None, "another program has UDP port 5353 for itself");
        }
        let mut peers: Vec<(PeerId, Multiaddr)> = Vec::new();
        let listening = async {
            while let Some(event) = self.events.recv().await {
                if let Event::Discovered { peer, address } = event
                    && peers.iter().all(|(known, _)| *known != peer)
                {
                    peers.push((peer, address));
                }
            }
        };
        tokio::select! {
            () = listening => {}
            () = sleep(MDNS_TIME) => {}
        }
        let (outcome, detail) = match peers.is_empty() {
            true => (Outcome::NotNeeded, "nobody answers on this network".into()),
            false => {
                let mut list: Vec<_> = peers.iter().take(MAX_NAMED).map(|(_, address)| address.to_string()).collect();
                if peers.len() > MAX_NAMED {
                    list.push(format!("and {} more", peers.len() - MAX_NAMED));
                }
                (Outcome::Passed, format!("answered by {}", list.join(", ")))
            }
        };
        self.add("mdns", outcome, None, detail);
    }
}
