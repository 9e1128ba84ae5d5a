//! Another connection beside one that is silent.
//!
//! A TCP connection that has lost its packets with the link repeats them ever more rarely, and so recovers up to
//! seconds after the link does. New pings do not wait for that: as soon as the server answers on another connection,
//! they go there, while those in flight still arrive on the old one.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures::{
    FutureExt, StreamExt,
    future::{LocalBoxFuture, pending},
    stream::FuturesUnordered,
};
use libp2p::{Multiaddr, PeerId};
use ping_core::{Connection, Node};
use tokio::time::{Sleep, sleep, sleep_until};
use tracing::{debug, info};

/// After how long without any sign of life another connection is tried at first. The keep-alive asks for one every
/// 100 ms, but not before the last one was answered.
const SILENCE: Duration = Duration::from_secs(1);

/// How long an attempt may stay unanswered before another one is made beside it, and how many there are at a time.
const NEXT_ATTEMPT_AFTER: Duration = Duration::from_millis(300);
const MAX_ATTEMPTS: usize = 32;

/// How often it is looked whether the silent connection has recovered.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Watches one connection, and makes another beside it when it is silent.
pub(super) struct Spare<'a> {
    node: &'a Node,
    peer: PeerId,
    address: Multiaddr,
    /// After how long without any sign of life another connection is tried: [`SILENCE`], or twice the longest silence
    /// that ended by itself, as it does on a link with long round trips.
    silence: Duration,
    state: State<'a>,
}

enum State<'a> {
    /// Until the connection may have been silent for too long.
    Watching(Pin<Box<Sleep>>),
    /// Since the last sign of life. `None` if the silent connection recovers.
    Connecting(Instant, LocalBoxFuture<'a, Option<Connection>>),
}

impl<'a> Spare<'a> {
    pub(super) fn new(node: &'a Node, Connection { peer, address, .. }: &Connection) -> Self {
        let state = State::Watching(Box::pin(sleep(SILENCE)));
        Self { node, peer: *peer, address: address.clone(), silence: SILENCE, state }
    }

    /// Waits until there is another connection, which new pings then take.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Connection> {
        loop {
            match &mut self.state {
                State::Watching(timer) => {
                    ready!(timer.poll_unpin(context));
                    let last = self.node.last_sign(&self.peer).unwrap_or_else(Instant::now);
                    let due = last + self.silence;
                    self.state = match due <= Instant::now() {
                        true => {
                            State::Connecting(last, connect(self.node, self.peer, self.address.clone()).boxed_local())
                        }
                        false => State::Watching(Box::pin(sleep_until(due.into()))),
                    };
                }
                State::Connecting(last, connecting) => {
                    let connected = ready!(connecting.poll_unpin(context));
                    if connected.is_none() {
                        self.silence = self.silence.max(2 * last.elapsed());
                    }
                    self.state = State::Watching(Box::pin(sleep(self.silence)));
                    if let Some(connection) = connected {
                        info!("The connection is silent; new pings take another one beside it");
                        return Poll::Ready(connection);
                    }
                }
            }
        }
    }
}

/// Connects to the peer once more, unless there is a sign of life before.
async fn connect(node: &Node, peer: PeerId, address: Multiaddr) -> Option<Connection> {
    let recovered = async {
        loop {
            sleep(LOOK_EVERY).await;
            if node.last_sign(&peer).is_some_and(|last| last.elapsed() < SILENCE) {
                return;
            }
        }
    };
    let connecting = async {
        let mut attempts = FuturesUnordered::new();
        loop {
            if attempts.len() < MAX_ATTEMPTS {
                attempts.push(node.dial_spare(address.clone(), peer));
            }
            let next = sleep(NEXT_ATTEMPT_AFTER);
            tokio::pin!(next);
            loop {
                tokio::select! {
                    Some(outcome) = attempts.next() => match outcome {
                        Ok(connection) => return connection,
                        Err(error) => debug!(%error, "no other connection yet"),
                    },
                    () = &mut next => break,
                    else => pending().await,
                }
            }
        }
    };
    tokio::select! {
        biased;
        connection = connecting => Some(connection),
        () = recovered => None,
    }
}
