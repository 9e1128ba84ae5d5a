//! WebSocket (RFC 6455), for networks that let nothing out but web traffic: over TCP, or over TLS on TCP.
//!
//! TLS makes a connection look like the web's, and proxies forward it. It proves nothing here: Noise, inside of it,
//! proves who the other side is and encrypts everything once more. So a client takes any certificate, and a server
//! without one of its own signs one for itself.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::{
    AsyncRead, AsyncWrite, FutureExt, Sink, Stream,
    future::{BoxFuture, err},
};
use libp2p::{
    Multiaddr, Transport as _,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
    multiaddr::Protocol,
    tcp,
};
use tokio::{net::TcpStream, task::coop};
use tokio_rustls::{
    TlsAcceptor, TlsConnector, TlsStream,
    rustls::{
        ClientConfig, DigitallySignedStruct, Error as TlsError, ServerConfig, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, ServerName, UnixTime},
    },
};
use tokio_tungstenite::{
    WebSocketStream, accept_async_with_config, client_async_with_config,
    tungstenite::{Error as WsError, Message, protocol::WebSocketConfig},
};
use tokio_util::{either::Either, io::InspectReader};

use super::{Connections, Kind, Setup, Transport, endpoint, tcp as plain, tcp_dialer::TcpDialer};
use crate::{
    address::without_peer,
    hardening::{ConnectionMemory, Memory, Part},
    keys::certificate::Certificate,
};

/// The size of the largest message that is sent, in bytes: one of Noise, and its length.
const MAX_SENT: usize = 65_537;

/// The same of one that is taken.
const MAX_TAKEN: usize = 2 * MAX_SENT;

/// How many bytes are read at once.
const READ_SIZE: usize = 16 * 1024;

pub(super) struct Ws;

impl Kind for Ws {
    fn name(&self) -> &'static str {
        "WS"
    }

    fn path(&self, port: u16) -> Multiaddr {
        Multiaddr::empty().with(Protocol::Tcp(port)).with(Protocol::Ws("/".into()))
    }

    fn build(&self, setup: &Setup) -> io::Result<Connections> {
        WebSockets::new(setup, Transport::Ws).secured(setup)
    }
}

pub(super) struct Wss;

impl Kind for Wss {
    fn name(&self) -> &'static str {
        "WSS"
    }

    fn path(&self, port: u16) -> Multiaddr {
        Multiaddr::empty().with(Protocol::Tcp(port)).with(Protocol::Tls).with(Protocol::Ws("/".into()))
    }

    /// Also in the short form, and with the name that the other side is asked for.
    fn length(&self, parts: &[Protocol<'_>]) -> Option<usize> {
        match parts {
            [Protocol::Tcp(_), Protocol::Wss(path), ..] if path == "/" => Some(2),
            [Protocol::Tcp(_), Protocol::Tls, Protocol::Ws(path), ..] if path == "/" => Some(3),
            [Protocol::Tcp(_), Protocol::Tls, Protocol::Sni(_), Protocol::Ws(path), ..] if path == "/" => Some(4),
            _ => None,
        }
    }

    fn build(&self, setup: &Setup) -> io::Result<Connections> {
        WebSockets::new(setup, Transport::Wss).secured(setup)
    }
}

/// Carries byte streams in WebSocket messages.
struct WebSockets {
    tcp: TcpDialer,
    /// With TLS or without.
    kind: Transport,
    certificate: Option<Certificate>,
    acceptor: Option<TlsAcceptor>,
    memory: Arc<Memory>,
}

impl WebSockets {
    fn new(setup: &Setup, kind: Transport) -> Self {
        // It has ports of its own, and no peer comes to them.
        let tcp = TcpDialer::new(setup.sources.clone(), Arc::default());
        Self { tcp, kind, certificate: setup.certificate.clone(), acceptor: None, memory: setup.memory.clone() }
    }

