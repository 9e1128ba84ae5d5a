//! The task that owns the swarm.
//!
//! - `silence`: which connections it gives up because nothing arrives on them.

mod silence;

use std::{
    collections::{HashMap, hash_map::Entry},
    error::Error as _,
    io,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures::{
    StreamExt,
    future::{BoxFuture, OptionFuture},
    stream::FuturesUnordered,
};
use libp2p::{
    Multiaddr, PeerId, Swarm,
    core::{ConnectedPoint, Endpoint},
    mdns,
    relay::client,
    swarm::{
        ConnectionError, ConnectionId, ListenError, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tracing::debug;

use super::{
    Command, Connection, DialError, DialReply, Ending, Event, Grant, Incidents, Purpose,
    behaviour::{Behaviour, BehaviourEvent},
    boxed::Boxed,
    closed::explain,
    punching::{Punching, Step},
    reservations::Reservations,
};
use crate::{
    PeerText,
    address::without_peer,
    cluster::{AskError, Asked},
    hardening::{LogLimit, refusal},
    nat::{CircuitsEvent, is_circuit, relay_of},
    transport::Signs,
};

/// How long a node that stops waits until its connections are closed.
///
/// Long enough for the last packets to leave this machine, and short enough that stopping feels immediate.
const FAREWELL_TIMEOUT: Duration = Duration::from_millis(500);

/// How many peers that mDNS announced are remembered. Above that all are forgotten; those that are there are found
/// again.
const MAX_DISCOVERED: usize = 1024;

/// A dial in progress.
struct Dial {
    expected: Option<PeerId>,
    purpose: Purpose,
    reply: DialReply,
}

pub(super) struct EventLoop {
    swarm: Swarm<Behaviour>,
    events: mpsc::UnboundedSender<Event>,
    dials: HashMap<ConnectionId, Dial>,
    /// Gets the reason when a connection that this node made closes.
    closings: HashMap<ConnectionId, oneshot::Sender<PeerText>>,
    /// When anything of each peer last arrived.
    signs: Arc<Signs>,
    /// After how long without anything a connection is given up.
    silence: Duration,
    /// Connections that have been silent for so long, until a second look.
    suspects: FuturesUnordered<BoxFuture<'static, (PeerId, ConnectionId)>>,
    /// Connections that this node closes because their other side is silent, and for how long it is.
    silent: HashMap<ConnectionId, Duration>,
    /// What each relay granted the last circuit that it made.
    grants: HashMap<PeerId, Grant>,
    /// Connections on which keep-alives stay unanswered, and since when.
    unanswered: HashMap<ConnectionId, Instant>,
    /// The connected peers, with the address that each was reported with.
    peers: HashMap<PeerId, Multiaddr>,
    rejections: LogLimit,
    accept_failures: LogLimit,
    reservations: Reservations,
    /// What members are asked.
    asked: Asked,
    /// Of a node that leaves relays: how it does without them.
    punching: Option<Punching>,
    incidents: Arc<Incidents>,
}

impl EventLoop {
    /// With what it knows of peers' signs of life, and how long it waits for one.
    pub(super) fn new(
        swarm: Swarm<Behaviour>,
        events: mpsc::UnboundedSender<Event>,
        (signs, silence): (Arc<Signs>, Duration),
        punching: Option<Punching>,
        incidents: Arc<Incidents>,
    ) -> Self {
        Self {
            swarm,
            events,
            dials: HashMap::new(),
            closings: HashMap::new(),
            signs,
            silence,
            suspects: FuturesUnordered::new(),
            silent: HashMap::new(),
            grants: HashMap::new(),
            unanswered: HashMap::new(),
            peers: HashMap::new(),
            rejections: LogLimit::default(),
            accept_failures: LogLimit::default(),
            reservations: Reservations::default(),
            asked: Asked::default(),
            punching,
            incidents,
        }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                Some((peer, connection)) = self.suspects.next() => self.look_again(peer, connection),
                Some(step) = OptionFuture::from(self.punching.as_mut().map(Punching::next)) => self.on_step(step),
                command = inbox.recv() => match command {
                    Some(Command::Stop) | None => break,
                    Some(command) => self.on_command(command),
                },
            }
        }
        if timeout(FAREWELL_TIMEOUT, self.close_connections()).await.is_err() {
            debug!("some peers did not learn that this node stops");
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Listen { address, reply } => {
                let _ = reply.send(self.swarm.listen_on(address).map(drop).map_err(io::Error::other));
            }
            Command::Dial { address, expected, purpose, reply } => {
                self.dial(address, Dial { expected, purpose, reply });
            }
            Command::AwaitDirect { peer, reply } => match &mut self.punching {
                Some(punching) => punching.wait(&mut self.swarm, peer, reply),
                None => drop(reply.send(Err("this node stays on relays".into()))),
            },
            Command::Close(id) => drop(self.swarm.close_connection(id)),
            Command::AskDirectory { peer, request, reply } => match self.swarm.behaviour_mut().asker.as_mut() {
                Some(Boxed(exchange)) => self.asked.ask(exchange, &peer, request, reply),
                None => drop(reply.send(Err(AskError::Unsupported))),
            },
            Command::OpenStream { protocol, peer, connection, opening } => {
                self.swarm.behaviour_mut().streams.open_of(protocol, peer, connection, opening);
            }
            Command::Reserve { address, reply } => {
                if let (Some(punching), Some(relay)) = (&mut self.punching, relay_of(&address)) {
                    punching.on_relay(&mut self.swarm, relay);
                }
                self.reservations.ask(self.swarm.listen_on(address), reply);
            }
            Command::AddExternalAddress(address) => self.swarm.add_external_address(address),
            Command::Disconnect(peer) => drop(self.swarm.disconnect_peer_id(peer)),
            Command::Block(peer) => {
                self.swarm.behaviour_mut().blocked.block_peer(peer);
                // This also gives up the dials in progress.
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            Command::Allow(peers) => self.swarm.behaviour_mut().allow(&peers),
            Command::Stop => {}
        }
    }

    fn dial(&mut self, address: Multiaddr, dial: Dial) {
        // What a relay sees must be the port that a peer can reach.
        let reuses_port = self.punching.is_some();
        let options = match dial.expected {
            Some(peer) => {
                let options = DialOpts::peer_id(peer).addresses(vec![address]).condition(PeerCondition::Always);
                let options = if reuses_port { options } else { options.allocate_new_port() };
                match dial.purpose {
                    Purpose::Direct(Endpoint::Listener) => options.override_role().build(),
                    _ => options.build(),
                }
            }
            None => {
                let options = DialOpts::unknown_peer_id().address(address);
                if reuses_port { options.build() } else { options.allocate_new_port().build() }
            }
        };
        let id = options.connection_id();
        if dial.purpose != Purpose::First {
            self.swarm.behaviour_mut().limits.allow_spare(id);
        }
        match self.swarm.dial(options) {
            Ok(()) => drop(self.dials.insert(id, dial)),
            Err(error) => drop(dial.reply.send(Err(DialError::from_libp2p(&error, dial.expected)))),
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::NewListenAddr { listener_id, address } if is_circuit(&address) => {
                if let Err(unwanted) = self.reservations.on_given(listener_id, address) {
                    self.swarm.remove_listener(unwanted);
                }
            }
            SwarmEvent::NewListenAddr { address, .. } => self.tell(Event::Listening(address)),
            SwarmEvent::ExpiredListenAddr { address, .. } if is_circuit(&address) => {}
            SwarmEvent::ExpiredListenAddr { address, .. } => self.tell(Event::StoppedListening(address)),
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => self.reservations.on_closed(listener_id, reason),
            SwarmEvent::ListenerError { error, .. } => {
                self.incidents.accept_failures.fetch_add(1, Ordering::Relaxed);
                if let Some(count) = self.accept_failures.count() {
                    self.tell(Event::AcceptFailed { error: error.to_string(), count });
                }
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, cause, .. } => {
                self.on_closed(peer_id, connection_id, num_established, cause.as_ref());
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                debug!(%error, "dial failed");
                if let Some(dial) = self.dials.remove(&connection_id) {
                    let _ = dial.reply.send(Err(DialError::from_libp2p(&error, dial.expected)));
                }
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error: ListenError::Denied { cause }, .. } => {
                self.incidents.on_refused(refusal(&cause));
                if let Some(count) = self.rejections.count() {
                    let reason = cause.source().map_or_else(|| cause.to_string(), ToString::to_string);
                    self.tell(Event::Refused { address: send_back_addr, reason, count });
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::KeepAlive(event)) => self.on_keep_alive(event),
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Discovered(peers))) => self.on_discovered(peers),
            SwarmEvent::Behaviour(BehaviourEvent::Asker(event)) => self.asked.on_event(*event),
            SwarmEvent::Behaviour(BehaviourEvent::Cluster(event)) => self.tell(Event::Cluster(*event)),
            SwarmEvent::Behaviour(BehaviourEvent::Circuits(event)) => match *event {
                CircuitsEvent::Identify(event) => {
                    let swarm = &mut self.swarm;
                    self.punching.iter_mut().for_each(|punching| punching.on_identified(swarm, &event));
                }
                CircuitsEvent::Client(client::Event::OutboundCircuitEstablished { relay_peer_id, limit }) => {
                    // By the specification, zero is no limit.
                    let grant = limit.map_or_else(Grant::default, |limit| Grant {
                        time: limit.duration().filter(|time| !time.is_zero()),
                        bytes: limit.data_in_bytes().filter(|bytes| *bytes > 0),
                    });
                    self.grants.insert(relay_peer_id, grant);
                }
                other => debug!(event = ?other, "circuits"),
            },
            other => debug!(event = ?other, "swarm"),
        }
    }

    fn on_connected(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        // A client that comes through a relay has the relay's address.
        let address = match endpoint {
            ConnectedPoint::Listener { local_addr, .. } if is_circuit(local_addr) => local_addr.clone(),
            other => without_peer(other.get_remote_address().clone()),
        };
        self.punching.iter_mut().for_each(|punching| punching.on_connected(peer, id, endpoint));
        let is_dialer = matches!(endpoint, ConnectedPoint::Dialer { role_override: Endpoint::Dialer, .. });
        if is_dialer && !self.swarm.behaviour().cluster.is_enabled() {
            // The registry asks only peers whose address it knows. An inbound connection comes from a port that nothing
            // listens on, so its address is of no use. A member finds actors in the directory of its cluster, and
            // needs to ask nobody.
            self.swarm.behaviour_mut().kameo.learn(peer, &address);
        }
        if let Some(dial) = self.dials.remove(&id) {
            let (closing, closed) = oneshot::channel();
            let arrival = self.punching.as_ref().and_then(|punching| punching.arrival(&address));
            let is_reversed = arrival.is_some();
            let reached = arrival.unwrap_or_else(|| address.clone());
            let grant = relay_of(&address).and_then(|relay| self.grants.get(&relay).copied()).unwrap_or_default();
            if dial.reply.send(Ok(Connection { peer, address: reached, is_reversed, grant, id, closed })).is_err() {
                self.swarm.close_connection(id);
            } else {
                if dial.purpose == Purpose::Spare {
                    self.swarm.behaviour_mut().kameo.prefer(peer, id);
                }
                self.closings.insert(id, closing);
            }
        }
        if let Entry::Vacant(entry) = self.peers.entry(peer) {
            entry.insert(address.clone());
            self.tell(Event::PeerConnected { peer, address, is_dialed: endpoint.is_dialer() });
        }
    }

    fn on_closed(&mut self, peer: PeerId, id: ConnectionId, remaining: u32, cause: Option<&ConnectionError>) {
        let (ending, reason) = match (self.silent.remove(&id), cause) {
            (Some(silence), _) => {
                (Ending::Silent, PeerText::new(format_args!("no sign of life for {:.0} s", silence.as_secs_f64())))
            }
            (None, Some(cause)) => explain(cause),
            (None, None) => (Ending::Closed, "it was closed".into()),
        };
        debug!(%peer, %reason, "connection closed");
        self.unanswered.remove(&id);
        self.punching.iter_mut().for_each(|punching| punching.on_closed(id));
        if let Some(closing) = self.closings.remove(&id) {
            let _ = closing.send(reason);
        }
        if remaining == 0
            && let Some(address) = self.peers.remove(&peer)
        {
            self.tell(Event::PeerDisconnected { peer, address, ending });
        }
    }

    /// Goes on with a direct connection beside one through a relay.
    fn on_step(&mut self, step: Step) {
        let Some(punching) = &mut self.punching else { return };
        match step {
            Step::Propose { via, attempt } => punching.propose(&mut self.swarm, via, attempt),
            Step::Answer(proposal) => punching.answer(&self.swarm, proposal),
            Step::Exchanged { peer, role, outcome } => {
                for (address, reply) in punching.dials(peer, role, outcome) {
                    self.dial(address, Dial { expected: Some(peer), purpose: Purpose::Direct(role), reply });
                }
            }
            // A peer that dials this node decides what to do with the connection.
            Step::Dialed { role: Endpoint::Listener, .. } => {}
            Step::Dialed { peer, outcome, .. } => {
                punching.on_dialed(&mut self.swarm, peer, outcome);
            }
            Step::GiveUp(peer) => punching.give_up(&self.swarm, peer),
            Step::CameBack(inbound) => punching.hear(inbound),
            Step::Tested { address, by, is_reached } => self.tell(Event::Tested { address, by, is_reached }),
            Step::NotTested(address) => punching.on_not_tested(&address),
            Step::Done => {}
        }
    }

    fn on_discovered(&mut self, peers: Vec<(PeerId, Multiaddr)>) {
        for (peer, address) in peers {
            self.tell(Event::Discovered { peer, address });
        }
        // mDNS itself remembers every announcement for as long as the announcement says.
        if let Some(mdns) = self.swarm.behaviour_mut().mdns.as_mut() {
            mdns.limit(MAX_DISCOVERED);
        }
    }

    fn tell(&self, event: Event) {
        // The program may have dropped its receiver.
        let _ = self.events.send(event);
    }

    /// Closes all connections in order, and waits until they are closed.
    async fn close_connections(&mut self) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        while self.swarm.network_info().num_peers() > 0 {
            let event = self.swarm.select_next_some().await;
            self.on_event(event);
        }
    }
}
