//! Messages of libp2p's small protocols: protobuf, with the length in front.

use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use prost::Message;

pub(crate) async fn send(stream: &mut (impl AsyncWrite + Unpin), message: &impl Message) -> io::Result<()> {
    stream.write_all(&message.encode_length_delimited_to_vec()).await?;
    stream.flush().await
}

/// Reads a message of at most `max` bytes, below 16 KiB; parts that it does not have are skipped.
pub(crate) async fn receive<M: Message + Default>(stream: &mut (impl AsyncRead + Unpin), max: usize) -> io::Result<M> {
    let mut length = 0;
    for shift in [0, 7] {
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        if byte[0] < 0x80 {
            break;
        }
        if shift > 0 {
            return Err(invalid("the message is too long"));
        }
    }
    if length > max {
        return Err(invalid("the message is too long"));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    M::decode(&*bytes).map_err(|_| invalid("the message is malformed"))
}

pub(crate) fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
