//! QUIC without libp2p's transport around it.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use futures::future::try_join_all;
use libp2p::{identity::Keypair, tls};
use quinn::{
    ClientConfig, Endpoint, ServerConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};

use tokio::time::interval;

use crate::swarm::end_of_input;

/// Accepts connections, and closes each with these words when the client opens its second stream.
pub(crate) async fn say_goodbye(words: &'static str) -> Result<()> {
    let key = Keypair::generate_ed25519();
    let crypto = QuicServerConfig::try_from(tls::make_server_config(&key)?)?;
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let endpoint = Endpoint::server(ServerConfig::with_crypto(Arc::new(crypto)), any_port)?;
    let port = endpoint.local_addr()?.port();
    println!("/ip4/127.0.0.1/udp/{port}/quic-v1/p2p/{}", key.public().to_peer_id());
    let accept = async {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move {
                let connection = incoming.await?;
                let _streams = (connection.accept_bi().await?, connection.accept_bi().await?);
                connection.close(0_u32.into(), words.as_bytes());
                anyhow::Ok(())
            });
        }
    };
    tokio::select! {
        () = accept => Ok(()),
        ended = end_of_input() => ended,
    }
}

/// How many first packets are sent, each again and again.
const PACKETS: usize = 800;

/// How many of this machine's addresses send them.
const SENDERS: u8 = 32;

/// The time between two packets: 200 a second, of which each would hold a place for five seconds.
const PAUSE: Duration = Duration::from_millis(5);

/// Sends first packets of connections that nobody goes on with, from many addresses, until standard input ends. Prints
/// a line when each was sent once.
pub(crate) async fn initials(server: SocketAddr) -> Result<()> {
    let packets = first_packets().await?;
    let sockets = (0..SENDERS).map(|number| UdpSocket::bind(SocketAddr::from(([127, 0, 1, number], 0))));
    let sockets = sockets.collect::<Result<Vec<_>, _>>()?;
    let send = async {
        let mut pause = interval(PAUSE);
        for number in 0_usize.. {
            pause.tick().await;
            // The kernel drops what a busy server does not read.
            let _ = sockets[number % sockets.len()].send_to(&packets[number % PACKETS], server);
            if number == PACKETS {
                println!("sent");
            }
        }
        Ok(())
    };
    tokio::select! {
        sent = send => sent,
        ended = end_of_input() => ended,
    }
}

/// How many connections open and reset streams.
const RESETTERS: usize = 8;

/// Opens streams and resets them at once, on several connections, without end. Prints a line when the first is open.
pub(crate) async fn resets(server: SocketAddr) -> Result<()> {
    let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into())?;
    let crypto = QuicClientConfig::try_from(tls::make_client_config(&Keypair::generate_ed25519(), None)?)?;
    let config = ClientConfig::new(Arc::new(crypto));
    let resetters = (0..RESETTERS).map(|_| async {
        loop {
            let connection = endpoint.connect_with(config.clone(), server, "l")?.await?;
            // Until the server closes it.
            while let Ok((mut send, mut receive)) = connection.open_bi().await {
                let _ = send.write(b"\x13").await;
                let _ = (send.reset(0_u32.into()), receive.stop(0_u32.into()));
            }
        }
    });
    println!("sent");
    try_join_all::<_>(resetters).await.map(|_: Vec<()>| ())
}

/// The first packets of as many connections, caught on their way to nobody.
async fn first_packets() -> Result<Vec<Vec<u8>>> {
    let sink = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
    let nobody = sink.local_addr()?;
    let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into())?;
    let crypto = QuicClientConfig::try_from(tls::make_client_config(&Keypair::generate_ed25519(), None)?)?;
    let config = ClientConfig::new(Arc::new(crypto));
    let mut packets = Vec::new();
    let mut buffer = [0; 2048];
    while packets.len() < PACKETS {
        // Dropping it ends the attempt, with a packet that follows the first and is ignored.
        let connecting = endpoint.connect_with(config.clone(), nobody, "l")?;
        let length = sink.recv(&mut buffer).await?;
        // The first packets are filled up to 1,200 bytes.
        if length >= 1200 {
            packets.push(buffer[..length].to_vec());
        }
        drop(connecting);
    }
    Ok(packets)
}
