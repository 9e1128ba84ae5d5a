//! `--mode stream` and `stream-tell`: one long-lived stream for all pings.

use std::{
    task::{Context, Poll, ready},
    time::Duration,
};

use libp2p::PeerId;
use ping_core::{
    Node, PeerText,
    protocol::RunId,
    stream::{Client, Ended, Resolved},
};
use tokio::time::timeout;

use super::{Answer, Outcome, Pinger, Progress, payloads::Payloads};
use crate::error::{Error, PingError};

/// How many pings may be in flight: as many as the command line can ask for. Each takes some hundred bytes of memory.
const WIDTH: usize = 100_000;

/// How long the server has to serve a stream that was opened.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// How many pings are settled before the actor is told. Its window is a hundred times as wide.
pub(super) const SETTLE_STEP: u64 = 1024;

/// Pings on one stream.
pub(super) struct StreamPinger {
    client: Client,
    tells: bool,
    payloads: Payloads,
    /// What the actor was last told of settled pings.
    settled_below: u64,
    /// The client's outcomes, kept to reuse the allocation.
    resolved: Vec<Resolved>,
}

impl StreamPinger {
    /// Opens the stream. Returns with it how many pings the actor has counted so far. Fails if the server does not
    /// speak the protocol, or does not serve the stream.
    pub(super) async fn open(
        node: &Node,
        peer: PeerId,
        tells: bool,
        size: u64,
        run: Option<RunId>,
    ) -> Result<(Self, u64), Error> {
        let open = async { Client::open(node.open_stream(peer).await?, run).await };
        let (client, total) = match timeout(OPEN_TIMEOUT, open).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(Ended::Unsupported)) => return Err(Error::NoStream { peer }),
            Ok(Err(ended)) => return Err(into_error(&ended)),
            Err(_) => return Err(Error::StreamEnded { reason: "the server did not start to serve it".into() }),
        };
        Ok((Self { client, tells, payloads: Payloads::new(size), settled_below: 0, resolved: Vec::new() }, total))
    }
}

impl Pinger for StreamPinger {
    fn has_room(&self) -> bool {
        self.client.in_flight() < WIDTH
    }

    fn send(&mut self, sequence: u64) {
        let payload = self.payloads.of(sequence);
        if self.tells {
            self.client.tell(sequence, payload);
        } else {
            self.client.ask(sequence, payload);
        }
    }

    fn poll(&mut self, context: &mut Context<'_>, resolved: &mut Vec<(u64, Outcome)>) -> Poll<Result<Progress, Error>> {
        let polled = ready!(self.client.poll(context, &mut self.resolved));
        // Pongs may arrive together with the end.
        resolved.extend(self.resolved.drain(..).map(|ping| match ping {
            Resolved::Pong { id, total } => (id, Ok(Answer { total: Some(total) })),
            Resolved::Told { id } => (id, Ok(Answer { total: None })),
            Resolved::Damaged { id } => (id, Err(PingError::Damaged { sequence: id })),
        }));
        Poll::Ready(polled.map(|()| Progress::Resolved).map_err(|ended| into_error(&ended)))
    }

    fn give_up(&mut self, sequence: u64) {
        self.client.give_up(sequence);
    }

    fn forget(&mut self, sequence: u64) {
        // A told ping is acknowledged in order, and takes up room until then.
        if !self.tells {
            self.client.forget(sequence);
        }
    }

    fn settle_below(&mut self, floor: u64) {
        if floor >= self.settled_below + SETTLE_STEP {
            self.client.settle_below(floor);
            self.settled_below = floor;
        }
    }
}

fn into_error(ended: &Ended) -> Error {
    match ended {
        // A server that ends a stream, and nothing else, says why.
        Ended::NotConnected | Ended::Closed | Ended::Io(_) => Error::Lost { reason: PeerText::new(ended) },
        _ => Error::StreamEnded { reason: PeerText::new(ended) },
    }
}
