//! QUIC.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
};

use libp2p::{Multiaddr, Transport as _, core::muxing::StreamMuxerBox, multiaddr::Protocol, quic};

use super::{Connections, Kind, Setup};
use crate::protocol::MAX_IN_FLIGHT;

/// How many bytes a peer may send on one stream before this node has read them, if the node listens.
///
/// QUIC's window does not adapt, so this is a compromise: one stream carries 5 MB/s over a round trip of 100 ms, and 64
/// peers that send to a node which cannot answer them hold 32 MiB of its memory. yamux, over TCP, starts with half of
/// this and adapts. A node that only dials gives its server the library's 10 MB.
const STREAM_WINDOW: u32 = 512 * 1024;

/// The same for all streams of a connection: a few requests of the largest size.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

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
        let mut config = quic::Config::new(&setup.keypair);
        // A request's stream lives a little longer than the request.
        config.max_concurrent_stream_limit = 2 * MAX_IN_FLIGHT;
        if setup.listens {
            config.max_stream_data = STREAM_WINDOW;
            config.max_connection_data = CONNECTION_WINDOW;
        }
        let memory = setup.memory.clone();
        Ok(quic::tokio::Transport::new(config)
            .map(move |(peer, connection), _| (peer, StreamMuxerBox::new(memory.meter(connection))))
            .boxed())
    }
}
