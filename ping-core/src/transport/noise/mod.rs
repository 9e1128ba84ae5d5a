//! Noise, which secures a byte stream, as libp2p specifies it.
//!
//! A message is at most 64 KiB, behind two bytes that give its length. It is encrypted and decrypted where it lies: what
//! is written is copied once, into the buffer that is sent, and what is read once, out of the buffer that it arrived
//! in. libp2p's own implementation copies it two or three times more, and keeps 16 KiB for each connection that is idle.

mod handshake;

use std::{
    error::Error,
    io,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};
use ring::{
    aead::{Aad, BoundKey, NONCE_LEN, Nonce, NonceSequence, OpeningKey, SealingKey, UnboundKey},
    error::Unspecified,
};
use tokio::task::coop::poll_proceed;

use super::coalesce::{SMALL, is_spare};
use crate::hardening::Part;

pub(super) use handshake::{Config, PROTOCOL};

/// The length of a message's length, in bytes (the libp2p specification of Noise).
const HEAD: usize = 2;

/// The length of what proves a message, in bytes (RFC 8439, section 2.5).
const TAG: usize = 16;

/// The most bytes that a message can carry.
const MAX_CONTENT: usize = u16::MAX as usize - TAG;

/// How many bytes wait to be sent before a write waits for them: four of the largest messages.
const MAX_UNSENT: usize = 256 * 1024;

/// The largest message, with its head.
const MAX_MESSAGE: usize = HEAD + u16::MAX as usize;

/// The size up to which the buffer for what arrives grows, so that there is room behind a part of a message.
const LARGE: usize = 2 * MAX_MESSAGE;

/// A message that carries fewer bytes counts as a step of its own in the turn of its task: its sender can make
/// thousands of what fits into one read.
const LITTLE: usize = 64;

/// A secured byte stream.
///
/// What is written leaves before the next read that finds nothing kept here. So its owner must read whenever it waits
/// for anything, as every multiplexer does. Closing sends it all.
pub(super) struct Noise<S> {
    inner: S,
    arrived: Arrived,
    unsent: Unsent,
    /// What the buffers take.
    memory: Part,
}

/// What arrived.
struct Arrived {
    key: OpeningKey<Counter>,
    /// Its length is what it has room for.
    buffer: Vec<u8>,
    /// Where the part of it lies that is decrypted and not read.
    content: Range<usize>,
    /// Where what follows lies: messages that are encrypted.
    encrypted: Range<usize>,
    /// How much of the buffer was used since it was last empty and nothing came.
    used: usize,
}

/// What is to be sent.
struct Unsent {
    key: SealingKey<Counter>,
    /// Messages, of which the last may be open.
    buffer: Vec<u8>,
    /// How much of them is sent.
    sent: usize,
    /// Where the message begins to which more can be added.
    open: Option<usize>,
    /// How much of the buffer was used since it was last empty and nothing came.
    used: usize,
}

/// The numbers of messages, which make the nonces (The Noise Protocol Framework, section 5.1).
struct Counter(u64);

