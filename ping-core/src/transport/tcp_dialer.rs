//! TCP connections that leave from a certain address, or over a certain interface.
//!
//! libp2p's transport lets the system choose both. A link-local address needs its interface, which `/ip6zone` names.

use std::{
    io,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    pin::Pin,
    task::{Context, Poll},
};

use futures::{FutureExt, future::BoxFuture};
use libp2p::{
    Multiaddr,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
    multiaddr::Protocol,
    tcp,
};
use tokio::net::TcpSocket;

use super::{endpoint, interface_index};
use crate::address::without_peer;

type Inner = tcp::tokio::Transport;

/// libp2p's TCP, with a choice of where connections leave from.
pub(super) struct TcpDialer {
    inner: Inner,
    /// The addresses to dial from, of one version of IP or both; the system's choice for a version without one.
    sources: Vec<IpAddr>,
}

impl TcpDialer {
    pub(super) fn new(sources: Vec<IpAddr>) -> Self {
        Self { inner: Inner::new(tcp::Config::default()), sources }
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
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let zone = zone(&address);
        if zone.is_none() && self.sources.is_empty() {
            return Ok(self.inner.dial(address, options)?.boxed());
        }
        // The identity at the end is checked later.
        let Some((ip, port, _)) = endpoint(&without_peer(address.clone())) else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        let source = self.source(ip);
        Ok(async move { connect(source?, ip, port, zone).await.map(tcp::tokio::TcpStream) }.boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Pin::new(&mut self.inner).poll(context)
    }
}

/// The interface that an address names.
fn zone(address: &Multiaddr) -> Option<String> {
    match address.iter().next() {
        Some(Protocol::Ip6zone(zone)) => Some(zone.into_owned()),
        _ => None,
    }
}

async fn connect(
    source: Option<IpAddr>,
    ip: IpAddr,
    port: u16,
    zone: Option<String>,
) -> io::Result<tokio::net::TcpStream> {
    let scope = zone.map(|zone| interface_index(&zone)).transpose()?.unwrap_or(0);
    let (socket, destination) = match ip {
        IpAddr::V4(ip) => (TcpSocket::new_v4()?, SocketAddr::from((ip, port))),
        IpAddr::V6(ip) => (TcpSocket::new_v6()?, SocketAddrV6::new(ip, port, 0, scope).into()),
    };
    socket.set_nodelay(true)?;
    if let Some(source) = source {
        socket.bind((source, 0).into())?;
    }
    socket.connect(destination).await
}
