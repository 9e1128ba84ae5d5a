//! The server's end of a stream.

use std::{future::poll_fn, io, mem, time::Duration};

use bytes::Bytes;
use futures::AsyncWriteExt;
use kameo::actor::ActorRef;
use libp2p::{PeerId, Stream};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tracing::{debug, error, warn};

use super::{
    Ended, Inbound,
    frame::{Frame, Malformed},
    io::{Reader, Writer},
};
use crate::{
    actor::{
        Carrier, PingActor, Tally,
        batch::{Batch, Counted, Item, Pings},
        fresh,
    },
    hardening::LogLimit,
    protocol::{RunId, Verdict},
};

/// How long the replies to one read may take to be written: many round trips of a slow link. A client that does not
/// read must not hold the memory of its stream for ever.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client whose stream is ended has to read the reason.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves every inbound stream in a task of its own, until the node stops. `tally` learns who sends how many pings.
pub async fn accept(mut streams: mpsc::UnboundedReceiver<Inbound>, actor: ActorRef<PingActor>, tally: Tally) {
    let mut serving = JoinSet::new();
    let mut malformed = LogLimit::default();
    loop {
        tokio::select! {
            inbound = streams.recv() => {
                let Some(inbound) = inbound else { return };
                let (actor, tally) = (actor.clone(), tally.clone());
                serving.spawn(async move { (inbound.peer, serve(inbound, &actor, &tally).await) });
            }
            Some(served) = serving.join_next() => match served {
                Ok((peer, ended)) => log_end(peer, &ended, &mut malformed),
                Err(panic) => error!("A stream's task failed: {panic}. This is a bug; please report it."),
            },
        }
    }
}

/// Logs why a stream ended, as a warning if its client sent malformed frames.
fn log_end(peer: PeerId, ended: &Result<(), Ended>, malformed: &mut LogLimit) {
    match ended {
        Err(ended @ Ended::Malformed(_)) => {
            if let Some(count) = malformed.count() {
                warn!("Ended a stream from {peer}: {ended} ({count} so far)");
            }
        }
        Err(ended) => debug!(%peer, %ended, "a stream failed"),
        Ok(()) => debug!(%peer, "a stream ended"),
    }
}

/// Serves one stream until its client ends it.
///
/// Nothing is read while a reply waits to be written, so a client that does not read its replies stops itself. A stream
/// holds at most one read (64 KiB) and its replies, which are at most twice that.
///
/// A client that sends a malformed frame is told so. If the actor does not answer, or does not remember the client's
/// run, the stream is just closed, and the client finds out when it opens the next one.
async fn serve(inbound: Inbound, actor: &ActorRef<PingActor>, tally: &Tally) -> Result<(), Ended> {
    let Inbound { peer, mut stream, place, .. } = inbound;
    let mut writer = Writer::default();
    let ended = pump(&mut stream, &mut writer, actor, |pings| tally.add(peer, pings, Carrier::Stream)).await;
    if let Err(reason @ Ended::Malformed(_)) = &ended {
        writer.push(Frame::End { reason: Bytes::from(reason.to_string()) });
        let farewell = async {
            writer.write(&mut stream).await?;
            stream.close().await
        };
        let _ = timeout(FAREWELL_TIMEOUT, farewell).await;
    }
    drop(place);
    ended
}

async fn pump(
    stream: &mut Stream,
    writer: &mut Writer,
    actor: &ActorRef<PingActor>,
    on_pings: impl Fn(u64),
) -> Result<(), Ended> {
    let mut reader = Reader::default();
    let mut requests = Requests::default();
    let Counted { total, .. } = count(actor, Pings::Plain(0), Vec::new()).await?;
    writer.push(Frame::Welcome { total });
    write(writer, stream).await?;
    loop {
        if poll_fn(|context| reader.poll_read(context, &mut *stream)).await? == 0 {
            if !reader.is_empty() {
                return Err(Malformed::Cut.into());
            }
            return Ok(stream.close().await?);
        }
        let malformed = requests.take_all(&mut reader).err();
        if !requests.list.is_empty() {
            on_pings(requests.pings());
            let (pings, payloads) = requests.batch();
            let counted = count(actor, pings, payloads).await?;
            let replied = requests.reply(counted, writer);
            write(writer, stream).await?;
            replied?;
        }
        if let Some(malformed) = malformed {
            return Err(malformed.into());
        }
    }
}

