//! Accepts connections.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use futures::{FutureExt, Stream, future::BoxFuture};
use if_watch::{IfEvent, tokio::IfWatcher};
use libp2p::{
    Multiaddr, PeerId,
    core::{
        muxing::StreamMuxerBox,
        transport::{ListenerId, TransportEvent},
    },
    tls::certificate,
};
use quinn::{
    ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, Incoming, ServerConfig, TransportConfig, VarInt,
    crypto::rustls::QuicServerConfig, rustls::pki_types::CertificateDer,
};
use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use tokio::time::timeout;

use super::{
    HANDSHAKE_TIMEOUT, MAX_STREAMS,
    connection::{Connection, Window},
    port::Port,
};
use crate::{
    hardening::{MAX_PENDING, Memory, Metered},
    transport::{Setup, Signs, Transport},
};

/// How many handshakes may be in progress before the next must prove its address first, which costs it a round trip.
/// Packets with forged senders then take no more places.
const CHECKED_ABOVE: usize = MAX_PENDING / 2;

/// The same while many are in progress, so that those who do not finish hold no place for long.
const BUSY_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// After how much silence a connection is lost, and how often this end breaks it: libp2p's own values.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Keeps the key of resets apart from all others that are derived from an identity.
const RESET_DOMAIN: &[u8] = b"kameo-ping QUIC stateless reset";

/// Ids of connections that are random. quinn's own carry a mark by which it knows those of its own process, and it
/// resets no others.
#[derive(Debug)]
struct RandomIds;

/// As long as quinn's own, in bytes.
const ID_LENGTH: usize = 8;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; ID_LENGTH];
        // Fails only where the system has no random numbers, and then no connection can be secured.
        let _ = SystemRandom::new().fill(&mut id);
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        ID_LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A connection in its handshake.
pub(super) type Upgrade = BoxFuture<'static, io::Result<(PeerId, StreamMuxerBox)>>;

type Event = TransportEvent<Upgrade, io::Error>;

/// A socket that connections are accepted on.
pub(super) struct Listener {
    id: ListenerId,
    pub(super) port: Port,
    /// What every connection is accepted with, but for its window.
    config: ServerConfig,
    memory: Arc<Memory>,
    signs: Arc<Signs>,
    accept: BoxFuture<'static, Option<Incoming>>,
    /// The addresses of this machine, if it listens on all of them.
    interfaces: Option<IfWatcher>,
    /// One reference for each handshake in progress, and this one.
    pending: Arc<()>,
    events: VecDeque<Event>,
    is_closed: bool,
    waker: Option<Waker>,
}

