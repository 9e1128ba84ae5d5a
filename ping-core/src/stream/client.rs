//! The client's end of a stream.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    io, mem,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use libp2p::Stream;

use super::{
    Ended,
    frame::{Frame, MAX_PART_SIZE, Malformed},
    io::{Reader, Writer},
};
use crate::{PeerText, protocol::RunId};

/// How many bytes of payloads wait to be written: enough to keep the multiplexer busy, and few enough that a small ping
/// behind them waits only briefly.
const MAX_QUEUED: usize = 4 * MAX_PART_SIZE;

/// What part of the pings in flight is reported at a time. If it were all, client and server would take turns: one
/// waits while the other handles all pings. With a quarter, both are always busy.
const PARTS: usize = 4;

/// The fate of a ping.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Resolved {
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

/// The client's end of a stream: takes pings, and reports their fate.
///
/// Pings wait here until the stream takes them, so their sender must stop at some [`in_flight`](Self::in_flight).
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    reader: Reader,
    writer: Writer,
    /// Payloads that are not sent to their end, in order. Sent in turns, none would be complete before the last.
    payloads: VecDeque<Payload>,
    /// What is still to come back of the payload of each ask.
    echoes: HashMap<u64, Bytes>,
    /// Tells that are sent and not acknowledged, in order.
    told: VecDeque<u64>,
    acknowledged: u64,
    asks: Asks,
    /// How many tells are in flight or queued.
    tells: usize,
    /// Whether the connection's task is to send what follows the pings that were reported before this one goes on.
    gives_way: bool,
    /// Why writing failed. The server's reason may still be unread.
    broken: Option<io::Error>,
}

/// The asks that are queued or in flight, in order, without the forgotten ones.
#[derive(Debug, Default)]
struct Asks(VecDeque<u64>);

impl Asks {
    fn forget(&mut self, id: u64) {
        if let Some(place) = self.0.iter().position(|ask| *ask == id) {
            self.0.remove(place);
        }
    }

    fn on_pong(&mut self, id: u64) {
        // Pongs arrive in the order of the asks, but a ping that was forgotten may be answered after all.
        match self.0.front() {
            Some(first) if *first == id => drop(self.0.pop_front()),
            _ => self.forget(id),
        }
    }
}

#[derive(Debug)]
struct Payload {
    id: u64,
    rest: Bytes,
    is_ask: bool,
    /// Whether a part of it was sent.
    has_begun: bool,
}

