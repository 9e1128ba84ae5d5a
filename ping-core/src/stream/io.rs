//! Frames to and from the bytes of a stream.

use std::{
    collections::VecDeque,
    io, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use futures::{AsyncRead, AsyncWrite, future::poll_fn};

use super::frame::{Frame, Head, MAX_PART_SIZE, Malformed};

/// How many bytes are read at a time while there are many: a few parts of a payload, or some thousand small pings.
const READ_SIZE: usize = 64 * 1024;

/// How many are read at a time otherwise.
const USUAL_SIZE: usize = 16 * 1024;

/// How many are read at a time while there are few. An idle reader gives that back: thousands of clients that ping once
/// a second account for most of a server's memory.
const QUIET_SIZE: usize = 2 * 1024;

/// A buffer with less room than this, or than half of its size, is replaced before the next read.
const MIN_READ: usize = 8 * 1024;

/// After this many small reads in a row, the buffer shrinks.
const QUIET_READS: u32 = 64;

/// Payloads up to this size are copied behind their frame's head, which is cheaper than writing them separately.
const MAX_COPIED: usize = 512;

/// Turns bytes into frames.
///
/// Payloads are not copied: they are views of the memory that was read into. A reader holds at most one read and one
/// incomplete frame, about 80 KiB; an idle one nothing, or 16 KiB if much arrived shortly before.
#[derive(Debug)]
pub struct Reader {
    /// What was read and not yet taken, followed by room to read into.
    buffer: BytesMut,
    filled: usize,
    /// How much memory the buffer is part of.
    allocated: usize,
    /// How much room there is in new memory.
    size: usize,
    /// How many reads in a row have brought little.
    quiet_reads: u32,
}

impl Default for Reader {
    fn default() -> Self {
        Self { buffer: BytesMut::new(), filled: 0, allocated: 0, size: QUIET_SIZE, quiet_reads: 0 }
    }
}

impl Reader {
    /// Reads once; resolves to the number of bytes, 0 at the end of the stream.
    ///
    /// # Errors
    ///
    /// When the stream fails.
    pub fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        mut stream: impl AsyncRead + Unpin,
    ) -> Poll<io::Result<usize>> {
        if self.buffer.len() - self.filled < MIN_READ.min(self.size / 2) {
            self.make_room();
        }
        let polled = Pin::new(&mut stream).poll_read(context, &mut self.buffer[self.filled..]);
        let kept_when_idle = if self.size == QUIET_SIZE { 0 } else { USUAL_SIZE };
        if polled.is_pending() && self.filled == 0 && self.allocated > kept_when_idle {
            (self.buffer, self.allocated) = (BytesMut::new(), 0);
        }
        let length = ready!(polled)?;
        self.filled += length;
        self.adapt(length);
        Poll::Ready(Ok(length))
    }

    /// Learns from a read of this length how much room the next one needs.
    fn adapt(&mut self, length: usize) {
        self.quiet_reads = if length < QUIET_SIZE / 2 { self.quiet_reads.saturating_add(1) } else { 0 };
        self.size = match self.size {
            QUIET_SIZE if self.filled < self.buffer.len() => QUIET_SIZE,
            USUAL_SIZE if self.quiet_reads >= QUIET_READS => QUIET_SIZE,
            _ if self.size > QUIET_SIZE && self.filled == self.buffer.len() => READ_SIZE,
            _ => USUAL_SIZE,
        };
    }

    /// Moves what is left to new memory. The old memory is freed with the last payload that views it.
    fn make_room(&mut self) {
        let incomplete = if self.filled > 0 { self.filled + MAX_PART_SIZE } else { 0 };
        self.allocated = self.size.max(incomplete);
        let mut buffer = BytesMut::zeroed(self.allocated);
        buffer[..self.filled].copy_from_slice(&self.buffer[..self.filled]);
        self.buffer = buffer;
    }

    /// Adds bytes as if they had been read.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.truncate(self.filled);
        self.buffer.extend_from_slice(bytes);
        self.filled = self.buffer.len();
    }

    /// The next frame, if it is complete.
    ///
    /// # Errors
    ///
    /// When what was read is not a frame. Nothing after it can be read.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Malformed> {
        let Some(head) = Head::read(&self.buffer[..self.filled])? else { return Ok(None) };
        let length = head.fixed + head.payload;
        if self.filled < length {
            return Ok(None);
        }
        self.filled -= length;
        self.buffer.advance(head.fixed);
        let payload = if head.payload > 0 { self.buffer.split_to(head.payload).freeze() } else { Bytes::new() };
        Ok(Some(head.with(payload)))
    }

    /// Whether nothing is left of what was read.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }
}