impl Listener {
    pub(super) fn new(
        id: ListenerId,
        address: SocketAddr,
        crypto: Arc<QuicServerConfig>,
        setup: &Setup,
    ) -> io::Result<Self> {
        let mut endpoint_config = EndpointConfig::default();
        endpoint_config.supported_versions(vec![1]);
        // A node that starts anew tells its peers at once that it does not know their connections (RFC 9000, 10.3).
        if let Some(secret) = setup.keypair.derive_secret(RESET_DOMAIN) {
            endpoint_config.reset_key(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &secret)));
            endpoint_config.cid_generator(|| Box::new(RandomIds));
        }
        let mut config = ServerConfig::with_crypto(crypto);
        config.migration(false);
        let port = Port::bind(address, endpoint_config, Some(config.clone()), setup)?;
        let local = port.local;
        let interfaces = local.ip().is_unspecified().then(IfWatcher::new).transpose()?;
        let listen_addr = multiaddr(local.ip(), local.port());
        let own = interfaces.is_none().then_some(TransportEvent::NewAddress { listener_id: id, listen_addr });
        Ok(Self {
            id,
            accept: accept(&port.endpoint),
            port,
            config,
            memory: setup.memory.clone(),
            signs: setup.signs.clone(),
            interfaces,
            pending: Arc::new(()),
            events: own.into_iter().collect(),
            is_closed: false,
            waker: None,
        })
    }

    pub(super) fn id(&self) -> ListenerId {
        self.id
    }

    pub(super) fn close(&mut self) {
        if !self.is_closed {
            self.is_closed = true;
            self.port.endpoint.close(VarInt::from_u32(0), &[]);
            self.events.push_back(TransportEvent::ListenerClosed { listener_id: self.id, reason: Ok(()) });
            self.waker.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Takes a first packet, unless there is no room for its connection, or its sender must prove its address first.
    fn on_incoming(&mut self, incoming: Incoming) {
        let pending = Arc::strong_count(&self.pending) - 1;
        let is_busy = pending >= CHECKED_ABOVE;
        if is_busy && !incoming.remote_address_validated() {
            // Fails only if it was asked before.
            return incoming.retry().unwrap_or_else(|error| error.into_incoming().ignore());
        }
        let (remote, local_ip) = (incoming.remote_address(), incoming.local_ip().unwrap_or(self.port.local.ip()));
        let Ok(memory) = self.memory.connect() else { return incoming.refuse() };
        let Ok(window) = Window::new(memory.clone(), false) else { return incoming.refuse() };
        let mut config = self.config.clone();
        config.transport_config(Arc::new(transport_config(&window)));
        let connecting = match incoming.accept_with(Arc::new(config)) {
            Ok(connecting) => connecting,
            Err(error) => return tracing::debug!(%error, "a first packet that begins no connection"),
        };
        let (place, signs) = (self.pending.clone(), self.signs.clone());
        let limit = if is_busy { BUSY_HANDSHAKE_TIMEOUT } else { HANDSHAKE_TIMEOUT };
        let upgrade = async move {
            let connection = timeout(limit, connecting).await.map_err(|_| io::ErrorKind::TimedOut)??;
            drop(place);
            let peer = identity(&connection)?;
            let connection = signs.watch(peer, Connection::new(connection, window));
            Ok((peer, StreamMuxerBox::new(Metered::new(connection, memory))))
        };
        self.events.push_back(TransportEvent::Incoming {
            listener_id: self.id,
            upgrade: upgrade.boxed(),
            local_addr: multiaddr(local_ip, self.port.local.port()),
            send_back_addr: multiaddr(remote.ip(), remote.port()),
        });
    }

    fn on_interface(&mut self, event: io::Result<IfEvent>) {
        let listener_id = self.id;
        let is_ours = |ip: IpAddr| ip.is_ipv4() == self.port.local.is_ipv4();
        let event = match event {
            Ok(IfEvent::Up(network)) if is_ours(network.addr()) => {
                let listen_addr = multiaddr(network.addr(), self.port.local.port());
                TransportEvent::NewAddress { listener_id, listen_addr }
            }
            Ok(IfEvent::Down(network)) if is_ours(network.addr()) => {
                let listen_addr = multiaddr(network.addr(), self.port.local.port());
                TransportEvent::AddressExpired { listener_id, listen_addr }
            }
            Ok(_) => return,
            Err(error) => TransportEvent::ListenerError { listener_id, error },
        };
        self.events.push_back(event);
    }
}

impl Stream for Listener {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(Some(event));
            }
            if self.is_closed {
                return Poll::Ready(None);
            }
            if let Some(interfaces) = &mut self.interfaces
                && let Poll::Ready(event) = interfaces.poll_if_event(context)
            {
                self.on_interface(event);
                continue;
            }
            self.waker = Some(context.waker().clone());
            match ready!(self.accept.poll_unpin(context)) {
                Some(incoming) => {
                    self.accept = accept(&self.port.endpoint);
                    self.on_incoming(incoming);
                }
                None => self.close(),
            }
        }
    }
}

fn accept(endpoint: &Endpoint) -> BoxFuture<'static, Option<Incoming>> {
    let endpoint = endpoint.clone();
    async move { endpoint.accept().await }.boxed()
}

/// The limits of a connection with such windows.
pub(super) fn transport_config(window: &Window) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(KEEP_ALIVE_INTERVAL))
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_TIMEOUT.as_millis() as u32).into()))
        .allow_spin(false);
    window.limit(&mut config);
    config
}

fn multiaddr(ip: IpAddr, port: u16) -> Multiaddr {
    Transport::Quic.multiaddr(ip, port)
}

/// The identity that the peer proved by its certificate.
pub(super) fn identity(connection: &quinn::Connection) -> io::Result<PeerId> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "the peer proved no identity");
    let proof = connection.peer_identity().ok_or_else(invalid)?;
    let certificates = proof.downcast::<Vec<CertificateDer<'static>>>().map_err(|_| invalid())?;
    let first = certificates.first().ok_or_else(invalid)?;
    certificate::parse(first).map(|certificate| certificate.peer_id()).map_err(io::Error::other)
}
