//! Peers that do not play by the rules, built from plain libp2p without this project's code, to test the server against.
//!
//! - `hostile mute ADDRESS COUNT` makes COUNT connections, writes pings into a stream on each and never reads a reply. It
//!   prints how many bytes were taken when no stream takes any more, and holds the connections until its standard input
//!   ends.
//! - `hostile say ADDRESS HEX` writes these bytes into a stream, closes it, and prints what comes back, in hexadecimal.
//! - `hostile reset ADDRESS HEX` writes these bytes and drops the stream.
//! - `hostile records ADDRESS COUNT` sends Kameo's registry a record of one byte, a record in its own name that says it is the server's, a
//!   provider of two thousand addresses, and then COUNT records and COUNT providers of
//!   its own, for names of its own, and as many in another peer's name.
//! - `hostile signals ADDRESS` announces deaths to the actors that the server may have, and links and unlinks them.
//! - `hostile panics ADDRESS` asks an actor whose id is too short.
//! - `hostile claims ADDRESS` sends requests that claim to be very long, that are nested very deeply, and that are no CBOR.
//! - `hostile hoard ADDRESS CONNECTIONS` sends as many large requests as each connection takes, and ends none of them. It prints how
//!   many bytes were taken, and holds the connections as `mute` does.
//! - `hostile flood ADDRESS` asks actors that do not exist, as fast as the server takes it, until its standard input ends.
//! - `hostile crowd ADDRESS COUNT` means no harm: it makes COUNT connections, each of which pings once a second by a stream, until its
//!   standard input ends. It prints a line when all are connected.
//! - `hostile churn ADDRESS COUNT` connects and disconnects COUNT times, each time with a new identity.
//! - `hostile connects ADDRESS COUNT` makes COUNT connections that say nothing, and holds them as `mute` does.

use std::{
    env,
    io::{self, Read},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt, future::join_all};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm, SwarmBuilder, multiaddr::Protocol, noise, swarm::SwarmEvent, tcp,
    yamux,
};
use tokio::{
    task::JoinSet,
    time::{interval, timeout},
};

const STREAM: StreamProtocol = StreamProtocol::new("/kameo-ping/stream/1");

/// How long a connection may take to come and go.
const STUCK: Duration = Duration::from_secs(30);

/// The length of the server's first frame, and that of a pong, in bytes.
const WELCOME: usize = 13;
const PONG: usize = 21;

/// How long a stream must not take a byte to count as blocked.
const BLOCKED: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["mute", address, count] => mute(address.parse()?, count.parse()?).await,
        ["say", address, hex] => {
            let mut stream = open(address.parse()?).await?;
            stream.write_all(&bytes(hex)?).await?;
            stream.close().await?;
            let mut back = Vec::new();
            stream.read_to_end(&mut back).await?;
            println!("{}", back.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
            Ok(())
        }
        ["reset", address, hex] => {
            let mut stream = open(address.parse()?).await?;
            // The server has then taken the stream.
            stream.read_exact(&mut [0]).await?;
            stream.write_all(&bytes(hex)?).await?;
            stream.flush().await?;
            drop(stream);
            println!("reset");
            Ok(())
        }
        ["records", address, count] => records(address.parse()?, count.parse()?).await,
        ["signals", address] => signals(address.parse()?).await,
        ["panics", address] => {
            let short = text_map(&[("Ask", ask(&[1]))]);
            exchange(&mut open_on(address.parse()?, MESSAGING).await?, &short).await;
            println!("done");
            Ok(())
        }
        ["claims", address] => claims(address.parse()?).await,
        ["hoard", address, count] => hoard(address.parse()?, count.parse()?).await,
        ["flood", address] => {
            let address = address.parse()?;
            tokio::select! {
                flooded = flood_asks(address) => flooded,
                ended = tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new())) => ended?.map(drop).map_err(Into::into),
            }
        }
        ["churn", address, count] => {
            let address: Multiaddr = address.parse()?;
            for _ in 0..count.parse()? {
                // The connection ends with its swarm, which is let go with the stream.
                timeout(STUCK, come_and_go(address.clone())).await??;
            }
            println!("done");
            Ok(())
        }
        ["crowd", address, count] => crowd(address.parse()?, count.parse()?).await,
        ["connects", address, count] => {
            let (address, count): (Multiaddr, usize) = (address.parse()?, count.parse()?);
            let socket = address.iter().collect::<Vec<_>>();
            let [Protocol::Ip4(ip), Protocol::Tcp(port), ..] = socket[..] else { bail!("not an IPv4 TCP address") };
            let mut held = Vec::new();
            for _ in 0..count {
                held.push(tokio::net::TcpStream::connect((ip, port)).await?);
            }
            println!("connected");
            tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new())).await??;
            Ok(())
        }
        _ => bail!("the arguments are described at the top of this program's source"),
    }
}

