//! yamux, with a bound on what it keeps for streams that are not read.
//!
//! yamux lets a peer have so many bytes of each stream under way as the stream's window says, and widens the window when
//! the stream is read as fast as it comes within the round trip, which the peer can make appear as long as it likes. libp2p's own wrapper
//! allows a connection windows of a gigabyte, and has no way to say otherwise but an older yamux whose windows do not grow at all.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::{StreamMuxer, muxing::StreamMuxerEvent};
use yamux::{Config, Connection, ConnectionError, DEFAULT_CREDIT, Mode, Stream};

/// The protocol's name.
pub(crate) const PROTOCOL: &str = "/yamux/1.0.0";

/// How many streams a connection may have, which is the library's default. More end it.
const MAX_STREAMS: usize = 512;

/// By how many bytes the windows of all streams of a connection may grow together beyond the 256 KiB that each begins with. One
/// stream then carries 40 MB/s over a round trip of 100 ms.
const MAX_GROWTH: usize = 4 * 1024 * 1024;

/// How many streams that the peer opened wait to be taken. It is yamux's own limit on those that were not acknowledged.
const MAX_WAITING: usize = 256;

/// A connection of many streams over one of bytes.
pub(crate) struct Yamux<C> {
    connection: Connection<C>,
    /// Streams that came while the connection was driven for the sake of others.
    waiting: VecDeque<Stream>,
    taker: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Yamux<C> {
    /// The side that dialled is the `Client`.
    pub(crate) fn new(wire: C, mode: Mode) -> Self {
        let mut config = Config::default();
        config.set_max_num_streams(MAX_STREAMS);
        config.set_max_connection_receive_window(Some(MAX_STREAMS * DEFAULT_CREDIT as usize + MAX_GROWTH));
        config.set_read_after_close(false);
        Self { connection: Connection::new(wire, config, mode), waiting: VecDeque::new(), taker: None }
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        match ready!(self.connection.poll_next_inbound(context)) {
            Some(stream) => Poll::Ready(stream.map_err(into_io)),
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
            self.taker = Some(context.waker().clone());
        }
        polled
    }

    fn poll_outbound(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        self.connection.poll_new_outbound(context).map_err(into_io)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.poll_close(context).map_err(into_io)
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        let stream = ready!(self.poll_next(context))?;
        // One too many is reset by being dropped.
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(stream);
            self.taker.take().into_iter().for_each(Waker::wake);
        }
        // There may be more; others go first.
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
