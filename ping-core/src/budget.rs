//! How much of what peers ask for may be in memory.
//!
//! A request is read to its end before it is served, and libp2p holds whatever part of it has come. A peer that begins
//! hundreds of large requests and ends none would thereby fill the memory. So every stream that a peer opens is counted with
//! what was read from it, until it is closed; the stream that goes beyond the limits fails, and the memory that it held
//! is freed.
//!
//! Only Kameo's messages are such requests. A stream of another protocol holds no more than is read of it at a time, and is not
//! counted as soon as this node has agreed to it.

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

use crate::{behaviour::MAX_REQUEST, complaints::Complaints};

/// How many bytes of requests one connection may hold: as many as a client has under way of the largest payload, once
/// Kameo has written them as lists of integers.
const CONNECTION: usize = 4 * MAX_REQUEST as usize;

/// The same for all connections. A request takes up to three times as much on its way, with its decoded form and the reply.
const NODE: usize = 8 * CONNECTION;

/// So many bytes of each stream are not counted, so that a small request is served when there is no room for a large one.
const SMALL: usize = 1024;

/// The name of the protocol of Kameo's messages, whose requests are read to their end before they are served. All other protocols of a
/// node read little at a time.
const MESSAGING: &[u8] = b"/kameo/messaging/1.0.0";

/// The name of the protocol by which the two sides of a stream agree on another one.
const MULTISTREAM: &[u8] = b"/multistream/1.0.0";

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
    /// What this node said about protocols, as far as it is not understood yet.
    said: Vec<u8>,
    agreed: bool,
}

impl Tally {
    fn new(account: &Arc<Account>) -> Self {
        Self { account: account.clone(), read: 0, held: 0, said: Vec::new(), agreed: false }
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

    /// Takes note of what was written; returns whether the stream need not be counted.
    ///
    /// Until the two sides agree, a node that listens writes nothing but multistream-select's messages, each behind its length: the
    /// name of that protocol, "na" to what it does not speak, a list if it is asked for one, and at last the name that
    /// they agree on.
    fn on_write(&mut self, bytes: &[u8]) -> bool {
        if self.agreed {
            return false;
        }
        self.said.extend_from_slice(bytes);
        while let Some((message, length)) = first_message(&self.said) {
            let name = message.strip_suffix(b"\n").filter(|name| name.starts_with(b"/") && *name != MULTISTREAM);
            if let Some(name) = name {
                self.agreed = true;
                return name != MESSAGING;
            }
            self.said.drain(..length);
        }
        false
    }
}

/// The first message in these bytes, if all of it is there, and how many bytes it takes with its length. The length is
/// an unsigned number in groups of seven bits, the lowest first.
fn first_message(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let digits = bytes.iter().take(3).position(|byte| byte & 0x80 == 0)? + 1;
    let length = bytes[..digits].iter().rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7f));
    Some((bytes.get(digits..digits + length)?, digits + length))
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

    /// Messages of multistream-select, each behind its length.
    fn said(messages: &[&[u8]]) -> Vec<u8> {
        messages.iter().flat_map(|message| [&[message.len() as u8], *message].concat()).collect()
    }

    #[test]
    fn only_requests_of_kameo_are_counted_whatever_else_is_asked_first() {
        let account = account(&Arc::new(Budget::default()));
        // What a node says to whoever wants a list.
        let list = said(&[b"/kameo-ping/stream/1\n", b"/kameo/messaging/1.0.0\n"]);
        let prelude: [&[u8]; 4] = [b"/multistream/1.0.0\n", b"na\n", &list, b"na\n"];
        for (agreed, counted) in [(&b"/kameo-ping/stream/1\n"[..], false), (b"/kameo/messaging/1.0.0\n", true)] {
            let bytes = said(&[&prelude[..], &[agreed]].concat());
            for step in [1, 7, bytes.len()] {
                let mut stream = Tally::new(&account);
                let free = bytes.chunks(step).any(|bytes| stream.on_write(bytes));
                assert_eq!((free, stream.agreed), (!counted, true), "in steps of {step}");
                // A reply is no agreement.
                assert!(!stream.on_write(&said(&[b"/kameo-ping/stream/1\n"])));
            }
        }
    }
}