async fn open(address: Multiaddr) -> Result<Stream> {
    open_on(address, STREAM).await
}

/// Connects with a new identity and opens a stream. The connection lives as long as the process does.
async fn open_on(address: Multiaddr, protocol: StreamProtocol) -> Result<Stream> {
    let (mut control, _, peer) = connect(address).await?;
    Ok(control.open_stream(peer, protocol).await?)
}

/// Connects with a new identity, and disconnects.
async fn come_and_go(address: Multiaddr) -> Result<()> {
    let mut swarm = new_swarm()?;
    swarm.dial(address)?;
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { peer_id, .. } => drop(swarm.disconnect_peer_id(peer_id)),
            SwarmEvent::ConnectionClosed { .. } => return Ok(()),
            SwarmEvent::OutgoingConnectionError { error, .. } => return Err(error.into()),
            _ => {}
        }
    }
}

/// A swarm with a new identity.
fn new_swarm() -> Result<Swarm<libp2p_stream::Behaviour>> {
    Ok(SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)?
        .with_quic()
        .with_behaviour(|_| libp2p_stream::Behaviour::new())?
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(3600)))
        .build())
}

/// Connects with a new identity; returns it with that of the server.
async fn connect(address: Multiaddr) -> Result<(libp2p_stream::Control, PeerId, PeerId)> {
    let mut swarm = new_swarm()?;
    let control = swarm.behaviour().new_control();
    let ours = *swarm.local_peer_id();
    let peer = server_of(&address)?;
    swarm.dial(address)?;
    while !matches!(swarm.select_next_some().await, SwarmEvent::ConnectionEstablished { .. }) {}
    tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    Ok((control, ours, peer))
}

/// Whose address it is.
fn server_of(address: &Multiaddr) -> Result<PeerId> {
    let peer = address.iter().find_map(|part| if let Protocol::P2p(peer) = part { Some(peer) } else { None });
    peer.context("the address has no /p2p/ part")
}

async fn mute(address: Multiaddr, count: usize) -> Result<()> {
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(open(address.clone()).await?);
    }
    let taken = join_all(streams.iter_mut().map(flood)).await;
    println!("{}", taken.into_iter().sum::<Result<usize>>()?);
    tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new())).await??;
    Ok(())
}

/// More than any connection takes streams.
const MANY: usize = 600;

async fn hoard(address: Multiaddr, connections: usize) -> Result<()> {
    let part = vec![0x41; 64 * 1024];
    let mut held = Vec::new();
    let mut taken = 0;
    for _ in 0..connections {
        let (mut control, _, peer) = connect(address.clone()).await?;
        for _ in 0..MANY {
            let Ok(Ok(mut stream)) = timeout(BLOCKED, control.open_stream(peer, MESSAGING)).await else { break };
            let fill = async {
                // Two megabytes of a list of integers that is to have more.
                stream.write_all(&[0x9b, 0, 0, 0, 0, 0x7f, 0, 0, 0]).await?;
                for _ in 0..32 {
                    stream.write_all(&part).await?;
                    taken += part.len();
                }
                io::Result::Ok(())
            };
            if !matches!(timeout(BLOCKED, fill).await, Ok(Ok(()))) {
                break;
            }
            held.push(stream);
        }
    }
    println!("{taken}");
    tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new())).await??;
    Ok(())
}

