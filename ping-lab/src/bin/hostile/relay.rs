//! Relays that do not keep to the protocol (circuit v2 of the libp2p specifications).

use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, multiaddr::Protocol, swarm::SwarmEvent};
use tokio::time::sleep;

use crate::{
    encode::{field, varint},
    swarm::{end_of_input, new_swarm},
};

const HOP: StreamProtocol = StreamProtocol::new("/libp2p/circuit/relay/0.2.0/hop");

const STOP: StreamProtocol = StreamProtocol::new("/libp2p/circuit/relay/0.2.0/stop");

/// The types of messages to a relay, and from it to a server.
const RESERVE: u8 = 0;
const STATUS: u8 = 2;
const STOP_CONNECT: u8 = 0;

/// The status of what is done.
const OK: usize = 100;

/// How many strangers call a server.
const STRANGERS: usize = 1000;

/// Holds a relay of this kind, which prints its address, and when it gives each place, in milliseconds, until its
/// standard input ends:
///
/// - `past` gives places that have ended long ago.
/// - `take-back` gives a place and closes the connection.
/// - `garbage` answers with what is no message.
/// - `strangers` gives a place, and lets a thousand peers call at once who say what is no handshake.
/// - `swap` gives a place, and talks to clients itself.
pub(crate) async fn serve(kind: &str) -> Result<()> {
    if !["past", "take-back", "garbage", "strangers", "swap"].contains(&kind) {
        bail!("there is no such kind of relay: {kind}");
    }
    let mut swarm = new_swarm()?;
    let mut control = swarm.behaviour().new_control();
    let mut asked = control.accept(HOP)?;
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
    let me = *swarm.local_peer_id();
    let (closing, mut closed) = tokio::sync::mpsc::unbounded_channel();
    let answers = async {
        while let Some((peer, stream)) = asked.next().await {
            let (kind, control, closing) = (kind.to_owned(), control.clone(), closing.clone());
            tokio::spawn(async move {
                // The peer may have gone.
                let _ = answer(stream, &kind, (peer, control)).await;
                if kind == "take-back" {
                    let _ = closing.send(peer);
                }
            });
        }
    };
    let run = async {
        loop {
            tokio::select! {
                event = swarm.select_next_some() => if let SwarmEvent::NewListenAddr { address, .. } = event {
                    println!("{}", address.with(Protocol::P2p(me)));
                },
                Some(peer) = closed.recv() => drop(swarm.disconnect_peer_id(peer)),
            }
        }
    };
    tokio::select! {
        () = answers => Ok(()),
        () = run => Ok(()),
        ended = end_of_input() => ended,
    }
}

async fn answer(mut stream: Stream, kind: &str, (peer, control): (PeerId, libp2p_stream::Control)) -> Result<()> {
    // The length, which is below 128, and the type. A call has more behind it.
    let mut request = [0; 3];
    stream.read_exact(&mut request).await?;
    let is_reservation = request[1..3] == [0x08, RESERVE];
    if kind == "garbage" {
        stream.write_all(&[0xff; 64 * 1024]).await?;
        return Ok(stream.close().await?);
    }
    if !is_reservation {
        println!("called");
        stream.write_all(&message(&[vec![0x08, STATUS], number(5, OK)])).await?;
        stream.write_all(&[0x2a; 64 * 1024]).await?;
        return Ok(stream.close().await?);
    }
    let now = SystemTime::UNIX_EPOCH.elapsed()?;
    let expiry = if kind == "past" { Duration::from_secs(1) } else { now + Duration::from_secs(3600) };
    let addresses: Vec<Multiaddr> = vec!["/ip4/192.168.0.1/tcp/22".parse()?, "/ip4/10.0.0.1/tcp/80".parse()?];
    let addresses = addresses.iter().flat_map(|address| field(2, &address.to_vec())).collect();
    let reservation = [number(1, usize::try_from(expiry.as_secs())?), addresses].concat();
    stream.write_all(&message(&[vec![0x08, STATUS], field(3, &reservation), number(5, OK)])).await?;
    stream.close().await?;
    println!("reserved {}", now.as_millis());
    if kind == "strangers" {
        let calls = (0..STRANGERS).map(|_| call(peer, control.clone()));
        let outcomes = futures::future::join_all(calls).await;
        println!("{} strangers called", outcomes.iter().filter(|outcome| outcome.is_ok()).count());
    } else if kind == "take-back" {
        // The answer arrives before the end of the connection.
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Lets a stranger call who says what is no handshake.
async fn call(server: PeerId, mut control: libp2p_stream::Control) -> Result<()> {
    let mut stream = control.open_stream(server, STOP).await?;
    let caller = field(1, &PeerId::random().to_bytes());
    stream.write_all(&message(&[vec![0x08, STOP_CONNECT], field(2, &caller)])).await?;
    stream.write_all(&[0x2a; 4096]).await?;
    stream.flush().await?;
    // Until the server has had enough.
    let _ = stream.read_to_end(&mut Vec::new()).await;
    Ok(())
}

fn message(fields: &[Vec<u8>]) -> Vec<u8> {
    let fields = fields.concat();
    [varint(fields.len()), fields].concat()
}

/// A field of protobuf that is a number.
fn number(field: usize, value: usize) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}
