//! The client's end of the stream.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    io, mem,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use libp2p::{PeerId, Stream};

use super::{
    Ended,
    frame::{Frame, MAX_PART, Malformed},
    io::{Reader, Writer},
    window::Window,
};
use crate::{node::Node, runs::RunId};

/// How many bytes wait to be written at most while there are payloads to send: enough to keep the multiplexer busy, and
/// few enough that a small ping which comes behind them need not wait long.
const QUEUED: usize = 4 * MAX_PART;

/// How many characters of the server's reason for ending a stream are kept.
const MAX_REASON: usize = 200;

/// What became of a ping.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Settled {
    /// The actor answered it.
    Pong {
        /// The ping's number.
        id: u64,
        /// How many pings the actor has counted, this one included.
        total: u64,
    },
    /// The actor counted it.
    Told {
        /// The ping's number.
        id: u64,
    },
    /// The actor answered it, but its payload came back changed.
    Damaged {
        /// The ping's number.
        id: u64,
    },
}

/// The client's end of a stream: takes pings, and tells what became of them.
///
/// Pings wait here until the stream takes them, so whoever sends must stop at some [`in_flight`](Self::in_flight).
#[derive(Debug)]
pub struct Pipe {
    stream: Stream,
    reader: Reader,
    writer: Writer,
    /// Payloads that have not been sent to their end, in the order in which they came: in turns, none would be through
    /// before the last.
    payloads: VecDeque<Payload>,
    /// What is still to come back of each payload that was asked to.
    echoes: HashMap<u64, Bytes>,
    /// How much of payloads may be under way.
    window: Window,
    /// Whether a small ping was sent since the window was last told.
    small: bool,
    /// Pings that were told and not yet acknowledged, in the order of sending.
    told: VecDeque<u64>,
    acknowledged: u64,
    /// How many asks are under way or waiting.
    asks: usize,
    /// How many tells are.
    tells: usize,
    /// Why nothing can be written any more. The reason may still be to be read.
    broken: Option<io::Error>,
}

#[derive(Debug)]
struct Payload {
    id: u64,
    rest: Bytes,
    ask: bool,
    /// Whether a part of it was sent.
    begun: bool,
}

impl Pipe {
    /// Opens a stream to a connected peer, and waits until it is served. Returns with it how many pings the actor has
    /// counted so far. If its pings belong to a run, they are counted once each, by their ids.
    ///
    /// # Errors
    ///
    /// When the peer is not connected, does not speak the protocol, or ends the stream at once.
    pub async fn open(node: &Node, peer: PeerId, run: Option<RunId>) -> Result<(Self, u64), Ended> {
        let stream = node.open_stream(peer).await?;
        let mut pipe = Self {
            stream,
            reader: Reader::default(),
            writer: Writer::default(),
            payloads: VecDeque::new(),
            echoes: HashMap::new(),
            window: Window::new(),
            small: false,
            told: VecDeque::new(),
            acknowledged: 0,
            asks: 0,
            tells: 0,
            broken: None,
        };
        let total = poll_fn(|context| pipe.poll_welcome(context)).await?;
        run.into_iter().for_each(|run| pipe.writer.push(Frame::Run { run }));
        Ok((pipe, total))
    }

    fn poll_welcome(&mut self, context: &mut Context<'_>) -> Poll<Result<u64, Ended>> {
        loop {
            match self.reader.next_frame()? {
                Some(Frame::Welcome { total }) => return Poll::Ready(Ok(total)),
                Some(other) => return Poll::Ready(Err(unexpected(other))),
                None => ready!(self.poll_read(context))?,
            }
        }
    }

    /// Sends a ping that the actor is to answer. Its `id` must not be in flight already.
    ///
    /// The payload is kept until it has come back, to be compared; it is not copied.
    pub fn ask(&mut self, id: u64, payload: Bytes) {
        self.asks += 1;
        if payload.is_empty() {
            self.small = true;
            self.writer.push(Frame::Ask { id });
        } else {
            self.echoes.insert(id, payload.clone());
            self.payloads.push_back(Payload { id, rest: payload, ask: true, begun: false });
        }
    }

    /// Sends a ping that the actor is only to count.
    pub fn tell(&mut self, id: u64, payload: Bytes) {
        self.tells += 1;
        if payload.is_empty() {
            self.writer.push(Frame::Tell { id });
            self.told.push_back(id);
        } else {
            self.payloads.push_back(Payload { id, rest: payload, ask: false, begun: false });
        }
    }

    /// Lets the actor forget what it has counted of the run below this number: it will not be sent again.
    pub fn settle_below(&mut self, below: u64) {
        self.writer.push(Frame::Settled { below });
    }

    /// How many pings have been taken whose fate is not known yet.
    pub fn in_flight(&self) -> usize {
        self.asks + self.tells
    }

