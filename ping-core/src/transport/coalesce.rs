//! A byte stream that sends what was written in one turn of its task at once.
//!
//! A multiplexer flushes after every small frame, and each flush of a TCP stream is a system call and a packet: four
//! for one ping. This layer keeps what is written until its task reads and finds nothing, the last thing that the
//! task does before it sleeps. No time passes in between, so no ping waits for another; those sent in one turn share
//! a packet.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};

use crate::hardening::{ConnectionMemory, Part};

/// How many bytes are kept before they are sent, whatever the task does next: sixteen of TLS's largest records.
const CAPACITY: usize = 256 * 1024;

/// What is passed on without being kept: Noise, which writes that much, keeps it already. TLS writes less at a time.
const LARGE: usize = 32 * 1024;

/// The largest buffer that a connection keeps uncharged: what it takes by itself covers it.
pub(super) const SMALL: usize = 4 * 1024;

/// How many reads in a row may find data before what is kept is sent. A peer that never pauses must not delay its own
/// answers.
const MAX_READS: u32 = 16;

/// A stream whose small writes leave together.
///
/// Its owner must read from it whenever it waits for anything, as every multiplexer and handshake does; otherwise
/// what it wrote may stay here. Closing sends it all.
pub(super) struct Coalesce<S> {
    inner: S,
    kept: Vec<u8>,
    /// How much of `kept` has been sent.
    sent: usize,
    /// How many reads have found data since the last send.
    reads: u32,
    /// What `kept` takes.
    memory: Part,
}

impl<S: AsyncWrite + Unpin> Coalesce<S> {
    pub(super) fn new(inner: S, memory: &Arc<ConnectionMemory>) -> Self {
        Self { inner, kept: Vec::new(), sent: 0, reads: 0, memory: memory.part() }
    }

    /// Charges the buffer, unless it is small. Fails if that is too much.
    fn charge(&mut self) -> io::Result<()> {
        self.memory.set(self.kept.capacity().saturating_sub(SMALL))
    }

    /// Sends what is kept, as far as the inner stream takes it.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.kept.len() {
            match ready!(Pin::new(&mut self.inner).poll_write(context, &self.kept[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                length => self.sent += length,
            }
        }
        // WebSocket and TLS keep what the system does not take.
        ready!(Pin::new(&mut self.inner).poll_flush(context))?;
        if !self.kept.is_empty() && is_spare(self.kept.len(), self.kept.capacity()) {
            self.kept = Vec::new();
        }
        self.kept.clear();
        self.sent = 0;
        self.reads = 0;
        Poll::Ready(self.charge())
    }
}

