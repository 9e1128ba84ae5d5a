//! Servers that answer what no Kameo node answers.

use anyhow::{Context, Result, bail};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{Multiaddr, PeerId, Stream, multiaddr::Protocol, swarm::SwarmEvent};

use crate::{
    encode::{add_provider, ask, bytes_list, field, kademlia, put_value, text_item, text_map},
    messages::exchange,
    quic,
    swarm::{MESSAGING, REGISTRY, STREAM, end_of_input, new_swarm},
};

/// What would clear a terminal, set its title, forge a line of a log, and turn the direction of reading.
const EVIL: &str = "\x1b[2J\x1b]0;owned\x07\r\n2026-01-01T00:00:00Z  INFO forged\u{9b}31m\u{202e}gnp.exe";

/// Hosts an actor that answers every message in this way.
pub(crate) async fn serve(kind: &str) -> Result<()> {
    if kind == "goodbye" {
        return quic::say_goodbye(EVIL).await;
    }
    let mut swarm = new_swarm()?;
    let us = *swarm.local_peer_id();
    let mut control = swarm.behaviour().new_control();
    for protocol in [REGISTRY, MESSAGING, STREAM] {
        let mut streams = control.accept(protocol.clone()).context("the protocol is accepted twice")?;
        let kind = kind.to_owned();
        tokio::spawn(async move {
            while let Some((_, stream)) = streams.next().await {
                let (kind, protocol) = (kind.clone(), protocol.clone());
                tokio::spawn(async move {
                    match protocol {
                        protocol if protocol == REGISTRY && kind == "no-registry" => std::future::pending().await,
                        protocol if protocol == REGISTRY => register(stream, us).await,
                        protocol if protocol == MESSAGING => answer(stream, &kind).await,
                        _ => pipe(stream, &kind).await,
                    }
                });
            }
        });
    }
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
    loop {
        tokio::select! {
            event = swarm.select_next_some() => match event {
                SwarmEvent::NewListenAddr { address, .. } => println!("{}", address.with(Protocol::P2p(us))),
                SwarmEvent::ConnectionEstablished { peer_id, .. } if kind == "calls" => {
                    tokio::spawn(call_back(control.clone(), us, peer_id));
                }
                _ => {}
            },
            ended = end_of_input() => return ended,
        }
    }
}

/// Asks of the client what one asks of a server, and fills its memory with requests that do not end.
async fn call_back(mut control: libp2p_stream::Control, us: PeerId, client: PeerId) -> Result<()> {
    let key = format!("ping_actor:meta:{client}").into_bytes();
    let actor = |peer: &PeerId| [&0_u64.to_le_bytes()[..], &peer.to_bytes()].concat();
    for (protocol, message) in [
        (MESSAGING, text_map(&[("Ask", ask(&actor(&client)))])),
        (MESSAGING, text_map(&[("OutboundFailure", text_item("DialFailure"))])),
        (MESSAGING, vec![0x81; 100_000]),
        (REGISTRY, put_value(&key, &[0xff])),
        (REGISTRY, add_provider(b"ping_actor", &us)),
        (STREAM, b"\0\0\0\x09\x01\0\0\0\0\0\0\0\x01".to_vec()),
    ] {
        if let Ok(mut stream) = control.open_stream(client, protocol).await {
            exchange(&mut stream, &message).await;
        }
    }
    let mut held = Vec::new();
    while let Ok(mut stream) = control.open_stream(client, MESSAGING).await {
        // Two megabytes of a list of integers that is to have more.
        stream.write_all(&[0x9b, 0, 0, 0, 0, 0x7f, 0, 0, 0]).await?;
        stream.write_all(&vec![0x41; 2_000_000]).await?;
        held.push(stream);
    }
    Ok(())
}