    fn secured(self, setup: &Setup) -> io::Result<Connections> {
        let upgrade = plain::Upgrade::new(setup)?;
        let secured = self.and_then(move |(stream, memory), endpoint| upgrade.run_within(memory, stream, endpoint));
        Ok(secured.map_err(|error| error.into_inner()).boxed())
    }

    /// An address of TCP as one of this transport.
    fn wrap(&self, address: Multiaddr) -> Multiaddr {
        endpoint(&address).map_or(address, |(ip, port, _)| self.kind.multiaddr(ip, port))
    }

    fn accept(&self, connecting: impl Future<Output = io::Result<tcp::tokio::TcpStream>> + Send + 'static) -> Opening {
        let (acceptor, memory) = (self.acceptor.clone(), self.memory.clone());
        let accept = async move {
            let stream = connecting.await?;
            plain::limit_unsent(&stream);
            let stream = stream.0;
            let stream = match acceptor {
                Some(acceptor) => Either::Right(TlsStream::from(acceptor.accept(stream).await?)),
                None => Either::Left(stream),
            };
            open(stream, &memory, |stream| accept_async_with_config(stream, Some(config()))).await
        };
        accept.boxed()
    }
}

type Opening = BoxFuture<'static, io::Result<Opened>>;

impl libp2p::Transport for WebSockets {
    type Output = Opened;
    type Error = io::Error;
    type ListenerUpgrade = Opening;
    type Dial = Opening;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        let (ip, port, _) = endpoint(&address).ok_or(TransportError::MultiaddrNotSupported(address))?;
        if self.kind == Transport::Wss && self.acceptor.is_none() {
            let acceptor = acceptor(self.certificate.take()).map_err(TransportError::Other)?;
            self.acceptor = Some(acceptor);
        }
        self.tcp.listen_on(id, Transport::Tcp.multiaddr(ip, port))
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.tcp.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Opening, TransportError<io::Error>> {
        let address = without_peer(address);
        let Some((ip, port, _)) = endpoint(&address) else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        let name =
            address.iter().find_map(|part| if let Protocol::Sni(name) = part { Some(name.into_owned()) } else { None });
        let host = match &name {
            Some(name) => format!("{name}:{port}"),
            None => SocketAddr::new(ip, port).to_string(),
        };
        let is_secure = self.kind == Transport::Wss;
        let tcp: Multiaddr = address
            .iter()
            .take_while(|part| !matches!(part, Protocol::Tls | Protocol::Ws(_) | Protocol::Wss(_)))
            .collect();
        let connecting = self.tcp.dial(tcp, options)?;
        let memory = self.memory.clone();
        let dial = async move {
            let stream = connecting.await?;
            plain::limit_unsent(&stream);
            let stream = stream.0;
            let stream = if is_secure {
                let name = name.map_or(Ok(ServerName::from(ip)), ServerName::try_from).map_err(io::Error::other)?;
                let connected = TlsConnector::from(client_config()?).connect(name, stream).await?;
                Either::Right(TlsStream::from(connected))
            } else {
                Either::Left(stream)
            };
            let url = format!("ws://{host}/");
            let connect = async |stream| Ok(client_async_with_config(url, stream, Some(config())).await?.0);
            open(stream, &memory, connect).await
        };
        Ok(dial.boxed())
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<TransportEvent<Opening, io::Error>> {
        Poll::Ready(match ready!(Pin::new(&mut self.tcp).poll(context)) {
            TransportEvent::NewAddress { listener_id, listen_addr } => {
                TransportEvent::NewAddress { listener_id, listen_addr: self.wrap(listen_addr) }
            }
            TransportEvent::AddressExpired { listener_id, listen_addr } => {
                TransportEvent::AddressExpired { listener_id, listen_addr: self.wrap(listen_addr) }
            }
            TransportEvent::Incoming { listener_id, upgrade, local_addr, send_back_addr } => TransportEvent::Incoming {
                listener_id,
                upgrade: self.accept(upgrade),
                local_addr: self.wrap(local_addr),
                send_back_addr: self.wrap(send_back_addr),
            },
            other => other.map_upgrade(|_| err(io::Error::from(io::ErrorKind::Unsupported)).boxed()),
        })
    }
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_SIZE)
        // What is written is joined already.
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_TAKEN)
        .max_message_size(Some(MAX_TAKEN))
        .max_frame_size(Some(MAX_TAKEN))
}

