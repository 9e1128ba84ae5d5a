//! A connection: its streams, and the room that its peer may fill.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Instant,
};

use futures::{AsyncRead, AsyncWrite, FutureExt, future::BoxFuture};
use libp2p::core::{StreamMuxer, muxing::StreamMuxerEvent};
use quinn::{RecvStream, SendStream, TransportConfig, VarInt};

use crate::hardening::{ConnectionMemory, Part};

/// The largest window: enough for 160 MB/s over a round trip of 100 ms.
pub(super) const MAX_WINDOW: u32 = 16 * 1024 * 1024;

/// The windows that a connection may start with, as far as there is room: the first serves a request of the usual size
/// without a pause, the second lets some hundred connections be, and the last two thousand within 256 MiB.
const FIRST_WINDOWS: [u32; 3] = [512 * 1024, 128 * 1024, Window::SMALLEST];

/// How many bytes a peer may send ahead of what is read, in all streams of a connection, and as many are kept for it
/// until it confirms them. A node that only dials keeps up to the largest window, because it chooses what it sends.
///
/// QUIC's own windows are fixed. This one doubles when a peer fills half of it within two round trips, as long as
/// three quarters of the node's memory for peers are free.
#[derive(Clone, Debug)]
pub(super) struct Window(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    size: u32,
    only_dials: bool,
    memory: Arc<ConnectionMemory>,
    /// What the smallest window takes; more is promised.
    _own: Option<Part>,
    /// How much was read in this round, and when it began.
    read: u64,
    began: Instant,
}

impl Window {
    /// The window of a connection when there is little room.
    pub(super) const SMALLEST: u32 = 16 * 1024;

    /// The largest window for which there is room; of a node that listens or `only_dials`. Fails if there is no room.
    pub(super) fn new(memory: Arc<ConnectionMemory>, only_dials: bool) -> io::Result<Self> {
        let promised = FIRST_WINDOWS.into_iter().find(|size| memory.promise(cost(*size, only_dials)));
        let (size, own) = match promised {
            Some(size) => (size, None),
            None => {
                let mut part = memory.part();
                part.set(cost(Self::SMALLEST, only_dials))?;
                (Self::SMALLEST, Some(part))
            }
        };
        Ok(Self(Arc::new(Mutex::new(State { size, only_dials, memory, _own: own, read: 0, began: Instant::now() }))))
    }

    /// Adds the windows to the limits of a connection that begins.
    pub(super) fn limit(&self, config: &mut TransportConfig) {
        let State { size, only_dials, .. } = *self.lock();
        let sent = if only_dials { MAX_WINDOW } else { size };
        // The window of the whole connection is the limit, and it grows.
        config.stream_receive_window(MAX_WINDOW.into()).receive_window(size.into()).send_window(sent.into());
    }

    fn on_read(&self, bytes: usize, connection: &quinn::Connection) {
        let mut state = self.lock();
        state.read += bytes as u64;
        if state.read < u64::from(state.size / 2) {
            return;
        }
        let is_fast = state.began.elapsed() < 2 * connection.rtt();
        (state.read, state.began) = (0, Instant::now());
        let size = state.size.saturating_mul(2);
        if is_fast && size <= MAX_WINDOW && state.memory.promise(cost(size, state.only_dials)) {
            state.size = size;
            connection.set_receive_window(VarInt::from_u32(size));
            if !state.only_dials {
                connection.set_send_window(size.into());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between the steps of a change can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a window takes at most, in both directions, or of what a node receives that `only_dials`.
const fn cost(window: u32, only_dials: bool) -> usize {
    window as usize * if only_dials { 1 } else { 2 }
}

type Opening = BoxFuture<'static, Result<(SendStream, RecvStream), quinn::ConnectionError>>;

/// A connection and its streams.
pub(super) struct Connection {
    connection: quinn::Connection,
    window: Window,
    inbound: Option<Opening>,
    outbound: Option<Opening>,
    closing: Option<BoxFuture<'static, quinn::ConnectionError>>,
}

impl Connection {
    pub(super) fn new(connection: quinn::Connection, window: Window) -> Self {
        Self { connection, window, inbound: None, outbound: None, closing: None }
    }

    fn stream(&self, (send, receive): (SendStream, RecvStream)) -> Stream {
        Stream { send, receive, connection: self.connection.clone(), window: self.window.clone() }
    }
}

impl StreamMuxer for Connection {
    type Substream = Stream;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        let connection = self.connection.clone();
        let inbound = self.inbound.get_or_insert_with(|| async move { connection.accept_bi().await }.boxed());
        let opened = ready!(inbound.poll_unpin(context));
        self.inbound = None;
        Poll::Ready(Ok(self.stream(opened?)))
    }

    fn poll_outbound(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        let connection = self.connection.clone();
        let outbound = self.outbound.get_or_insert_with(|| async move { connection.open_bi().await }.boxed());
        let opened = ready!(outbound.poll_unpin(context));
        self.outbound = None;
        Poll::Ready(Ok(self.stream(opened?)))
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let connection = self.connection.clone();
        let closing = self.closing.get_or_insert_with(|| {
            connection.close(VarInt::from_u32(0), &[]);
            async move { connection.closed().await }.boxed()
        });
        match ready!(closing.poll_unpin(context)) {
            quinn::ConnectionError::LocallyClosed => Poll::Ready(Ok(())),
            error => Poll::Ready(Err(error.into())),
        }
    }

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        Poll::Pending
    }
}

/// Dropping a connection closes it.
impl Drop for Connection {
    fn drop(&mut self) {
        self.connection.close(VarInt::from_u32(0), &[]);
    }
}

/// One stream. Dropping it ends both its directions.
pub(super) struct Stream {
    send: SendStream,
    receive: RecvStream,
    connection: quinn::Connection,
    window: Window,
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let length = ready!(AsyncRead::poll_read(Pin::new(&mut self.receive), context, buffer))?;
        self.window.on_read(length, &self.connection);
        Poll::Ready(Ok(length))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Says that nothing more follows. What was said before already is no error.
    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = self.send.finish();
        Poll::Ready(Ok(()))
    }
}
