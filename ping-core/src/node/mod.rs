//! One libp2p swarm in a task of its own, and the handle that programs hold.
//!
//! The swarm belongs to its task, `event_loop`, and `executor` runs its connections. Programs send it commands through
//! [`Node`] and get [`Event`]s back; actors reach it through Kameo, which has one swarm for the whole process.

mod behaviour;
mod boxed;
mod closed;
mod dial_error;
mod discovery;
mod event;
mod event_loop;
mod executor;
mod keep_alive;
mod mdns_query;
mod options;
mod punching;
mod reservations;
mod staggered;

use std::{
    collections::HashSet,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm,
    core::{Endpoint, upgrade::Version},
    identity::Keypair,
    relay,
    swarm::{self, ConnectionId},
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    PeerText,
    cluster::{
        AskError, Cluster,
        messages::{Request, Response},
    },
    hardening::{Memory, install_panic_hook},
    protocol::STREAM_PROTOCOL,
    stream::{Ended, behaviour::Opening},
    transport::{self, Setup, Signs},
};
use behaviour::Behaviour;
use event_loop::EventLoop;
pub(crate) use executor::FairExecutor;
pub(crate) use keep_alive::KeepAlive;
use punching::{DirectReply, Punching};

pub use crate::transport::Traffic;
pub use dial_error::{DialError, RelayFailure};
pub use discovery::is_mdns_port_taken;
pub use event::{Ending, Event, Incidents};
pub use mdns_query::ask_mdns;
pub use options::{DIALER_MEMORY, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, Options, REQUEST_TIMEOUT};
pub use staggered::Staggered;

/// How long an idle connection lives: for ever, in effect. A client may ping once an hour; the keep-alive finds out
/// whether it is still there.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60 * 60 * 24 * 365);

/// A connection that this node made.
#[derive(Debug)]
pub struct Connection {
    /// The identity that the other side proved.
    pub peer: PeerId,
    /// The address at which it was reached, without the `/p2p/` part.
    pub address: Multiaddr,
    /// Whether the other side came from there while this node dialed it.
    pub is_reversed: bool,
    /// What a relay grants it, if one carries it.
    pub grant: Grant,
    /// What this node calls it.
    pub id: ConnectionId,
    /// Resolves to the reason when the connection closes.
    pub closed: oneshot::Receiver<PeerText>,
}

/// How much a relay carries of a connection, as far as it says so.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Grant {
    /// For how long.
    pub time: Option<Duration>,
    /// How many bytes: in each direction by the specification, in both together by libp2p's own relay.
    pub bytes: Option<u64>,
}

/// A place on a relay, which is renewed for as long as the connection to the relay lasts.
#[derive(Debug)]
pub struct Reservation {
    /// Where others reach this node through the relay, without the `/p2p/` part of this node.
    pub address: Multiaddr,
    /// Resolves to the reason when the place is lost.
    pub lost: oneshot::Receiver<String>,
}

/// Gets the outcome of a dial.
type DialReply = oneshot::Sender<Result<Connection, DialError>>;

/// What a connection is made for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Purpose {
    /// To be the one connection to a peer.
    First,
    /// To stand beside another one, and to get the requests from then on.
    Spare,
    /// To leave a relay. Both sides dial each other at once, so one of them has to act as the listener. Which of
    /// several such connections gets the requests is decided when they stand.
    Direct(Endpoint),
}

/// What a program asks of its node.
enum Command {
    Listen { address: Multiaddr, reply: oneshot::Sender<io::Result<()>> },
    Dial { address: Multiaddr, expected: Option<PeerId>, purpose: Purpose, reply: DialReply },
    AwaitDirect { peer: PeerId, reply: DirectReply },
    Close(ConnectionId),
    AskDirectory { peer: PeerId, request: Request, reply: oneshot::Sender<Result<Response, AskError>> },
    OpenStream { protocol: StreamProtocol, peer: PeerId, connection: ConnectionId, opening: Opening },
    Reserve { address: Multiaddr, reply: oneshot::Sender<Result<Reservation, String>> },
    AddExternalAddress(Multiaddr),
    Disconnect(PeerId),
    Block(PeerId),
    Allow(HashSet<PeerId>),
    Stop,
}

/// The handle of a running node. Dropping it stops the node.
#[derive(Debug)]
pub struct Node {
    peer: PeerId,
    is_private: bool,
    memory: Arc<Memory>,
    signs: Arc<Signs>,
    cluster: Option<Cluster>,
    incidents: Arc<Incidents>,
    commands: mpsc::UnboundedSender<Command>,
    /// The reason why the node's task has ended, once it has.
    ended: watch::Receiver<Option<String>>,
}