async fn crowd(address: Multiaddr, count: usize) -> Result<()> {
    let mut members = JoinSet::new();
    for _ in 0..count {
        let mut stream = open(address.clone()).await?;
        stream.read_exact(&mut [0; WELCOME]).await?;
        members.spawn(async move {
            let mut second = interval(Duration::from_secs(1));
            loop {
                second.tick().await;
                stream.write_all(&[0, 0, 0, 9, 1, 0, 0, 0, 0, 0, 0, 0, 1]).await?;
                stream.flush().await?;
                stream.read_exact(&mut [0; PONG]).await?;
            }
        });
    }
    println!("connected");
    tokio::select! {
        Some(ended) = members.join_next() => ended?,
        ended = tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new())) => ended?.map(drop).map_err(Into::into),
    }
}

/// Asks an actor that does not exist, many times at once.
async fn flood_asks(address: Multiaddr) -> Result<()> {
    let (control, _, peer) = connect(address).await?;
    let request = text_map(&[("Ask", ask(&[&99_u64.to_le_bytes()[..], &peer.to_bytes()].concat()))]);
    println!("flooding");
    let lanes = (0..256).map(|_| async {
        let mut control = control.clone();
        loop {
            match control.open_stream(peer, MESSAGING).await {
                Ok(mut stream) => exchange(&mut stream, &request).await,
                Err(error) => bail!("the server ended it: {error}"),
            }
        }
    });
    join_all(lanes).await.into_iter().collect()
}

/// Writes pings, some with a payload, until the stream takes no more; returns how many bytes it took.
async fn flood(stream: &mut Stream) -> Result<usize> {
    let mut pings = [&[0, 0, 0, 9, 1, 0, 0, 0, 0, 0, 0, 0, 1][..]; 1000].concat();
    pings.extend([0, 0, 0x40, 9, 3, 0, 0, 0, 0, 0, 0, 0, 2]);
    pings.extend([7; 0x4000]);
    let mut taken = 0;
    while let Ok(length) = timeout(BLOCKED, stream.write(&pings[taken % pings.len()..])).await {
        taken += length?;
    }
    Ok(taken)
}

/// Writes, closes, and waits for whatever comes back, which may be nothing.
async fn exchange(stream: &mut Stream, message: &[u8]) {
    let talk = async {
        stream.write_all(message).await?;
        stream.close().await?;
        stream.read_to_end(&mut Vec::new()).await
    };
    let _ = timeout(BLOCKED, talk).await;
}

/// Sends messages without waiting for answers, each on a stream of its own. Those that the server resets are its defence.
async fn send_all(address: Multiaddr, messages: impl Fn(&PeerId) -> Vec<Vec<u8>>) -> Result<()> {
    let (mut control, ours, peer) = connect(address).await?;
    let mut last = None;
    for message in messages(&ours) {
        let mut stream = control.open_stream(peer, REGISTRY).await?;
        if stream.write_all(&message).await.is_ok() {
            let _ = stream.close().await;
        }
        last = Some(stream);
    }
    // What went before it on the connection has been read when this one is answered, or reset.
    if let Some(mut last) = last {
        let _ = timeout(BLOCKED, last.read(&mut [0])).await;
    }
    Ok(())
}

