//! Connections and streams that are many, silent, or full.

use std::{io, time::Duration};

use anyhow::{Result, bail};
use futures::{
    AsyncReadExt, AsyncWriteExt,
    future::{join_all, try_join, try_join_all},
};
use libp2p::{Multiaddr, Stream, multiaddr::Protocol};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{interval, timeout},
};

use crate::swarm::{MESSAGING, come_and_go, connect, end_of_input, open};

/// How long a stream must not take a byte to count as blocked. A server on a slow machine may pause as well.
const BLOCKED: Duration = Duration::from_secs(5);

/// More than any connection takes streams.
const MANY: usize = 600;

/// The length of the server's first frame, and that of a pong, in bytes.
const WELCOME: usize = 13;
const PONG: usize = 21;

/// How many bytes of a payload go into one frame.
const PART: usize = 16 * 1024;

/// How long a connection may take to come and go.
const STUCK: Duration = Duration::from_secs(30);

/// Writes into many streams and reads from none.
pub(crate) async fn mute(address: Multiaddr, count: usize) -> Result<()> {
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(open(address.clone()).await?);
    }
    let taken = join_all(streams.iter_mut().map(flood)).await;
    println!("{}", taken.into_iter().sum::<Result<usize>>()?);
    end_of_input().await
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

/// Sends large requests that do not end on many connections, until none takes any more.
pub(crate) async fn hoard(address: Multiaddr, connections: usize) -> Result<()> {
    let hoards = try_join_all((0..connections).map(|_| hoard_on_one(address.clone()))).await?;
    println!("{}", hoards.iter().map(|(taken, _)| taken).sum::<usize>());
    end_of_input().await
}

/// The same on one connection. Returns how many bytes it took, and the streams, which are to be held.
async fn hoard_on_one(address: Multiaddr) -> Result<(usize, Vec<Stream>)> {
    let part = vec![0x41; 64 * 1024];
    let (mut control, _, peer) = connect(address).await?;
    let (mut taken, mut held) = (0, Vec::new());
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
    Ok((taken, held))
}

/// Pings once a second on each of many connections, the first time with this many bytes of payload.
pub(crate) async fn crowd(address: Multiaddr, count: usize, payload: usize) -> Result<()> {
    let mut members = JoinSet::new();
    for _ in 0..count {
        let mut stream = open(address.clone()).await?;
        stream.read_exact(&mut [0; WELCOME]).await?;
        echo(&mut stream, payload).await?;
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
        ended = end_of_input() => ended,
    }
}

/// Sends a payload of this many bytes in parts, and reads it back, and the pong.
async fn echo(stream: &mut Stream, payload: usize) -> Result<()> {
    let part = [&[0, 0, 0x40, 9, 3, 0, 0, 0, 0, 0, 0, 0, 0][..], &[7; PART]].concat();
    let (mut from, mut to) = stream.split();
    let send = async {
        for _ in 0..payload / PART {
            to.write_all(&part).await?;
        }
        to.write_all(&[0, 0, 0, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0]).await?;
        to.flush().await
    };
    let mut back = vec![0; payload / PART * part.len() + PONG];
    try_join(send, from.read_exact(&mut back)).await?;
    Ok(())
}

/// Connects and disconnects this often.
pub(crate) async fn churn(address: Multiaddr, count: usize) -> Result<()> {
    for _ in 0..count {
        // The connection ends with its swarm, which is let go with the stream.
        timeout(STUCK, come_and_go(address.clone())).await??;
    }
    println!("done");
    Ok(())
}

/// Makes TCP connections that say nothing.
pub(crate) async fn connects(address: Multiaddr, count: usize) -> Result<()> {
    let socket = address.iter().collect::<Vec<_>>();
    let [Protocol::Ip4(ip), Protocol::Tcp(port), ..] = socket[..] else { bail!("not an IPv4 TCP address") };
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(TcpStream::connect((ip, port)).await?);
    }
    println!("connected");
    end_of_input().await
}
