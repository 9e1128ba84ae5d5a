//! Connections and streams, each with a new identity.

use std::{
    io::{self, Read},
    time::Duration,
};

use anyhow::{Context, Result};
use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm, SwarmBuilder, multiaddr::Protocol, noise, swarm::SwarmEvent, tcp,
    yamux,
};

pub(crate) const STREAM: StreamProtocol = StreamProtocol::new("/kameo-ping/stream/1");

pub(crate) const MESSAGING: StreamProtocol = StreamProtocol::new("/kameo/messaging/1.0.0");

pub(crate) const REGISTRY: StreamProtocol = StreamProtocol::new("/kameo/registry/1.0.0");

pub(crate) const KEEP_ALIVE: StreamProtocol = StreamProtocol::new("/ipfs/ping/1.0.0");

pub(crate) async fn open(address: Multiaddr) -> Result<Stream> {
    open_on(address, STREAM).await
}

/// Connects with a new identity and opens a stream. The connection lives as long as the process does.
pub(crate) async fn open_on(address: Multiaddr, protocol: StreamProtocol) -> Result<Stream> {
    let (mut control, _, peer) = connect(address).await?;
    Ok(control.open_stream(peer, protocol).await?)
}

/// Connects with a new identity, and disconnects.
pub(crate) async fn come_and_go(address: Multiaddr) -> Result<()> {
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
pub(crate) fn new_swarm() -> Result<Swarm<libp2p_stream::Behaviour>> {
    Ok(SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)?
        .with_quic()
        .with_behaviour(|_| libp2p_stream::Behaviour::new())?
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(3600)))
        .build())
}

/// Connects with a new identity; returns it with that of the server.
pub(crate) async fn connect(address: Multiaddr) -> Result<(libp2p_stream::Control, PeerId, PeerId)> {
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
pub(crate) fn server_of(address: &Multiaddr) -> Result<PeerId> {
    let peer = address.iter().find_map(|part| if let Protocol::P2p(peer) = part { Some(peer) } else { None });
    peer.context("the address has no /p2p/ part")
}

/// Waits for the end of standard input.
pub(crate) async fn end_of_input() -> Result<()> {
    tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new())).await??;
    Ok(())
}
