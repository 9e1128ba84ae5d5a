//! One account of all memory that peers make a node hold.
//!
//! Limits by stream or by connection add up to no limit at all when a peer may have hundreds of streams, and an
//! attacker thousands of connections. So every layer that keeps bytes for a peer charges them here, to the connection
//! that they belong to. When all connections together hold too much, the one that holds most is closed, and then the
//! next; the others are served as before.
//!
//! Charged are: what a connection costs by itself, bytes that arrived and are not read (`transport/unread`,
//! `transport/quic`), requests and answers until they are served (`request_memory`), and bytes that wait to be
//! decrypted or sent (`transport/noise`, `transport/coalesce`).

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::Context,
};

use futures::task::AtomicWaker;
use tokio::sync::Notify;
use tracing::warn;

use super::log_limit::LogLimit;

/// What a connection takes by itself, in bytes: its task, its handlers and the buffers of its encryption.
const CONNECTION_COST: usize = 48 * 1024;

/// The step in which a connection is charged with what it holds besides, so that small changes cost next to nothing.
/// The first is covered by what it takes by itself.
const STEP: usize = 8 * 1024;

/// Which part of the whole one connection may hold. A client that keeps four payloads of 1 MiB in flight holds 25 MiB
/// while they are served.
const SHARE: usize = 2;

/// How many times its own cost a connection must hold to be closed for a new one.
const MUCH: usize = 4;

/// How many bytes make a difference when they are free again.
const BURST: u64 = 1024 * 1024;

/// The account of one node.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: usize,
    state: Mutex<State>,
    /// How many bytes were released so far.
    released: AtomicU64,
    /// Wakes who waits for a [`BURST`] of them.
    burst: Notify,
}

#[derive(Debug, Default)]
struct State {
    connections: HashMap<u64, Entry>,
    next: u64,
    /// What all connections hold, without those that are being closed.
    held: usize,
    closed: LogLimit,
    refused: LogLimit,
}

/// What one connection holds.
#[derive(Debug)]
struct Entry {
    held: usize,
    /// Room that is promised to its peer and may never be used.
    promised: usize,
    fate: Arc<Fate>,
}

/// Whether a connection must be closed.
#[derive(Debug, Default)]
struct Fate {
    is_condemned: AtomicBool,
    /// The task of the connection.
    task: AtomicWaker,
}

impl Fate {
    fn is_condemned(&self) -> bool {
        self.is_condemned.load(Ordering::Relaxed)
    }
}

