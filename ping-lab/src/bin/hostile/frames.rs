//! Frames of yamux that no library sends, without end.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, bail};
use futures::{AsyncWriteExt, future::join_all};
use libp2p::Multiaddr;
use tokio::time::sleep;

use crate::raw::{Wire, secure, socket};

/// The types of frames.
const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 1;
const PING: u8 = 2;

/// Flags of frames.
const SYN: u8 = 1;
const RST: u8 = 8;

/// The longest frame that yamux reads.
const LONGEST: u32 = 1024 * 1024;

/// How many connections send.
const CONNECTIONS: usize = 8;

/// The pause between two thousand frames of a connection.
const PAUSE: Duration = Duration::from_millis(10);

/// How many thousands each connection sends until that is reported.
const MANY: u32 = 100;

/// Sends frames of this kind on several connections, without end. Prints a line when each has sent many, or was closed
/// by the server.
pub(crate) async fn frames(address: Multiaddr, kind: &str) -> Result<()> {
    let socket = socket(&address)?;
    // Shows that the address and the kind are right.
    send(&mut secure(socket).await?, kind, 0).await?;
    let first = (0..CONNECTIONS).map(|_| send_all(socket, kind, MANY));
    let kept: Vec<_> = join_all(first).await;
    println!("sent");
    if kind == "long" {
        std::future::pending::<()>().await;
    }
    let senders = (0..CONNECTIONS).map(|_| async {
        loop {
            // The server may close it.
            let _: Result<Wire> = send_all(socket, kind, u32::MAX).await;
            sleep(PAUSE).await;
        }
    });
    join_all(senders).await;
    drop(kept);
    Ok(())
}

/// Sends this many thousand frames on one connection, unless the server closes it.
async fn send_all(socket: SocketAddr, kind: &str, thousands: u32) -> Result<Wire> {
    let mut wire = secure(socket).await?;
    for thousand in 0..thousands {
        send(&mut wire, kind, thousand).await?;
        if kind == "long" {
            // It never ends.
            break;
        }
        sleep(PAUSE).await;
    }
    Ok(wire)
}

/// Sends some frames, of the numbered thousand.
async fn send(wire: &mut Wire, kind: &str, thousand: u32) -> Result<()> {
    let ids = (0..1000).map(|number| (1000 * thousand + number).wrapping_mul(2) | 1);
    let bytes: Vec<u8> = match kind {
        "reset" => ids.flat_map(|id| [frame(DATA, SYN | RST, id, 0), frame(WINDOW_UPDATE, SYN | RST, id, 0)]).collect(),
        "open-and-reset" => ids.flat_map(|id| [frame(WINDOW_UPDATE, SYN, id, 0), frame(DATA, RST, id, 0)]).collect(),
        "open" => ids.map(|id| frame(WINDOW_UPDATE, SYN, id, 0)).collect(),
        "ping" => ids.map(|id| frame(PING, SYN, 0, id)).collect(),
        "window" => ids.map(|id| frame(WINDOW_UPDATE, SYN, id, u32::MAX)).take(1).collect(),
        "long" => vec![frame(DATA, 0, 99, LONGEST)],
        "garbage" => ids.map(|id| frame(7, 0xff, id, id)).collect(),
        other => bail!("there is no kind {other}"),
    }
    .concat();
    wire.write_all(&bytes).await?;
    if kind == "long" {
        // All of it but the last byte.
        wire.write_all(&vec![7; LONGEST as usize - 1]).await?;
    }
    Ok(wire.flush().await?)
}

fn frame(kind: u8, flags: u8, id: u32, length: u32) -> Vec<u8> {
    [&[0, kind, 0, flags][..], &id.to_be_bytes(), &length.to_be_bytes()].concat()
}
