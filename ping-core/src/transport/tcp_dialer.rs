//! TCP connections that leave from a certain address, or over a certain interface.
//!
//! libp2p's transport lets the system choose both. A link-local address needs its interface, which `/ip6zone` names. A
//! router that is to let a peer in has to see all connections leave from one port, also of a node that does not listen.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Fuse},
};
use libp2p::{
    Multiaddr,
    core::transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent},
    multiaddr::Protocol,
    tcp,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::oneshot,
    time::timeout,
};

use super::{Arrivals, Transport, endpoint, interface_index};
use crate::address::without_peer;

/// How long a connection may take to be accepted that leaves from a port which others are to find open: three packets
/// of the system, after 0, 1 and 3 s. The next attempt from that port has to wait for it.
const REUSED_TIMEOUT: Duration = Duration::from_millis(4500);

/// How many connections may wait to be taken on such a port. One is expected.
const BACKLOG: u32 = 4;

type Inner = tcp::tokio::Transport;

/// libp2p's TCP, with a choice of where connections leave from.
pub(super) struct TcpDialer {
    inner: Inner,
    /// The addresses to dial from, of one version of IP or both; the system's choice for a version without one.
    sources: Vec<IpAddr>,
    /// Whether connections can leave from a port that this node listens on.
    listens: bool,
    /// Of a node that does not listen, the ports from which all connections leave that reuse one, for IPv4 and IPv6;
    /// 0 before the first.
    ports: [Arc<AtomicU16>; 2],
    /// Who may connect to these ports while it is dialed.
    arrivals: Arc<Arrivals>,
}

impl TcpDialer {
    pub(super) fn new(sources: Vec<IpAddr>, arrivals: Arc<Arrivals>) -> Self {
        let inner = Inner::new(tcp::Config::default());
        Self { inner, sources, listens: false, ports: Default::default(), arrivals }
    }

    /// The address to dial from to this one. Fails if the user chose the other version of IP alone.
    fn source(&self, destination: IpAddr) -> io::Result<Option<IpAddr>> {
        let source = self.sources.iter().find(|source| source.is_ipv4() == destination.is_ipv4()).copied();
        match source {
            None if !self.sources.is_empty() => Err(io::ErrorKind::AddrNotAvailable.into()),
            source => Ok(source),
        }
    }
}

impl libp2p::Transport for TcpDialer {
    type Output = <Inner as libp2p::Transport>::Output;
    type Error = io::Error;
    type ListenerUpgrade = <Inner as libp2p::Transport>::ListenerUpgrade;
    type Dial = BoxFuture<'static, io::Result<Self::Output>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, address)?;
        self.listens = true;
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let zone = zone(&address);
        let arrivals = (options.port_use == PortUse::Reuse).then(|| self.arrivals.clone());
        let reuses_port = arrivals.is_some() && !self.listens;
        if zone.is_none() && self.sources.is_empty() && !reuses_port {
            let is_reused = options.role.is_listener();
            let dial = watched(self.inner.dial(address, options)?, arrivals);
            return Ok(if is_reused { in_time(dial).boxed() } else { dial.boxed() });
        }
        // The identity at the end is checked later.
        let Some((ip, port, _)) = endpoint(&without_peer(address.clone())) else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        let source = self.source(ip).map_err(TransportError::Other)?;
        let port_to_reuse = reuses_port.then(|| self.ports[usize::from(ip.is_ipv6())].clone());
        let socket = socket(ip, source, port_to_reuse.as_deref());
        let arriving = port_to_reuse.as_deref().and_then(|reused| {
            let arriving = self.arrivals.tcp.wait(SocketAddr::new(ip, port))?;
            let listener = self::socket(ip, source, Some(reused)).and_then(|socket| socket.listen(BACKLOG)).ok()?;
            Some((self.arrivals.clone(), listener, arriving))
        });
        let connect = async move {
            match (connect(socket?, ip, port, zone.clone()).await, port_to_reuse) {
                // An earlier connection between the same two ports is not over for the system.
                (Err(error), Some(reused)) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                    reused.store(0, Ordering::Relaxed);
                    connect(self::socket(ip, source, Some(&reused))?, ip, port, zone).await
                }
                (connected, _) => connected,
            }
        };
        let dial = async move {
            let stream = match arriving {
                Some((arrivals, listener, arriving)) => {
                    meet(&arrivals, SocketAddr::new(ip, port), connect, listener, arriving).await
                }
                None => connect.await,
            }?;
            stream.set_nodelay(true)?;
            Ok(tcp::tokio::TcpStream(stream))
        };
        let dial = watched(dial, arrivals);
        Ok(if reuses_port { in_time(dial).boxed() } else { dial.boxed() })
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Pin::new(&mut self.inner).poll(context)
    }
}

