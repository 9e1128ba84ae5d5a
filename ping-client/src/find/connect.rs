//! From an address to a connection.

use std::time::Instant;

use futures::future::{select_all, select_ok};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use ping_core::{Connection, DialError, ServerAddress, Transport};
use tokio::time::timeout;
use tracing::debug;

use super::Finder;
use crate::{backoff::Backoff, error::Error};

impl Finder<'_> {
    /// Tries every address of the server over every transport asked for, all at once; the first to answer wins.
    pub(super) async fn connect(&self, server: &ServerAddress) -> Result<Connection, Error> {
        let by_transport = server.transports().iter().map(|&transport| {
            Box::pin(async move {
                // A transport that is refused at once is tried again while another still waits for an answer.
                let mut backoff = Backoff::new();
                loop {
                    match self.connect_over(server, transport).await {
                        Err(error) if !error.is_final() && server.transport.is_none() => self.note(error),
                        outcome => return outcome,
                    }
                    backoff.wait().await;
                }
            })
        });
        select_ok(by_transport).await.map(|(connected, _)| connected)
    }

    /// The same, once.
    pub(super) async fn connect_once(&self, server: &ServerAddress) -> Result<Connection, Error> {
        let by_transport = server.transports().iter().map(|&transport| Box::pin(self.connect_over(server, transport)));
        select_ok(by_transport).await.map(|(connected, _)| connected)
    }

    async fn connect_over(&self, server: &ServerAddress, transport: Transport) -> Result<Connection, Error> {
        let ips = server.resolve().await.map_err(|error| Error::Unresolved {
            host: server.host(),
            reason: error.to_string(),
            certain: error.kind() == std::io::ErrorKind::NotFound,
        })?;
        if self.address_known.get().is_none() {
            self.address_known.set(Some(Instant::now()));
        }
        let addresses = ips.into_iter().map(|ip| transport.multiaddr(ip, server.port)).collect();
        self.dial_all(addresses, server.peer, format!("{server} over {transport}")).await
    }

    /// Dials all these addresses at once; the first to answer wins. `server` is what they are called if none does.
    pub(super) async fn dial_all(
        &self,
        addresses: Vec<Multiaddr>,
        expected: Option<PeerId>,
        server: String,
    ) -> Result<Connection, Error> {
        let dials = addresses.into_iter().map(|address| Box::pin(self.node.dial(address, expected)));
        select_ok(dials).await.map(|(connection, _)| connection).map_err(|error| Error::Dial { server, error })
    }

    /// Once the transport that was asked for has failed, or half of the time is gone, finds out whether the server
    /// answers over another one. Never returns if it does not.
    pub(super) async fn try_other_transports(&self, server: &ServerAddress, asked: Transport) -> Error {
        let mut failures = self.failures.subscribe();
        // The sender lives as long as this finder.
        let _ = timeout(self.time_limit / 2, failures.wait_for(|failures| *failures > 0)).await;
        let others = Transport::usable(self.node.is_private()).filter(|other| *other != asked);
        let attempts: Vec<_> = others.map(|other| Box::pin(self.answers_over(server, other))).collect();
        if attempts.is_empty() {
            return std::future::pending().await;
        }
        let ((answers_by, connection), ..) = select_all(attempts).await;
        let Connection { peer, address, closed } = connection;
        // This connection makes way for one over the transport that was asked for, if there can be one.
        self.node.disconnect(peer);
        let _ = closed.await;
        // The help keeps the identity that the user asked for.
        let at = server.peer.into_iter().fold(address, |address, peer| address.with(Protocol::P2p(peer)));
        let error = Error::OtherTransport { server: server.to_string(), asked, answers_by, at };
        self.error.replace(Some(error.clone()));
        // The server is up now, which it may not have been when the asked transport failed: that gets another try.
        let failures_before = *failures.borrow();
        let _ = failures.wait_for(|failures| *failures > failures_before).await;
        error
    }

    /// Waits until the server answers over this transport.
    async fn answers_over(&self, server: &ServerAddress, transport: Transport) -> (Transport, Connection) {
        let mut backoff = Backoff::new();
        loop {
            match self.connect_over(server, transport).await {
                Ok(connection) => return (transport, connection),
                // QUIC never learns that there is no route. TCP does, and that holds for both.
                Err(error @ Error::Dial { error: DialError::NoRoute, .. }) => self.note(error),
                Err(error) => debug!(%error, "no answer over another transport either"),
            }
            backoff.wait().await;
        }
    }
}
