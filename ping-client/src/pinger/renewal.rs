//! Another connection through a relay beside one that the relay ends soon.
//!
//! A relay carries each circuit for a limited time, and says for how long when it makes one.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{FutureExt, future::LocalBoxFuture};
use libp2p::{Multiaddr, PeerId};
use ping_core::{Connection, Node};
use tokio::time::{Sleep, sleep};
use tracing::{debug, info};

/// After which part of its time a circuit is replaced, so that there is time to try again. DHCP renews a lease when
/// half of its time is over (RFC 2131, section 4.4.5).
const PART: u32 = 2;

/// How long to wait after an attempt that failed.
const PAUSE: Duration = Duration::from_secs(2);

/// Watches the time of a circuit.
pub(super) struct Renewal<'a> {
    node: &'a Node,
    peer: PeerId,
    address: Multiaddr,
    state: State<'a>,
}

enum State<'a> {
    Waiting(Pin<Box<Sleep>>),
    Connecting(LocalBoxFuture<'a, Connection>),
}

impl<'a> Renewal<'a> {
    /// For this connection; `None` if no relay ends it.
    pub(super) fn new(node: &'a Node, Connection { peer, address, lasts, .. }: &Connection) -> Option<Self> {
        let state = State::Waiting(Box::pin(sleep((*lasts)? / PART)));
        Some(Self { node, peer: *peer, address: address.clone(), state })
    }

    /// Waits until there is another connection, which new pings then take.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Connection> {
        loop {
            match &mut self.state {
                State::Waiting(timer) => {
                    ready!(timer.poll_unpin(context));
                    self.state = State::Connecting(connect(self.node, self.peer, self.address.clone()).boxed_local());
                }
                State::Connecting(connecting) => {
                    let connection = ready!(connecting.poll_unpin(context));
                    info!("The relay ends this connection soon; new pings take another one through it");
                    let lasts = connection.lasts.unwrap_or(Duration::MAX);
                    self.state = State::Waiting(Box::pin(sleep(lasts / PART)));
                    return Poll::Ready(connection);
                }
            }
        }
    }
}

/// Connects to the peer once more, for as long as it takes.
async fn connect(node: &Node, peer: PeerId, address: Multiaddr) -> Connection {
    loop {
        match node.dial_spare(address.clone(), peer).await {
            Ok(connection) => return connection,
            Err(error) => debug!(%error, "no other connection through the relay yet"),
        }
        sleep(PAUSE).await;
    }
}
