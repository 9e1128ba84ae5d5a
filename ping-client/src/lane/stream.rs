//! `--mode stream`: one long-lived stream for all pings.

use std::{
    task::{Context, Poll, ready},
    time::Duration,
};

use libp2p::PeerId;
use ping_core::{
    node::Node,
    stream::{Ended, Pipe, Settled},
};
use tokio::time::timeout;

use super::{Answer, Lane, Outcome, Payloads, Terms};
use crate::diagnose::{PingFailure, Trouble};

/// How many pings may be under way: as many as the command line can ask for. Each takes some hundred bytes of memory.
const WIDTH: usize = 100_000;

/// How long the server may take to serve a stream that was opened.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Pings over one stream.
pub(crate) struct StreamLane {
    pipe: Pipe,
    tell: bool,
    payloads: Payloads,
    settled: Vec<Settled>,
}

impl StreamLane {
    /// Opens the stream. Returns with it how many pings the actor has counted so far.
    ///
    /// # Errors
    ///
    /// When the server does not speak the protocol, or does not want to.
    pub(crate) async fn open(node: &Node, peer: PeerId, tell: bool, terms: &Terms) -> Result<(Self, u64), Trouble> {
        let run = terms.once.as_ref().map(|once| once.id());
        let opened = timeout(OPEN_TIMEOUT, Pipe::open(node, peer, run)).await;
        let (pipe, total) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(Ended::Unsupported)) => return Err(Trouble::NoStream { peer }),
            Ok(Err(ended)) => return Err(trouble(&ended)),
            Err(_) => return Err(Trouble::StreamEnded { reason: "it was opened, but no welcome came".into() }),
        };
        Ok((Self { pipe, tell, payloads: Payloads::new(terms.size), settled: Vec::new() }, total))
    }
}

impl Lane for StreamLane {
    fn has_room(&self) -> bool {
        self.pipe.in_flight() < WIDTH
    }

    fn send(&mut self, number: u64) {
        let payload = self.payloads.of(number);
        if self.tell {
            self.pipe.tell(number, payload);
        } else {
            self.pipe.ask(number, payload);
        }
    }

    fn forget(&mut self) {
        self.pipe.forget(1);
    }

    fn give_up(&mut self, number: u64) {
        self.pipe.give_up(number);
    }

    fn settle_below(&mut self, number: u64) {
        self.pipe.settle_below(number);
    }

    fn poll(&mut self, context: &mut Context<'_>, settled: &mut Vec<(u64, Outcome)>) -> Poll<Result<(), Trouble>> {
        ready!(self.pipe.poll(context, &mut self.settled)).map_err(|ended| trouble(&ended))?;
        settled.extend(self.settled.drain(..).map(|ping| match ping {
            Settled::Pong { id, total } => (id, Ok(Answer { total: Some(total) })),
            Settled::Told { id } => (id, Ok(Answer { total: None })),
            Settled::Damaged { id } => (id, Err(PingFailure::damaged(id))),
        }));
        Poll::Ready(Ok(()))
    }
}

fn trouble(ended: &Ended) -> Trouble {
    match ended {
        // A server that ends a stream alone says why.
        Ended::NotConnected | Ended::Closed | Ended::Io(_) => Trouble::Lost { reason: ended.to_string() },
        _ => Trouble::StreamEnded { reason: ended.to_string() },
    }
}
