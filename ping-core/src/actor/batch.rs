//! Pings that arrive together on a [`stream`](crate::stream): one message to the actor, which never leaves the process.

use bytes::Bytes;
use kameo::{
    Reply,
    message::{Context, Message},
    reply::DelegatedReply,
};

use super::PingActor;
use crate::protocol::{RunId, Verdict};

/// The pings that one read from a stream brought.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) pings: Pings,
    /// Payloads that the actor sends back.
    pub(crate) payloads: Vec<Bytes>,
}

/// The pings of a [`Batch`].
#[derive(Clone, Debug)]
pub(crate) enum Pings {
    /// This many.
    Plain(u64),
    /// Pings that may have been counted before.
    OfRun { run: RunId, items: Vec<Item> },
}

/// What a stream says about the pings of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Item {
    /// A ping with this sequence number.
    Ping(u64),
    /// The client will not send any ping below this number again.
    SettledBelow(u64),
}

/// The answer to a [`Batch`].
#[derive(Clone, Debug, Reply)]
pub(crate) struct Counted {
    /// How many pings the actor has counted, from all clients, these included.
    pub(crate) total: u64,
    /// One verdict for each ping of a run.
    pub(crate) verdicts: Vec<Verdict>,
    /// The payloads, unchanged.
    pub(crate) payloads: Vec<Bytes>,
}

impl Message<Batch> for PingActor {
    type Reply = DelegatedReply<Counted>;

    async fn handle(&mut self, batch: Batch, context: &mut Context<Self, Self::Reply>) -> Self::Reply {
        // There is nothing to store, so the answer waits for nothing.
        if let Pings::Plain(0) = batch.pings {
            let total = self.count.total();
            return context.reply(Counted { total, verdicts: Vec::new(), payloads: batch.payloads });
        }
        let _timer = self.count.timer();
        let (total, verdicts) = match batch.pings {
            Pings::Plain(pings) => (self.count.add(pings), Vec::new()),
            Pings::OfRun { run, items } => self.count.add_once(run, items),
        };
        self.answer(context, Counted { total, verdicts, payloads: batch.payloads }, ()).await
    }
}
