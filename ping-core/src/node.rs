//! One libp2p swarm in a task of its own, and the handle that programs hold.
//!
//! The swarm belongs to its task. Programs send it commands through [`Node`] and get [`Event`]s back; actors reach it
//! through Kameo, which keeps one swarm for the whole process.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    error::Error as _,
    io,
    time::Duration,
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Stream, Swarm,
    core::{ConnectedPoint, upgrade::Version},
    identity::Keypair,
    mdns,
    multiaddr::Protocol,
    ping,
    swarm::{
        self, ConnectionError, ConnectionId, ListenError, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tracing::{debug, warn};

use crate::{
    behaviour::{Behaviour, BehaviourEvent, Options},
    complaints::Complaints,
    contain,
    dial::DialFailure,
    stream::{Ended, behaviour::Opening},
    transport,
};

/// How long a node that stops waits for its peers to hear of it.
///
/// Long enough for the farewell to leave this machine, and short enough that stopping feels immediate.
const FAREWELL: Duration = Duration::from_millis(500);

/// How long a connection may lie idle: for ever, in effect. Clients may ping once an hour; the keep-alive, not the
/// idle time, finds out whether they are still there.
const IDLE: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// How many addresses that mDNS announced are remembered. More than a network has are forgotten, all of them: whoever is there is
/// found again.
const MAX_DISCOVERED: usize = 1024;

/// What a node tells its program, in the order in which it happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The node can be reached at this address of this machine.
    Listening(Multiaddr),
    /// The node can no longer be reached at this address.
    StoppedListening(Multiaddr),
    /// A peer that was not connected is now.
    PeerConnected {
        /// Its identity.
        peer: PeerId,
        /// The address that it came from, or was reached at.
        address: Multiaddr,
    },
    /// The last connection to a peer is gone.
    PeerDisconnected {
        /// Its identity.
        peer: PeerId,
        /// The address that it was announced with when it connected.
        address: Multiaddr,
    },
    /// A peer gave a sign of life.
    RoundTrip {
        /// Its identity.
        peer: PeerId,
        /// The bare round trip of the connection: libp2p's ping protocol, without any actor.
        time: Duration,
    },
    /// mDNS found a peer on the local network.
    Discovered {
        /// Its identity.
        peer: PeerId,
        /// One of the addresses that it says it listens on.
        address: Multiaddr,
    },
}

/// A connection that this node made.
#[derive(Debug)]
pub struct Connection {
    /// The identity that the other side proved.
    pub peer: PeerId,
    /// The address at which it was reached, without the `/p2p/` part.
    pub address: Multiaddr,
    /// Resolves when the connection is gone, to the reason.
    pub closed: oneshot::Receiver<String>,
}

enum Command {
    Listen { address: Multiaddr, reply: oneshot::Sender<io::Result<()>> },
    Dial { address: Multiaddr, expected: Option<PeerId>, reply: oneshot::Sender<Result<Connection, DialFailure>> },
    OpenStream { peer: PeerId, opening: Opening },
    Disconnect(PeerId),
    Block(PeerId),
    Stop,
}

/// The handle on a running node. Dropping it stops the node.
#[derive(Debug)]
pub struct Node {
    peer: PeerId,
    is_private: bool,
    commands: mpsc::UnboundedSender<Command>,
    task: JoinHandle<()>,
}

impl Node {
    /// Starts the process's node and makes it the one that Kameo sends and receives by. Panics that the node contains are logged instead
    /// of printed from then on.
    ///
    /// # Errors
    ///
    /// When this process has a node already, or mDNS cannot be set up.
    pub fn start(keypair: &Keypair, options: Options) -> io::Result<(Self, mpsc::UnboundedReceiver<Event>)> {
        contain::quieten();
        let key = keypair.public();
        let is_private = options.secret.is_some();
        let transport = transport::new(keypair, options.listens, options.secret);
        let behaviour = Behaviour::new(&key, options)?;
        behaviour.kameo.kameo().try_init_global().map_err(io::Error::other)?;
        let config = swarm::Config::with_tokio_executor()
            // A request goes out right behind the name of its protocol: one round trip, not two.
            .with_substream_upgrade_protocol_override(Version::V1Lazy)
            .with_idle_connection_timeout(IDLE);
        let swarm = Swarm::new(transport, behaviour, key.to_peer_id(), config);
        let (commands, inbox) = mpsc::unbounded_channel();
        let (events, outbox) = mpsc::unbounded_channel();
        let looping = EventLoop {
            swarm,
            events,
            dials: HashMap::new(),
            closings: HashMap::new(),
            silent: HashSet::new(),
            peers: HashMap::new(),
            denied: Complaints::default(),
        };
        let task = tokio::spawn(looping.run(inbox));
        Ok((Self { peer: key.to_peer_id(), is_private, commands, task }, outbox))
    }

