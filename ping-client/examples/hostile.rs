//! Peers that do not play by the rules, built from plain libp2p without this project's code, to test the server against.
//!
//! - `hostile mute ADDRESS COUNT` makes COUNT connections, writes pings into a stream on each and never reads a reply. It
//!   prints how many bytes were taken when no stream takes any more, and holds the connections until its standard input
//!   ends.
//! - `hostile say ADDRESS HEX` writes these bytes into a stream, closes it, and prints what comes back, in hexadecimal.
//! - `hostile reset ADDRESS HEX` writes these bytes and drops the stream.

use std::{
    env,
    io::{self, Read},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt, future::join_all};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, SwarmBuilder, multiaddr::Protocol, noise, swarm::SwarmEvent, tcp, yamux,
};
use tokio::time::timeout;

const STREAM: StreamProtocol = StreamProtocol::new("/kameo-ping/stream/1");

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
        _ => bail!("the arguments are described at the top of this program's source"),
    }
}

/// Connects with a new identity and opens a stream. The connection lives as long as the process does.
async fn open(address: Multiaddr) -> Result<Stream> {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)?
        .with_quic()
        .with_behaviour(|_| libp2p_stream::Behaviour::new())?
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(3600)))
        .build();
    let mut control = swarm.behaviour().new_control();
    let peer = address.iter().find_map(|part| if let Protocol::P2p(peer) = part { Some(peer) } else { None });
    let peer: PeerId = peer.context("the address has no /p2p/ part")?;
    swarm.dial(address)?;
    while !matches!(swarm.select_next_some().await, SwarmEvent::ConnectionEstablished { .. }) {}
    tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    Ok(control.open_stream(peer, STREAM).await?)
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

fn bytes(hex: &str) -> Result<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2).map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?));
    pairs.collect()
}
