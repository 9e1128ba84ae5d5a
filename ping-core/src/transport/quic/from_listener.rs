//! From the port of a listener: connections to others, and packets that open the way for a peer.
//!
//! A router lets in what answers a packet that left. So a peer that was told this node's port, as a relay sees it, gets
//! through if a packet has left from there to it; and a relay sees that port only if the connection to it left from
//! there.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use libp2p::{PeerId, core::muxing::StreamMuxerBox, tls};
use quinn::{ClientConfig, crypto::rustls::QuicClientConfig};
use tokio::time::{sleep, timeout};

use super::{
    HANDSHAKE_TIMEOUT,
    connection::{Connection, Window},
    listener::{Listener, identity, transport_config},
};
use crate::hardening::Metered;

/// A connection that is being made.
pub(super) type Dialing = BoxFuture<'static, io::Result<(PeerId, StreamMuxerBox)>>;

/// The pauses after packets that open the way, in milliseconds. Most often one packet will do.
const PAUSES: [u64; 7] = [20, 40, 80, 160, 320, 640, 1280];

/// What they carry: no QUIC, whose packets have the second bit set (RFC 9000, 17), so that nothing answers them.
const OPENING: [u8; 32] = [0; 32];

impl Listener {
    /// Whether packets can leave from here to this address.
    pub(super) fn reaches(&self, remote: SocketAddr) -> bool {
        self.local.is_ipv4() == remote.is_ipv4() && self.local.ip().is_loopback() == remote.ip().is_loopback()
    }

    /// Connects to this address.
    pub(super) fn dial(&self, remote: SocketAddr) -> io::Result<Dialing> {
        let crypto = tls::make_client_config(&self.keypair, None).map_err(io::Error::other)?;
        let crypto = QuicClientConfig::try_from(crypto).map_err(io::Error::other)?;
        let memory = self.memory.connect()?;
        let window = Window::new(memory.clone())?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport_config(window.size())));
        let (endpoint, signs) = (self.endpoint.clone(), self.signs.clone());
        let dial = async move {
            // A name is needed, and none is sent.
            let connecting = endpoint.connect_with(config, remote, "l").map_err(io::Error::other)?;
            let connection = timeout(HANDSHAKE_TIMEOUT, connecting).await.map_err(|_| io::ErrorKind::TimedOut)??;
            let peer = identity(&connection)?;
            let connection = signs.watch(peer, Connection::new(connection, window));
            Ok((peer, StreamMuxerBox::new(Metered::new(connection, memory))))
        };
        Ok(dial.boxed())
    }

    /// Opens the way for a peer at this address that dials this node. Always fails in the end: the connection that
    /// comes of it is accepted like any other.
    pub(super) fn open_way(&self, remote: SocketAddr) -> Dialing {
        let socket = self.socket.try_clone();
        let send = async move {
            let socket = socket?;
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