    /// This node's own identity.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Whether the node has the key of a private network, and so no QUIC.
    pub fn is_private(&self) -> bool {
        self.is_private
    }

    /// Starts to listen on an address; a wildcard IP address stands for every address of this machine.
    ///
    /// Each address that results is reported as [`Event::Listening`].
    ///
    /// # Errors
    ///
    /// When the system refuses, or the address names no transport that a node speaks.
    pub async fn listen(&self, address: Multiaddr) -> io::Result<()> {
        self.ask(|reply| Command::Listen { address, reply })
            .await
            .unwrap_or_else(|| Err(io::Error::other("the node stopped")))
    }

    /// Connects to an address, to the peer `expected` there or to whichever there is.
    ///
    /// The peer is then known to the registry. Dropping the future gives the attempt up: a connection that comes of it
    /// after all is closed.
    ///
    /// # Errors
    ///
    /// Says why the one attempt failed; it is not repeated.
    pub async fn dial(&self, address: Multiaddr, expected: Option<PeerId>) -> Result<Connection, DialFailure> {
        self.ask(|reply| Command::Dial { address, expected, reply }).await.unwrap_or(Err(DialFailure::Stopped))
    }

    /// Opens a [`stream`](crate::stream) to a connected peer.
    ///
    /// # Errors
    ///
    /// When there is no connection, or it fails. That the peer does not speak the protocol may show only when the
    /// stream is read from.
    pub(crate) async fn open_stream(&self, peer: PeerId) -> Result<Stream, Ended> {
        self.ask(|opening| Command::OpenStream { peer, opening }).await.unwrap_or(Err(Ended::NotConnected))
    }

    /// Closes every connection to a peer.
    pub fn disconnect(&self, peer: PeerId) {
        let _ = self.commands.send(Command::Disconnect(peer));
    }

    /// Closes every connection to a peer, and makes and takes none any more.
    pub fn block(&self, peer: PeerId) {
        let _ = self.commands.send(Command::Block(peer));
    }

    /// Tells every connected peer that this node goes, and stops it.
    pub async fn stop(mut self) {
        let _ = self.commands.send(Command::Stop);
        let _ = (&mut self.task).await;
    }

    /// Waits until the node's task ends by itself, which it does only by a panic, and says which. The node is then of no
    /// more use: drop it.
    pub async fn failed(&mut self) -> String {
        match (&mut self.task).await {
            Ok(()) => "it ended".into(),
            Err(error) => error.to_string(),
        }
    }

    /// Sends a command and awaits its answer, or `None` if the node is gone.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).ok()?;
        answer.await.ok()
    }
}

/// A dial under way: who is expected to answer, and who waits for the outcome.
struct Dial {
    expected: Option<PeerId>,
    reply: oneshot::Sender<Result<Connection, DialFailure>>,
}

struct EventLoop {
    swarm: Swarm<Behaviour>,
    events: mpsc::UnboundedSender<Event>,
    dials: HashMap<ConnectionId, Dial>,
    /// Who wants to hear of the end of a connection that this node made.
    closings: HashMap<ConnectionId, oneshot::Sender<String>>,
    /// Connections that this node closes because their other side is silent.
    silent: HashSet<ConnectionId>,
    /// The connected peers, each with the address that it was announced with.
    peers: HashMap<PeerId, Multiaddr>,
    /// Connections that were one too many.
    denied: Complaints,
}

