//! The memory of what is read from streams: requests until they are served, and answers until they are understood.
//!
//! A request is read to its end before it is served, and libp2p holds whatever part of it has arrived; so does the
//! asker with the answer. A peer that begins hundreds of large ones and ends none would fill the memory. So every
//! stream is charged with what was read from it until it is closed.
//!
//! Only Kameo's messages and requests for the directory are read to their end. A stream of another protocol is charged
//! with no more than the last read, until the next one: it has handled the last by then. Nor is what a directory
//! answers: a node asks few at a time.

use std::{
    error::Error,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::{StreamMuxer, muxing::StreamMuxerEvent};

use super::{
    answers::AnswerCheck,
    memory::{ConnectionMemory, Part},
    negotiation::{MULTISTREAM, carries_messages, first_message},
};

/// What a stream takes by itself, with the first bytes that are read from it.
const STREAM_COST: usize = 1024;

/// How many times its bytes a message takes while it is served, with its decoded form and the reply.
const DECODED: usize = 3;

/// A connection whose streams are charged.
pub(crate) struct Metered<M> {
    muxer: M,
    memory: Arc<ConnectionMemory>,
}

impl<M> Metered<M> {
    pub(crate) fn new(muxer: M, memory: Arc<ConnectionMemory>) -> Self {
        Self { muxer, memory }
    }
}

impl<M> StreamMuxer for Metered<M>
where
    M: StreamMuxer<Error: Into<Box<dyn Error + Send + Sync>>> + Unpin,
    M::Substream: AsyncRead + AsyncWrite + Unpin,
{
    type Substream = MeteredStream<M::Substream>;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<Self::Substream>> {
        let stream = ready!(Pin::new(&mut self.muxer).poll_inbound(context)).map_err(io::Error::other)?;
        Poll::Ready(MeteredStream::new(stream, &self.memory, None))
    }

    fn poll_outbound(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<Self::Substream>> {
        let stream = ready!(Pin::new(&mut self.muxer).poll_outbound(context)).map_err(io::Error::other)?;
        Poll::Ready(MeteredStream::new(stream, &self.memory, Some(AnswerCheck::default())))
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.muxer).poll_close(context).map_err(io::Error::other)
    }

    /// Fails when the connection holds too much; it is then closed.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        self.memory.check(context)?;
        Pin::new(&mut self.muxer).poll(context).map_err(io::Error::other)
    }
}

/// The memory that what was read from one stream takes.
#[derive(Debug)]
struct StreamMemory {
    part: Part,
    protocol: Protocol,
    read: usize,
    /// What this node wrote to agree on a protocol and is not parsed yet.
    written: Vec<u8>,
}

/// What a stream carries.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Protocol {
    NotAgreed,
    Messages,
    /// Any other.
    Other,
}

impl StreamMemory {
    fn new(connection: &Arc<ConnectionMemory>) -> io::Result<Self> {
        let mut part = connection.part();
        part.set(STREAM_COST)?;
        Ok(Self { part, protocol: Protocol::NotAgreed, read: 0, written: Vec::new() })
    }

    /// What was read last is handled, if it is not part of a message.
    fn on_next_read(&mut self) {
        if self.protocol == Protocol::Other && self.read > 0 {
            self.read = 0;
            let _ = self.part.set(STREAM_COST);
        }
    }

    /// Charges what was read; fails if that is too much.
    fn on_read(&mut self, bytes: usize) -> io::Result<()> {
        self.read += bytes;
        self.part.set(STREAM_COST + DECODED * self.read.saturating_sub(STREAM_COST))
    }

    /// Takes the protocol that this end proposes, once it is known.
    fn on_proposal(&mut self, carries_messages: Option<bool>) {
        self.protocol = match carries_messages {
            None => Protocol::NotAgreed,
            Some(true) => Protocol::Messages,
            Some(false) => Protocol::Other,
        };
    }

    /// Follows the negotiation of the protocol of a stream that the peer opened.
    ///
    /// Until the two ends agree, this one writes nothing but multistream-select's messages, each behind its length: the
    /// name of that protocol, "na" for one that it does not speak, a list on request, and at last the agreed name.
    fn on_write(&mut self, bytes: &[u8]) {
        self.written.extend_from_slice(bytes);
        while let Some((message, length)) = first_message(&self.written) {
            let name = message.strip_suffix(b"\n").filter(|name| name.starts_with(b"/") && *name != MULTISTREAM);
            if let Some(name) = name {
                self.protocol = if carries_messages(name) { Protocol::Messages } else { Protocol::Other };
                self.written = Vec::new();
                return;
            }
            self.written.drain(..length);
        }
    }
}

/// A stream that is charged, and checked if it carries an answer.
pub(crate) struct MeteredStream<S> {
    stream: S,
    memory: StreamMemory,
    /// What remains to be checked, if this node opened it.
    answers: Option<AnswerCheck>,
}

impl<S> MeteredStream<S> {
    fn new(stream: S, memory: &Arc<ConnectionMemory>, answers: Option<AnswerCheck>) -> io::Result<Self> {
        Ok(Self { stream, memory: StreamMemory::new(memory)?, answers })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MeteredStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.memory.on_next_read();
        let length = ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.memory.on_read(length)?;
        if let Some(answers) = &mut self.answers
            && answers.on_read(&buffer[..length])?
        {
            self.answers = None;
        }
        Poll::Ready(Ok(length))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MeteredStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let length = ready!(Pin::new(&mut self.stream).poll_write(context, buffer))?;
        let Self { memory, answers, .. } = &mut *self;
        if memory.protocol == Protocol::NotAgreed {
            match answers {
                Some(answers) => memory.on_proposal(answers.on_write(&buffer[..length])),
                None => memory.on_write(&buffer[..length]),
            }
        }
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardening::memory::Memory;

    /// Messages of multistream-select, each behind its length.
    fn negotiation(messages: &[&[u8]]) -> Vec<u8> {
        messages.iter().flat_map(|message| [&[message.len() as u8], *message].concat()).collect()
    }

    #[test]
    fn kameo_messages_are_charged_to_their_end_whatever_the_peer_proposes_first() {
        let connection = Memory::new(64 * 1024 * 1024).connect().unwrap();
        // The answer to a peer that asks for a list.
        let list = negotiation(&[b"/kameo-ping/stream/1\n", b"/kameo/messaging/1.0.0\n"]);
        let prelude: [&[u8]; 4] = [b"/multistream/1.0.0\n", b"na\n", &list, b"na\n"];
        for (agreed, protocol) in
            [(&b"/kameo-ping/stream/1\n"[..], Protocol::Other), (b"/kameo/messaging/1.0.0\n", Protocol::Messages)]
        {
            let bytes = negotiation(&[&prelude[..], &[agreed]].concat());
            for step in [1, 7, bytes.len()] {
                let mut stream = StreamMemory::new(&connection).unwrap();
                for bytes in bytes.chunks(step) {
                    assert_eq!(stream.protocol, Protocol::NotAgreed);
                    stream.on_write(bytes);
                }
                assert_eq!(stream.protocol, protocol, "in steps of {step}");
                for _ in 0..3 {
                    stream.on_next_read();
                    stream.on_read(10_000).unwrap();
                }
                assert_eq!(stream.read, if protocol == Protocol::Messages { 30_000 } else { 10_000 });
            }
        }
    }
}
