//! The server's end of the stream.

use std::{future::poll_fn, io, time::Duration};

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
    actor::{Batch, Counted, Item, PingActor, Pings, fresh},
    complaints::Complaints,
    runs::{RunId, Verdict},
};

/// How long the replies to one read may take to be written. A client that reads takes them within a few round trips of the slowest link;
/// one that does not is not to keep the memory for ever that its stream takes up.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client whose stream is ended may take to read why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Serves every stream that comes, each in a task of its own, until no more can come.
pub async fn accept(mut streams: mpsc::UnboundedReceiver<Inbound>, actor: ActorRef<PingActor>) {
    let mut serving = JoinSet::new();
    let mut spoiled = Complaints::default();
    loop {
        tokio::select! {
            inbound = streams.recv() => {
                let Some(inbound) = inbound else { return };
                let actor = actor.clone();
                serving.spawn(async move { (inbound.peer, serve(inbound, &actor).await) });
            }
            Some(served) = serving.join_next() => match served {
                Ok((peer, ended)) => on_end(peer, &ended, &mut spoiled),
                Err(panic) => error!("A stream's task failed: {panic}. This is a bug; please report it."),
            },
        }
    }
}

/// Says why a stream ended: aloud if it was because of what its client sent.
fn on_end(peer: PeerId, ended: &Result<(), Ended>, spoiled: &mut Complaints) {
    match ended {
        Err(ended @ Ended::Malformed(_)) => {
            if let Some(count) = spoiled.add() {
                warn!("Ended a stream of {peer}: {ended} ({count} such so far)");
            }
        }
        Err(ended) => debug!(%peer, %ended, "a stream failed"),
        Ok(()) => debug!(%peer, "a stream ended"),
    }
}

/// Serves one stream until its client ends it.
///
/// Nothing is read while a reply waits to be written, so a client that does not read its replies stops itself. What a
/// stream holds in memory is bounded: one read's bytes (64 KiB) and the replies to them, which are at most twice that.
///
/// # Errors
///
/// When the client sends what is no request; it has then been told so. When the stream fails, or the actor gives no answer, or does not
/// remember the client's run: the stream is then closed, and the client finds out when it opens the next one.
async fn serve(inbound: Inbound, actor: &ActorRef<PingActor>) -> Result<(), Ended> {
    let Inbound { mut stream, place, .. } = inbound;
    let mut writer = Writer::default();
    let ended = pump(&mut stream, &mut writer, actor).await;
    if let Err(reason @ Ended::Malformed(_)) = &ended {
        writer.push(Frame::End { reason: Bytes::from(reason.to_string()) });
        let farewell = async {
            writer.write(&mut stream).await?;
            stream.close().await
        };
        let _ = timeout(LAST_WORDS, farewell).await;
    }
    drop(place);
    ended
}

async fn pump(stream: &mut Stream, writer: &mut Writer, actor: &ActorRef<PingActor>) -> Result<(), Ended> {
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
        let spoiled = loop {
            match reader.next_frame() {
                Ok(Some(frame)) => match requests.take(frame) {
                    Ok(()) => {}
                    Err(malformed) => break Some(malformed),
                },
                Ok(None) => break None,
                Err(malformed) => break Some(malformed),
            }
        };
        if !requests.list.is_empty() {
            let (pings, payloads) = requests.batch();
            let counted = count(actor, pings, payloads).await?;
            let replied = requests.reply(counted, writer);
            write(writer, stream).await?;
            replied?;
        }
        if let Some(malformed) = spoiled {
            return Err(malformed.into());
        }
    }
}

/// Writes all replies.
async fn write(writer: &mut Writer, stream: &mut Stream) -> Result<(), Ended> {
    timeout(REPLY_TIMEOUT, writer.write(stream)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(())
}

/// What a frame asks for, without its payload.
enum Request {
    Ask { id: u64 },
    Tell { id: u64 },
    Part { id: u64 },
    Settled { below: u64 },
}

/// What was asked on one stream.
#[derive(Default)]
struct Requests {
    /// Whether a frame has come at all.
    begun: bool,
    /// The run that the pings belong to.
    run: Option<RunId>,
    /// What one read brought.
    list: Vec<Request>,
    payloads: Vec<Bytes>,
    /// How many tells were counted.
    tells: u64,
}

impl Requests {
    fn take(&mut self, frame: Frame) -> Result<(), Malformed> {
        let first = !std::mem::replace(&mut self.begun, true);
        match frame {
            Frame::Ask { id } => self.list.push(Request::Ask { id }),
            Frame::Tell { id } => self.list.push(Request::Tell { id }),
            Frame::AskPart { id, payload } => {
                self.list.push(Request::Part { id });
                self.payloads.push(payload);
            }
            // Nobody wants it back.
            Frame::TellPart { .. } => {}
            Frame::Run { run } if first => self.run = Some(run),
            Frame::Settled { below } if self.run.is_some() => self.list.push(Request::Settled { below }),
            other => return Err(Malformed::Unexpected(other.kind())),
        }
        Ok(())
    }

    /// What there is for the actor to do.
    fn batch(&mut self) -> (Pings, Vec<Bytes>) {
        let items = self.list.iter().filter_map(|request| match *request {
            Request::Ask { id } | Request::Tell { id } => Some(Item::Ping(id)),
            Request::Settled { below } => Some(Item::Settled { below }),
            Request::Part { .. } => None,
        });
        let pings = match self.run {
            None => Pings::Plain(items.count() as u64),
            Some(run) => Pings::OfRun { run, items: items.collect() },
        };
        (pings, std::mem::take(&mut self.payloads))
    }

    /// Writes the replies in the order of the requests. Each ping that was counted now gets its own place in the actor's total.
    fn reply(&mut self, counted: Counted, writer: &mut Writer) -> Result<(), Ended> {
        let Counted { total, verdicts, payloads } = counted;
        let is_ping = |request: &&Request| matches!(request, Request::Ask { .. } | Request::Tell { .. });
        let pings = if self.run.is_some() { fresh(&verdicts) } else { self.list.iter().filter(is_ping).count() as u64 };
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
                Request::Settled { .. } => {}
            }
        }
        // One count acknowledges all tells of the read.
        told.into_iter().for_each(|counted| writer.push(counted));
        outcome
    }
}

/// Hands everything that one read brought to the actor as one message.
async fn count(actor: &ActorRef<PingActor>, pings: Pings, payloads: Vec<Bytes>) -> Result<Counted, Ended> {
    actor.ask(Batch { pings, payloads }).await.map_err(|_| Ended::NoActor)
}