/// Writes everything that is queued.
async fn write(writer: &mut Writer, stream: &mut Stream) -> Result<(), Ended> {
    timeout(REPLY_TIMEOUT, writer.write(stream)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(())
}

/// A frame from the client, without its payload.
enum Request {
    Ask { id: u64 },
    Tell { id: u64 },
    Part { id: u64 },
    SettledBelow { floor: u64 },
}

/// The requests of one stream.
#[derive(Default)]
struct Requests {
    /// Whether a frame has arrived.
    has_begun: bool,
    /// The run that the pings belong to.
    run: Option<RunId>,
    /// Those that one read brought.
    list: Vec<Request>,
    payloads: Vec<Bytes>,
    /// How many tells are counted.
    tells: u64,
}

impl Requests {
    /// Takes all frames that were read, up to the first malformed one.
    fn take_all(&mut self, reader: &mut Reader) -> Result<(), Malformed> {
        while let Some(frame) = reader.next_frame()? {
            self.take(frame)?;
        }
        Ok(())
    }

    fn take(&mut self, frame: Frame) -> Result<(), Malformed> {
        let first = !mem::replace(&mut self.has_begun, true);
        match frame {
            Frame::Ask { id } => self.list.push(Request::Ask { id }),
            Frame::Tell { id } => self.list.push(Request::Tell { id }),
            Frame::AskPart { id, payload } => {
                self.list.push(Request::Part { id });
                self.payloads.push(payload);
            }
            // It is not sent back.
            Frame::TellPart { .. } => {}
            Frame::Run { run } if first => self.run = Some(run),
            Frame::SettledBelow { floor } if self.run.is_some() => self.list.push(Request::SettledBelow { floor }),
            other => return Err(Malformed::Unexpected(other.kind())),
        }
        Ok(())
    }

    /// How many pings there are.
    fn pings(&self) -> u64 {
        self.list.iter().filter(|request| matches!(request, Request::Ask { .. } | Request::Tell { .. })).count() as u64
    }

    /// What the actor is asked to do.
    fn batch(&mut self) -> (Pings, Vec<Bytes>) {
        let items = self.list.iter().filter_map(|request| match *request {
            Request::Ask { id } | Request::Tell { id } => Some(Item::Ping(id)),
            Request::SettledBelow { floor } => Some(Item::SettledBelow(floor)),
            Request::Part { .. } => None,
        });
        let pings = match self.run {
            None => Pings::Plain(items.count() as u64),
            Some(run) => Pings::OfRun { run, items: items.collect() },
        };
        (pings, mem::take(&mut self.payloads))
    }

    /// Queues the replies in the order of the requests. Each newly counted ping gets its own place in the actor's
    /// total.
    fn reply(&mut self, counted: Counted, writer: &mut Writer) -> Result<(), Ended> {
        let Counted { total, verdicts, payloads } = counted;
        let pings = if self.run.is_some() { fresh(&verdicts) } else { self.pings() };
        let mut total = total - pings;
        let (mut verdicts, mut payloads) = (verdicts.into_iter(), payloads.into_iter());
        let mut told = None;
        let mut outcome = Ok(());
        for request in self.list.drain(..) {
            if let Request::Ask { id } | Request::Tell { id } = request {
                let verdict = verdicts.next();
                match verdict {
                    None | Some(Verdict::Fresh) => total += 1,
                    Some(Verdict::Again | Verdict::Settled) => {}
                    Some(Verdict::Outside) => outcome = Err(Malformed::Outside(id).into()),
                    Some(Verdict::UnknownRun) => outcome = Err(Ended::UnknownRun),
                }
                if outcome.is_err() {
                    break;
                }
                if verdict == Some(Verdict::Settled) && matches!(request, Request::Ask { .. }) {
                    continue;
                }
            }
            match request {
                Request::Ask { id } => writer.push(Frame::Pong { id, total }),
                Request::Tell { .. } => {
                    self.tells += 1;
                    told = Some(Frame::Counted { tells: self.tells, total });
                }
                Request::Part { id } => {
                    if let Some(payload) = payloads.next() {
                        writer.push(Frame::Part { id, payload });
                    }
                }
                Request::SettledBelow { .. } => {}
            }
        }
        // One count acknowledges all tells of the read.
        told.into_iter().for_each(|counted| writer.push(counted));
        outcome
    }
}

/// Sends everything that one read brought to the actor as one message.
async fn count(actor: &ActorRef<PingActor>, pings: Pings, payloads: Vec<Bytes>) -> Result<Counted, Ended> {
    actor.ask(Batch { pings, payloads }).await.map_err(|_| Ended::NoActor)
}