impl Client {
    /// Waits until the server serves a stream that was just opened. Returns with the client how many pings the actor
    /// has counted so far. If the pings belong to a run, the actor counts them once each, by their ids.
    ///
    /// # Errors
    ///
    /// When the server does not speak the protocol, or ends the stream at once.
    pub async fn open(stream: Stream, run: Option<RunId>) -> Result<(Self, u64), Ended> {
        let mut client = Self {
            stream,
            reader: Reader::default(),
            writer: Writer::default(),
            payloads: VecDeque::new(),
            echoes: HashMap::new(),
            told: VecDeque::new(),
            acknowledged: 0,
            asks: Asks::default(),
            tells: 0,
            gives_way: false,
            broken: None,
        };
        let total = poll_fn(|context| client.poll_welcome(context)).await?;
        run.into_iter().for_each(|run| client.writer.push(Frame::Run { run }));
        Ok((client, total))
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

    /// Queues a ping that the actor answers. Its `id` must not be in flight.
    ///
    /// The payload is kept until it has come back, for comparison; it is not copied.
    pub fn ask(&mut self, id: u64, payload: Bytes) {
        self.asks.0.push_back(id);
        if payload.is_empty() {
            self.writer.push(Frame::Ask { id });
        } else {
            self.echoes.insert(id, payload.clone());
            self.payloads.push_back(Payload { id, rest: payload, is_ask: true, has_begun: false });
        }
    }

    /// Queues a ping that the actor only counts.
    pub fn tell(&mut self, id: u64, payload: Bytes) {
        self.tells += 1;
        if payload.is_empty() {
            self.writer.push(Frame::Tell { id });
            self.told.push_back(id);
        } else {
            self.payloads.push_back(Payload { id, rest: payload, is_ask: false, has_begun: false });
        }
    }

    /// Lets the actor forget the pings of the run below this number, which will not be sent again.
    pub fn settle_below(&mut self, floor: u64) {
        self.writer.push(Frame::SettledBelow { floor });
    }

    /// How many pings are queued or in flight.
    pub fn in_flight(&self) -> usize {
        self.asks.0.len() + self.tells
    }

    /// The ids of the pings that are queued or in flight.
    pub fn unresolved(&self) -> impl Iterator<Item = u64> {
        let queued = self.payloads.iter().filter(|payload| !payload.is_ask).map(|payload| payload.id);
        self.asks.0.iter().chain(&self.told).copied().chain(queued)
    }

    /// Stops waiting for an ask, which no longer counts as in flight. If its pong arrives after all, it is still
    /// reported.
    pub fn forget(&mut self, id: u64) {
        self.asks.forget(id);
    }

    /// Does not send a ping whose time is up, if nothing of its payload is sent yet, so that later ones need not wait
    /// for it. An ask counts as in flight until it is resolved or [forgotten](Self::forget).
    pub fn give_up(&mut self, id: u64) {
        let place = self.payloads.iter().position(|payload| payload.id == id && !payload.has_begun);
        if let Some(Payload { is_ask, .. }) = place.and_then(|place| self.payloads.remove(place)) {
            self.echoes.remove(&id);
            if !is_ask {
                self.tells -= 1;
            }
        }
    }

    /// Sends and receives. Resolves when the fate of at least one ping is known, having added it to `resolved`. At most
    /// a quarter of the pings in flight is added at a time, so that those that follow them can leave.
    ///
    /// # Errors
    ///
    /// When the stream has ended. The fate of the pings in flight stays unknown.
    pub fn poll(&mut self, context: &mut Context<'_>, resolved: &mut Vec<Resolved>) -> Poll<Result<(), Ended>> {
        loop {
            if self.broken.is_none() {
                let more = self.queue_payloads();
                match self.writer.poll_write(context, &mut self.stream) {
                    Poll::Ready(Ok(())) if more => continue,
                    Poll::Ready(Err(error)) => self.broken = Some(error),
                    _ => {}
                }
            }
            if mem::take(&mut self.gives_way) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            // More may have arrived with the last frame.
            let part = (self.in_flight() / PARTS).max(1);
            while resolved.len() < part
                && let Some(frame) = self.reader.next_frame()?
            {
                resolved.extend(self.on_frame(frame)?);
            }
            if !resolved.is_empty() {
                self.gives_way = resolved.len() >= part;
                return Poll::Ready(Ok(()));
            }
            // Replies are read even while nothing can be written: the server may wait for just that, or have said why.
            ready!(self.poll_read(context)).map_err(|ended| self.broken.take().map_or(ended, Ended::from))?;
        }
    }

    /// Queues parts of payloads, one payload after the other. Returns whether more would fit, once these are written.
    fn queue_payloads(&mut self) -> bool {
        while let Some(payload) = self.payloads.front_mut() {
            if self.writer.len() >= MAX_QUEUED {
                return true;
            }
            payload.has_begun = true;
            let Payload { id, is_ask, ref mut rest, .. } = *payload;
            let part = rest.split_to(rest.len().min(MAX_PART_SIZE));
            let is_complete = rest.is_empty();
            if is_ask {
                self.writer.push(Frame::AskPart { id, payload: part });
            } else {
                self.writer.push(Frame::TellPart { id, payload: part });
            }
            match (is_complete, is_ask) {
                (false, _) => continue,
                (true, true) => self.writer.push(Frame::Ask { id }),
                (true, false) => {
                    self.writer.push(Frame::Tell { id });
                    self.told.push_back(id);
                }
            }
            self.payloads.pop_front();
        }
        false
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        let length = ready!(self.reader.poll_read(context, &mut self.stream))?;
        Poll::Ready(if length == 0 { Err(Ended::Closed) } else { Ok(()) })
    }

    /// The pings that a frame from the server resolves.
    fn on_frame(&mut self, frame: Frame) -> Result<impl Iterator<Item = Resolved>, Ended> {
        let (mut pong, mut tells) = (None, 0);
        match frame {
            Frame::Pong { id, total } => pong = Some(self.on_pong(id, total)),
            Frame::Part { id, payload } => {
                // Nothing more is compared once a part differs, so that something is left.
                if let Some(rest) = self.echoes.get_mut(&id)
                    && rest.starts_with(&payload)
                {
                    let _ = rest.split_to(payload.len());
                }
            }
            Frame::Counted { tells: count, .. } => tells = self.on_counted(count)?,
            other => return Err(unexpected(other)),
        }
        let told = self.told.drain(..tells).map(|id| Resolved::Told { id });
        Ok(pong.into_iter().chain(told))
    }

    fn on_pong(&mut self, id: u64, total: u64) -> Resolved {
        self.asks.on_pong(id);
        let is_whole = self.echoes.is_empty() || self.echoes.remove(&id).is_none_or(|rest| rest.is_empty());
        if is_whole { Resolved::Pong { id, total } } else { Resolved::Damaged { id } }
    }

    /// How many more tells an acknowledgement of this many counts.
    fn on_counted(&mut self, count: u64) -> Result<usize, Malformed> {
        let more = count.checked_sub(self.acknowledged).and_then(|more| usize::try_from(more).ok());
        let more = more.filter(|&more| more <= self.told.len()).ok_or(Malformed::Miscounted(count))?;
        self.acknowledged = count;
        self.tells -= more;
        Ok(more)
    }
}

/// The reason why an unexpected frame ends the stream.
fn unexpected(frame: Frame) -> Ended {
    match frame {
        Frame::End { reason } => Ended::Refused(PeerText::new(String::from_utf8_lossy(&reason))),
        other => Malformed::Unexpected(other.kind()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forgotten_ask_whose_pong_arrives_late_is_subtracted_once() {
        // Asks 1 to 5; 1 and 2 are given up, 1 is never answered.
        let mut asks = Asks((1..=5).collect());
        asks.forget(1);
        asks.forget(2);
        asks.forget(2);
        assert_eq!(asks.0.len(), 3);
        asks.on_pong(2);
        assert_eq!(asks.0.len(), 3);
        (3..=5).for_each(|id| asks.on_pong(id));
        assert_eq!(asks.0.len(), 0);
    }
}
