//! A limit on the memory that peers' requests take.
//!
//! A request is read to its end before it is served, and libp2p holds whatever part of it has arrived. A peer that
//! begins hundreds of large requests and ends none would fill the memory. So every stream that a peer opens is
//! charged with what was read from it until it is closed; the stream that exceeds a limit fails, and its memory is
//! freed.
//!
//! Only Kameo's messages are such requests. A stream of another protocol holds no more than one read, and is no longer
//! charged once this node has agreed to its protocol.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::{StreamMuxer, muxing::StreamMuxerEvent};
use tracing::warn;

use super::{answers::AnswerCheck, log_limit::LogLimit};
use crate::protocol::MAX_REQUEST_SIZE;

/// How many bytes of requests one connection may hold: four of the largest, which is what a client keeps in flight of
/// them.
const MAX_PER_CONNECTION: usize = 4 * MAX_REQUEST_SIZE as usize;

/// The same for all connections. A request takes up to three times as much while it is served, with its decoded form
/// and the reply.
const MAX_IN_ALL: usize = 8 * MAX_PER_CONNECTION;

/// How many bytes of each stream are free, so that a small request is served when there is no room for a large one.
const FREE_PER_STREAM: usize = 1024;

/// The protocol of Kameo's messages, whose requests are read to their end. All others read little at a time.
pub(super) const MESSAGING: &[u8] = b"/kameo/messaging/1.0.0";

/// The protocol by which the two ends of a stream agree on another one.
pub(super) const MULTISTREAM: &[u8] = b"/multistream/1.0.0";

/// The memory that the requests of all connections of a node take.
#[derive(Debug, Default)]
pub(crate) struct RequestMemory {
    held: AtomicUsize,
    refusals: Mutex<LogLimit>,
}

impl RequestMemory {
    /// Charges the streams that the peer opens on a connection.
    pub(crate) fn meter<M>(self: &Arc<Self>, muxer: M) -> Metered<M> {
        let memory = Arc::new(ConnectionMemory { held: AtomicUsize::new(0), node: self.clone() });
        Metered { muxer, memory }
    }
}

/// The memory that the requests of one connection take.
#[derive(Debug)]
struct ConnectionMemory {
    held: AtomicUsize,
    node: Arc<RequestMemory>,
}

impl ConnectionMemory {
    /// Charges bytes; fails if they exceed a limit.
    fn take(&self, bytes: usize) -> io::Result<()> {
        let connection = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let node = self.node.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if connection <= MAX_PER_CONNECTION && node <= MAX_IN_ALL {
            return Ok(());
        }
        if let Some(count) = self.node.refusals.lock().unwrap_or_else(PoisonError::into_inner).count() {
            let whose = if connection > MAX_PER_CONNECTION { "its connection" } else { "all connections" };
            warn!("Rejected a request: the requests of {whose} take too much memory ({count} so far)");
        }
        Err(io::Error::new(io::ErrorKind::OutOfMemory, "the requests take too much memory"))
    }

    fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.node.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A connection whose inbound streams are charged.
pub(crate) struct Metered<M> {
    muxer: M,
    memory: Arc<ConnectionMemory>,
}

impl<M> StreamMuxer for Metered<M>
where
    M: StreamMuxer + Unpin,
    M::Substream: AsyncRead + AsyncWrite + Unpin,
{
    type Substream = MeteredStream<M::Substream>;
    type Error = M::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Self::Substream, Self::Error>> {
        let stream = ready!(Pin::new(&mut self.muxer).poll_inbound(context))?;
        Poll::Ready(Ok(MeteredStream { stream, memory: Some(StreamMemory::new(&self.memory)), answers: None }))
    }

    /// The node's own requests are free.
    fn poll_outbound(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let stream = ready!(Pin::new(&mut self.muxer).poll_outbound(context))?;
        Poll::Ready(Ok(MeteredStream { stream, memory: None, answers: Some(AnswerCheck::default()) }))
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.muxer).poll_close(context)
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        Pin::new(&mut self.muxer).poll(context)
    }
}

/// The memory that the request on one stream takes.
#[derive(Debug)]
struct StreamMemory {
    connection: Arc<ConnectionMemory>,
    read: usize,
    held: usize,
    /// What this node wrote to agree on a protocol and is not parsed yet.
    written: Vec<u8>,
    agreed: bool,
}

impl StreamMemory {
    fn new(connection: &Arc<ConnectionMemory>) -> Self {
        Self { connection: connection.clone(), read: 0, held: 0, written: Vec::new(), agreed: false }
    }

    /// Charges what was read; fails if it exceeds a limit.
    fn on_read(&mut self, bytes: usize) -> io::Result<()> {
        self.read += bytes;
        let more = self.read.saturating_sub(FREE_PER_STREAM) - self.held;
        self.held += more;
        self.connection.take(more)
    }

