//! QUIC.
//!
//! libp2p's own transport accepts every first packet, which anyone can send in anybody's name, gives every connection
//! the same room whatever the others hold, and leaves the buffers of its sockets at what the system gives.
//!
//! - `listener` accepts connections, from addresses that were checked when there are many.
//! - `connection` carries streams, with as much room as they use and the account of memory has.
//! - `port` is a socket: it dials, and opens the way for a peer that dials it.

mod connection;
mod listener;
mod port;

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::{StreamExt, stream::SelectAll};
use libp2p::{
    Multiaddr, PeerId, Transport,
    core::{
        muxing::StreamMuxerBox,
        transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent},
    },
    multiaddr::Protocol,
    tls,
};
use quinn::crypto::rustls::QuicServerConfig;

use super::{Connections, Kind, Setup, endpoint};
use crate::{address::without_peer, protocol::MAX_IN_FLIGHT};
use listener::{Listener, Upgrade};
use port::{Dialing, Port};

/// How many streams a peer may have open. A request's stream lives a little longer than the request.
const MAX_STREAMS: u32 = 2 * MAX_IN_FLIGHT;

/// How long a handshake may take: two round trips of 3.2 s, and some more. Less than the ten seconds of silence after
/// which QUIC itself ends a connection, so that no answer is told apart from one that stopped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(9);

pub(super) struct Quic;

impl Kind for Quic {
    fn name(&self) -> &'static str {
        "QUIC"
    }

    fn path(&self, port: u16) -> Multiaddr {
        Multiaddr::empty().with(Protocol::Udp(port)).with(Protocol::QuicV1)
    }

    /// libp2p's pnet encrypts byte streams alone.
    fn takes_secret(&self) -> bool {
        false
    }

    fn try_bind(&self, socket: SocketAddr) -> io::Result<()> {
        UdpSocket::bind(socket).map(drop)
    }

    fn build(&self, setup: &Setup) -> io::Result<Connections> {
        let crypto = setup.listens.then(|| tls::make_server_config(&setup.keypair)).transpose();
        let crypto = crypto.map_err(io::Error::other)?.map(QuicServerConfig::try_from).transpose();
        let crypto = crypto.map_err(io::Error::other)?.map(Arc::new);
        Ok(Sockets { crypto, setup: setup.clone(), listeners: SelectAll::new(), ports: Vec::new(), waker: None }
            .boxed())
    }
}

/// The sockets of a node.
struct Sockets {
    /// How to prove this node's identity, if it listens.
    crypto: Option<Arc<QuicServerConfig>>,
    setup: Setup,
    listeners: SelectAll<Listener>,
    /// The ports from which connections leave that reuse one, where no listener's will do.
    ports: Vec<Port>,
    /// Polls this again when there is another listener.
    waker: Option<Waker>,
}

impl Transport for Sockets {
    type Output = (PeerId, StreamMuxerBox);
    type Error = io::Error;
    type ListenerUpgrade = Upgrade;
    type Dial = Dialing;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        let unsupported = || TransportError::MultiaddrNotSupported(address.clone());
        let crypto = self.crypto.clone().ok_or_else(unsupported)?;
        let (ip, port, _) = endpoint(&address).ok_or_else(unsupported)?;
        let listener = Listener::new(id, SocketAddr::new(ip, port), crypto, &self.setup);
        self.listeners.push(listener.map_err(TransportError::Other)?);
        self.waker.take().into_iter().for_each(Waker::wake);
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.listeners.iter_mut().find(|listener| listener.id() == id).map(Listener::close).is_some()
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let unsupported = || TransportError::MultiaddrNotSupported(address.clone());
        let (ip, port, _) = endpoint(&without_peer(address.clone())).ok_or_else(unsupported)?;
        let remote = SocketAddr::new(ip, port);
        let is_listener = options.role.is_listener();
        if options.port_use == PortUse::New && !is_listener {
            return Ok(Port::to(remote, &self.setup).map_err(TransportError::Other)?.connect(remote));
        }
        let mut ports = self.listeners.iter().map(|listener| &listener.port).chain(&self.ports);
        let port = match ports.find(|port| port.reaches(remote)) {
            Some(port) => port.clone(),
            None => {
                let port = Port::to(remote, &self.setup).map_err(TransportError::Other)?;
                self.ports.push(port.clone());
                port
            }
        };
        Ok(if is_listener { port.open_way(remote) } else { port.dial(remote) })
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<TransportEvent<Upgrade, io::Error>> {
        if let Poll::Ready(Some(event)) = self.listeners.poll_next_unpin(context) {
            return Poll::Ready(event);
        }
        self.waker = Some(context.waker().clone());
        Poll::Pending
    }
}