/// Turns frames into bytes.
///
/// It holds whatever is pushed; its owner must stop at some [`len`](Self::len).
#[derive(Debug, Default)]
pub struct Writer {
    /// Complete chunks, written before the tail.
    queue: VecDeque<Bytes>,
    /// Small frames, one after the other.
    tail: Vec<u8>,
    /// How much of the tail has been written. It is 0 while the queue is not empty.
    written: usize,
    length: usize,
}

impl Writer {
    /// Queues a frame.
    pub fn push(&mut self, frame: Frame) {
        let before = self.tail.len();
        let payload = frame.encode(&mut self.tail);
        self.length += self.tail.len() - before + payload.len();
        if payload.len() <= MAX_COPIED {
            self.tail.extend_from_slice(&payload);
        } else {
            let tail = mem::take(&mut self.tail);
            self.queue.push_back(Bytes::from(tail).slice(mem::take(&mut self.written)..));
            self.queue.push_back(payload);
        }
    }

    /// How many bytes are still to be written.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether everything has been written.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Everything that is still to be written.
    pub fn into_bytes(self) -> Vec<u8> {
        let chunks = self.queue.iter().map(|chunk| &chunk[..]);
        chunks.chain([&self.tail[self.written..]]).flatten().copied().collect()
    }

    /// Writes as much as the stream takes; resolves when nothing is left and all is flushed.
    ///
    /// # Errors
    ///
    /// When the stream fails.
    pub fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        mut stream: impl AsyncWrite + Unpin,
    ) -> Poll<io::Result<()>> {
        let mut stream = Pin::new(&mut stream);
        while self.length > 0 {
            let next = self.queue.front().map_or(&self.tail[self.written..], |front| &front[..]);
            let length = ready!(stream.as_mut().poll_write(context, next))?;
            if length == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.length -= length;
            match self.queue.front_mut() {
                Some(front) => {
                    front.advance(length);
                    if front.is_empty() {
                        self.queue.pop_front();
                    }
                }
                None => self.written += length,
            }
        }
        self.tail.clear();
        self.written = 0;
        stream.poll_flush(context)
    }

    /// Writes everything.
    ///
    /// # Errors
    ///
    /// When the stream fails.
    pub async fn write(&mut self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        poll_fn(|context| self.poll_write(context, &mut *stream)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::RunId;

    fn every_kind() -> Vec<Frame> {
        let payload = Bytes::from_static(b"payload");
        let large = Bytes::from(vec![7; MAX_PART_SIZE]);
        vec![
            Frame::Ask { id: 1 },
            Frame::Tell { id: u64::MAX },
            Frame::AskPart { id: 2, payload: payload.clone() },
            Frame::TellPart { id: 3, payload: large.clone() },
            Frame::Run { run: RunId(u64::MAX, 1) },
            Frame::SettledBelow { floor: 3 },
            Frame::Welcome { total: 4 },
            Frame::Pong { id: 5, total: 6 },
            Frame::Counted { tells: 7, total: 8 },
            Frame::Part { id: 9, payload: large },
            Frame::End { reason: payload },
        ]
    }

    async fn written(frames: Vec<Frame>) -> Vec<u8> {
        let mut writer = Writer::default();
        frames.into_iter().for_each(|frame| writer.push(frame));
        let mut bytes = Vec::new();
        let length = writer.len();
        writer.write(&mut bytes).await.unwrap();
        assert_eq!((bytes.len(), writer.is_empty()), (length, true));
        bytes
    }

    /// The hexadecimal blocks of the documentation, as bytes.
    fn documented() -> Vec<Vec<u8>> {
        let text = include_str!("../../../docs/stream.md");
        let blocks = text.split("```hex").skip(1).filter_map(|block| block.split("```").next());
        let digits = blocks.map(|block| block.chars().filter(char::is_ascii_hexdigit).collect::<String>());
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.map(|digits| digits.as_bytes().chunks(2).map(byte).collect()).collect()
    }

    #[tokio::test]
    async fn the_documented_example_is_what_is_written_and_read() {
        let payload = Bytes::from_static(b"hi");
        let requests = vec![
            Frame::Ask { id: 1 },
            Frame::AskPart { id: 2, payload: payload.clone() },
            Frame::Ask { id: 2 },
            Frame::Tell { id: 3 },
        ];
        let replies = vec![
            Frame::Welcome { total: 41 },
            Frame::Pong { id: 1, total: 42 },
            Frame::Part { id: 2, payload },
            Frame::Pong { id: 2, total: 43 },
            Frame::Counted { tells: 1, total: 44 },
        ];
        let of_run = vec![Frame::Run { run: RunId(1, 2) }, Frame::Ask { id: 7 }, Frame::SettledBelow { floor: 8 }];
        let documented = documented();
        assert_eq!(documented.len(), 3);
        for (bytes, frames) in documented.into_iter().zip([requests, replies, of_run]) {
            assert_eq!(written(frames.clone()).await, bytes);
            let mut reader = Reader::default();
            reader.feed(&bytes);
            assert_eq!(read(&mut reader), frames);
        }
    }

    fn read(reader: &mut Reader) -> Vec<Frame> {
        std::iter::from_fn(|| reader.next_frame().unwrap()).collect()
    }

    #[tokio::test]
    async fn every_frame_survives_however_its_bytes_are_split() {
        let bytes = written(every_kind()).await;
        for step in [1, 2, 13, 1000, bytes.len()] {
            let mut reader = Reader::default();
            let mut frames = Vec::new();
            for chunk in bytes.chunks(step) {
                reader.feed(chunk);
                frames.extend(read(&mut reader));
            }
            assert_eq!(frames, every_kind(), "in steps of {step}");
            assert!(reader.is_empty());
        }
    }

    #[tokio::test]
    async fn a_read_fits_however_much_is_left_of_the_last() {
        let many: Vec<_> = std::iter::repeat_with(every_kind).take(50).flatten().collect();
        let bytes = written(many.clone()).await;
        let (mut reader, mut frames) = (Reader::default(), Vec::new());
        let mut stream = futures::io::Cursor::new(&bytes);
        while poll_fn(|context| reader.poll_read(context, &mut stream)).await.unwrap() > 0 {
            frames.extend(read(&mut reader));
            assert!(reader.buffer.len() <= READ_SIZE + MAX_PART_SIZE);
        }
        assert_eq!(frames, many);
    }

    #[tokio::test]
    async fn a_reader_takes_as_much_memory_as_its_stream_is_busy() {
        let mut reader = Reader::default();
        let mut read = async |bytes: &[u8]| {
            let mut stream = futures::io::Cursor::new(bytes);
            while poll_fn(|context| reader.poll_read(context, &mut stream)).await.unwrap() > 0 {
                while reader.next_frame().unwrap().is_some() {}
            }
            let pending = reader.poll_read(&mut Context::from_waker(std::task::Waker::noop()), Silent);
            assert!(pending.is_pending());
            reader.allocated
        };
        let ping = written(vec![Frame::Ask { id: 1 }]).await;
        let batch = written(vec![Frame::Ask { id: 1 }; 1000]).await;
        assert!(read(&ping).await <= QUIET_SIZE);
        read(&batch).await;
        assert!(read(&batch).await > QUIET_SIZE);
        for _ in 0..QUIET_READS {
            read(&ping).await;
        }
        assert!(read(&ping).await <= QUIET_SIZE);
    }

    /// A stream on which nothing arrives.
    struct Silent;

    impl AsyncRead for Silent {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
    }

    #[test]
    fn bytes_that_are_not_a_frame_are_rejected_as_soon_as_possible() {
        for (bytes, malformed) in [
            (&[0, 0, 0, 0][..], Malformed::Length(0)),
            (&[0xff; 4], Malformed::Length(0xffff_ffff)),
            (&[0, 0, 0x40, 0x0a], Malformed::Length(MAX_PART_SIZE + 10)),
            (&[0, 0, 0, 9, 0x07], Malformed::Kind(7)),
            (&[0, 0, 0, 8, 0x01], Malformed::Short { kind: 1, length: 8 }),
            (&[0, 0, 0, 10, 0x01], Malformed::Short { kind: 1, length: 10 }),
            // A part without a payload.
            (&[0, 0, 0, 9, 0x03], Malformed::Short { kind: 3, length: 9 }),
            (&[0, 0, 0x40, 0x09, 0x84], Malformed::Short { kind: 0x84, length: MAX_PART_SIZE + 9 }),
        ] {
            let mut reader = Reader::default();
            reader.feed(bytes);
            assert_eq!(reader.next_frame(), Err(malformed), "{bytes:02x?}");
        }
    }
}