/// A socket for a connection to this address, from an address of this machine if one is wanted, and from a port that is
/// used again. If that is 0, the system chooses one, which it is from then on.
fn socket(destination: IpAddr, source: Option<IpAddr>, reused: Option<&AtomicU16>) -> io::Result<TcpSocket> {
    let (socket, unspecified) = match destination {
        IpAddr::V4(_) => (TcpSocket::new_v4()?, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
        IpAddr::V6(_) => (TcpSocket::new_v6()?, Ipv6Addr::UNSPECIFIED.into()),
    };
    if let Some(port) = reused {
        socket.set_reuseaddr(true)?;
        #[cfg(unix)]
        socket.set_reuseport(true)?;
        socket.bind((source.unwrap_or(unspecified), port.load(Ordering::Relaxed)).into())?;
        port.store(socket.local_addr()?.port(), Ordering::Relaxed);
    } else if let Some(source) = source {
        socket.bind((source, 0).into())?;
    }
    Ok(socket)
}

/// The interface that an address names.
fn zone(address: &Multiaddr) -> Option<String> {
    match address.iter().next() {
        Some(Protocol::Ip6zone(zone)) => Some(zone.into_owned()),
        _ => None,
    }
}

/// Connects, or takes a connection that the other side makes, whichever stands first. Ends only with one.
///
/// The system spreads what arrives over all listeners on a port, so that each takes it for all.
async fn meet(
    arrivals: &Arrivals,
    dialed: SocketAddr,
    connect: impl Future<Output = io::Result<TcpStream>>,
    listener: TcpListener,
    mut arriving: oneshot::Receiver<(TcpStream, SocketAddr)>,
) -> io::Result<TcpStream> {
    let mut connect = pin!(connect.fuse());
    loop {
        tokio::select! {
            connected = &mut connect => match connected {
                Ok(stream) => return Ok(stream),
                Err(_) => connect.set(Fuse::terminated()),
            },
            Ok((stream, from)) = &mut arriving => {
                arrivals.record(Transport::Tcp, dialed, from);
                return Ok(stream);
            }
            Ok((stream, from)) = listener.accept() => arrivals.tcp.deliver(stream, from),
        }
    }
}

/// Records the local port of a connection that reuses one.
async fn watched(
    dial: impl Future<Output = io::Result<tcp::tokio::TcpStream>>,
    arrivals: Option<Arc<Arrivals>>,
) -> io::Result<tcp::tokio::TcpStream> {
    let stream = dial.await?;
    if let Some(arrivals) = arrivals
        && let Ok(SocketAddr::V4(local)) = stream.0.local_addr()
    {
        arrivals.leave_from(local.port());
    }
    Ok(stream)
}

async fn in_time<T>(dial: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(REUSED_TIMEOUT, dial).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn connect(socket: TcpSocket, ip: IpAddr, port: u16, zone: Option<String>) -> io::Result<TcpStream> {
    let scope = zone.map(|zone| interface_index(&zone)).transpose()?.unwrap_or(0);
    let destination = match ip {
        IpAddr::V4(ip) => SocketAddr::from((ip, port)),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, scope).into(),
    };
    socket.connect(destination).await
}
