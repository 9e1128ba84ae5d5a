//! The handshake: two nodes exchange keys, and prove who they are.
//!
//! It takes three messages, `XX` in the terms of Noise. With the second and the third, each side sends its identity
//! key, and its signature of the key that it has for Noise.

use std::{io, sync::Arc};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{
    PeerId,
    identity::{Keypair, PublicKey},
};
use prost::Message;
use ring::aead::{CHACHA20_POLY1305, UnboundKey};
use snow::{Builder, HandshakeState, params::NoiseParams};

use super::{HEAD, Noise, malformed};
use crate::hardening::Part;

/// The protocol's name.
pub(in crate::transport) const PROTOCOL: &str = "/noise";

/// The kind of Noise (the libp2p specification of Noise).
const PARAMS: &str = "Noise_XX_25519_ChaChaPoly_SHA256";

/// What comes before the key in what is signed (the same).
const SIGNED_BEFORE: &[u8] = b"noise-libp2p-static-key:";

/// The largest message that is taken. Identity keys and signatures of RSA take some hundred bytes.
const MAX_MESSAGE: usize = 4 * 1024;

/// What a message of the handshake carries (the libp2p specification of Noise).
#[derive(Clone, PartialEq, Message)]
struct Payload {
    #[prost(bytes = "vec", tag = "1")]
    identity_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    identity_sig: Vec<u8>,
}

/// How a node secures connections.
#[derive(Clone)]
pub(in crate::transport) struct Config(Arc<Inner>);

struct Inner {
    params: NoiseParams,
    private_key: Vec<u8>,
    /// What proves who this node is.
    payload: Vec<u8>,
}

impl Config {
    /// Of a node with this identity.
    ///
    /// # Errors
    ///
    /// When the system has no random numbers, or the identity's key does not sign.
    pub(in crate::transport) fn new(identity: &Keypair) -> io::Result<Self> {
        let params: NoiseParams = PARAMS.parse().map_err(io::Error::other)?;
        let keys = Builder::new(params.clone()).generate_keypair().map_err(io::Error::other)?;
        let identity_sig = identity.sign(&signed(&keys.public)).map_err(io::Error::other)?;
        let payload = Payload { identity_key: identity.public().encode_protobuf(), identity_sig }.encode_to_vec();
        Ok(Self(Arc::new(Inner { params, private_key: keys.private, payload })))
    }

    fn builder(&self) -> io::Result<Builder<'_>> {
        Builder::new(self.0.params.clone()).local_private_key(&self.0.private_key).map_err(io::Error::other)
    }

    /// Secures a stream that this node opened. Returns the other side's identity as well.
    ///
    /// # Errors
    ///
    /// When the stream fails, or the other side does not prove who it is.
    pub(in crate::transport) async fn dial<S>(&self, stream: S, memory: Part) -> io::Result<(PeerId, Noise<S>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut handshake = Handshake { stream, state: self.builder()?.build_initiator().map_err(io::Error::other)? };
        handshake.send(&[]).await?;
        let payload = handshake.receive().await?;
        let peer = handshake.verify(&payload)?;
        handshake.send(&self.0.payload).await?;
        Ok((peer, handshake.finish(memory)?))
    }

    /// The same for a stream that the other side opened.
    pub(in crate::transport) async fn accept<S>(&self, stream: S, memory: Part) -> io::Result<(PeerId, Noise<S>)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut handshake = Handshake { stream, state: self.builder()?.build_responder().map_err(io::Error::other)? };
        handshake.receive().await?;
        handshake.send(&self.0.payload).await?;
        let payload = handshake.receive().await?;
        let peer = handshake.verify(&payload)?;
        Ok((peer, handshake.finish(memory)?))
    }
}

/// What a node signs to prove that this key is its own.
fn signed(key: &[u8]) -> Vec<u8> {
    [SIGNED_BEFORE, key].concat()
}

struct Handshake<S> {
    stream: S,
    state: HandshakeState,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Handshake<S> {
    async fn send(&mut self, payload: &[u8]) -> io::Result<()> {
        let mut message = vec![0; MAX_MESSAGE];
        let length = self.state.write_message(payload, &mut message).map_err(io::Error::other)?;
        let head = u16::try_from(length).map_err(io::Error::other)?.to_be_bytes();
        self.stream.write_all(&[&head, &message[..length]].concat()).await?;
        self.stream.flush().await
    }

    async fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut head = [0; HEAD];
        self.stream.read_exact(&mut head).await?;
        let length = usize::from(u16::from_be_bytes(head));
        if length > MAX_MESSAGE {
            return Err(malformed("a message of the handshake is too long"));
        }
        let mut message = vec![0; length];
        self.stream.read_exact(&mut message).await?;
        let mut payload = vec![0; length];
        let length = self.state.read_message(&message, &mut payload).map_err(malformed)?;
        payload.truncate(length);
        Ok(payload)
    }

    /// Who the other side is, if this proves it.
    fn verify(&self, payload: &[u8]) -> io::Result<PeerId> {
        let payload = Payload::decode(payload).map_err(malformed)?;
        let identity = PublicKey::try_decode_protobuf(&payload.identity_key).map_err(malformed)?;
        let key = self.state.get_remote_static().unwrap_or_default();
        if identity.verify(&signed(key), &payload.identity_sig) {
            Ok(identity.to_peer_id())
        } else {
            Err(malformed("it did not prove its identity"))
        }
    }

