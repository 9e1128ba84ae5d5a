//! Signs of life: when anything of a peer last arrived. And how many bytes did.
//!
//! Under bulk data the answer to a probe waits behind the data, for seconds on a slow link. The data shows as well that
//! the peer is there; and so does a full send buffer that takes more, because only what the peer has confirmed makes
//! room.

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::{
    PeerId,
    core::{StreamMuxer, muxing::StreamMuxerEvent},
};

/// How many bytes all connections of one kind have received and sent, or one through a relay.
#[derive(Debug, Default)]
struct Bytes {
    received: AtomicU64,
    sent: AtomicU64,
}

/// The last sign of life on one connection.
#[derive(Debug)]
pub(crate) struct Sign {
    opened: Instant,
    /// In microseconds after that.
    last: AtomicU64,
    bytes: Arc<Bytes>,
}

impl Sign {
    fn new(bytes: Arc<Bytes>) -> Arc<Self> {
        Arc::new(Self { opened: Instant::now(), last: AtomicU64::new(0), bytes })
    }

    fn show(&self) {
        let micros = u64::try_from(self.opened.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.last.store(micros, Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.opened + Duration::from_micros(self.last.load(Ordering::Relaxed))
    }
}

/// The last signs of life of all peers of a node.
#[derive(Debug, Default)]
pub(crate) struct Signs {
    peers: Mutex<HashMap<PeerId, Vec<Weak<Sign>>>>,
    tcp: Arc<Bytes>,
    quic: Arc<Bytes>,
}

impl Signs {
    /// A QUIC connection with this peer is established. Returns it, watched.
    pub(super) fn watch<M>(&self, peer: PeerId, connection: M) -> Watched<M> {
        let sign = Sign::new(self.quic.clone());
        self.add(peer, &sign);
        Watched::new(connection, sign)
    }

    /// A byte stream begins, which will be a connection if all goes well. Returns it, watched. The bytes of one through
    /// a relay are those of the connection to the relay, and count there.
    pub(super) fn watch_stream<S>(&self, stream: S, is_relayed: bool) -> (Watched<S>, Arc<Sign>) {
        let sign = Sign::new(if is_relayed { Arc::default() } else { self.tcp.clone() });
        (Watched::new(stream, sign.clone()), sign)
    }

    /// A connection with this peer is established.
    pub(super) fn add(&self, peer: PeerId, sign: &Arc<Sign>) {
        let mut all = self.lock();
        all.retain(|_, signs| {
            signs.retain(|sign| sign.strong_count() > 0);
            !signs.is_empty()
        });
        all.entry(peer).or_default().push(Arc::downgrade(sign));
    }

    /// When anything of this peer last arrived, on any of its connections.
    pub(crate) fn last(&self, peer: &PeerId) -> Option<Instant> {
        self.lock().get(peer)?.iter().filter_map(Weak::upgrade).map(|sign| sign.last()).max()
    }

    /// How many bytes the newest connection with this peer through a relay has received and sent.
    pub(crate) fn carried(&self, peer: &PeerId) -> u64 {
        let is_relayed = |sign: &Arc<Sign>| ![&self.tcp, &self.quic].iter().any(|all| Arc::ptr_eq(all, &sign.bytes));
        let all = self.lock();
        let newest = all.get(peer).and_then(|signs| signs.iter().rev().filter_map(Weak::upgrade).find(is_relayed));
        newest.map_or(0, |sign| sign.bytes.received.load(Ordering::Relaxed) + sign.bytes.sent.load(Ordering::Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, Vec<Weak<Sign>>>> {
        // Nothing between the steps of a change can panic.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much the connections of a node have carried.
#[derive(Clone, Debug)]
pub struct Traffic(Arc<Signs>);

impl Traffic {
    pub(crate) fn of(signs: Arc<Signs>) -> Self {
        Self(signs)
    }

    /// How many bytes were received over `tcp`, with WebSocket and what secures both, and by the streams of `quic`, its
    /// packets' heads not included. What a relay carries counts once: on the connection to the relay.
    pub fn received(&self) -> [(&'static str, u64); 2] {
        self.each(|bytes| &bytes.received)
    }

    /// How many were sent.
    pub fn sent(&self) -> [(&'static str, u64); 2] {
        self.each(|bytes| &bytes.sent)
    }

    fn each(&self, way: impl Fn(&Bytes) -> &AtomicU64) -> [(&'static str, u64); 2] {
        [("tcp", &self.0.tcp), ("quic", &self.0.quic)].map(|(name, bytes)| (name, way(bytes).load(Ordering::Relaxed)))
    }
}

/// A byte stream, or a connection and its streams, on which signs of life are seen.
pub(super) struct Watched<S> {
    stream: S,
    sign: Arc<Sign>,
    /// Whether the last write found no room.
    is_full: bool,
}

impl<S> Watched<S> {
    fn new(stream: S, sign: Arc<Sign>) -> Self {
        Self { stream, sign, is_full: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Poll::Ready(Ok(length @ 1..)) = read {
            self.sign.bytes.received.fetch_add(length as u64, Ordering::Relaxed);
            self.sign.show();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        let was_full = std::mem::replace(&mut self.is_full, written.is_pending());
        if let Poll::Ready(Ok(length @ 1..)) = written {
            self.sign.bytes.sent.fetch_add(length as u64, Ordering::Relaxed);
            if was_full {
                self.sign.show();
            }
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }
}

/// The streams of a QUIC connection, whose packets only its library sees.
impl<M: StreamMuxer<Substream: Unpin> + Unpin> StreamMuxer for Watched<M> {
    type Substream = Watched<M::Substream>;
    type Error = M::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Self::Substream, Self::Error>> {
        let opened = ready!(Pin::new(&mut self.stream).poll_inbound(context))?;
        self.sign.show();
        Poll::Ready(Ok(Watched::new(opened, self.sign.clone())))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let opened = ready!(Pin::new(&mut self.stream).poll_outbound(context))?;
        Poll::Ready(Ok(Watched::new(opened, self.sign.clone())))
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.stream).poll_close(context)
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        Pin::new(&mut self.stream).poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{AsyncReadExt, AsyncWriteExt, FutureExt};
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (libp2p::tcp::tokio::TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (libp2p::tcp::tokio::TcpStream(near), listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn what_arrives_is_a_sign_and_what_is_only_sent_is_none() {
        let (near, far) = pair().await;
        let signs = Arc::new(Signs::default());
        let traffic = Traffic::of(signs.clone());
        let (mut near, sign) = signs.watch_stream(near, false);
        near.write_all(b"hello").await.unwrap();
        assert_eq!((traffic.received(), traffic.sent()), ([("tcp", 0), ("quic", 0)], [("tcp", 5), ("quic", 0)]));
        let (mut inner, inner_sign) = signs.watch_stream(pair().await.0, true);
        inner.write_all(b"hello").await.unwrap();
        let peer = PeerId::random();
        signs.add(peer, &inner_sign);
        assert_eq!(signs.carried(&peer), 5);
        signs.add(peer, &sign);
        assert_eq!(signs.carried(&peer), 5, "what a direct connection carries does not count");
        let (_renewed, renewed_sign) = signs.watch_stream(pair().await.0, true);
        signs.add(peer, &renewed_sign);
        assert_eq!(signs.carried(&peer), 0, "the newest through a relay has carried nothing");
        assert_eq!(traffic.sent(), [("tcp", 5), ("quic", 0)]);
        let silent = sign.last();
        assert_eq!(silent, sign.opened);
        // It fills the buffers of both ends, and then there is no room.
        let block = vec![0; 1 << 20];
        while let Some(written) = near.write(&block).now_or_never() {
            written.unwrap();
        }
        assert_eq!(sign.last(), silent);
        // The other end takes some, which makes room.
        let mut taken = vec![0; 1 << 20];
        let making_room = async {
            loop {
                far.readable().await.unwrap();
                let _ = far.try_read(&mut taken);
            }
        };
        tokio::select! {
            written = near.write(&block) => assert!(written.unwrap() > 0),
            () = making_room => {}
        }
        assert!(sign.last() > silent);
        let before = sign.last();
        far.try_write(b"x").unwrap();
        let mut byte = [0];
        near.read_exact(&mut byte).await.unwrap();
        assert!(sign.last() > before);
        assert_eq!(traffic.received(), [("tcp", 1), ("quic", 0)]);
    }

    #[test]
    fn a_peer_lives_as_its_liveliest_connection_does() {
        let (signs, peer) = (Signs::default(), PeerId::random());
        assert_eq!(signs.last(&peer), None);
        let [one, two] = [(); 2].map(|()| Sign::new(signs.tcp.clone()));
        signs.add(peer, &one);
        signs.add(peer, &two);
        two.show();
        assert_eq!(signs.last(&peer), Some(two.last()));
        drop(two);
        assert_eq!(signs.last(&peer), Some(one.last()));
        drop(one);
        assert_eq!(signs.last(&peer), None);
    }
}
