//! What arrived on the streams of a yamux connection and is not read.
//!
//! yamux keeps every frame of data by itself until it is read: one of a single byte takes some sixty times as much, and
//! the windows of hundreds of streams add up. yamux does not say what it keeps. So the heads of the frames are read on
//! their way to it, and the streams count what is read from them.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    io, mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};
use tokio::task::coop::{RestoreOnPending, poll_proceed};

use super::heads::Heads;
use crate::hardening::{ConnectionMemory, Part};

/// How many streams a connection may have, yamux's default. One more ends the connection.
pub(super) const MAX_STREAMS: usize = 512;

/// The length of a frame's head, in bytes: version, type, flags, stream and length (yamux's specification).
const HEAD: usize = 12;

/// The types of frames that belong to a stream: data, and more room for it.
const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 1;

/// The flags that open and reset a stream.
const SYN: u8 = 1;
const RST: u8 = 8;

/// The most room that a peer may give to a stream when it opens it. yamux adds its default to this without a check.
const MAX_FIRST_WINDOW: usize = u32::MAX as usize / 2;

/// How much a frame that resets a stream takes of a turn's budget, besides its share as a frame. Peers reset few
/// streams, but one can open and reset them without end, at forty microseconds of the swarm's work each.
const RESET_BUDGET: u32 = 15;

/// What a frame takes besides its bytes.
const FRAME_COST: usize = 64;

/// Spreads the ids of streams. A connection has at most some hundred, so a peer gains little by ids that collide. The
/// factor is that of Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4).
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(byte.into()));
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What is not read on one connection.
#[derive(Clone, Debug)]
pub(super) struct Unread(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    streams: HashMap<u32, Pending, BuildHasherDefault<IdHasher>>,
    /// What all streams keep, and the frame that arrives.
    cost: usize,
    /// What that frame takes if it belongs to no stream. yamux reads it to its end before it drops it.
    passing: usize,
    charged: Part,
}

/// What one stream keeps.
#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    bytes: usize,
    cost: usize,
}

impl Unread {
    pub(super) fn new(memory: &Arc<ConnectionMemory>) -> Self {
        let state = State { streams: HashMap::default(), cost: 0, passing: 0, charged: memory.part() };
        Self(Arc::new(Mutex::new(state)))
    }

