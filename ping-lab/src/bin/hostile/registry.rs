//! Records for Kameo's registry that do not belong there.

use anyhow::Result;
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{Multiaddr, PeerId};
use tokio::time::timeout;

use crate::{
    encode::{add_provider, field, find_node, kademlia, put_value},
    messages::ANSWER_TIMEOUT,
    swarm::{REGISTRY, connect, server_of},
};

/// Sends records and providers that are malformed, not the sender's, or many.
pub(crate) async fn records(address: Multiaddr, count: usize) -> Result<()> {
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

/// Sends messages without waiting for answers, each on a stream of its own. The server may reset some of them.
pub(crate) async fn send_all(address: Multiaddr, messages: impl Fn(&PeerId) -> Vec<Vec<u8>>) -> Result<()> {
    let (mut control, ours, peer) = connect(address).await?;
    for message in messages(&ours) {
        let mut stream = control.open_stream(peer, REGISTRY).await?;
        if stream.write_all(&message).await.is_ok() {
            let _ = stream.close().await;
        }
    }
    // What went before it on the connection has been read when this question is answered, or reset.
    let mut last = control.open_stream(peer, REGISTRY).await?;
    if last.write_all(&find_node(&ours)).await.is_ok() {
        let _ = timeout(ANSWER_TIMEOUT, last.read(&mut [0])).await;
    }
    Ok(())
}
