//! yamux, with an account of what it keeps for streams that are not read.
//!
//! `unread` counts what arrives and is not read.
//!
//! yamux lets a peer send as many bytes ahead on each stream as the stream's window allows, and widens the window when
//! the stream is read faster than the round trip suggests, which the peer can make appear as long as it likes. libp2p's
//! own wrapper allows a connection windows of 1 GiB, and offers no other limit but an older yamux with fixed windows.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use ::yamux::{Config, Connection, ConnectionError, DEFAULT_CREDIT, Mode};
use futures::{AsyncRead, AsyncWrite};
use libp2p::core::{StreamMuxer, muxing::StreamMuxerEvent};

use super::unread::{Counted, MAX_STREAMS, Stream, Unread};
use crate::hardening::ConnectionMemory;

/// The protocol's name.
pub(super) const PROTOCOL: &str = "/yamux/1.0.0";

/// How many bytes the windows of all streams of a connection may grow together, beyond the 256 KiB that each starts
/// with. As the reader tells of room once half of a window is read, one stream then carries up to 160 MB/s over a round
/// trip of 100 ms.
const MAX_WINDOW_GROWTH: usize = 32 * 1024 * 1024;

/// How many streams that the peer opened wait to be accepted: yamux's own limit on streams without acknowledgement.
const MAX_WAITING_STREAMS: usize = 256;

/// A connection with many streams, over one byte stream.
pub(super) struct Yamux<C> {
    connection: Connection<Counted<C>>,
    unread: Unread,
    /// Streams that arrived while the connection was polled for another reason.
    waiting: VecDeque<Stream>,
    acceptor: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Yamux<C> {
    /// The side that dialed is the `Client`.
    pub(super) fn new(wire: C, mode: Mode, memory: &Arc<ConnectionMemory>) -> Self {
        let mut config = Config::default();
        config.set_max_num_streams(MAX_STREAMS);
        config.set_max_connection_receive_window(Some(MAX_STREAMS * DEFAULT_CREDIT as usize + MAX_WINDOW_GROWTH));
        config.set_read_after_close(false);
        let unread = Unread::new(memory);
        let connection = Connection::new(Counted::new(wire, unread.clone()), config, mode);
        Self { connection, unread, waiting: VecDeque::new(), acceptor: None }
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        match ready!(self.connection.poll_next_inbound(context)) {
            Some(stream) => Poll::Ready(stream.map(|stream| self.unread.stream(stream)).map_err(into_io)),
            None => Poll::Ready(Err(into_io(ConnectionError::Closed))),
        }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Yamux<C> {
    type Substream = Stream;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        if let Some(stream) = self.waiting.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let polled = self.poll_next(context);
        if polled.is_pending() {
            self.acceptor = Some(context.waker().clone());
        }
        polled
    }

    fn poll_outbound(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        let stream = ready!(self.connection.poll_new_outbound(context)).map_err(into_io)?;
        Poll::Ready(Ok(self.unread.stream(stream)))
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.poll_close(context).map_err(into_io)
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        let stream = ready!(self.poll_next(context))?;
        // Dropping a stream resets it.
        if self.waiting.len() < MAX_WAITING_STREAMS {
            self.waiting.push_back(stream);
            self.acceptor.take().into_iter().for_each(Waker::wake);
        }
        // There may be more streams, but other work goes first.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

fn into_io(error: ConnectionError) -> io::Error {
    match error {
        ConnectionError::Io(error) => error,
        other => io::Error::other(other),
    }
}
