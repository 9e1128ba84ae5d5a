//! A port of this node: connections that leave from there, and packets that open the way for a peer.
//!
//! A router lets in what answers a packet that left. So a peer that was told this node's port, as a relay sees it, gets
//! through if a packet has left from there to it; and a relay sees that port only if the connection to it left from
//! there.

use std::{
    fmt,
    io::{self, IoSliceMut},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, select_ok},
};
use libp2p::{PeerId, core::muxing::StreamMuxerBox, tls};
use quinn::{
    AsyncUdpSocket, ClientConfig, Endpoint, EndpointConfig, Runtime, ServerConfig, TokioRuntime, UdpPoller,
    crypto::rustls::QuicClientConfig,
    udp::{RecvMeta, Transmit},
};
use socket2::{Domain, Socket, Type};
use tokio::time::{sleep, timeout};

use super::{
    HANDSHAKE_TIMEOUT,
    connection::{Connection, Window},
    listener::{identity, transport_config},
};
use crate::{
    hardening::Metered,
    transport::{Setup, Transport},
};

/// A connection that is being made.
pub(super) type Dialing = BoxFuture<'static, io::Result<(PeerId, StreamMuxerBox)>>;

/// The pauses after packets that open the way, in milliseconds. Most often one packet will do.
const PAUSES: [u64; 7] = [20, 40, 80, 160, 320, 640, 1280];

/// What they carry: no packet of a connection, so that none comes of it. A node
/// that dials their sender, at another port than the one they come from, learns this one.
const OPENING: [u8; 32] = [0; 32];

/// How many bytes of packets the system keeps until they are read; it takes its own limit if that is less. Its usual
/// 208 KiB hold some ninety packets: a link of 1 Gbit/s brings as many within a millisecond, and those that find no
/// room are lost, which QUIC takes for a sign that the link is full.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// A port, and what a connection from there is made with.
#[derive(Clone)]
pub(super) struct Port {
    pub(super) endpoint: Endpoint,
    /// For packets that open the way for a peer.
    socket: Arc<UdpSocket>,
    pub(super) local: SocketAddr,
    setup: Setup,
}

impl Port {
    /// A port that accepts no connections, to dial addresses like this one.
    pub(super) fn to(remote: SocketAddr, setup: &Setup) -> io::Result<Self> {
        let ip = match (remote.is_ipv4(), remote.ip().is_loopback()) {
            (true, false) => Ipv4Addr::UNSPECIFIED.into(),
            (true, true) => Ipv4Addr::LOCALHOST.into(),
            (false, false) => Ipv6Addr::UNSPECIFIED.into(),
            (false, true) => Ipv6Addr::LOCALHOST.into(),
        };
        Self::bind(SocketAddr::new(ip, 0), EndpointConfig::default(), None, setup)
    }

    /// Binds an address of this machine. With a configuration of the server, the port accepts connections.
    pub(super) fn bind(
        address: SocketAddr,
        config: EndpointConfig,
        server: Option<ServerConfig>,
        setup: &Setup,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(socket2::Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // Fails where no program may ask for more.
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
        socket.bind(&address.into())?;
        let socket = UdpSocket::from(socket);
        let local = socket.local_addr()?;
        let same = Arc::new(socket.try_clone()?);
        let runtime = Arc::new(TokioRuntime);
        let endpoint = if server.is_some() {
            Endpoint::new(config, server, socket, runtime)?
        } else {
            let watching = Watching { inner: runtime.wrap_udp_socket(socket)?, setup: setup.clone() };
            Endpoint::new_with_abstract_socket(config, None, Arc::new(watching), runtime)?
        };
        Ok(Self { endpoint, socket: same, local, setup: setup.clone() })
    }

    /// Whether packets can leave from here to this address.
    pub(super) fn reaches(&self, remote: SocketAddr) -> bool {
        self.local.is_ipv4() == remote.is_ipv4() && self.local.ip().is_loopback() == remote.ip().is_loopback()
    }

    /// Connects to this address, or to where a peer that is expected there comes from.
    pub(super) fn dial(&self, remote: SocketAddr) -> Dialing {
        let Some(arriving) = self.setup.arrivals.quic.wait(remote) else { return self.connect(remote) };
        let port = self.clone();
        let back = async move {
            let ((), from) = arriving.await.map_err(io::Error::other)?;
            if from == remote {
                return Err(io::Error::other("it is dialed there"));
            }
            let connected = port.connect(from).await?;
            port.setup.arrivals.record(Transport::Quic, remote, from);
            Ok(connected)
        };
        select_ok([self.connect(remote), back.boxed()]).map(|connected| connected.map(|(first, _)| first)).boxed()
    }

    /// Connects to this address.
    pub(super) fn connect(&self, remote: SocketAddr) -> Dialing {
        let Self { endpoint, setup, .. } = self.clone();
        let connect = async move {
            let crypto = tls::make_client_config(&setup.keypair, None).map_err(io::Error::other)?;
            let crypto = QuicClientConfig::try_from(crypto).map_err(io::Error::other)?;
            let memory = setup.memory.connect()?;
            let window = Window::new(memory.clone(), !setup.listens)?;
            let mut config = ClientConfig::new(Arc::new(crypto));
            config.transport_config(Arc::new(transport_config(&window)));
            // A name is needed, and none is sent.
            let connecting = endpoint.connect_with(config, remote, "l").map_err(io::Error::other)?;
            let connection = timeout(HANDSHAKE_TIMEOUT, connecting).await.map_err(|_| io::ErrorKind::TimedOut)??;
            let peer = identity(&connection)?;
            let connection = setup.signs.watch(peer, Connection::new(connection, window));
            Ok((peer, StreamMuxerBox::new(Metered::new(connection, memory))))
        };
        connect.boxed()
    }

    /// Opens the way for a peer at this address that dials this node. Always fails in the end: the connection that
    /// comes of it is accepted like any other.
    pub(super) fn open_way(&self, remote: SocketAddr) -> Dialing {
        let socket = self.socket.clone();
        let send = async move {
            for pause in PAUSES {
                // A packet that is lost here is no worse than one that is lost on the way.
                let _ = socket.send_to(&OPENING, remote);
                sleep(Duration::from_millis(pause)).await;
            }
            Err(io::ErrorKind::TimedOut.into())
        };
        send.boxed()
    }
}

/// A socket that sees who opens the way.
struct Watching {
    inner: Arc<dyn AsyncUdpSocket>,
    setup: Setup,
}

impl fmt::Debug for Watching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl AsyncUdpSocket for Watching {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.inner.poll_recv(context, buffers, meta))?;
        for (buffer, meta) in buffers.iter().zip(&*meta).take(count) {
            // Equal packets may come as one.
            if buffer[..meta.len.min(meta.stride)] == OPENING {
                self.setup.arrivals.quic.deliver((), meta.addr);
            }
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