    /// Follows the negotiation of the protocol; returns whether the stream turns out to be free.
    ///
    /// Until the two ends agree, a listener writes nothing but multistream-select's messages, each behind its length:
    /// the name of that protocol, "na" for one that it does not speak, a list on request, and at last the agreed
    /// name.
    fn on_write(&mut self, bytes: &[u8]) -> bool {
        if self.agreed {
            return false;
        }
        self.written.extend_from_slice(bytes);
        while let Some((message, length)) = first_message(&self.written) {
            let name = message.strip_suffix(b"\n").filter(|name| name.starts_with(b"/") && *name != MULTISTREAM);
            if let Some(name) = name {
                self.agreed = true;
                return name != MESSAGING;
            }
            self.written.drain(..length);
        }
        false
    }
}

/// The first message in these bytes, if it is complete, and how many bytes it takes with its length. The length is an
/// unsigned varint: groups of seven bits, the lowest first.
pub(super) fn first_message(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let digits = bytes.iter().take(3).position(|byte| byte & 0x80 == 0)? + 1;
    let length = bytes[..digits].iter().rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7f));
    Some((bytes.get(digits..digits + length)?, digits + length))
}

impl Drop for StreamMemory {
    fn drop(&mut self) {
        self.connection.release(self.held);
    }
}

/// A stream that is charged, if a peer opened it and it may carry a request, and checked, if it carries an answer.
pub(crate) struct MeteredStream<S> {
    stream: S,
    memory: Option<StreamMemory>,
    /// What remains to be checked, if this node opened it.
    answers: Option<AnswerCheck>,
}

impl<S: AsyncRead + Unpin> AsyncRead for MeteredStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let length = ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if let Some(memory) = &mut self.memory {
            memory.on_read(length)?;
        }
        if let Some(answers) = &mut self.answers
            && answers.on_read(&buffer[..length])?
        {
            self.answers = None;
        }
        Poll::Ready(Ok(length))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MeteredStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let length = ready!(Pin::new(&mut self.stream).poll_write(context, buffer))?;
        if self.memory.as_mut().is_some_and(|memory| memory.on_write(&buffer[..length])) {
            self.memory = None;
        }
        if let Some(answers) = &mut self.answers {
            answers.on_write(&buffer[..length]);
        }
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(node: &Arc<RequestMemory>) -> Arc<ConnectionMemory> {
        Arc::new(ConnectionMemory { held: AtomicUsize::new(0), node: node.clone() })
    }

    #[test]
    fn a_connection_takes_no_more_than_its_share_and_returns_it() {
        let node = Arc::new(RequestMemory::default());
        let connection = connection(&node);
        let mut streams: Vec<_> = (0..4).map(|_| StreamMemory::new(&connection)).collect();
        for stream in &mut streams {
            assert!(stream.on_read(FREE_PER_STREAM).is_ok());
            assert!(!stream.on_write(b"\x13/multistream/1.0.0\n\x18/kameo/messaging/1.0.0\n"));
            assert!(stream.on_read(MAX_PER_CONNECTION / 4).is_ok());
        }
        let mut one_more = StreamMemory::new(&connection);
        assert!(one_more.on_read(FREE_PER_STREAM).is_ok(), "small requests find room");
        assert!(one_more.on_read(1).is_err());
        drop(streams);
        drop(one_more);
        assert_eq!((connection.held.load(Ordering::Relaxed), node.held.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn all_connections_together_take_no_more_than_their_limit() {
        let node = Arc::new(RequestMemory::default());
        let mut streams: Vec<_> =
            (0..MAX_IN_ALL / MAX_PER_CONNECTION).map(|_| StreamMemory::new(&connection(&node))).collect();
        assert!(streams.iter_mut().all(|stream| stream.on_read(FREE_PER_STREAM + MAX_PER_CONNECTION).is_ok()));
        assert!(StreamMemory::new(&connection(&node)).on_read(FREE_PER_STREAM + 1).is_err());
        streams.pop();
        assert!(StreamMemory::new(&connection(&node)).on_read(FREE_PER_STREAM + 1).is_ok());
    }

    /// Messages of multistream-select, each behind its length.
    fn negotiation(messages: &[&[u8]]) -> Vec<u8> {
        messages.iter().flat_map(|message| [&[message.len() as u8], *message].concat()).collect()
    }

    #[test]
    fn only_kameo_requests_are_charged_whatever_the_peer_proposes_first() {
        let connection = connection(&Arc::new(RequestMemory::default()));
        // The answer to a peer that asks for a list.
        let list = negotiation(&[b"/kameo-ping/stream/1\n", b"/kameo/messaging/1.0.0\n"]);
        let prelude: [&[u8]; 4] = [b"/multistream/1.0.0\n", b"na\n", &list, b"na\n"];
        for (agreed, charged) in [(&b"/kameo-ping/stream/1\n"[..], false), (b"/kameo/messaging/1.0.0\n", true)] {
            let bytes = negotiation(&[&prelude[..], &[agreed]].concat());
            for step in [1, 7, bytes.len()] {
                let mut stream = StreamMemory::new(&connection);
                let free = bytes.chunks(step).any(|bytes| stream.on_write(bytes));
                assert_eq!((free, stream.agreed), (!charged, true), "in steps of {step}");
                // A reply is no agreement.
                assert!(!stream.on_write(&negotiation(&[b"/kameo-ping/stream/1\n"])));
            }
        }
    }
}
