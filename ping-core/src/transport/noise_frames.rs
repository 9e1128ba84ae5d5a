//! The buffers of Noise, which keep the size of the largest message that passed them.
//!
//! libp2p's Noise reads a message of up to 64 KiB to its end before it decrypts it, and never shrinks what it read it
//! into, or encrypted one in. It does not say how much that is. So the lengths before the messages are read on their
//! way.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};

use super::heads::Heads;
use crate::hardening::Part;

/// The length of a message's own length, in bytes (the libp2p specification of Noise).
const HEAD: usize = 2;

/// What a connection takes by itself covers messages up to this size, which the handshake's are.
const COVERED: usize = 4 * 1024;

/// A byte stream that carries messages of Noise.
pub(super) struct NoiseFrames<S> {
    inner: S,
    read: Largest,
    written: Largest,
    memory: Part,
}

/// The largest message in one direction.
#[derive(Default)]
struct Largest {
    heads: Heads<HEAD>,
    length: usize,
}

impl Largest {
    /// Takes what passes; returns whether a message is larger than all before.
    fn pass(&mut self, bytes: &[u8]) -> bool {
        let before = self.length;
        let Ok(()) = self.heads.pass(bytes, |head| {
            let length = u16::from_be_bytes(*head).into();
            self.length = self.length.max(length);
            Ok::<_, Infallible>(length)
        });
        self.length > before
    }
}

impl<S> NoiseFrames<S> {
    pub(super) fn new(inner: S, memory: Part) -> Self {
        Self { inner, read: Largest::default(), written: Largest::default(), memory }
    }

    /// Charges the buffers. Fails if that is too much.
    fn charge(&mut self) -> io::Result<()> {
        self.memory.set((self.read.length + self.written.length).saturating_sub(COVERED))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for NoiseFrames<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let length = ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        if self.read.pass(&buffer[..length]) {
            self.charge()?;
        }
        Poll::Ready(Ok(length))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for NoiseFrames<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let length = ready!(Pin::new(&mut self.inner).poll_write(context, bytes))?;
        if self.written.pass(&bytes[..length]) {
            self.charge()?;
        }
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_message_is_known_however_its_bytes_are_split() {
        let message = |length: u16| [&length.to_be_bytes()[..], &vec![0xff; length.into()]].concat();
        let bytes = [message(32), message(0), message(5000), message(300)].concat();
        for step in [1, 2, 3, 1000, 100_000] {
            let mut largest = Largest::default();
            let grown = bytes.chunks(step).filter(|bytes| largest.pass(bytes)).count();
            assert_eq!((largest.length, largest.heads.is_at_start()), (5000, true), "in steps of {step}");
            assert!((1..=2).contains(&grown), "{grown}");
        }
    }
}
