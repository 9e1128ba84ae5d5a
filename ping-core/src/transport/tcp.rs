//! TCP, secured by Noise or TLS 1.3 and multiplexed by yamux. A pre-shared key encrypts everything on it once more.

use std::{io, iter, sync::Arc, time::Duration};

use ::yamux::Mode;
use futures::{AsyncRead, AsyncWrite};
use libp2p::{
    Multiaddr, PeerId, Transport as _,
    core::{ConnectedPoint, Endpoint, UpgradeInfo, muxing::StreamMuxerBox, upgrade::InboundConnectionUpgrade},
    multiaddr::Protocol,
    pnet::{PnetConfig, PreSharedKey},
    tcp, tls,
};
use multistream_select::{Version, dialer_select_proto, listener_select_proto};
use tokio::time::timeout;

use super::{
    Connections, Kind, Setup,
    coalesce::Coalesce,
    noise,
    signs::Signs,
    tcp_dialer::TcpDialer,
    yamux::{self, Yamux},
};
use crate::hardening::{ConnectionMemory, Memory, Metered};

/// How long an established TCP connection may take to be secured and multiplexed: two round trips of 3.2 s, and some
/// more.
///
/// Shorter than the whole handshake's limit, so that silence on a connection is told apart from no connection.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(9);

pub(super) struct Tcp;

impl Kind for Tcp {
    fn name(&self) -> &'static str {
        "TCP"
    }

    fn path(&self, port: u16) -> Multiaddr {
        Multiaddr::empty().with(Protocol::Tcp(port))
    }

    fn build(&self, setup: &Setup) -> io::Result<Connections> {
        let upgrade = Upgrade::new(setup)?;
        Ok(TcpDialer::new(setup.sources.clone(), setup.arrivals.clone())
            .and_then(move |stream, endpoint| {
                limit_unsent(&stream);
                upgrade.run(stream, endpoint)
            })
            .map_err(|error| error.into_inner())
            .boxed())
    }
}

/// How many bytes the system takes that it cannot send yet. It would take megabytes, and whatever is written next, such
/// as the answer to a sign of life, waits behind them. What is on its way does not count, so it limits no rate.
#[cfg(target_os = "linux")]
const MAX_UNSENT: u32 = 256 * 1024;

pub(super) fn limit_unsent(stream: &tcp::tokio::TcpStream) {
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(&stream.0).set_tcp_notsent_lowat(MAX_UNSENT) {
        tracing::debug!(%error, "the system takes what it cannot send yet");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = stream;
}

/// What a connection is made of.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Wire for T {}

/// Secures byte streams and multiplexes them.
///
/// A listener accepts Noise and TLS. A dialer proposes Noise alone: a single proposal costs no round trip, because the
/// handshake follows right behind it; a list of two costs one. Noise, because every Kameo node accepts it.
#[derive(Clone)]
pub(super) struct Upgrade {
    noise: noise::Config,
    /// What a listener accepts besides Noise.
    tls: Option<tls::Config>,
    /// The key of a private network.
    secret: Option<PreSharedKey>,
    memory: Arc<Memory>,
    signs: Arc<Signs>,
}

impl Upgrade {
    pub(super) fn new(setup: &Setup) -> io::Result<Self> {
        Ok(Self {
            noise: noise::Config::new(&setup.keypair)?,
            // Making the certificate takes time, which a node that only dials is spared.
            tls: setup.listens.then(|| tls::Config::new(&setup.keypair)).transpose().map_err(io::Error::other)?,
            secret: setup.secret,
            memory: setup.memory.clone(),
            signs: setup.signs.clone(),
        })
    }

    pub(super) async fn run(self, stream: impl Wire, endpoint: ConnectedPoint) -> io::Result<(PeerId, StreamMuxerBox)> {
        let memory = self.memory.connect()?;
        self.run_within(memory, stream, endpoint).await
    }

    /// The same, with an account that the connection has already.
    pub(super) async fn run_within(
        self,
        memory: Arc<ConnectionMemory>,
        stream: impl Wire,
        endpoint: ConnectedPoint,
    ) -> io::Result<(PeerId, StreamMuxerBox)> {
        let signs = self.signs.clone();
        let (stream, sign) = signs.watch_stream(stream, endpoint.is_relayed());
        let stream = Coalesce::new(stream, &memory);
        let upgrade = async {
            match self.secret {
                None => self.secure(stream, &endpoint, memory).await,
                Some(secret) => {
                    let stream = PnetConfig::new(secret).handshake(stream).await.map_err(io::Error::other)?;
                    self.secure(stream, &endpoint, memory).await
                }
            }
        };
        match timeout(UPGRADE_TIMEOUT, upgrade).await {
            Ok(upgraded) => upgraded.inspect(|(peer, _)| signs.add(*peer, &sign)),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the connection was accepted, but no handshake followed",
            )),
        }
    }

    async fn secure(
        self,
        stream: impl Wire,
        endpoint: &ConnectedPoint,
        memory: Arc<ConnectionMemory>,
    ) -> io::Result<(PeerId, StreamMuxerBox)> {
        match endpoint {
            ConnectedPoint::Dialer { role_override: Endpoint::Dialer, .. } => self.dial(stream, memory).await,
            // Of two sides that dial each other at once, one acts as if it had been dialed.
            _ => self.accept(stream, memory).await,
        }
    }

    async fn dial(self, stream: impl Wire, memory: Arc<ConnectionMemory>) -> io::Result<(PeerId, StreamMuxerBox)> {
        let (_, stream) = dialer_select_proto(stream, [noise::PROTOCOL], Version::V1Lazy).await?;
        let (peer, stream) = self.noise.dial(stream, memory.part()).await?;
        let (_, stream) = dialer_select_proto(stream, [yamux::PROTOCOL], Version::V1Lazy).await?;
        Ok((peer, multiplex(stream, Mode::Client, memory)))
    }

    async fn accept(self, stream: impl Wire, memory: Arc<ConnectionMemory>) -> io::Result<(PeerId, StreamMuxerBox)> {
        let tls = self.tls.iter().flat_map(UpgradeInfo::protocol_info);
        let (name, stream) = listener_select_proto(stream, iter::once(noise::PROTOCOL).chain(tls)).await?;
        match self.tls {
            Some(tls) if tls.protocol_info().any(|tls| tls == name) => {
                let (peer, stream) = tls.upgrade_inbound(stream, name).await.map_err(io::Error::other)?;
                Ok((peer, accept_streams(stream, memory).await?))
            }
            _ => {
                let (peer, stream) = self.noise.accept(stream, memory.part()).await?;
                Ok((peer, accept_streams(stream, memory).await?))
            }
        }
    }
}

async fn accept_streams(stream: impl Wire, memory: Arc<ConnectionMemory>) -> io::Result<StreamMuxerBox> {
    let (_, stream) = listener_select_proto(stream, [yamux::PROTOCOL]).await?;
    Ok(multiplex(stream, Mode::Server, memory))
}

fn multiplex(stream: impl Wire, mode: Mode, memory: Arc<ConnectionMemory>) -> StreamMuxerBox {
    StreamMuxerBox::new(Metered::new(Yamux::new(stream, mode, &memory), memory))
}
