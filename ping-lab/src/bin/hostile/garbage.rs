//! What is not libp2p: programs that took the port for another one, and bytes without sense.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use futures::future::join_all;
use libp2p::{Multiaddr, multiaddr::Protocol};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UdpSocket},
    time::{interval, timeout},
};

use crate::raw::socket;

/// How many connections send at once.
const CONNECTIONS: usize = 64;

/// How long one goes on.
const PATIENCE: Duration = Duration::from_secs(1);

/// The time between two packets.
const PAUSE: Duration = Duration::from_millis(1);

/// What is sent, each on a connection of its own, or in a packet.
const TEXTS: [&[u8]; 8] = [
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    // The beginning of TLS.
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    // A length that does not end, one of nothing, and one that is too long for what follows.
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    &[0; 1200],
    b"\x13/multistream/1.0.0\n\x03ls\n",
    // The head of a QUIC packet of a version that there is not, filled up to the shortest first packet.
    &{
        let mut packet = [0; 1200];
        (packet[0], packet[1], packet[5]) = (0xc0, 0x7a, 8);
        packet
    },
    &[0xff; 1200],
];

/// Sends all texts again and again. Prints a line when each was sent once.
pub(crate) async fn garbage(address: Multiaddr) -> Result<()> {
    let socket = socket(&address)?;
    if address.iter().any(|part| part == Protocol::QuicV1) {
        return packets(socket).await;
    }
    for text in TEXTS {
        TcpStream::connect(socket).await?.write_all(text).await?;
    }
    println!("sent");
    let senders = (0..CONNECTIONS).map(|number| async move {
        loop {
            // The server may close it.
            let _: Result<(), _> =
                timeout(PATIENCE, repeat(socket, TEXTS[number % TEXTS.len()])).await.unwrap_or(Ok(()));
        }
    });
    join_all(senders).await;
    Ok(())
}

async fn repeat(server: SocketAddr, text: &[u8]) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(server).await?;
    loop {
        stream.write_all(text).await?;
    }
}

async fn packets(server: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).await?;
    let mut pause = interval(PAUSE);
    for number in 0_usize.. {
        pause.tick().await;
        // The kernel drops what a busy server does not read.
        let _ = socket.send_to(TEXTS[number % TEXTS.len()], server).await;
        if number == TEXTS.len() {
            println!("sent");
        }
    }
    Ok(())
}
