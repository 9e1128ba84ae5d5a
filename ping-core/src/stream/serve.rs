//! The server's end of the stream.

use std::{future::poll_fn, time::Duration};

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
    complaints::Complaints,
    protocol::{Batch, Counted, PingActor},
};

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
/// When the client sends what is no request; it has then been told so. When the stream fails, or the actor has stopped.
async fn serve(inbound: Inbound, actor: &ActorRef<PingActor>) -> Result<(), Ended> {
    let Inbound { mut stream, place, .. } = inbound;
    let mut writer = Writer::default();
    let ended = pump(&mut stream, &mut writer, actor).await;
    if let Err(reason @ (Ended::Malformed(_) | Ended::NoActor)) = &ended {
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
    let mut requests = Vec::new();
    let mut tells = 0;
    let Counted { total, .. } = count(actor, 0, Vec::new()).await?;
    writer.push(Frame::Welcome { total });
    writer.write(stream).await?;
    loop {
        if poll_fn(|context| reader.poll_read(context, &mut *stream)).await? == 0 {
            if !reader.is_empty() {
                return Err(Malformed::Cut.into());
            }
            return Ok(stream.close().await?);
        }
        let (mut pings, mut payloads) = (0, Vec::new());
        let spoiled = loop {
            match reader.next_frame() {
                Ok(Some(Frame::Ask { id })) => {
                    pings += 1;
                    requests.push(Request::Ask { id });
                }
                Ok(Some(Frame::Tell { .. })) => {
                    pings += 1;
                    requests.push(Request::Tell);
                }
                Ok(Some(Frame::AskPart { id, payload })) => {
                    requests.push(Request::Part { id });
                    payloads.push(payload);
                }
                // Nobody wants it back.
                Ok(Some(Frame::TellPart { .. })) => {}
                Ok(Some(other)) => break Some(Malformed::Unexpected(other.kind())),
                Ok(None) => break None,
                Err(malformed) => break Some(malformed),
            }
        };
        if !requests.is_empty() {
            let counted = count(actor, pings, payloads).await?;
            reply(&mut requests, counted, pings, &mut tells, writer);
            writer.write(stream).await?;
        }
        if let Some(malformed) = spoiled {
            return Err(malformed.into());
        }
    }
}

/// What a frame asks for, without its payload.
enum Request {
    Ask { id: u64 },
    Tell,
    Part { id: u64 },
}

/// Hands everything that one read brought to the actor as one message.
async fn count(actor: &ActorRef<PingActor>, pings: u64, payloads: Vec<Bytes>) -> Result<Counted, Ended> {
    actor.ask(Batch { pings, payloads }).await.map_err(|_| Ended::NoActor)
}

/// Writes the replies in the order of the requests. Each ping gets its own place in the actor's total.
fn reply(requests: &mut Vec<Request>, counted: Counted, pings: u64, tells: &mut u64, writer: &mut Writer) {
    let mut total = counted.total - pings;
    let mut payloads = counted.payloads.into_iter();
    let mut told = None;
    for request in requests.drain(..) {
        match request {
            Request::Ask { id } => {
                total += 1;
                writer.push(Frame::Pong { id, total });
            }
            Request::Tell => {
                total += 1;
                *tells += 1;
                told = Some(Frame::Counted { tells: *tells, total });
            }
            Request::Part { id } => {
                if let Some(payload) = payloads.next() {
                    writer.push(Frame::Part { id, payload });
                }
            }
        }
    }
    // One count acknowledges all tells of the read.
    told.into_iter().for_each(|counted| writer.push(counted));
}
