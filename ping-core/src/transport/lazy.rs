//! A transport that is built when it is first used.
//!
//! Building one makes keys and certificates, a good part of a short-lived program's start. A client that dials TCP is
//! spared those of QUIC, and the reverse.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, Transport,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
};

/// A transport, or the way to build it.
pub(super) struct Lazy<T, S, B> {
    speaks: S,
    build: B,
    built: Option<T>,
}

impl<T, S, B> Lazy<T, S, B>
where
    T: Transport<Error = io::Error> + Unpin,
    S: Fn(&Multiaddr) -> bool,
    B: Fn() -> io::Result<T>,
{
    /// The transport that `build` makes, for the addresses that it `speaks`.
    pub(super) fn new(speaks: S, build: B) -> Self {
        Self { speaks, build, built: None }
    }

    fn built_for(&mut self, address: &Multiaddr) -> Result<&mut T, TransportError<io::Error>> {
        if !(self.speaks)(address) {
            return Err(TransportError::MultiaddrNotSupported(address.clone()));
        }
        match &mut self.built {
            Some(built) => Ok(built),
            none => Ok(none.insert((self.build)().map_err(TransportError::Other)?)),
        }
    }
}

impl<T, S, B> Transport for Lazy<T, S, B>
where
    T: Transport<Error = io::Error> + Unpin,
    S: Fn(&Multiaddr) -> bool + Unpin,
    B: Fn() -> io::Result<T> + Unpin,
{
    type Output = T::Output;
    type Error = io::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.built_for(&address)?.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.built.as_mut().is_some_and(|built| built.remove_listener(id))
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<T::Dial, TransportError<io::Error>> {
        self.built_for(&address)?.dial(address, options)
    }

    /// Pending while nothing is built. No waker is kept then: the swarm polls its transport after each dial and each
    /// new listener.
    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        match &mut self.built {
            Some(built) => Pin::new(built).poll(context),
            None => Poll::Pending,
        }
    }
}