/// Whether a buffer should be given back that is empty again: a small one always, and one that grew when a quarter of
/// it would have done for what was `used`, as for the keep-alive of an idle connection.
pub(super) fn is_spare(used: usize, size: usize) -> bool {
    size <= SMALL || (used > 0 && used < size / 4)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Coalesce<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.reads >= MAX_READS
            && let Poll::Ready(Err(error)) = self.poll_send(context)
        {
            return Poll::Ready(Err(error));
        }
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        if read.is_ready() {
            self.reads = self.reads.saturating_add(1);
        } else if let Poll::Ready(Err(error)) = self.poll_send(context) {
            return Poll::Ready(Err(error));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalesce<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let is_large = bytes.len() >= LARGE;
        if is_large || self.kept.len() >= CAPACITY {
            ready!(self.poll_send(context))?;
        }
        if is_large {
            return Pin::new(&mut self.inner).poll_write(context, bytes);
        }
        self.kept.extend_from_slice(bytes);
        self.charge()?;
        Poll::Ready(Ok(bytes.len()))
    }

    /// Leaves the sending to the next read; see the module's documentation.
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
    use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, future::join};
    use tokio::net::{TcpListener, TcpStream};

    fn coalesce<S: AsyncWrite + Unpin>(stream: S) -> Coalesce<S> {
        Coalesce::new(stream, &Memory::new(64 * 1024 * 1024).connect().unwrap())
    }

    #[tokio::test]
    async fn what_the_stream_below_keeps_is_flushed() {
        let (near, mut far) = connected_pair().await;
        let below =
            futures::io::BufWriter::with_capacity(1024, tokio_util::compat::TokioAsyncReadCompatExt::compat(near));
        let mut stream = coalesce(below);
        stream.write_all(b"ping").await.unwrap();
        let mut buffer = [0; 4];
        let reading = stream.read(&mut buffer).now_or_never();
        assert!(reading.is_none(), "nothing has come");
        tokio::io::AsyncReadExt::read_exact(&mut far, &mut buffer).await.unwrap();
        assert_eq!(&buffer, b"ping");
    }

    async fn connected_pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = join(TcpStream::connect(address), listener.accept()).await;
        (near.unwrap(), far.unwrap().0)
    }

    /// A stream that counts the writes that reach it, and never has anything to read.
    #[derive(Default)]
    struct Counting {
        written: Vec<Vec<u8>>,
        closed: bool,
    }

    impl AsyncRead for Counting {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Counting {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.written.push(bytes.to_vec());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.closed = true;
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn writes_leave_together_when_there_is_nothing_to_read() {
        let mut stream = coalesce(Counting::default());
        for part in [&b"one "[..], b"two ", b"three"] {
            stream.write_all(part).await.unwrap();
            stream.flush().await.unwrap();
        }
        assert!(stream.inner.written.is_empty());
        assert!(stream.read(&mut [0]).now_or_never().is_none());
        assert_eq!(stream.inner.written, [b"one two three".to_vec()]);
    }

    #[tokio::test]
    async fn a_peer_that_never_pauses_is_answered() {
        let (mut near, far) = connected_pair().await;
        let mut stream = coalesce(libp2p::tcp::tokio::TcpStream(far));
        tokio::io::AsyncWriteExt::write_all(&mut near, &[1; 1000]).await.unwrap();
        stream.write_all(b"answer").await.unwrap();
        for _ in 0..=MAX_READS {
            stream.read_exact(&mut [0]).await.unwrap();
        }
        let mut answer = [0; 6];
        tokio::io::AsyncReadExt::read_exact(&mut near, &mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
    }

    #[tokio::test]
    async fn closing_sends_what_is_left() {
        let mut stream = coalesce(Counting::default());
        stream.write_all(b"last words").await.unwrap();
        stream.close().await.unwrap();
        assert!(stream.inner.closed);
        assert_eq!(stream.inner.written, [b"last words".to_vec()]);
    }

    #[tokio::test]
    async fn what_is_large_is_not_kept_and_leaves_after_what_is() {
        let mut stream = coalesce(Counting::default());
        stream.write_all(b"small").await.unwrap();
        let large = vec![7; LARGE];
        stream.write_all(&large).await.unwrap();
        assert_eq!(stream.inner.written, [b"small".to_vec(), large]);
    }

    #[tokio::test]
    async fn no_more_than_its_capacity_is_kept() {
        let mut stream = coalesce(Counting::default());
        let frame = vec![0; LARGE / 2];
        for _ in 0..100 {
            stream.write_all(&frame).await.unwrap();
            assert!(stream.kept.len() <= CAPACITY);
        }
        assert!(!stream.inner.written.is_empty());
    }

    #[tokio::test]
    async fn a_buffer_that_grew_shrinks_with_the_next_small_message() {
        let mut stream = coalesce(Counting::default());
        let send = async |stream: &mut Coalesce<Counting>, length| {
            for part in vec![0; length].chunks(LARGE / 2) {
                stream.write_all(part).await.unwrap();
            }
            assert!(stream.read(&mut [0]).now_or_never().is_none());
        };
        send(&mut stream, CAPACITY).await;
        send(&mut stream, CAPACITY / 2).await;
        assert!(stream.kept.capacity() >= CAPACITY, "it keeps what it needs again and again");
        send(&mut stream, 100).await;
        assert_eq!(stream.kept.capacity(), 0);
    }

    #[tokio::test]
    async fn megabytes_go_both_ways_at_once() {
        const LENGTH: usize = 8 * 1024 * 1024;
        let (near, far) = connected_pair().await;
        let exchange = async |stream: TcpStream| {
            let stream = libp2p::tcp::tokio::TcpStream(stream);
            let (mut reader, mut writer) = coalesce(stream).split();
            let write = async {
                writer.write_all(&vec![7; LENGTH]).await.unwrap();
                writer.close().await.unwrap();
            };
            let mut received = Vec::new();
            join(write, async { reader.read_to_end(&mut received).await.unwrap() }).await;
            received.len()
        };
        let both = join(exchange(near), exchange(far)).await;
        assert_eq!(both, (LENGTH, LENGTH));
    }
}
