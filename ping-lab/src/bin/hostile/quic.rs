//! QUIC without libp2p's transport around it.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Result;
use libp2p::{identity::Keypair, tls};
use quinn::{Endpoint, ServerConfig, crypto::rustls::QuicServerConfig};

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
