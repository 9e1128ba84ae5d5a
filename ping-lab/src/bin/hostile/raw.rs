//! Connections without a swarm: streams that never name a protocol, in frames of any size.

use std::{future::poll_fn, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use futures::{AsyncRead, AsyncWrite, AsyncWriteExt, future::join_all};
use libp2p::{
    Multiaddr,
    core::{UpgradeInfo, upgrade::OutboundConnectionUpgrade},
    identity::Keypair,
    multiaddr::Protocol,
    noise, tls,
};
use multistream_select::{Version, dialer_select_proto};
use quinn::{ClientConfig, Endpoint, crypto::rustls::QuicClientConfig};
use tokio::{net::TcpStream, time::timeout};

use crate::swarm::end_of_input;

/// How long nothing is taken until a connection counts as full.
const BLOCKED: Duration = Duration::from_secs(2);

/// How long a stream takes nothing until it counts as full.
const FULL: Duration = Duration::from_millis(200);

/// More than a connection takes.
const STREAMS: usize = 500;

/// How many streams a swarm takes that have not named their protocol. The others wait.
const UNNAMED: usize = 128;

/// How such a stream begins.
const MULTISTREAM: &[u8] = b"\x13/multistream/1.0.0\n";

/// A little less than the window of a stream, so that nothing waits for more of it.
const PER_STREAM: usize = 240 * 1024;

/// Fills streams that never name a protocol, on many connections, in frames of this size. Prints how many bytes were
/// taken, and holds what is left.
pub(crate) async fn unread(address: Multiaddr, connections: usize, frame: usize) -> Result<()> {
    let socket = socket(&address)?;
    let is_quic = address.iter().any(|part| part == Protocol::QuicV1);
    let fillings = (0..connections)
        .map(|_| async { if is_quic { fill_quic(socket, frame).await } else { fill_tcp(socket, frame).await } });
    let filled: Vec<_> = join_all(fillings).await.into_iter().filter_map(Result::ok).collect();
    println!("{}", filled.iter().map(|(taken, _)| taken).sum::<usize>());
    end_of_input().await
}

pub(crate) fn socket(address: &Multiaddr) -> Result<SocketAddr> {
    let (mut ip, mut port) = (None, None);
    for part in address {
        match part {
            Protocol::Ip4(found) => ip = Some(found),
            Protocol::Tcp(found) | Protocol::Udp(found) => port = Some(found),
            _ => {}
        }
    }
    Ok((ip.context("no IPv4 address")?, port.context("no port")?).into())
}

/// Less than the longest name that is read.
const NAME: usize = 16_000;

/// What keeps a connection open.
type Held = Box<dyn Send>;

/// A byte stream that carries yamux.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

pub(crate) type Wire = Pin<Box<dyn Duplex>>;

/// Connects with a new identity, up to the point where frames of yamux follow.
pub(crate) async fn secure(socket: SocketAddr) -> Result<Wire> {
    let stream = libp2p::tcp::tokio::TcpStream(TcpStream::connect(socket).await?);
    let noise = noise::Config::new(&Keypair::generate_ed25519())?;
    let (name, stream) = dialer_select_proto(stream, noise.protocol_info(), Version::V1).await?;
    let (_, stream) = noise.upgrade_outbound(stream, name).await?;
    let (_, stream) = dialer_select_proto(stream, ["/yamux/1.0.0"], Version::V1).await?;
    Ok(Box::pin(stream))
}

async fn fill_tcp(socket: SocketAddr, frame: usize) -> Result<(usize, Held)> {
    let stream = secure(socket).await?;
    let mut connection = yamux::Connection::new(stream, yamux::Config::default(), yamux::Mode::Client);
    let (opened, mut requests) = tokio::sync::mpsc::channel::<tokio::sync::oneshot::Sender<yamux::Stream>>(1);
    let driver = tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(request) = requests.recv() => {
                    match poll_fn(|context| connection.poll_new_outbound(context)).await {
                        Ok(stream) => drop(request.send(stream)),
                        Err(_) => return,
                    }
                }
                inbound = poll_fn(|context| connection.poll_next_inbound(context)) => {
                    if !matches!(inbound, Some(Ok(_))) {
                        return;
                    }
                }
            }
        }
    });
    let (mut taken, mut held) = (0, Vec::new());
    for number in 0..STREAMS {
        let (request, stream) = tokio::sync::oneshot::channel();
        if opened.send(request).await.is_err() {
            break;
        }
        let Ok(mut stream) = stream.await else { break };
        if number < UNNAMED {
            stream.write_all(MULTISTREAM).await?;
            stream.flush().await?;
            held.push(stream);
            continue;
        }
        let bytes = vec![0; frame];
        let mut sent = 0;
        while sent < PER_STREAM
            && let Ok(Ok(length)) = timeout(FULL, stream.write(&bytes)).await
        {
            sent += length;
            if timeout(FULL, stream.flush()).await.is_err() {
                break;
            }
        }
        taken += sent;
        held.push(stream);
    }
    if driver.is_finished() {
        bail!("the server closed the connection after {taken} bytes");
    }
    Ok((taken, Box::new((held, opened))))
}

async fn fill_quic(socket: SocketAddr, frame: usize) -> Result<(usize, Held)> {
    let key = Keypair::generate_ed25519();
    let crypto = QuicClientConfig::try_from(tls::make_client_config(&key, None)?)?;
    let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into())?;
    let connection = endpoint.connect_with(ClientConfig::new(Arc::new(crypto)), socket, "l")?.await?;
    let (mut taken, mut held) = (0, Vec::new());
    while let Ok(Ok((mut send, receive))) = timeout(BLOCKED, connection.open_bi()).await {
        // Behind its length, a protocol's name that does not end.
        send.write_all(MULTISTREAM).await?;
        send.write_all(&[0xff, 0x7f]).await?;
        let bytes = vec![b'x'; frame];
        let mut sent = 0;
        while sent < NAME
            && let Ok(Ok(length)) = timeout(FULL, send.write(&bytes[..frame.min(NAME - sent)])).await
        {
            sent += length;
        }
        taken += sent;
        let is_full = sent < NAME;
        held.push((send, receive));
        if is_full {
            break;
        }
    }
    Ok((taken, Box::new((held, connection, endpoint))))
}