async fn records(address: Multiaddr, count: usize) -> Result<()> {
    let key = |name: &str, peer: &PeerId| format!("{name}:meta:{peer}").into_bytes();
    let victim = server_of(&address)?;
    send_all(address.clone(), |ours| vec![put_value(&key("ping_actor", ours), &[0xff])]).await?;
    let well_formed = |peer: &PeerId| {
        let peer = peer.to_bytes();
        [&[peer.len() as u8][..], &7_u64.to_le_bytes(), &peer, b"ping_pong_app::PingActor"].concat()
    };
    // A rival whose record says that it is the server, and whose addresses would not fit into any answer.
    send_all(address.clone(), |ours| {
        let rival = [field(1, &ours.to_bytes()), field(2, &[4, 127, 0, 0, 9]).repeat(2000)].concat();
        vec![
            kademlia(2, &[field(2, b"ping_actor"), field(9, &rival)]),
            put_value(&key("ping_actor", ours), &well_formed(&victim)),
        ]
    })
    .await?;
    send_all(address.clone(), |ours| {
        let other = PeerId::random();
        let names = (0..count).map(|n| format!("name-{n}"));
        names
            .flat_map(|name| {
                [
                    put_value(&key(&name, ours), &well_formed(ours)),
                    put_value(&key(&name, &other), &well_formed(&other)),
                    add_provider(name.as_bytes(), ours),
                    add_provider(name.as_bytes(), &other),
                ]
            })
            .collect()
    })
    .await?;
    let huge = vec![b'x'; 10_000];
    send_all(address, |ours| vec![put_value(&huge, &huge), add_provider(&huge, ours), add_provider(b"", ours)]).await?;
    println!("done");
    Ok(())
}

async fn signals(address: Multiaddr) -> Result<()> {
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

async fn claims(address: Multiaddr) -> Result<()> {
    let (mut control, _, peer) = connect(address).await?;
    let mut actor = 0_u64.to_le_bytes().to_vec();
    actor.extend(peer.to_bytes());
    for message in [
        // A text, a list and a map of 2^56 entries; lists within lists; no CBOR; nothing.
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

const MESSAGING: StreamProtocol = StreamProtocol::new("/kameo/messaging/1.0.0");
const REGISTRY: StreamProtocol = StreamProtocol::new("/kameo/registry/1.0.0");

/// The fields of Kameo's ask of this actor id, in CBOR. The payload is no MessagePack of a ping.
fn ask(actor_id: &[u8]) -> Vec<u8> {
    text_map(&[
        ("actor_id", bytes_item(actor_id)),
        ("actor_remote_id", text_item("ping_pong_app::PingActor")),
        ("message_remote_id", text_item("a1b2c3d4-e5f6-7890-abcd-ef1234567890")),
        ("payload", vec![0x83, 1, 2, 3]),
        ("mailbox_timeout", vec![0xf6]),
        ("reply_timeout", vec![0xf6]),
        ("immediate", vec![0xf4]),
    ])
}

/// The head of a CBOR item (RFC 8949).
fn head(major: u8, length: usize) -> Vec<u8> {
    match length {
        0..24 => vec![major << 5 | length as u8],
        24..256 => vec![major << 5 | 24, length as u8],
        _ => [&[major << 5 | 25][..], &(length as u16).to_be_bytes()].concat(),
    }
}

fn text_item(text: &str) -> Vec<u8> {
    [head(3, text.len()), text.into()].concat()
}

fn bytes_item(bytes: &[u8]) -> Vec<u8> {
    [head(2, bytes.len()), bytes.into()].concat()
}

fn text_map(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let entries_bytes = entries.iter().flat_map(|(key, value)| [text_item(key), value.clone()].concat());
    head(5, entries.len()).into_iter().chain(entries_bytes).collect()
}

/// A length in protobuf's variable format.
fn varint(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A length-delimited field of protobuf.
fn field(number: usize, bytes: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(bytes.len()), bytes.to_vec()].concat()
}

/// A Kademlia message of this type, as libp2p's `dht.proto` has it, behind its length.
fn kademlia(kind: u8, fields: &[Vec<u8>]) -> Vec<u8> {
    let message = [vec![0x08, kind], fields.concat()].concat();
    [varint(message.len()), message].concat()
}

fn put_value(key: &[u8], value: &[u8]) -> Vec<u8> {
    kademlia(0, &[field(2, key), field(3, &[field(1, key), field(2, value)].concat())])
}

fn add_provider(key: &[u8], provider: &PeerId) -> Vec<u8> {
    kademlia(2, &[field(2, key), field(9, &field(1, &provider.to_bytes()))])
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2).map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?));
    pairs.collect()
}