impl EventLoop {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_event(event),
                command = inbox.recv() => match command {
                    Some(Command::Stop) | None => break,
                    Some(command) => self.on_command(command),
                },
            }
        }
        if timeout(FAREWELL, self.say_farewell()).await.is_err() {
            debug!("some peers did not hear that this node stops");
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Listen { address, reply } => {
                let _ = reply.send(self.swarm.listen_on(address).map(drop).map_err(io::Error::other));
            }
            Command::Dial { address, expected, reply } => self.dial(address, Dial { expected, reply }),
            Command::OpenStream { peer, opening } => self.swarm.behaviour_mut().streams.open(peer, opening),
            Command::Disconnect(peer) => drop(self.swarm.disconnect_peer_id(peer)),
            Command::Block(peer) => {
                self.swarm.behaviour_mut().blocked.block_peer(peer);
                // This also gives up the dials that are under way.
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            Command::Stop => {}
        }
    }

    fn dial(&mut self, address: Multiaddr, dial: Dial) {
        let options = match dial.expected {
            Some(peer) => DialOpts::peer_id(peer)
                .addresses(vec![address])
                .condition(PeerCondition::Always)
                .allocate_new_port()
                .build(),
            None => DialOpts::unknown_peer_id().address(address).allocate_new_port().build(),
        };
        let id = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => drop(self.dials.insert(id, dial)),
            Err(error) => drop(dial.reply.send(Err(DialFailure::from_dial_error(&error, dial.expected)))),
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => self.tell(Event::Listening(address)),
            SwarmEvent::ExpiredListenAddr { address, .. } => self.tell(Event::StoppedListening(address)),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, cause, .. } => {
                let reason = match &cause {
                    _ if self.silent.remove(&connection_id) => SILENCE.into(),
                    Some(cause) => why_closed(cause),
                    None => "it was closed".into(),
                };
                self.on_closed(peer_id, connection_id, num_established, reason);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                debug!(%error, "dial failed");
                if let Some(dial) = self.dials.remove(&connection_id) {
                    let _ = dial.reply.send(Err(DialFailure::from_dial_error(&error, dial.expected)));
                }
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error: ListenError::Denied { cause }, .. } => {
                if let Some(count) = self.denied.add() {
                    let why = cause.source().map_or_else(|| cause.to_string(), ToString::to_string);
                    warn!("Turned away a connection from {send_back_addr}: {why} ({count} such so far)");
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::KeepAlive(ping::Event { peer, connection, result })) => {
                match result {
                    Ok(time) => self.tell(Event::RoundTrip { peer, time }),
                    Err(failure) => self.on_silent(connection, &failure),
                }
            }
            SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Discovered(peers))) => {
                for (peer, address) in peers {
                    self.tell(Event::Discovered { peer, address });
                }
                self.forget_discovered();
            }
            other => debug!(event = ?other, "swarm"),
        }
    }

    /// mDNS itself remembers whatever is announced, for as long as the announcement says.
    fn forget_discovered(&mut self) {
        if let Some(mdns) = self.swarm.behaviour_mut().mdns.as_mut()
            && mdns.discovered_nodes().len() > MAX_DISCOVERED
        {
            let peers: HashSet<PeerId> = mdns.discovered_nodes().copied().collect();
            #[allow(deprecated, reason = "there is no other way, and it works")]
            peers.iter().for_each(|peer| mdns.expire_node(peer));
        }
    }

    fn on_connected(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let address = without_peer(endpoint.get_remote_address().clone());
        if endpoint.is_dialer() {
            // The registry asks only peers whose address it knows. Inbound connections come from ports that no one
            // listens on, so their addresses are of no use to it.
            self.swarm.behaviour_mut().kameo.learn(peer, &address);
        }
        if let Some(dial) = self.dials.remove(&id) {
            let (closing, closed) = oneshot::channel();
            if dial.reply.send(Ok(Connection { peer, address: address.clone(), closed })).is_err() {
                self.swarm.close_connection(id);
            } else {
                self.closings.insert(id, closing);
            }
        }
        if let Entry::Vacant(entry) = self.peers.entry(peer) {
            entry.insert(address.clone());
            self.tell(Event::PeerConnected { peer, address });
        }
    }

    fn on_closed(&mut self, peer: PeerId, id: ConnectionId, remaining: u32, reason: String) {
        debug!(%peer, reason, "connection closed");
        if let Some(closing) = self.closings.remove(&id) {
            let _ = closing.send(reason);
        }
        if remaining == 0
            && let Some(address) = self.peers.remove(&peer)
        {
            self.tell(Event::PeerDisconnected { peer, address });
        }
    }

    /// Ends a connection whose other side gave no sign of life. Any other failure is left alone: lazy negotiation makes
    /// a peer that does not speak the keep-alive protocol, as many Kameo nodes do not, look like an I/O error.
    fn on_silent(&mut self, id: ConnectionId, failure: &ping::Failure) {
        debug!(%failure, "keep-alive failed");
        if matches!(failure, ping::Failure::Timeout) && self.swarm.close_connection(id) {
            self.silent.insert(id);
        }
    }

    fn tell(&self, event: Event) {
        // A program that dropped its receiver does not want to know.
        let _ = self.events.send(event);
    }

    /// Closes all connections in an orderly way and waits until they are closed.
    async fn say_farewell(&mut self) {
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

/// Why a connection ended that had fallen silent.
const SILENCE: &str = "nothing was heard from the other side any more";

/// The end of a connection in plain words.
fn why_closed(cause: &ConnectionError) -> String {
    match cause {
        ConnectionError::KeepAliveTimeout => "it was idle for too long".into(),
        ConnectionError::IO(error) => {
            let text = error.to_string();
            // TCP, yamux, TLS, Noise and QUIC each have words of their own for the same two things.
            if text.contains("timed out") {
                SILENCE.into()
            } else if ["closed", "reset", "Broken pipe", "end of file", "eof"].iter().any(|end| text.contains(end)) {
                "the other side closed it".into()
            } else {
                text
            }
        }
    }
}

/// An address without the peer id at its end, if it has one.
pub fn without_peer(address: Multiaddr) -> Multiaddr {
    address.into_iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect()
}