/// Answers the registry's questions as a node does that has the actor of that name.
async fn register(mut stream: Stream, us: PeerId) -> Result<()> {
    let mut buffer = vec![0; 4096];
    let length = stream.read(&mut buffer).await?;
    // Behind the length of the message: its type, a level that nobody uses, and its key behind the key's length.
    let [_, 0x08, kind, 0x50, _, 0x12, key_length, rest @ ..] = &buffer[..length] else {
        bail!("not a question of Kademlia")
    };
    let key = rest.get(..usize::from(*key_length)).context("the key is cut")?;
    let address: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse()?;
    let answer = match *kind {
        // GET_VALUE
        1 => {
            let peer = us.to_bytes();
            let actor = [&[peer.len() as u8][..], &7_u64.to_le_bytes(), &peer, b"ping_pong_app::PingActor"].concat();
            kademlia(1, &[field(2, key), field(3, &[field(1, key), field(2, &actor)].concat())])
        }
        // GET_PROVIDERS
        3 => {
            let provider = [field(1, &us.to_bytes()), field(2, &address.to_vec())].concat();
            kademlia(3, &[field(2, key), field(9, &provider)])
        }
        other => kademlia(other, &[]),
    };
    stream.write_all(&answer).await?;
    Ok(stream.close().await?)
}

/// Answers one message.
async fn answer(mut stream: Stream, kind: &str) -> Result<()> {
    let mut request = Vec::new();
    stream.read_to_end(&mut request).await?;
    let ok = |value: Vec<u8>| text_map(&[("Ok", value)]);
    let error = |text: &str| text_map(&[("Err", text_map(&[("DeserializeMessage", text_item(text))]))]);
    let is_about = request.windows(18).any(|part| part == b"kameo-ping/about/1");
    let answer = match kind {
        "link" => text_map(&[("Link", ok(vec![0xf6]))]),
        "unlink" => text_map(&[("Unlink", ok(vec![0xf6]))]),
        "died" => text_map(&[("SignalLinkDied", ok(vec![0xf6]))]),
        "failure" => text_map(&[("OutboundFailure", text_item("DialFailure"))]),
        "tell" => text_map(&[("Tell", ok(vec![0xf6]))]),
        "ask" | "calls" => text_map(&[("Ask", ok(bytes_list(&pong())))]),
        "other-form" => [&[0xbf][..], &text_item("Ask"), &ok(bytes_list(&pong())), &[0xff]].concat(),
        "words" => text_map(&[("Ask", error(EVIL))]),
        "novel" => text_map(&[("Ask", error(&EVIL.repeat(20_000)))]),
        "version" if is_about => text_map(&[("Ask", ok(bytes_list(&card())))]),
        "version" => text_map(&[("Ask", ok(bytes_list(&pong())))]),
        "claims" => {
            let endless_list = [0xa1, 0x62, b'O', b'k', 0x9b, 1, 0, 0, 0, 0, 0, 0, 0];
            text_map(&[("Ask", endless_list.into())])
        }
        "garbage" => vec![0xff; 1000],
        "nothing" => Vec::new(),
        "endless" => loop {
            stream.write_all(&[0x18; 64 * 1024]).await?;
        },
        "silence" => std::future::pending().await,
        other => bail!("there is no kind {other}"),
    };
    stream.write_all(&answer).await?;
    Ok(stream.close().await?)
}

/// A pong to the first ping, in MessagePack.
fn pong() -> Vec<u8> {
    [&[0x83, 0xa7][..], b"message", &[0xa4], b"PONG", &[0xa8], b"sequence", &[1, 0xab], b"total_pings", &[1]].concat()
}

/// What an actor says about itself, in MessagePack.
fn card() -> Vec<u8> {
    let version = [&[0xd9, EVIL.len() as u8][..], EVIL.as_bytes()].concat();
    let version = [&[0x84, 0xa7][..], b"version", &version].concat();
    [&version[..], &[0xab], b"total_pings", &[1, 0xad], b"max_in_flight", &[64, 0xab], b"max_payload", &[64]].concat()
}

/// Ends a ping stream in words, or writes what is not a frame, or more than anybody wants.
async fn pipe(mut stream: Stream, kind: &str) -> Result<()> {
    let frame = |kind: u8, rest: &[u8]| [&(rest.len() as u32 + 1).to_be_bytes()[..], &[kind], rest].concat();
    if kind == "silence" {
        return std::future::pending().await;
    }
    // A welcome, and a total.
    stream.write_all(&frame(0x80, &[0; 8])).await?;
    match kind {
        "words" => stream.write_all(&frame(0x84, EVIL.as_bytes())).await?,
        "garbage" => stream.write_all(&[0xff; 1000]).await?,
        // Parts of a payload that nobody sent.
        "endless" => loop {
            stream.write_all(&frame(0x83, &[7; 8 * 1024])).await?;
        },
        _ => {}
    }
    Ok(stream.close().await?)
}
