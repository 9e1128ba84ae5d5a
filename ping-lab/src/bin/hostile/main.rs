//! Peers that do not follow the rules, built from plain libp2p without this project's code, to test the programs
//! against.
//!
//! - `hostile mute ADDRESS COUNT` makes COUNT connections, writes pings into a stream on each and never reads a reply.
//!   It prints how many bytes were taken when no stream takes any more, and holds the connections until its standard
//!   input ends.
//! - `hostile say ADDRESS HEX` writes these bytes into a stream, closes it, and prints what comes back, in hexadecimal.
//! - `hostile reset ADDRESS HEX` writes these bytes and drops the stream.
//! - `hostile records ADDRESS COUNT` sends Kameo's registry a record of one byte, a record in its own name that says it
//!   is the server's, a provider of two thousand addresses, and then COUNT records and COUNT providers of its own, for
//!   names of its own, and as many in another peer's name.
//! - `hostile signals ADDRESS` announces deaths to the actors that the server may have, and links and unlinks them.
//! - `hostile panics ADDRESS` asks an actor whose id is too short.
//! - `hostile claims ADDRESS` sends requests that claim to be very long, that are nested very deeply, and that are not
//!   CBOR.
//! - `hostile hoard ADDRESS CONNECTIONS` sends large requests that do not end, as many as each connection takes. It
//!   prints how many bytes were taken, and holds the connections as `mute` does.
//! - `hostile flood ADDRESS` asks actors that do not exist, as fast as the server takes it, until its standard input
//!   ends.
//! - `hostile look-ups ADDRESS` and `hostile keep-alives ADDRESS` do the same with look-ups of a name, and with
//!   libp2p's ping protocol.
//! - `hostile frames ADDRESS KIND` sends frames of yamux that no library sends, until its standard input ends. `frames`
//!   lists the kinds.
//! - `hostile garbage ADDRESS` sends the port what is not libp2p, until its standard input ends.
//! - `hostile crowd ADDRESS COUNT [PAYLOAD]` is harmless: it makes COUNT connections, each of which pings once a second
//!   by a stream, the first time with PAYLOAD bytes, until its standard input ends. It prints a line when all are
//!   connected.
//! - `hostile churn ADDRESS COUNT` connects and disconnects COUNT times, each time with a new identity.
//! - `hostile serve KIND` is a server whose actor answers in a way that no Kameo node does; it prints its address, and
//!   ends with its standard input. `server` lists the kinds.
//! - `hostile relay KIND` is a relay that gives places and does not keep to them; it prints its address, and ends with
//!   its standard input. `relay` lists the kinds.
//! - `hostile unread ADDRESS COUNT SIZE` makes COUNT connections and fills hundreds of streams on each that never name
//!   a protocol, in frames of SIZE bytes; it prints how many bytes were taken, and holds what is left as `mute` does.
//! - `hostile initials ADDRESS` sends first packets of QUIC connections from 32 addresses and goes on with none, until
//!   its standard input ends. It prints a line when 800 are sent. Needs Linux, where all of 127.0.0.0/8 is loopback.
//! - `hostile resets ADDRESS` opens streams of QUIC connections and resets them at once, until its standard input ends.
//! - `hostile member ADDRESS KIND COUNT` joins the cluster of the server and tells lies; `member` lists the kinds.
//! - `hostile connects ADDRESS COUNT` makes COUNT connections that say nothing, and holds them as `mute` does.

mod connections;
mod encode;
mod frames;
mod garbage;
mod member;
mod messages;
mod quic;
mod raw;
mod registry;
mod relay;
mod server;
mod swarm;

use std::env;

use anyhow::{Result, bail};
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::Multiaddr;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["serve", kind] = arguments[..] {
        return server::serve(kind).await;
    }
    if let ["relay", kind] = arguments[..] {
        return relay::serve(kind).await;
    }
    let [what, address, ref more @ ..] = arguments[..] else { bail!("{USAGE}") };
    let address: Multiaddr = address.parse()?;
    match (what, more) {
        ("mute", [count]) => connections::mute(address, count.parse()?).await,
        ("say", [hex]) => say(address, &encode::bytes(hex)?).await,
        ("reset", [hex]) => reset(address, &encode::bytes(hex)?).await,
        ("records", [count]) => registry::records(address, count.parse()?).await,
        ("signals", []) => messages::signals(address).await,
        ("panics", []) => messages::panics(address).await,
        ("claims", []) => messages::claims(address).await,
        ("hoard", [count]) => connections::hoard(address, count.parse()?).await,
        ("flood", []) => until_end_of_input(messages::flood_asks(address)).await,
        ("look-ups", []) => until_end_of_input(messages::flood_look_ups(address)).await,
        ("keep-alives", []) => until_end_of_input(messages::flood_keep_alives(address)).await,
        ("frames", [kind]) => until_end_of_input(frames::frames(address, kind)).await,
        ("garbage", []) => until_end_of_input(garbage::garbage(address)).await,
        ("unread", [count, frame]) => raw::unread(address, count.parse()?, frame.parse()?).await,
        ("initials", []) => quic::initials(raw::socket(&address)?).await,
        ("resets", []) => until_end_of_input(quic::resets(raw::socket(&address)?)).await,
        ("churn", [count]) => connections::churn(address, count.parse()?).await,
        ("crowd", [count]) => connections::crowd(address, count.parse()?, 0).await,
        ("crowd", [count, payload]) => connections::crowd(address, count.parse()?, payload.parse()?).await,
        ("member", [kind, count]) => member::harm(address, kind, count.parse()?).await,
        ("connects", [count]) => connections::connects(address, count.parse()?).await,
        _ => bail!("{USAGE}"),
    }
}

/// Attacks until standard input ends.
async fn until_end_of_input(attack: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::select! {
        ended = attack => ended,
        ended = swarm::end_of_input() => ended,
    }
}

const USAGE: &str = "the arguments are described at the top of this program's source";

/// Writes into a stream, closes it, and prints what comes back.
async fn say(address: Multiaddr, bytes: &[u8]) -> Result<()> {
    let mut stream = swarm::open(address).await?;
    stream.write_all(bytes).await?;
    stream.close().await?;
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await?;
    println!("{}", back.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    Ok(())
}

/// Writes into a stream and drops it.
async fn reset(address: Multiaddr, bytes: &[u8]) -> Result<()> {
    let mut stream = swarm::open(address).await?;
    // The server has then taken the stream.
    stream.read_exact(&mut [0]).await?;
    stream.write_all(bytes).await?;
    stream.flush().await?;
    drop(stream);
    println!("reset");
    Ok(())
}