impl Node {
    /// Starts the process's node, and makes it the one that Kameo sends and receives through. From then on, panics that
    /// the node isolates are logged instead of printed, and [`culprit`](crate::hardening::culprit) knows of the others.
    ///
    /// # Errors
    ///
    /// When this process has a node already, or mDNS cannot be set up.
    pub fn start(keypair: &Keypair, options: Options) -> io::Result<(Self, mpsc::UnboundedReceiver<Event>)> {
        install_panic_hook();
        let is_private = options.secret.is_some();
        let memory = Memory::new(options.max_memory);
        let signs = Arc::new(Signs::default());
        let (circuits, relay) = options.uses_relays.then(|| relay::client::new(keypair.public().to_peer_id())).unzip();
        let known = (memory.clone(), signs.clone());
        let setup = Setup {
            sources: options.dial_from.clone(),
            certificate: options.certificate.clone(),
            ..Setup::new(keypair, options.listens, options.secret, known)
        };
        let transport = transport::new(&setup, circuits)?;
        let silence = options.keep_alive_timeout.saturating_mul(2);
        let (proposing, proposals) = options.leaves_relays.then(mpsc::unbounded_channel).unzip();
        let asks = options.leaves_relays && options.listens;
        let (returning, returns) = asks.then(mpsc::unbounded_channel).unzip();
        let (behaviour, cluster) = Behaviour::new(keypair, options, relay, (proposing, returning))?;
        behaviour.kameo.kameo().try_init_global().map_err(io::Error::other)?;
        let config = swarm::Config::with_executor(FairExecutor::default())
            // A request follows right behind the name of its protocol: one round trip, not two.
            .with_substream_upgrade_protocol_override(Version::V1Lazy)
            .with_idle_connection_timeout(IDLE_TIMEOUT);
        let peer = keypair.public().to_peer_id();
        let swarm = Swarm::new(transport, behaviour, peer, config);
        let incidents = Arc::<Incidents>::default();
        let (commands, inbox) = mpsc::unbounded_channel();
        let (events, outbox) = mpsc::unbounded_channel();
        let punching = proposals.map(|proposals| Punching::new(proposals, returns, setup.arrivals));
        let task = tokio::spawn(
            EventLoop::new(swarm, events, (signs.clone(), silence), punching, incidents.clone()).run(inbox),
        );
        let (ending, ended) = watch::channel(None);
        tokio::spawn(async move {
            let reason = task.await.err().map_or_else(|| "it ended".into(), |panic| panic.to_string());
            ending.send_replace(Some(reason));
        });
        Ok((Self { peer, is_private, memory, signs, cluster, incidents, commands, ended }, outbox))
    }

    /// This node's own identity.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Whether the node has the key of a private network.
    pub fn is_private(&self) -> bool {
        self.is_private
    }

    /// The node's place in a cluster, if [`Options::cluster`] gives it one.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// Asks a connected peer about its directory. Needs [`Options::asks_directories`].
    ///
    /// # Errors
    ///
    /// When the peer does not answer.
    pub async fn ask_directory(&self, peer: PeerId, request: Request) -> Result<Response, AskError> {
        self.ask(|reply| Command::AskDirectory { peer, request, reply }).await.unwrap_or(Err(AskError::Stopped))
    }

    /// Waits until peers have released another mebibyte of memory.
    pub async fn memory_released(&self) {
        self.memory.burst_released().await;
    }

    /// How often what is reported at most once a second has happened.
    pub fn incidents(&self) -> &Arc<Incidents> {
        &self.incidents
    }

    /// Starts to listen on an address; a wildcard IP address stands for every address of this machine.
    ///
    /// Each address that results is reported as [`Event::Listening`].
    ///
    /// # Errors
    ///
    /// When the system refuses, or the address names no transport that the node uses.
    pub async fn listen(&self, address: Multiaddr) -> io::Result<()> {
        self.ask(|reply| Command::Listen { address, reply })
            .await
            .unwrap_or_else(|| Err(io::Error::other("the node stopped")))
    }

    /// Connects to an address, to the peer `expected` there or to any.
    ///
    /// The registry then knows the peer. Dropping the future gives up the attempt: if a connection comes of it after
    /// all, it is closed.
    ///
    /// # Errors
    ///
    /// Says why the one attempt failed; it is not repeated.
    pub async fn dial(&self, address: Multiaddr, expected: Option<PeerId>) -> Result<Connection, DialError> {
        self.ask(|reply| Command::Dial { address, expected, purpose: Purpose::First, reply })
            .await
            .unwrap_or(Err(DialError::Stopped))
    }