impl NonceSequence for Counter {
    fn advance(&mut self) -> Result<Nonce, Unspecified> {
        let number = self.0;
        self.0 = number.checked_add(1).ok_or(Unspecified)?;
        let mut nonce = [0; NONCE_LEN];
        nonce[NONCE_LEN - size_of_val(&number)..].copy_from_slice(&number.to_le_bytes());
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

impl Arrived {
    /// Decrypts the next message, if all of it is here.
    fn open(&mut self) -> io::Result<bool> {
        let encrypted = &mut self.buffer[self.encrypted.clone()];
        let Some((head, rest)) = encrypted.split_first_chunk_mut::<HEAD>() else { return Ok(false) };
        let length = u16::from_be_bytes(*head).into();
        let Some(message) = rest.get_mut(..length) else { return Ok(false) };
        let content = self.key.open_in_place(Aad::empty(), message);
        let content = content.map_err(|_| malformed("a message does not decrypt"))?.len();
        let start = self.encrypted.start + HEAD;
        self.content = start..start + content;
        self.encrypted.start = start + length;
        Ok(true)
    }

    /// Makes room for more. The buffer grows as it fills, not with what a message's head promises.
    fn make_room(&mut self) {
        if self.encrypted.is_empty() || self.encrypted.end == self.buffer.len() {
            self.buffer.copy_within(self.encrypted.clone(), 0);
            self.encrypted = 0..self.encrypted.len();
        }
        if self.used == self.buffer.len() {
            self.buffer.resize((2 * self.used).clamp(SMALL, LARGE), 0);
        }
    }

    /// Nothing came. Gives the buffer back if it is spare.
    fn rest(&mut self) {
        if self.encrypted.is_empty() {
            if is_spare(self.used, self.buffer.len()) {
                self.buffer = Vec::new();
            }
            self.used = 0;
        }
    }
}

impl Unsent {
    /// Adds as much as the open message can take; returns how much.
    fn add(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let open = *self.open.get_or_insert_with(|| {
            let end = self.buffer.len();
            self.buffer.extend([0; HEAD]);
            end
        });
        let has = self.buffer.len() - open - HEAD;
        let taken = bytes.len().min(MAX_CONTENT - has);
        self.buffer.extend_from_slice(&bytes[..taken]);
        if has + taken == MAX_CONTENT {
            self.seal()?;
        }
        Ok(taken)
    }

    /// Encrypts the open message.
    fn seal(&mut self) -> io::Result<()> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let content = &mut self.buffer[open + HEAD..];
        let length = content.len() + TAG;
        let tag = self.key.seal_in_place_separate_tag(Aad::empty(), content);
        self.buffer.extend_from_slice(tag.map_err(io::Error::other)?.as_ref());
        let length = u16::try_from(length).map_err(io::Error::other)?;
        self.buffer[open..open + HEAD].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }

    /// Everything is sent.
    fn clear(&mut self) {
        self.used = self.used.max(self.buffer.len());
        self.buffer.clear();
        self.sent = 0;
    }

    /// Nothing came. Gives the buffer back if it is spare.
    fn rest(&mut self) {
        if self.buffer.is_empty() {
            if is_spare(self.used, self.buffer.capacity()) {
                self.buffer = Vec::new();
            }
            self.used = 0;
        }
    }
}

fn malformed(what: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<S> Noise<S> {
    /// A stream that is secured by these keys, of what arrives and what is sent.
    fn new(inner: S, [arriving, sending]: [UnboundKey; 2], memory: Part) -> Self {
        let (content, encrypted) = (0..0, 0..0);
        let key = OpeningKey::new(arriving, Counter(0));
        let arrived = Arrived { key, buffer: Vec::new(), content, encrypted, used: 0 };
        let key = SealingKey::new(sending, Counter(0));
        let unsent = Unsent { key, buffer: Vec::new(), sent: 0, open: None, used: 0 };
        Self { inner, arrived, unsent, memory }
    }

    /// Charges the buffers. Fails if that is too much.
    fn charge(&mut self) -> io::Result<()> {
        let all = self.arrived.buffer.capacity() + self.unsent.buffer.capacity();
        self.memory.set(all.saturating_sub(2 * SMALL))
    }
}

impl<S: AsyncWrite + Unpin> Noise<S> {
    /// Sends what is written, as far as the inner stream takes it.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let unsent = &mut self.unsent;
        if unsent.buffer.is_empty() {
            return Poll::Ready(Ok(()));
        }
        unsent.seal()?;
        while unsent.sent < unsent.buffer.len() {
            // A pre-shared key's layer copies all of it.
            let end = unsent.buffer.len().min(unsent.sent + MAX_MESSAGE);
            match ready!(Pin::new(&mut self.inner).poll_write(context, &unsent.buffer[unsent.sent..end]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                length => unsent.sent += length,
            }
        }
        // It keeps what the stream below does not take.
        ready!(Pin::new(&mut self.inner).poll_flush(context))?;
        unsent.clear();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Noise<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        while this.arrived.content.is_empty() {
            if this.arrived.open()? {
                if this.arrived.content.len() < LITTLE {
                    ready!(poll_proceed(context)).made_progress();
                }
                continue;
            }
            if let Poll::Ready(Err(error)) = this.poll_send(context) {
                return Poll::Ready(Err(error));
            }
            this.arrived.make_room();
            this.charge()?;
            let arrived = &mut this.arrived;
            let room = &mut arrived.buffer[arrived.encrypted.end..];
            let Poll::Ready(read) = Pin::new(&mut this.inner).poll_read(context, room) else {
                arrived.rest();
                this.unsent.rest();
                this.charge()?;
                return Poll::Pending;
            };
            match read? {
                0 if arrived.encrypted.is_empty() => return Poll::Ready(Ok(0)),
                0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                length => arrived.encrypted.end += length,
            }
            arrived.used = arrived.used.max(arrived.encrypted.end);
        }
        let content = &mut this.arrived.content;
        let length = content.len().min(buffer.len());
        buffer[..length].copy_from_slice(&this.arrived.buffer[content.start..content.start + length]);
        content.start += length;
        Poll::Ready(Ok(length))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noise<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.unsent.buffer.len() >= MAX_UNSENT {
            ready!(self.poll_send(context))?;
        }
        let taken = self.unsent.add(bytes)?;
        self.charge()?;
        Poll::Ready(Ok(taken))
    }

    /// Leaves the sending to the next read.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.inner).poll_close(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardening::Memory;
    use futures::{
        AsyncReadExt, AsyncWriteExt, FutureExt,
        future::{Either, join, select, try_join},
        io::Cursor,
    };
    use libp2p::pnet::{PnetConfig, PreSharedKey};
    use ring::aead::CHACHA20_POLY1305;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    fn noise<S>(inner: S) -> Noise<S> {
        let keys = [(); 2].map(|()| UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).unwrap());
        Noise::new(inner, keys, Memory::new(64 * 1024 * 1024).connect().unwrap().part())
    }

    /// The messages that carry each of these.
    async fn messages(contents: &[&[u8]]) -> Vec<u8> {
        let mut stream = noise(Cursor::new(Vec::new()));
        for content in contents {
            assert_eq!(stream.unsent.add(content).unwrap(), content.len());
            stream.unsent.seal().unwrap();
        }
        stream.close().await.unwrap();
        stream.inner.into_inner()
    }

    #[tokio::test]
    async fn what_is_written_in_one_turn_is_one_message() {
        let mut stream = noise(Cursor::new(Vec::new()));
        for part in [&b"one "[..], b"two ", b"three"] {
            stream.write_all(part).await.unwrap();
            stream.flush().await.unwrap();
        }
        assert!(stream.inner.get_ref().is_empty());
        let _ = stream.read(&mut [0]).await;
        assert_eq!(*stream.inner.get_ref(), messages(&[b"one two three"]).await);
    }

    #[tokio::test]
    async fn what_arrives_is_read_however_its_bytes_are_split() {
        let large = vec![5; MAX_CONTENT];
        let contents = [&b"one"[..], b"", &large, b"two", &large, &large];
        let bytes = messages(&contents).await;
        for step in [1, 7, 4096, 70_000, 1_000_000] {
            let (mut near, far) = tokio::io::duplex(step);
            let mut stream = noise(far.compat());
            let mut received = Vec::new();
            let write = async {
                tokio::io::AsyncWriteExt::write_all(&mut near, &bytes).await.unwrap();
                drop(near);
            };
            join(write, async { stream.read_to_end(&mut received).await.unwrap() }).await;
            assert!(received == contents.concat(), "in steps of {step}");
        }
    }

    #[tokio::test]
    async fn a_message_that_is_changed_moved_or_cut_is_an_error() {
        let bytes = messages(&[b"one", b"two"]).await;
        let half = bytes.len() / 2;
        let changed = |at: usize| {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            bytes
        };
        let moved = [&bytes[half..], &bytes[..half]].concat();
        let read = async |bytes: Vec<u8>| {
            let mut received = Vec::new();
            let result = noise(Cursor::new(bytes)).read_to_end(&mut received).await;
            (result.map_err(|error| error.kind()), received)
        };
        let invalid = Err(io::ErrorKind::InvalidData);
        assert_eq!(read(bytes.clone()).await, (Ok(6), b"onetwo".to_vec()));
        assert_eq!(read(changed(half + HEAD)).await, (invalid, b"one".to_vec()), "what it says");
        assert_eq!(read(changed(bytes.len() - 1)).await, (invalid, b"one".to_vec()), "what proves it");
        assert_eq!(read(moved).await, (invalid, Vec::new()));
        assert_eq!(read(bytes[..half].repeat(2)).await, (invalid, b"one".to_vec()), "what came before");
        for length in 1..half {
            let (result, _) = read(bytes[..length].to_vec()).await;
            assert_eq!(result, Err(io::ErrorKind::UnexpectedEof), "after {length} bytes");
        }
        // Too short for what proves it.
        assert_eq!(read(vec![0, 3, 1, 2, 3]).await.0, invalid);
    }

    #[tokio::test]
    async fn messages_that_carry_little_do_not_keep_others_waiting() {
        for little in [&b""[..], b"x"] {
            let contents = [vec![little; 1000], vec![b"content"]].concat();
            let mut stream = noise(Cursor::new(messages(&contents).await));
            let mut buffer = vec![0; 1000 * little.len() + 7];
            assert!(stream.read_exact(&mut buffer).now_or_never().is_none());
            stream.read_exact(&mut buffer[..7]).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_the_layer_of_a_pre_shared_key_keeps_is_sent() {
        let (near, far) = tokio::io::duplex(100_000);
        let secret = || PnetConfig::new(PreSharedKey::new([9; 32]));
        let (near, far) = try_join(secret().handshake(near.compat()), secret().handshake(far.compat())).await.unwrap();
        let [mut near, mut far] = [near, far].map(noise);
        let content = vec![3; 200_000];
        near.write_all(&content).await.unwrap();
        let mut received = vec![0; content.len()];
        let mut byte = [0];
        let read = select(far.read_exact(&mut received), near.read(&mut byte)).await;
        assert!(matches!(read, Either::Left((Ok(()), _))));
        assert!(received == content);
    }

    #[tokio::test]
    async fn an_idle_stream_keeps_nothing_and_a_promise_takes_nothing() {
        let (near, far) = tokio::io::duplex(1_000_000);
        let [mut near, mut far] = [near, far].map(|stream| noise(stream.compat()));
        let sizes = |stream: &Noise<_>| (stream.arrived.buffer.capacity(), stream.unsent.buffer.capacity());
        let mut buffer = vec![0; 300_000];
        for (length, keeps) in [(100, 0..=0), (300_000, MAX_CONTENT..=MAX_UNSENT * 2), (100, 0..=0)] {
            near.write_all(&buffer[..length]).await.unwrap();
            assert!(near.read(&mut [0]).now_or_never().is_none());
            far.read_exact(&mut buffer[..length]).await.unwrap();
            assert!(far.read(&mut [0]).now_or_never().is_none());
            let (sent, received) = (sizes(&near), sizes(&far));
            assert!(keeps.contains(&sent.1) && keeps.contains(&received.0), "{length}: {sent:?}, {received:?}");
        }
        near.inner.write_all(&[0xff; HEAD]).await.unwrap();
        assert!(far.read(&mut [0]).now_or_never().is_none());
        assert_eq!(sizes(&far).0, SMALL);
    }

    #[tokio::test]
    async fn a_write_waits_when_much_is_not_sent() {
        let (near, _far) = tokio::io::duplex(1000);
        let mut stream = noise(near.compat());
        let block = vec![0; 10_000];
        let taken = (0..1000).take_while(|_| stream.write_all(&block).now_or_never().is_some()).count();
        assert!((MAX_UNSENT / block.len()..2 * MAX_UNSENT / block.len()).contains(&taken), "{taken}");
    }
}
