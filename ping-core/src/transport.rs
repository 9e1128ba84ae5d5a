//! TCP and QUIC, and how a connection is secured.
//!
//! A TCP connection is secured by Noise or TLS 1.3 and carries yamux; QUIC brings its own TLS 1.3 and streams. With a
//! pre-shared key there is TCP alone, and everything on it is encrypted once more with that key.

use std::{io, sync::Arc, time::Duration};

use futures::{AsyncRead, AsyncWrite, future::Either};
use libp2p::{
    Multiaddr, PeerId, Transport as _,
    core::{
        ConnectedPoint, UpgradeInfo,
        muxing::StreamMuxerBox,
        transport::{Boxed, timeout::TransportTimeout},
        upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade},
    },
    identity::Keypair,
    multiaddr::Protocol,
    noise,
    pnet::{PnetConfig, PreSharedKey},
    quic, tcp, tls,
};
use multistream_select::{Version, dialer_select_proto, listener_select_proto};
use tokio::time::timeout;
use yamux::Mode;

use crate::{
    budget::Budget,
    coalesce::Coalesce,
    mux::{self, Yamux},
    on_demand::OnDemand,
    protocol::MAX_IN_FLIGHT,
};

/// How long a connection may take from the first packet until it is secured and multiplexed, in either direction.
///
/// Five round trips on the slowest link that is of any use for pings (2 s), and short enough that a peer which
/// connects and then says nothing is soon forgotten.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a TCP connection that stands may take to be secured and multiplexed: two round trips on the slowest link.
/// Shorter than [`HANDSHAKE_TIMEOUT`], so that silence on a connection is told apart from no connection.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(5);

/// How many bytes a QUIC peer may have sent on one stream that were not read yet, if the node listens.
///
/// QUIC's window does not adapt, so this is a bargain: with it one stream carries 5 MB/s over a round trip of 100 ms, and 64
/// peers that send without end to a node which cannot answer them hold 32 MiB of its memory. yamux, over TCP, starts with
/// half of this and adapts to the link. A node that only dials trusts whom it dials with the library's 10 MB.
const QUIC_STREAM_WINDOW: u32 = 512 * 1024;

/// The same for all streams of a connection: room for some requests of the largest size at a time.
const QUIC_WINDOW: u32 = 4 * 1024 * 1024;

/// The transport of a node. One that never listens is spared the TLS certificate that only TCP listeners show.
/// With a secret, it reaches only nodes that have the same.
pub(crate) fn new(keypair: &Keypair, listens: bool, secret: Option<PreSharedKey>) -> Boxed<(PeerId, StreamMuxerBox)> {
    let budget = Arc::new(Budget::default());
    let (key, tcp_budget) = (keypair.clone(), budget.clone());
    let tcp = OnDemand::new(is_tcp, move || {
        let security = Security::new(&key, listens, secret, tcp_budget.clone())?;
        Ok(tcp::tokio::Transport::new(tcp::Config::default())
            .and_then(move |stream, endpoint| security.upgrade(stream, endpoint))
            .map_err(|error| error.into_inner()))
    });
    let key = keypair.clone();
    let quic = OnDemand::new(is_quic, move || {
        if secret.is_some() {
            return Err(io::Error::other("QUIC cannot be made private by a pre-shared key"));
        }
        let mut config = quic::Config::new(&key);
        // A request's stream lives a little longer than the request.
        config.max_concurrent_stream_limit = 2 * MAX_IN_FLIGHT;
        if listens {
            config.max_stream_data = QUIC_STREAM_WINDOW;
            config.max_connection_data = QUIC_WINDOW;
        }
        Ok(quic::tokio::Transport::new(config)
            .map({
                let budget = budget.clone();
                move |(peer, connection), _| (peer, StreamMuxerBox::new(budget.connection(connection)))
            })
            .map_err(io::Error::other))
    });
    let either =
        tcp.or_transport(quic).map(|connection, _| connection.into_inner()).map_err(|error| error.into_inner());
    TransportTimeout::new(either, HANDSHAKE_TIMEOUT).boxed()
}

fn is_tcp(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::Tcp(_)))
}

fn is_quic(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::QuicV1)
}

/// What a connection is made of.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Wire for T {}

/// Secures TCP connections and multiplexes them.
///
/// A listener accepts Noise and TLS. A dialer proposes Noise alone: a single proposal costs no round trip, because the
/// handshake is sent right behind it; a list of two costs one. Noise, because every Kameo node accepts it.
#[derive(Clone)]
struct Security {
    noise: noise::Config,
    /// What a listener accepts besides Noise.
    tls: Option<tls::Config>,
    /// The key of a private network.
    secret: Option<PreSharedKey>,
    budget: Arc<Budget>,
}

impl Security {
    fn new(keypair: &Keypair, listens: bool, secret: Option<PreSharedKey>, budget: Arc<Budget>) -> io::Result<Self> {
        Ok(Self {
            secret,
            budget,
            noise: noise::Config::new(keypair).map_err(io::Error::other)?,
            tls: listens.then(|| tls::Config::new(keypair)).transpose().map_err(io::Error::other)?,
        })
    }

    async fn upgrade(
        self,
        stream: tcp::tokio::TcpStream,
        endpoint: ConnectedPoint,
    ) -> io::Result<(PeerId, StreamMuxerBox)> {
        let stream = Coalesce::new(stream);
        let upgrade = async {
            match self.secret {
                None => self.secure(stream, &endpoint).await,
                Some(secret) => {
                    let stream = PnetConfig::new(secret).handshake(stream).await.map_err(io::Error::other)?;
                    self.secure(stream, &endpoint).await
                }
            }
        };
        match timeout(UPGRADE_TIMEOUT, upgrade).await {
            Ok(upgraded) => upgraded,
            Err(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "it accepts connections, but says nothing")),
        }
    }

    async fn secure(self, stream: impl Wire, endpoint: &ConnectedPoint) -> io::Result<(PeerId, StreamMuxerBox)> {
        if endpoint.is_dialer() { self.dial(stream).await } else { self.listen(stream).await }
    }

    async fn dial(self, stream: impl Wire) -> io::Result<(PeerId, StreamMuxerBox)> {
        let (name, stream) = dialer_select_proto(stream, self.noise.protocol_info(), Version::V1Lazy).await?;
        let (peer, stream) = self.noise.upgrade_outbound(stream, name).await.map_err(io::Error::other)?;
        let (_, stream) = dialer_select_proto(stream, [mux::PROTOCOL], Version::V1Lazy).await?;
        Ok((peer, StreamMuxerBox::new(self.budget.connection(Yamux::new(stream, Mode::Client)))))
    }

    async fn listen(self, stream: impl Wire) -> io::Result<(PeerId, StreamMuxerBox)> {
        let tls = self.tls.iter().flat_map(UpgradeInfo::protocol_info);
        let (name, stream) = listener_select_proto(stream, self.noise.protocol_info().chain(tls)).await?;
        let (peer, stream) = match self.tls {
            Some(tls) if tls.protocol_info().any(|tls| tls == name) => {
                let (peer, stream) = tls.upgrade_inbound(stream, name).await.map_err(io::Error::other)?;
                (peer, Either::Right(stream))
            }
            _ => {
                let (peer, stream) = self.noise.upgrade_inbound(stream, name).await.map_err(io::Error::other)?;
                (peer, Either::Left(stream))
            }
        };
        let (_, stream) = listener_select_proto(stream, [mux::PROTOCOL]).await?;
        Ok((peer, StreamMuxerBox::new(self.budget.connection(Yamux::new(stream, Mode::Server)))))
    }
}
