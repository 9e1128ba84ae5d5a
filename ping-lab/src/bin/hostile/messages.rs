//! Requests to Kameo that no Kameo node makes.

use std::time::Duration;

use anyhow::{Result, bail};
use futures::{AsyncReadExt, AsyncWriteExt, future::join_all};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};
use tokio::time::timeout;

use crate::{
    encode::{ask, bytes_item, get_providers, text_item, text_map},
    swarm::{KEEP_ALIVE, MESSAGING, REGISTRY, connect, open_on, server_of},
};

/// How long an answer, or the refusal to give one, may take.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Asks an actor whose id is too short.
pub(crate) async fn panics(address: Multiaddr) -> Result<()> {
    let short = text_map(&[("Ask", ask(&[1]))]);
    exchange(&mut open_on(address, MESSAGING).await?, &short).await;
    println!("done");
    Ok(())
}

/// Announces deaths, links and unlinks of actors.
pub(crate) async fn signals(address: Multiaddr) -> Result<()> {
    let (mut control, ours, peer) = connect(address).await?;
    let id = |number: u64, peer: &PeerId| bytes_item(&[&number.to_le_bytes()[..], &peer.to_bytes()].concat());
    let actor_type = text_item("ping_pong_app::PingActor");
    for number in 0..16 {
        let (actor, stranger) = (id(number, &peer), id(number, &ours));
        for request in [
            text_map(&[(
                "SignalLinkDied",
                text_map(&[
                    ("dead_actor_id", stranger.clone()),
                    ("notified_actor_id", actor.clone()),
                    ("notified_actor_remote_id", actor_type.clone()),
                    ("stop_reason", text_item("Killed")),
                ]),
            )]),
            text_map(&[(
                "Link",
                text_map(&[
                    ("actor_id", actor.clone()),
                    ("actor_remote_id", actor_type.clone()),
                    ("sibling_id", stranger.clone()),
                    ("sibling_remote_id", actor_type.clone()),
                ]),
            )]),
            text_map(&[(
                "Unlink",
                text_map(&[("actor_id", actor), ("actor_remote_id", actor_type.clone()), ("sibling_id", stranger)]),
            )]),
        ] {
            exchange(&mut control.open_stream(peer, MESSAGING).await?, &request).await;
        }
    }
    println!("done");
    Ok(())
}

/// Sends requests that are not what they say they are.
pub(crate) async fn claims(address: Multiaddr) -> Result<()> {
    let (mut control, _, peer) = connect(address).await?;
    let mut actor = 0_u64.to_le_bytes().to_vec();
    actor.extend(peer.to_bytes());
    for message in [
        // A text, a list and a map of 2^56 entries; lists within lists; bytes that are not CBOR; nothing.
        [&[0x7b, 1, 0, 0, 0, 0, 0, 0, 0][..], b"x"].concat(),
        vec![0x9b, 1, 0, 0, 0, 0, 0, 0, 0],
        vec![0xbb, 1, 0, 0, 0, 0, 0, 0, 0],
        vec![0x81; 100_000],
        vec![0xff; 100],
        Vec::new(),
        // An actor that does not exist, a message that does not, a payload that does not decode, and a wait for ever.
        text_map(&[("Ask", ask(&[&99_u64.to_le_bytes()[..], &peer.to_bytes()].concat()))]),
        text_map(&[("Ask", ask(&actor))]),
    ] {
        exchange(&mut control.open_stream(peer, MESSAGING).await?, &message).await;
    }
    println!("done");
    Ok(())
}

/// Asks an actor that does not exist, many times at once.
pub(crate) async fn flood_asks(address: Multiaddr) -> Result<()> {
    let peer = server_of(&address)?;
    let request = text_map(&[("Ask", ask(&[&99_u64.to_le_bytes()[..], &peer.to_bytes()].concat()))]);
    flood(address, MESSAGING, request).await
}

/// Looks up a name, many times at once.
pub(crate) async fn flood_look_ups(address: Multiaddr) -> Result<()> {
    flood(address, REGISTRY, get_providers(b"ping_actor")).await
}

/// Asks for signs of life, many times at once.
pub(crate) async fn flood_keep_alives(address: Multiaddr) -> Result<()> {
    flood(address, KEEP_ALIVE, vec![7; 32]).await
}

/// Sends a request again and again, on many streams at once.
async fn flood(address: Multiaddr, protocol: StreamProtocol, request: Vec<u8>) -> Result<()> {
    let (control, _, peer) = connect(address).await?;
    println!("flooding");
    let senders = (0..256).map(|_| async {
        let mut control = control.clone();
        loop {
            match control.open_stream(peer, protocol.clone()).await {
                Ok(mut stream) => exchange(&mut stream, &request).await,
                Err(error) => bail!("the server ended it: {error}"),
            }
        }
    });
    join_all(senders).await.into_iter().collect()
}

/// Writes, closes, and waits for whatever comes back, which may be nothing.
pub(crate) async fn exchange(stream: &mut Stream, message: &[u8]) {
    let talk = async {
        stream.write_all(message).await?;
        stream.close().await?;
        stream.read_to_end(&mut Vec::new()).await
    };
    let _ = timeout(ANSWER_TIMEOUT, talk).await;
}