impl Memory {
    /// An account of at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, state: Mutex::default(), released: AtomicU64::new(0), burst: Notify::new() })
    }

    /// Opens the account of a new connection.
    ///
    /// # Errors
    ///
    /// When there is no room, and no connection that holds much more.
    pub(crate) fn connect(self: &Arc<Self>) -> io::Result<Arc<ConnectionMemory>> {
        let mut state = self.lock();
        if state.held + CONNECTION_COST > self.limit && !state.condemn_worst(MUCH * CONNECTION_COST) {
            if let Some(count) = state.refused.count() {
                warn!("Rejected a connection: the others hold all memory that peers may use ({count} so far)");
            }
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, "there is no memory for another connection"));
        }
        let (id, fate) = (state.next, Arc::new(Fate::default()));
        state.next += 1;
        state.connections.insert(id, Entry { held: CONNECTION_COST, promised: 0, fate: fate.clone() });
        state.held += CONNECTION_COST;
        let (held, charged) = (AtomicUsize::new(0), AtomicUsize::new(STEP));
        Ok(Arc::new(ConnectionMemory { node: self.clone(), id, fate, held, charged }))
    }

    /// Waits until peers have released another [`BURST`].
    pub(crate) async fn burst_released(&self) {
        self.burst.notified().await;
    }

    fn release(&self, bytes: usize) {
        let before = self.released.fetch_add(bytes as u64, Ordering::Relaxed);
        if (before % BURST) + bytes as u64 >= BURST {
            self.burst.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between the steps of a change can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Closes the connection that holds most, if that is at least `least`. Room that is only promised counts if nobody
    /// holds more than a connection costs.
    fn condemn_worst(&mut self, least: usize) -> bool {
        let live = || self.connections.iter().filter(|(_, entry)| !entry.fate.is_condemned());
        let by_held = live().max_by_key(|(_, entry)| entry.held).filter(|(_, entry)| entry.held > 2 * CONNECTION_COST);
        let worst = by_held.or_else(|| live().max_by_key(|(_, entry)| entry.held + entry.promised));
        let Some((&id, _)) = worst.filter(|(_, entry)| entry.held + entry.promised >= least) else { return false };
        self.condemn(id, "peers");
        true
    }

    /// Closes a connection; `who` used too much memory.
    fn condemn(&mut self, id: u64, who: &str) {
        if let Some(entry) = self.connections.get(&id)
            && !entry.fate.is_condemned.swap(true, Ordering::Relaxed)
        {
            let held = entry.held + entry.promised;
            self.held -= held;
            entry.fate.task.wake();
            if let Some(count) = self.closed.count() {
                warn!("Closed a connection that held {held} bytes: {who} used too much memory ({count} so far)");
            }
        }
    }
}

/// The account of one connection, as long as anything of it is left.
#[derive(Debug)]
pub(crate) struct ConnectionMemory {
    node: Arc<Memory>,
    id: u64,
    fate: Arc<Fate>,
    /// What its parts take.
    held: AtomicUsize,
    /// What of that it is charged with, changed only under the node's lock.
    charged: AtomicUsize,
}

impl ConnectionMemory {
    /// Something that the connection holds; nothing yet.
    pub(crate) fn part(self: &Arc<Self>) -> Part {
        Part { connection: self.clone(), held: 0 }
    }

    /// Fails if the connection must be closed. If it must be later, wakes the task.
    pub(crate) fn check(&self, context: &Context<'_>) -> io::Result<()> {
        self.fate.task.register(context.waker());
        if self.fate.is_condemned() { Err(too_much()) } else { Ok(()) }
    }

    /// Promises the peer this much room in all, if three quarters of the whole are free then; returns whether it did.
    pub(crate) fn promise(&self, bytes: usize) -> bool {
        let mut state = self.node.lock();
        let State { connections, held, .. } = &mut *state;
        let Some(entry) = connections.get_mut(&self.id).filter(|entry| !entry.fate.is_condemned()) else {
            return false;
        };
        let more = bytes.saturating_sub(entry.promised);
        if *held + more > self.node.limit / 4 {
            return false;
        }
        entry.promised += more;
        *held += more;
        true
    }

    fn change(&self, from: usize, to: usize) -> io::Result<()> {
        let held = match to.checked_sub(from) {
            Some(more) => self.held.fetch_add(more, Ordering::Relaxed) + more,
            None => self.held.fetch_sub(from - to, Ordering::Relaxed) - (from - to),
        };
        let charged = self.charged.load(Ordering::Relaxed);
        if held > charged || held + 2 * STEP < charged {
            self.charge()?;
        }
        if to > from && self.fate.is_condemned() { Err(too_much()) } else { Ok(()) }
    }

    /// Brings the account up to date. Fails if this connection must be closed for it.
    fn charge(&self) -> io::Result<()> {
        let mut state = self.node.lock();
        let to = self.held.load(Ordering::Relaxed).next_multiple_of(STEP).max(STEP);
        let from = self.charged.swap(to, Ordering::Relaxed);
        let State { connections, held, .. } = &mut *state;
        let Some(entry) = connections.get_mut(&self.id) else { return Ok(()) };
        entry.held = entry.held + to - from;
        self.node.release(from.saturating_sub(to));
        if self.fate.is_condemned() {
            return Ok(());
        }
        *held = *held + to - from;
        if to <= from {
            return Ok(());
        }
        if entry.held > self.node.limit / SHARE {
            state.condemn(self.id, "one peer");
            return Err(too_much());
        }
        while state.held > self.node.limit && state.condemn_worst(0) {}
        Ok(())
    }
}

impl Drop for ConnectionMemory {
    fn drop(&mut self) {
        let mut state = self.node.lock();
        let Some(entry) = state.connections.remove(&self.id) else { return };
        let held = entry.held + entry.promised;
        self.node.release(held);
        if !entry.fate.is_condemned() {
            state.held -= held;
        }
    }
}

fn too_much() -> io::Error {
    io::Error::new(io::ErrorKind::OutOfMemory, "it held too much memory")
}

/// One thing that a connection holds. Dropping it frees it.
#[derive(Debug)]
pub(crate) struct Part {
    connection: Arc<ConnectionMemory>,
    held: usize,
}

impl Part {
    /// Says how many bytes it takes now.
    ///
    /// # Errors
    ///
    /// When it takes more, and the connection must be closed for it.
    pub(crate) fn set(&mut self, bytes: usize) -> io::Result<()> {
        if bytes == self.held {
            return Ok(());
        }
        let from = std::mem::replace(&mut self.held, bytes);
        self.connection.change(from, bytes)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    const LIMIT: usize = 100 * CONNECTION_COST;

    fn is_closed(connection: &ConnectionMemory) -> bool {
        connection.check(&Context::from_waker(Waker::noop())).is_err()
    }

    #[test]
    fn what_is_held_is_given_back() {
        let node = Memory::new(LIMIT);
        for _ in 0..3 {
            let connection = node.connect().unwrap();
            let mut part = connection.part();
            for bytes in [1000, 50_000, 100_000, 10, 0, 700] {
                part.set(bytes).unwrap();
                let held = node.lock().held;
                assert!(held >= CONNECTION_COST - STEP + bytes && held <= CONNECTION_COST + bytes + 2 * STEP, "{held}");
            }
            let before = node.lock().held;
            assert!(connection.promise(4000));
            assert_eq!(node.lock().held, before + 4000);
            drop((part, connection));
            let state = node.lock();
            assert_eq!((state.held, state.connections.len()), (0, 0));
        }
    }

    #[test]
    fn the_worst_connection_is_closed_first_and_the_others_are_served() {
        let node = Memory::new(LIMIT);
        let small: Vec<_> = (0..10).map(|_| node.connect().unwrap()).collect();
        let large: Vec<_> = (0..6).map(|_| node.connect().unwrap()).collect();
        let mut parts: Vec<_> = large.iter().map(|connection| connection.part()).collect();
        for (number, part) in parts.iter_mut().enumerate() {
            part.set((10 + number) * CONNECTION_COST).unwrap();
        }
        // The rest of the room, and more.
        let mut all_small: Vec<_> = small.iter().map(|connection| connection.part()).collect();
        for part in &mut all_small {
            part.set(2 * CONNECTION_COST).unwrap();
        }
        assert!(is_closed(&large[5]) && large[..5].iter().all(|connection| !is_closed(connection)));
        assert!(small.iter().all(|connection| !is_closed(connection)));
        assert!(parts[5].set(99 * CONNECTION_COST).is_err(), "it gets no more");
        assert!(node.lock().held <= LIMIT);
        drop((parts, large, all_small, small));
        assert_eq!(node.lock().held, 0);
    }

    #[test]
    fn one_connection_has_no_more_than_its_share() {
        let node = Memory::new(LIMIT);
        let connection = node.connect().unwrap();
        assert!(connection.part().set(LIMIT / SHARE).is_err());
        assert!(is_closed(&connection));
    }

    #[test]
    fn a_full_node_rejects_a_connection_unless_another_holds_much() {
        let node = Memory::new(LIMIT);
        let mut connections: Vec<_> = (0..100).map(|_| node.connect().unwrap()).collect();
        assert!(node.connect().is_err());
        drop(connections.drain(..20));
        let mut part = connections[0].part();
        part.set(20 * CONNECTION_COST).unwrap();
        assert!(node.connect().is_ok());
        assert!(is_closed(&connections[0]));
    }

    #[test]
    fn no_more_than_a_quarter_is_promised() {
        let node = Memory::new(LIMIT);
        let connections: Vec<_> = (0..10).map(|_| node.connect().unwrap()).collect();
        let promised = connections.iter().filter(|connection| connection.promise(LIMIT / 20)).count();
        assert_eq!(promised, 3);
        assert!(node.lock().held <= LIMIT / 4);
    }
}