    /// Connects to a peer once more, beside the connection that there is. New requests to it go to the new connection,
    /// and answers to earlier ones still arrive on the old one. For a node that only dials.
    ///
    /// # Errors
    ///
    /// As [`dial`](Self::dial).
    pub async fn dial_spare(&self, address: Multiaddr, peer: PeerId) -> Result<Connection, DialError> {
        self.ask(|reply| Command::Dial { address, expected: Some(peer), purpose: Purpose::Spare, reply })
            .await
            .unwrap_or(Err(DialError::Stopped))
    }

    /// Waits until there is a direct connection to a peer that this node has reached through a relay. New requests to
    /// it go to that connection then, and answers to earlier ones still arrive through the relay. Needs
    /// [`Options::leaves_relays`].
    ///
    /// # Errors
    ///
    /// Says why there is none, after some seconds.
    pub async fn direct(&self, peer: PeerId) -> Result<Connection, String> {
        self.ask(|reply| Command::AwaitDirect { peer, reply }).await.unwrap_or_else(|| Err("the node stopped".into()))
    }

    /// Closes one connection.
    pub fn close(&self, connection: ConnectionId) {
        let _ = self.commands.send(Command::Close(connection));
    }

    /// How much its connections have carried.
    pub fn traffic(&self) -> Traffic {
        Traffic::of(self.signs.clone())
    }

    /// When anything of a peer last arrived, on any of its connections.
    pub fn last_sign(&self, peer: &PeerId) -> Option<Instant> {
        self.signs.last(peer)
    }

    /// How many bytes the newest connection with a peer through a relay has carried, in both directions.
    pub fn carried(&self, peer: &PeerId) -> u64 {
        self.signs.carried(peer)
    }

    /// Opens a [`stream`](crate::stream) to a peer on this connection.
    ///
    /// # Errors
    ///
    /// When the connection is gone, or fails. That the peer does not speak the protocol may show only when the
    /// stream is read.
    pub async fn open_stream(&self, peer: PeerId, connection: ConnectionId) -> Result<Stream, Ended> {
        self.open(peer, connection, STREAM_PROTOCOL).await
    }

    /// The same, of any protocol.
    pub(crate) async fn open(
        &self,
        peer: PeerId,
        connection: ConnectionId,
        protocol: StreamProtocol,
    ) -> Result<Stream, Ended> {
        let opened = self.ask(|opening| Command::OpenStream { protocol, peer, connection, opening }).await;
        opened.unwrap_or(Err(Ended::NotConnected))
    }

    /// Gets a place on a relay, at its address with its identity and `/p2p-circuit` at the end. Needs
    /// [`Options::uses_relays`].
    ///
    /// # Errors
    ///
    /// Says why the relay gave none.
    pub async fn reserve(&self, address: Multiaddr) -> Result<Reservation, String> {
        self.ask(|reply| Command::Reserve { address, reply }).await.unwrap_or_else(|| Err("the node stopped".into()))
    }

    /// Others reach the node at this address too, as a router or a container's host forwards it. The node tells members
    /// of its cluster.
    pub fn add_external_address(&self, address: Multiaddr) {
        let _ = self.commands.send(Command::AddExternalAddress(address));
    }

    /// Closes every connection to a peer.
    pub fn disconnect(&self, peer: PeerId) {
        let _ = self.commands.send(Command::Disconnect(peer));
    }

    /// Closes every connection to a peer, and allows no more.
    pub fn block(&self, peer: PeerId) {
        let _ = self.commands.send(Command::Block(peer));
    }

    /// From now on, lets these peers connect and no others, whose connections are closed. For a node that
    /// [`Options::allowed`] restricts.
    pub fn allow(&self, peers: HashSet<PeerId>) {
        let _ = self.commands.send(Command::Allow(peers));
    }

    /// Closes every connection in order, and stops the node.
    pub async fn stop(self) {
        let _ = self.commands.send(Command::Stop);
        self.failed().await;
    }

    /// Waits until the node's task ends, which only a panic causes by itself, and returns the reason. The node is of no
    /// use after that.
    pub async fn failed(&self) -> String {
        let mut ended = self.ended.clone();
        match ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "its runtime ended".into(),
        }
    }

    /// Sends a command and waits for its answer; `None` if the node is gone.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).ok()?;
        answer.await.ok()
    }
}