    /// Gives up waiting for some asks: they no longer count as in flight. Should an answer come after all, it is still
    /// told.
    pub fn forget(&mut self, asks: usize) {
        self.asks = self.asks.saturating_sub(asks);
    }

    /// Nobody wants the answer to this ping any more. If nothing of its payload was sent, nothing will be, so that those which come after it
    /// need not wait for it. An ask counts as in flight until it is [forgotten](Self::forget).
    pub fn give_up(&mut self, id: u64) {
        let place = self.payloads.iter().position(|payload| payload.id == id && !payload.begun);
        if let Some(Payload { ask, .. }) = place.and_then(|place| self.payloads.remove(place)) {
            self.echoes.remove(&id);
            if !ask {
                self.tells -= 1;
            }
        }
    }

    /// Sends and receives. Resolves when the fate of at least one ping is known, having added it to `settled`.
    ///
    /// # Errors
    ///
    /// When the stream has ended. The fate of whatever was in flight stays unknown.
    pub fn poll(&mut self, context: &mut Context<'_>, settled: &mut Vec<Settled>) -> Poll<Result<(), Ended>> {
        loop {
            if self.broken.is_none() {
                let more = self.queue_payloads();
                match self.writer.poll_write(context, &mut self.stream) {
                    Poll::Ready(Ok(())) if more => continue,
                    Poll::Ready(Err(error)) => self.broken = Some(error),
                    _ => {}
                }
            }
            // Replies are taken even while nothing can be sent: the server may be waiting for just that, or have said why.
            ready!(self.poll_read(context)).map_err(|ended| self.broken.take().map_or(ended, Ended::from))?;
            while let Some(frame) = self.reader.next_frame()? {
                settled.extend(self.on_frame(frame)?);
            }
            if !settled.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Queues parts of payloads, one payload after the other, as many as fit. Returns whether more would, had those been written.
    fn queue_payloads(&mut self) -> bool {
        if self.payloads.is_empty() {
            // Small pings that have nothing to wait behind.
            self.small = false;
            return false;
        }
        let now = Instant::now();
        if mem::take(&mut self.small) {
            self.window.on_small(now);
        }
        while self.window.is_open(now) {
            if self.writer.len() >= QUEUED {
                return true;
            }
            let Some(mut payload) = self.payloads.pop_front() else { return false };
            payload.begun = true;
            let Payload { id, ask, ref mut rest, .. } = payload;
            let part = rest.split_to(rest.len().min(self.window.part(now)));
            if ask {
                self.window.on_sent(part.len(), now);
                self.writer.push(Frame::AskPart { id, payload: part });
            } else {
                self.writer.push(Frame::TellPart { id, payload: part });
            }
            match (rest.is_empty(), ask) {
                (false, _) => self.payloads.push_front(payload),
                (true, true) => self.writer.push(Frame::Ask { id }),
                (true, false) => {
                    self.writer.push(Frame::Tell { id });
                    self.told.push_back(id);
                }
            }
        }
        false
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        let length = ready!(self.reader.poll_read(context, &mut self.stream))?;
        Poll::Ready(if length == 0 { Err(Ended::Closed) } else { Ok(()) })
    }

    /// What a frame from the server settles.
    fn on_frame(&mut self, frame: Frame) -> Result<impl Iterator<Item = Settled>, Ended> {
        let (mut one, mut many) = (None, 0);
        match frame {
            Frame::Pong { id, total } => {
                self.asks = self.asks.saturating_sub(1);
                one =
                    Some(match self.echoes.is_empty() || self.echoes.remove(&id).is_none_or(|rest| rest.is_empty()) {
                        true => Settled::Pong { id, total },
                        false => Settled::Damaged { id },
                    });
            }
            Frame::Part { id, payload } => {
                self.window.on_back(Instant::now());
                // Of a payload that came back changed, nothing more is compared, and something is left.
                if let Some(rest) = self.echoes.get_mut(&id)
                    && rest.starts_with(&payload)
                {
                    let _ = rest.split_to(payload.len());
                }
            }
            Frame::Counted { tells, .. } => {
                many = tells.checked_sub(self.acknowledged).ok_or(Malformed::Miscounted(tells))?;
                self.acknowledged = tells;
                let known = usize::try_from(many).ok().filter(|&many| many <= self.told.len());
                self.tells -= known.ok_or(Malformed::Miscounted(tells))?;
            }
            other => return Err(unexpected(other)),
        }
        let many = usize::try_from(many).unwrap_or(usize::MAX);
        let told = self.told.drain(..many).map(|id| Settled::Told { id });
        Ok(one.into_iter().chain(told))
    }
}

/// Why a frame that does not belong here ends the stream.
fn unexpected(frame: Frame) -> Ended {
    match frame {
        // It will be shown to people, and comes from whoever answers there.
        Frame::End { reason } => {
            let reason = String::from_utf8_lossy(&reason);
            Ended::Refused(reason.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect())
        }
        other => Malformed::Unexpected(other.kind()).into(),
    }
}