    fn finish(mut self, memory: Part) -> io::Result<Noise<S>> {
        let (from_initiator, from_responder) = self.state.dangerously_get_raw_split();
        let mut keys = [from_initiator, from_responder];
        if self.state.is_initiator() {
            keys.reverse();
        }
        let [arriving, sending] = keys.map(|key| UnboundKey::new(&CHACHA20_POLY1305, &key));
        let keys = [arriving.map_err(io::Error::other)?, sending.map_err(io::Error::other)?];
        Ok(Noise::new(self.stream, keys, memory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardening::Memory;
    use futures::future::{join, try_join};
    use libp2p::{
        core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade},
        noise,
    };
    use tokio::io::{DuplexStream, duplex};
    use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

    fn part() -> Part {
        Memory::new(64 * 1024 * 1024).connect().unwrap().part()
    }

    fn pair() -> [Compat<DuplexStream>; 2] {
        let (near, far) = duplex(1_000_000);
        [near.compat(), far.compat()]
    }

    /// Sends three megabytes each way at once.
    async fn exchange(one: impl AsyncRead + AsyncWrite, other: impl AsyncRead + AsyncWrite) {
        async fn send(stream: impl AsyncRead + AsyncWrite, byte: u8) -> Vec<u8> {
            let (mut reader, mut writer) = stream.split();
            let write = async {
                writer.write_all(&vec![byte; 3_000_000]).await.unwrap();
                writer.close().await.unwrap();
            };
            let mut received = Vec::new();
            join(write, async { reader.read_to_end(&mut received).await.unwrap() }).await;
            received
        }
        let (from_other, from_one) = join(send(one, 1), send(other, 2)).await;
        assert!(from_other == [2; 3_000_000] && from_one == [1; 3_000_000]);
    }

    #[tokio::test]
    async fn nodes_understand_libp2p_and_each_other() {
        let keys = [(); 2].map(|()| Keypair::generate_ed25519());
        let [near_id, far_id] = keys.each_ref().map(|key| key.public().to_peer_id());
        let [near, far] = keys.each_ref().map(|key| Config::new(key).unwrap());
        let [libp2p_near, libp2p_far] = keys.each_ref().map(|key| noise::Config::new(key).unwrap());

        let [stream, other] = pair();
        let (one, other) = try_join(near.dial(stream, part()), far.accept(other, part())).await.unwrap();
        assert_eq!((one.0, other.0), (far_id, near_id));
        exchange(one.1, other.1).await;

        let [stream, other] = pair();
        let dial = near.dial(stream, part());
        let (one, other) = join(dial, libp2p_far.upgrade_inbound(other, PROTOCOL)).await;
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_eq!((one.0, other.0), (far_id, near_id));
        exchange(one.1, other.1).await;

        let [stream, other] = pair();
        let dial = libp2p_near.upgrade_outbound(stream, PROTOCOL);
        let (one, other) = join(dial, far.accept(other, part())).await;
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_eq!((one.0, other.0), (far_id, near_id));
        exchange(one.1, other.1).await;
    }

    #[tokio::test]
    async fn nobody_is_taken_for_another() {
        let [honest, other] = [(); 2].map(|()| Keypair::generate_ed25519());
        let config = Config::new(&honest).unwrap();
        let liar = |payload: Payload| {
            let Inner { params, private_key, .. } = &*config.0;
            let (params, private_key) = (params.clone(), private_key.clone());
            Config(Arc::new(Inner { params, private_key, payload: payload.encode_to_vec() }))
        };
        let proof = Payload::decode(&config.0.payload[..]).unwrap();
        let of_another = Payload { identity_key: other.public().encode_protobuf(), ..proof.clone() };
        let without_signature = Payload { identity_sig: Vec::new(), ..proof.clone() };
        let without_key = Payload { identity_key: Vec::new(), ..proof };
        let taken_over = Config::new(&other).unwrap().0.payload.clone();
        let taken_over = Payload::decode(&taken_over[..]).unwrap();
        for payload in [of_another, without_signature, without_key, taken_over] {
            let liar = liar(payload);
            let [stream, other] = pair();
            let (dialed, _) = join(config.dial(stream, part()), liar.accept(other, part())).await;
            assert_eq!(dialed.err().map(|error| error.kind()), Some(io::ErrorKind::InvalidData));
            let [stream, other] = pair();
            let (_, accepted) = join(liar.dial(stream, part()), config.accept(other, part())).await;
            assert_eq!(accepted.err().map(|error| error.kind()), Some(io::ErrorKind::InvalidData));
        }
    }

    #[tokio::test]
    async fn garbage_is_an_error() {
        let config = Config::new(&Keypair::generate_ed25519()).unwrap();
        let head = |length: u16| length.to_be_bytes().to_vec();
        let too_long = head(MAX_MESSAGE as u16 + 1);
        let short = [head(31), vec![1; 31]].concat();
        let second = [head(32), vec![9; 32], head(15), vec![1; 15]].concat();
        let third = [head(32), vec![9; 32], head(64), vec![1; 64]].concat();
        for garbage in [too_long, head(0), short, second, third] {
            let [stream, mut other] = pair();
            other.write_all(&garbage).await.unwrap();
            let accepted = config.accept(stream, part()).await;
            assert_eq!(accepted.err().map(|error| error.kind()), Some(io::ErrorKind::InvalidData), "{garbage:?}");
        }
        for garbage in [head(0), [head(96), vec![1; 96]].concat(), [head(200), vec![1; 200]].concat()] {
            let [stream, mut other] = pair();
            other.write_all(&garbage).await.unwrap();
            let dialed = config.dial(stream, part()).await;
            assert_eq!(dialed.err().map(|error| error.kind()), Some(io::ErrorKind::InvalidData), "{garbage:?}");
        }
    }
}