    /// A stream that counts what is read from it.
    pub(super) fn stream(&self, stream: ::yamux::Stream) -> Stream {
        let id = stream.id().val();
        self.lock().streams.entry(id).or_default();
        Stream { stream, id, unread: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between the steps of a change can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A frame of this head arrives; returns the length of its data. Fails if its connection holds too much, or the
    /// frame is one that yamux answers with an error: it would go on reading.
    fn on_head(&mut self, head: &[u8; HEAD]) -> io::Result<usize> {
        let [_, kind, _, flags, id @ .., l0, l1, l2, l3] = *head;
        let (id, length) = (u32::from_be_bytes(id), u32::from_be_bytes([l0, l1, l2, l3]) as usize);
        if flags & (SYN | RST) == SYN && matches!(kind, DATA | WINDOW_UPDATE) {
            if self.streams.len() >= MAX_STREAMS {
                return Err(malformed("it opened too many streams"));
            }
            if kind == WINDOW_UPDATE && length > MAX_FIRST_WINDOW {
                return Err(malformed("it opened a stream with too much room"));
            }
            self.streams.entry(id).or_default();
        }
        let before = self.cost;
        self.cost -= mem::take(&mut self.passing);
        let length = if kind == DATA { length } else { 0 };
        if length > 0 {
            let cost = length + FRAME_COST;
            match self.streams.get_mut(&id) {
                Some(pending) => {
                    pending.bytes += length;
                    pending.cost += cost;
                }
                None => self.passing = cost,
            }
            self.cost += cost;
        }
        if self.cost != before {
            self.charge()?;
        }
        Ok(length)
    }

    /// Subtracts bytes that were read from a stream. yamux frees a frame when all of it is read; this frees its cost in
    /// proportion.
    fn on_read(&mut self, id: u32, bytes: usize) {
        let Some(pending) = self.streams.get_mut(&id) else { return };
        let freed = if bytes >= pending.bytes { pending.cost } else { pending.cost * bytes / pending.bytes };
        pending.bytes = pending.bytes.saturating_sub(bytes);
        pending.cost -= freed;
        self.cost -= freed;
        // Less never fails.
        let _ = self.charge();
    }

    fn on_drop(&mut self, id: u32) {
        if let Some(pending) = self.streams.remove(&id) {
            self.cost -= pending.cost;
            let _ = self.charge();
        }
    }

    fn charge(&mut self) -> io::Result<()> {
        self.charged.set(self.cost)
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The byte stream under yamux, whose frames are counted as they are read.
///
/// yamux and the swarm go on as long as there are frames, and thousands fit into one message of the layer below. So
/// each frame takes from the budget that Tokio gives a task for one turn.
pub(super) struct Counted<C> {
    wire: C,
    unread: Unread,
    heads: Heads<HEAD>,
}

impl<C> Counted<C> {
    pub(super) fn new(wire: C, unread: Unread) -> Self {
        Self { wire, unread, heads: Heads::default() }
    }

    fn on_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.unread.lock();
        self.heads.pass(bytes, |head| state.on_head(head))
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Counted<C> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let budget = if self.heads.is_at_start() { Some(ready!(poll_proceed(context))) } else { None };
        let length = ready!(Pin::new(&mut self.wire).poll_read(context, buffer))?;
        budget.iter().for_each(RestoreOnPending::made_progress);
        self.on_bytes(&buffer[..length])?;
        if self.heads.last().is_some_and(|head| head[3] & RST != 0) {
            spend(RESET_BUDGET, context);
        }
        Poll::Ready(Ok(length))
    }
}

/// Takes from the budget of this turn, as far as there is any left.
fn spend(amount: u32, context: &mut Context<'_>) {
    for _ in 0..amount {
        let Poll::Ready(unit) = poll_proceed(context) else { return };
        unit.made_progress();
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Counted<C> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_close(context)
    }
}

/// A stream of the connection.
#[derive(Debug)]
pub(super) struct Stream {
    stream: ::yamux::Stream,
    id: u32,
    unread: Unread,
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let length = ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.unread.lock().on_read(self.id, length);
        Poll::Ready(Ok(length))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.unread.lock().on_drop(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardening::Memory;

    fn frame(kind: u8, flags: u8, id: u32, length: u32, data: &[u8]) -> Vec<u8> {
        [&[0, kind, 0, flags][..], &id.to_be_bytes(), &length.to_be_bytes(), data].concat()
    }

    fn counted() -> Counted<()> {
        let memory = Memory::new(64 * 1024 * 1024).connect().unwrap();
        Counted::new((), Unread::new(&memory))
    }

    #[test]
    fn what_arrives_is_counted_by_stream_however_its_bytes_are_split() {
        let bytes = [
            frame(WINDOW_UPDATE, SYN, 1, 0, &[]),
            frame(DATA, 0, 1, 100, &[9; 100]),
            frame(DATA, SYN, 3, 7, &[9; 7]),
            frame(2, SYN, 0, 77, &[]),
            frame(DATA, 0, 1, 50, &[9; 50]),
            // Of a stream that there is not.
            frame(DATA, 0, 99, 30, &[9; 30]),
            frame(DATA, 0, 99, 0, &[]),
            frame(WINDOW_UPDATE, 0, 3, 1000, &[]),
        ]
        .concat();
        for step in [1, 5, 12, 1000] {
            let mut counted = counted();
            bytes.chunks(step).for_each(|bytes| counted.on_bytes(bytes).unwrap());
            let mut state = counted.unread.lock();
            let bytes_of = |state: &State, id| state.streams.get(&id).map(|pending| pending.bytes);
            assert_eq!((bytes_of(&state, 1), bytes_of(&state, 3), bytes_of(&state, 99)), (Some(150), Some(7), None));
            assert_eq!(state.cost, 157 + 3 * FRAME_COST, "the frame of no stream has passed");
            state.on_read(1, 75);
            assert!(state.cost < 90 + 2 * FRAME_COST);
            state.on_read(1, 75);
            assert_eq!(state.cost, 7 + FRAME_COST);
            state.on_drop(3);
            state.on_drop(1);
            assert_eq!((state.cost, state.streams.len()), (0, 0));
        }
    }

    #[test]
    fn a_connection_that_reads_nothing_is_closed() {
        let memory = Memory::new(64 * 1024 * 1024).connect().unwrap();
        let mut counted = Counted::new((), Unread::new(&memory));
        counted.on_bytes(&frame(WINDOW_UPDATE, SYN, 1, 0, &[])).unwrap();
        let byte = frame(DATA, 0, 1, 1, &[9]);
        let taken = (0..1_000_000).take_while(|_| counted.on_bytes(&byte).is_ok()).count();
        assert!((400_000..600_000).contains(&taken), "half of 64 MiB, in frames of one byte: {taken}");
    }

    #[test]
    fn frames_that_yamux_drops_leave_nothing() {
        let mut counted = counted();
        for kind in [DATA, WINDOW_UPDATE] {
            for id in (1..10_001).step_by(2) {
                counted.on_bytes(&frame(kind, SYN | RST, id, 0, &[])).unwrap();
                counted.on_bytes(&frame(kind, RST, id, 0, &[])).unwrap();
            }
        }
        let state = |counted: &Counted<()>| {
            let state = counted.unread.lock();
            (state.streams.len(), state.cost)
        };
        assert_eq!(state(&counted), (0, 0));
        // One that does not end.
        counted.on_bytes(&frame(DATA, 0, 99, 1_000_000, &[9; 10])).unwrap();
        assert_eq!(state(&counted), (0, 1_000_000 + FRAME_COST));
        counted.on_bytes(&[9; 999_990]).unwrap();
        counted.on_bytes(&frame(DATA, 0, 99, 0, &[])).unwrap();
        assert_eq!(state(&counted), (0, 0));
    }

    #[test]
    fn streams_that_yamux_rejects_end_the_connection() {
        let mut counted = counted();
        let opened = (1..).step_by(2).take_while(|&id| counted.on_bytes(&frame(DATA, SYN, id, 0, &[])).is_ok());
        assert_eq!(opened.count(), MAX_STREAMS);
        let mut counted = self::counted();
        assert!(counted.on_bytes(&frame(WINDOW_UPDATE, SYN, 1, u32::MAX, &[])).is_err());
    }
}
