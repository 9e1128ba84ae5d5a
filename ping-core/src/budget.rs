//! How much of what peers ask for may be in memory.
//!
//! A request is read to its end before it is served, and libp2p holds whatever part of it has come. A peer that begins
//! hundreds of large requests and ends none would thereby fill the memory. So every stream that a peer opens is counted with
//! what was read from it, until it is closed; the stream that goes beyond the limits fails, and the memory that it held
//! is freed.
//!
//! A [`stream`](crate::stream) of pings holds no more than is read of it at a time, and is not counted. It is known by its protocol's
//! name, which this node repeats when it agrees to it.

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

use crate::{behaviour::MAX_REQUEST, complaints::Complaints, stream::PROTOCOL};

/// How many bytes of requests one connection may hold: as many as a client has under way of the largest payload, once
/// Kameo has written them as lists of integers.
const CONNECTION: usize = 4 * MAX_REQUEST as usize;

/// The same for all connections. A request takes up to three times as much on its way, with its decoded form and the reply.
const NODE: usize = 8 * CONNECTION;

/// So many bytes of each stream are not counted, so that a small request is served when there is no room for a large one.
const SMALL: usize = 1024;

/// The protocol's name is among so many bytes that are replied first. No request's reply can bring it into them: Kameo writes
/// what it replies as lists of integers, and what the registry takes is small.
const AGREED: usize = 128;

/// What all connections of a node hold.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    held: AtomicUsize,
    refused: Mutex<Complaints>,
}

impl Budget {
    /// A connection whose streams are counted.
    pub(crate) fn connection<M>(self: &Arc<Self>, muxer: M) -> Budgeted<M> {
        Budgeted { muxer, account: Arc::new(Account { held: AtomicUsize::new(0), node: self.clone() }) }
    }
}

/// What one connection holds.
#[derive(Debug)]
struct Account {
    held: AtomicUsize,
    node: Arc<Budget>,
}

impl Account {
    /// Takes note of bytes that are held now.
    ///
    /// # Errors
    ///
    /// When there is no room for them.
    fn take(&self, bytes: usize) -> io::Result<()> {
        let connection = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let node = self.node.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if connection <= CONNECTION && node <= NODE {
            return Ok(());
        }
        if let Some(count) = self.node.refused.lock().unwrap_or_else(PoisonError::into_inner).add() {
            let whose = if connection > CONNECTION { "its connection" } else { "all connections" };
            warn!("Refused a request: those of {whose} have too many bytes ({count} such so far)");
        }
        Err(io::Error::new(io::ErrorKind::OutOfMemory, "too many bytes of requests"))
    }

    fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.node.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A connection whose streams are counted.
pub(crate) struct Budgeted<M> {
    muxer: M,
    account: Arc<Account>,
}

impl<M> StreamMuxer for Budgeted<M>
where
    M: StreamMuxer + Unpin,
    M::Substream: AsyncRead + AsyncWrite + Unpin,
{
    type Substream = Counted<M::Substream>;
    type Error = M::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Self::Substream, Self::Error>> {
        let stream = ready!(Pin::new(&mut self.muxer).poll_inbound(context))?;
        Poll::Ready(Ok(Counted { stream, tally: Some(Tally::new(&self.account)) }))
    }

    /// What this node asks for is its own affair.
    fn poll_outbound(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let stream = ready!(Pin::new(&mut self.muxer).poll_outbound(context))?;
        Poll::Ready(Ok(Counted { stream, tally: None }))
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Pin::new(&mut self.muxer).poll_close(context)
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        Pin::new(&mut self.muxer).poll(context)
    }
}

/// What one stream holds.
#[derive(Debug)]
struct Tally {
    account: Arc<Account>,
    read: usize,
    held: usize,
    /// The first bytes of what was replied.
    replied: Vec<u8>,
}

impl Tally {
    fn new(account: &Arc<Account>) -> Self {
        Self { account: account.clone(), read: 0, held: 0, replied: Vec::new() }
    }

    /// Counts what was read.
    ///
    /// # Errors
    ///
    /// When there is no room for it.
    fn on_read(&mut self, bytes: usize) -> io::Result<()> {
        self.read += bytes;
        let more = self.read.saturating_sub(SMALL) - self.held;
        self.held += more;
        self.account.take(more)
    }

    /// Takes note of what was replied; returns whether this is a stream of pings.
    fn on_write(&mut self, bytes: &[u8]) -> bool {
        let room = AGREED - self.replied.len();
        if room == 0 {
            return false;
        }
        self.replied.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let protocol = PROTOCOL;
        let name = protocol.as_ref().as_bytes();
        self.replied.windows(name.len()).any(|window| window == name)
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.account.release(self.held);
    }
}

/// A stream that is counted, if a peer opened it.
pub(crate) struct Counted<S> {
    stream: S,
    tally: Option<Tally>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let length = ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if let Some(tally) = &mut self.tally {
            tally.on_read(length)?;
        }
        Poll::Ready(Ok(length))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let length = ready!(Pin::new(&mut self.stream).poll_write(context, buffer))?;
        if self.tally.as_mut().is_some_and(|tally| tally.on_write(&buffer[..length])) {
            self.tally = None;
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

    fn account(node: &Arc<Budget>) -> Arc<Account> {
        Arc::new(Account { held: AtomicUsize::new(0), node: node.clone() })
    }

    #[test]
    fn a_connection_holds_no_more_than_its_share_and_gives_it_back() {
        let node = Arc::new(Budget::default());
        let account = account(&node);
        let mut streams: Vec<_> = (0..4).map(|_| Tally::new(&account)).collect();
        for stream in &mut streams {
            assert!(stream.on_read(SMALL).is_ok());
            assert!(!stream.on_write(b"\x13/multistream/1.0.0\n\x18/kameo/messaging/1.0.0\n"));
            assert!(stream.on_read(CONNECTION / 4).is_ok());
        }
        let mut one_more = Tally::new(&account);
        assert!(one_more.on_read(SMALL).is_ok(), "small requests find room");
        assert!(one_more.on_read(1).is_err());
        drop(streams);
        drop(one_more);
        assert_eq!((account.held.load(Ordering::Relaxed), node.held.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn all_connections_together_hold_no_more_than_theirs() {
        let node = Arc::new(Budget::default());
        let mut streams: Vec<_> = (0..NODE / CONNECTION).map(|_| Tally::new(&account(&node))).collect();
        assert!(streams.iter_mut().all(|stream| stream.on_read(SMALL + CONNECTION).is_ok()));
        assert!(Tally::new(&account(&node)).on_read(SMALL + 1).is_err());
        streams.pop();
        assert!(Tally::new(&account(&node)).on_read(SMALL + 1).is_ok());
    }

    #[test]
    fn a_stream_of_pings_is_known_by_what_is_agreed_on_at_its_start() {
        let account = account(&Arc::new(Budget::default()));
        let agreed = [&b"\x13/multistream/1.0.0\n\x15"[..], PROTOCOL.as_ref().as_bytes(), b"\n"].concat();
        for step in [1, 7, agreed.len()] {
            let mut stream = Tally::new(&account);
            assert!(agreed.chunks(step).any(|bytes| stream.on_write(bytes)), "in steps of {step}");
        }
        let mut request = Tally::new(&account);
        assert!(!request.on_write(&[0; AGREED]) && !request.on_write(&agreed), "a reply is no agreement");
    }
}