fn explain(error: WsError) -> io::Error {
    match error {
        WsError::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn acceptor(certificate: Option<Certificate>) -> io::Result<TlsAcceptor> {
    let certificate = certificate.map_or_else(Certificate::self_signed, Ok)?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(certificate.chain, certificate.key.clone_key())
        .map_err(io::Error::other)?;
    Ok(Arc::new(config).into())
}

fn client_config() -> io::Result<Arc<ClientConfig>> {
    let provider = provider();
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Takes every certificate whose owner has its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The bytes of the messages that come, and messages of the bytes that go.
struct WsStream {
    socket: Socket,
    /// What is left of the last message.
    rest: Bytes,
    /// How many bytes have come since then.
    unread: Arc<AtomicUsize>,
    /// Whether the other side has sent pings, whose answers wait to be sent.
    is_pinged: bool,
    /// The account of all that.
    part: Part,
}

impl WsStream {
    fn charge(&mut self) -> io::Result<()> {
        let pongs = if self.is_pinged { MAX_TAKEN } else { 0 };
        self.part.set(self.rest.len() + self.unread.load(Ordering::Relaxed) + pongs)
    }
}

type Socket = WebSocketStream<Tcp>;

/// A connection whose bytes are counted when they come.
type Tcp = InspectReader<Either<TcpStream, TlsStream<TcpStream>>, Box<dyn FnMut(&[u8]) + Send>>;

/// A byte stream, and the account of its connection.
type Opened = (WsStream, Arc<ConnectionMemory>);

/// Opens a WebSocket on a connection.
async fn open<S: Future<Output = Result<Socket, WsError>>>(
    stream: Either<TcpStream, TlsStream<TcpStream>>,
    memory: &Arc<Memory>,
    handshake: impl FnOnce(Tcp) -> S,
) -> io::Result<Opened> {
    let memory = memory.connect()?;
    let unread = Arc::new(AtomicUsize::new(0));
    let count = unread.clone();
    let counted = move |bytes: &[u8]| {
        count.fetch_add(bytes.len(), Ordering::Relaxed);
    };
    let socket = handshake(InspectReader::new(stream, Box::new(counted))).await.map_err(explain)?;
    unread.store(0, Ordering::Relaxed);
    Ok((WsStream { socket, rest: Bytes::new(), unread, is_pinged: false, part: memory.part() }, memory))
}

impl AsyncRead for WsStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        while self.rest.is_empty() {
            // Small messages come by the thousand in one read.
            let turn = ready!(coop::poll_proceed(context));
            let Poll::Ready(message) = Pin::new(&mut self.socket).poll_next(context) else {
                self.charge()?;
                return Poll::Pending;
            };
            turn.made_progress();
            match message {
                Some(Ok(Message::Binary(bytes))) => {
                    self.unread.store(0, Ordering::Relaxed);
                    self.rest = bytes;
                }
                Some(Ok(Message::Ping(_))) => self.is_pinged = true,
                Some(Ok(Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Text(_))) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                Some(Ok(Message::Close(_)) | Err(WsError::ConnectionClosed | WsError::AlreadyClosed)) | None => {
                    return Poll::Ready(Ok(0));
                }
                Some(Err(error)) => return Poll::Ready(Err(explain(error))),
            }
        }
        let length = self.rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.rest.split_to(length));
        self.charge()?;
        Poll::Ready(Ok(length))
    }
}

impl AsyncWrite for WsStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(context)).map_err(explain)?;
        let part = &bytes[..bytes.len().min(MAX_SENT)];
        let message = Message::Binary(Bytes::copy_from_slice(part));
        Pin::new(&mut self.socket).start_send(message).map_err(explain)?;
        Poll::Ready(Ok(part.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context).map_err(explain)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(context).map_err(explain)
    }
}
