//! Which connections are given up because nothing arrives on them.

use std::time::{Duration, Instant};

use futures::FutureExt;
use libp2p::{PeerId, ping, swarm::ConnectionId};
use tokio::time::sleep;
use tracing::debug;

use super::{Event, EventLoop};

/// How long this node waits for one more sign of life before it gives a connection up. What arrived while this process
/// was stopped, or this machine slept, still waits to be read.
const SECOND_LOOK: Duration = Duration::from_millis(250);

/// After how many times the silence that ends a connection one ends that requests have left, although its peer gives
/// signs of life on another. TCP waits up to twice as long as a link was cut until it sends again.
const LEFT_SILENCES: u32 = 3;

impl EventLoop {
    /// Reports a sign of life, or suspects a connection whose other side gives none. Any other failure is ignored: with
    /// lazy negotiation, a peer that does not speak the keep-alive protocol, like many Kameo nodes, looks like an I/O
    /// error.
    pub(super) fn on_keep_alive(&mut self, ping::Event { peer, connection, result }: ping::Event) {
        match result {
            Ok(time) => {
                self.unanswered.remove(&connection);
                self.tell(Event::RoundTrip { peer, time });
            }
            Err(ping::Failure::Timeout) if self.silence_of(&peer) >= self.silence => {
                self.suspects.push(sleep(SECOND_LOOK).map(move |()| (peer, connection)).boxed());
            }
            Err(ping::Failure::Timeout) if self.swarm.behaviour().kameo.has_left(&peer, connection) => {
                let silence = self.unanswered.entry(connection).or_insert_with(Instant::now).elapsed();
                if silence >= self.silence * LEFT_SILENCES && self.swarm.close_connection(connection) {
                    self.silent.insert(connection, silence);
                }
            }
            Err(failure) => debug!(%failure, "keep-alive failed"),
        }
    }

    /// For how long nothing of this peer has arrived.
    fn silence_of(&self, peer: &PeerId) -> Duration {
        self.signs.last(peer).map_or(Duration::MAX, |last| last.elapsed())
    }

    /// Closes a suspected connection, unless there was a sign of life in the meantime.
    pub(super) fn look_again(&mut self, peer: PeerId, connection: ConnectionId) {
        let silence = self.silence_of(&peer);
        if silence >= self.silence && self.swarm.close_connection(connection) {
            self.silent.insert(connection, silence);
        }
    }
}
