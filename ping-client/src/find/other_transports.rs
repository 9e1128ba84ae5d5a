//! From a server that does not answer over the transport asked for to one over which it does.

use std::future::pending;

use futures::future::select_all;
use libp2p::multiaddr::Protocol;
use ping_core::{Connection, DialError, ServerAddress, Transport};
use tokio::time::timeout;
use tracing::debug;

use super::Finder;
use crate::{backoff::Backoff, error::Error};

impl Finder<'_> {
    /// Once the transport that was asked for has failed, or half of the time is gone, finds out whether the server
    /// answers over another one. Never returns if it does not.
    pub(super) async fn try_other_transports(&self, server: &ServerAddress, asked: Transport) -> Error {
        let mut failures = self.failures.subscribe();
        // The sender lives as long as this finder.
        let _ = timeout(self.time_limit / 2, failures.wait_for(|failures| *failures > 0)).await;
        let others = Transport::usable(self.node.is_private()).filter(|other| *other != asked);
        let attempts: Vec<_> = others.map(|other| Box::pin(self.answers_over(server, other))).collect();
        if attempts.is_empty() {
            return pending().await;
        }
        let ((answers_by, connection), ..) = select_all(attempts).await;
        let Connection { peer, address, closed, .. } = connection;
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
            match self.connect_or_explain(server, transport).await {
                Ok(connection) => return (transport, connection),
                // QUIC never learns that there is no route. TCP does, and that holds for both.
                Err(error @ Error::Dial { error: DialError::NoRoute | DialError::Prohibited, .. }) => self.note(error),
                Err(error) => debug!(%error, "no answer over another transport either"),
            }
            backoff.wait().await;
        }
    }
}
