//! `--mode stream` and `stream-tell`: one long-lived stream for all pings.

use std::{
    mem,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{FutureExt, future::LocalBoxFuture};
use libp2p::{PeerId, swarm::ConnectionId};
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

/// Pings on one stream, or, while they move to another connection, on two.
pub(super) struct StreamPinger<'a> {
    node: &'a Node,
    peer: PeerId,
    run: Option<RunId>,
    client: Client,
    /// Whether that has ended before pings could move to another.
    has_ended: bool,
    /// The stream on the connection before, while pings are in flight there, and the last of them.
    old: Option<(Client, u64)>,
    /// The stream that pings will move to.
    opening: Option<LocalBoxFuture<'a, Result<(Client, u64), Error>>>,
    tells: bool,
    payloads: Payloads,
    last_sequence: u64,
    /// What the actor was last told of settled pings.
    settled_below: u64,
    /// What was lost with the connection before.
    lost: Vec<u64>,
    /// The client's outcomes, kept to reuse the allocation.
    resolved: Vec<Resolved>,
}

impl<'a> StreamPinger<'a> {
    /// Opens the stream on this connection to the peer. Returns with it how many pings the actor has counted so far.
    /// Fails if the server does not speak the protocol, or does not serve the stream.
    pub(super) async fn open(
        node: &'a Node,
        (peer, connection): (PeerId, ConnectionId),
        tells: bool,
        size: u64,
        run: Option<RunId>,
    ) -> Result<(Self, u64), Error> {
        let (client, total) = open(node, (peer, connection), run).await?;
        let pinger = Self {
            node,
            peer,
            run,
            client,
            has_ended: false,
            old: None,
            opening: None,
            tells,
            payloads: Payloads::new(size),
            last_sequence: 0,
            settled_below: 0,
            lost: Vec::new(),
            resolved: Vec::new(),
        };
        Ok((pinger, total))
    }

    /// The stream that a ping was sent on.
    fn client_of(&mut self, sequence: u64) -> &mut Client {
        match &mut self.old {
            Some((old, last)) if sequence <= *last => old,
            _ => &mut self.client,
        }
    }

    /// Returns whether pings have moved to another stream.
    fn poll_opening(&mut self, context: &mut Context<'_>) -> Result<bool, Error> {
        let Some(Poll::Ready(opened)) = self.opening.as_mut().map(|opening| opening.poll_unpin(context)) else {
            return Ok(false);
        };
        self.opening = None;
        let (mut client, _) = opened.map_err(|error| match self.has_ended {
            // The connection before is lost, whatever is wrong with this one.
            true => Error::Lost { reason: PeerText::new(error) },
            false => error,
        })?;
        if self.settled_below > 0 {
            client.settle_below(self.settled_below);
        }
        let old = mem::replace(&mut self.client, client);
        // What was in flight even before the last move has had its time.
        self.old = (!mem::take(&mut self.has_ended)).then_some((old, self.last_sequence));
        Ok(true)
    }

    /// Polls the stream before, until nothing is in flight there any more, or that is lost.
    fn poll_old(&mut self, context: &mut Context<'_>) -> Result<(), Error> {
        let Some((old, _)) = &mut self.old else { return Ok(()) };
        let polled = old.poll(context, &mut self.resolved);
        if let Poll::Ready(Err(ended)) = polled {
            let error = into_error(&ended);
            if !matches!(error, Error::Lost { .. }) && old.in_flight() > 0 {
                return Err(error);
            }
            self.lost.extend(old.unresolved());
            self.old = None;
        } else if old.in_flight() == 0 {
            self.old = None;
        }
        Ok(())
    }

    fn poll_clients(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let has_moved = self.poll_opening(context)?;
        self.poll_old(context)?;
        if !self.has_ended
            && let Poll::Ready(outcome) = self.client.poll(context, &mut self.resolved)
        {
            match outcome.map_err(|ended| into_error(&ended)) {
                Err(Error::Lost { .. }) if self.opening.is_some() => {
                    self.has_ended = true;
                    self.lost.extend(self.client.unresolved());
                }
                outcome => return Poll::Ready(outcome),
            }
        }
        let is_progress = has_moved || !self.resolved.is_empty() || !self.lost.is_empty();
        if is_progress { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

/// Opens a stream on this connection to the peer.
async fn open(
    node: &Node,
    (peer, connection): (PeerId, ConnectionId),
    run: Option<RunId>,
) -> Result<(Client, u64), Error> {
    let open = async { Client::open(node.open_stream(peer, connection).await?, run).await };
    match timeout(OPEN_TIMEOUT, open).await {
        Ok(Err(Ended::Unsupported)) => Err(Error::NoStream { peer }),
        Ok(opened) => opened.map_err(|ended| into_error(&ended)),
        Err(_) => Err(Error::StreamEnded { reason: "the server did not start to serve it".into() }),
    }
}

impl Pinger for StreamPinger<'_> {
    fn has_room(&self) -> bool {
        let on_old = self.old.as_ref().map_or(0, |(old, _)| old.in_flight());
        !self.has_ended && self.client.in_flight() + on_old < WIDTH
    }

    fn send(&mut self, sequence: u64) {
        let payload = self.payloads.of(sequence);
        self.last_sequence = self.last_sequence.max(sequence);
        if self.tells {
            self.client.tell(sequence, payload);
        } else {
            self.client.ask(sequence, payload);
        }
    }

    fn poll(&mut self, context: &mut Context<'_>, resolved: &mut Vec<(u64, Outcome)>) -> Poll<Result<Progress, Error>> {
        let polled = ready!(self.poll_clients(context));
        // Pongs may arrive together with the end.
        resolved.extend(self.resolved.drain(..).map(|ping| match ping {
            Resolved::Pong { id, total } => (id, Ok(Answer { total: Some(total) })),
            Resolved::Told { id } => (id, Ok(Answer { total: None })),
            Resolved::Damaged { id } => (id, Err(PingError::Damaged { sequence: id })),
        }));
        resolved.extend(self.lost.drain(..).map(|sequence| (sequence, Err(PingError::ConnectionLost))));
        Poll::Ready(polled.map(|()| Progress::Resolved))
    }

    fn give_up(&mut self, sequence: u64) {
        self.client_of(sequence).give_up(sequence);
    }

    fn forget(&mut self, sequence: u64) {
        // A told ping is acknowledged in order, and takes up room until then.
        if !self.tells {
            self.client_of(sequence).forget(sequence);
        }
    }

    fn settle_below(&mut self, floor: u64) {
        if floor >= self.settled_below + SETTLE_STEP {
            self.client.settle_below(floor);
            self.settled_below = floor;
        }
    }

    fn is_moving(&self) -> bool {
        self.opening.is_some()
    }

    fn has_drained(&self) -> bool {
        self.opening.is_none() && self.old.is_none()
    }

    fn move_to(&mut self, connection: ConnectionId) {
        self.opening = Some(open(self.node, (self.peer, connection), self.run).boxed_local());
    }
}

fn into_error(ended: &Ended) -> Error {
    match ended {
        // A server that ends a stream, and nothing else, says why.
        Ended::NotConnected | Ended::Closed | Ended::Io(_) => Error::Lost { reason: PeerText::new(ended) },
        _ => Error::StreamEnded { reason: PeerText::new(ended) },
    }
}
