//! What two nodes tell each other through a relay, to connect without it.
//!
//! A router lets in what answers a packet that left. So both sides send a packet to the other at the same time, from
//! the port at which a relay sees them. The server, which was reached through the relay, proposes it; the client
//! answers; the server says when. Then the client dials, and the server opens its router's way for it (libp2p's DCUtR,
//! <https://github.com/libp2p/specs/blob/master/relay/DCUtR.md>).

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::{Multiaddr, StreamProtocol};
use prost::Message;
use tokio::time::{sleep, timeout};

use super::mapping_behaviour::MappingBehaviour;
use crate::{cluster::is_global, transport::endpoint, wire};

/// The protocol of this exchange.
pub(crate) const PROTOCOL: StreamProtocol = StreamProtocol::new("/libp2p/dcutr");

/// The size of the largest message, in bytes: what the specification says.
const MAX_MESSAGE_SIZE: usize = 4096;

/// How many addresses each side may name, so that no peer can make a node dial many others.
const MAX_ADDRESSES: usize = 8;

/// How long the exchange may take: two round trips of 3.2 s, and some more.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(9);

#[derive(Clone, PartialEq, Message)]
struct HolePunch {
    #[prost(enumeration = "Kind", required, tag = "1")]
    kind: i32,
    #[prost(bytes = "vec", repeated, tag = "2")]
    addresses: Vec<Vec<u8>>,
    /// Not part of the specification; peers that do not know it ignore it.
    #[prost(enumeration = "MappingBehaviour", optional, tag = "1000")]
    mapping: Option<i32>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, prost::Enumeration)]
#[repr(i32)]
enum Kind {
    Connect = 100,
    Sync = 300,
}

/// What each side tells the other.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Offer {
    /// Where it may be reached.
    pub(crate) addresses: Vec<Multiaddr>,
    /// How its router maps its connections.
    pub(crate) mapping: MappingBehaviour,
}

/// Proposes to connect directly. Returns where the other side is reached, when it is time to open the way there.
///
/// # Errors
///
/// When the other side does not want to, or does not speak the protocol.
pub(crate) async fn propose(mut stream: impl AsyncRead + AsyncWrite + Unpin, own: Offer) -> io::Result<Offer> {
    let exchange = async {
        send(&mut stream, Kind::Connect, Some(own)).await?;
        let sent = Instant::now();
        let theirs = receive(&mut stream, Kind::Connect).await?;
        let round_trip = sent.elapsed();
        send(&mut stream, Kind::Sync, None).await?;
        // When the other side has this.
        sleep(round_trip / 2).await;
        Ok(theirs)
    };
    timeout(EXCHANGE_TIMEOUT, exchange).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Answers such a proposal. Returns where the other side is reached, when it is time to dial it.
///
/// # Errors
///
/// When the other side says something else.
pub(crate) async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, own: Offer) -> io::Result<Offer> {
    let exchange = async {
        let theirs = receive(&mut stream, Kind::Connect).await?;
        send(&mut stream, Kind::Connect, Some(own)).await?;
        receive(&mut stream, Kind::Sync).await?;
        Ok(theirs)
    };
    timeout(EXCHANGE_TIMEOUT, exchange).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Those of these addresses that a node may dial because a peer says so: of the Internet, or of a network that this
/// machine is in itself, `is_neighbour`.
pub(crate) fn dialable(addresses: Vec<Multiaddr>, is_neighbour: impl Fn(IpAddr) -> bool) -> Vec<Multiaddr> {
    let may_dial = |address: &Multiaddr| {
        endpoint(address).is_some_and(|(ip, port, transport)| {
            // No router that drops packets lets WebSocket in.
            transport.is_usual()
                && port != 0
                && (is_global(ip) || (!ip.is_loopback() && !ip.is_multicast() && is_neighbour(ip)))
        })
    };
    let distinct: BTreeSet<_> = addresses.into_iter().filter(may_dial).collect();
    distinct.into_iter().take(MAX_ADDRESSES).collect()
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), kind: Kind, own: Option<Offer>) -> io::Result<()> {
    let mapping = own.as_ref().map(|own| own.mapping.into());
    let addresses = own.into_iter().flat_map(|own| own.addresses).take(MAX_ADDRESSES);
    let addresses = addresses.map(|address| address.to_vec()).collect();
    wire::send(stream, &HolePunch { kind: kind.into(), addresses, mapping }).await
}

/// Reads a message of this kind, and what it tells.
async fn receive(stream: &mut (impl AsyncRead + Unpin), kind: Kind) -> io::Result<Offer> {
    let message: HolePunch = wire::receive(stream, MAX_MESSAGE_SIZE).await?;
    if message.kind != i32::from(kind) {
        return Err(wire::invalid("the message is of another kind"));
    }
    let mapping = message
        .mapping
        .and_then(|mapping| MappingBehaviour::try_from(mapping).ok())
        .unwrap_or(MappingBehaviour::Unknown);
    let addresses = message.addresses.into_iter().filter_map(|bytes| Multiaddr::try_from(bytes).ok()).collect();
    Ok(Offer { addresses, mapping })
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[tokio::test]
    async fn each_side_learns_where_the_other_is_reached() {
        let (server, client) = tokio::io::duplex(1024);
        let servers = Offer {
            addresses: addresses(&["/ip4/198.51.100.1/tcp/1", "/ip4/198.51.100.1/udp/1/quic-v1"]),
            mapping: MappingBehaviour::PortPerPeer,
        };
        let clients = Offer { addresses: addresses(&["/ip6/2001:db8::2/tcp/2"]), mapping: MappingBehaviour::OnePort };
        let (proposed, answered) =
            tokio::join!(propose(server.compat(), servers.clone()), answer(client.compat(), clients.clone()));
        assert_eq!((proposed.unwrap(), answered.unwrap()), (clients, servers));
    }

    #[tokio::test]
    async fn a_peer_that_does_not_tell_how_its_router_maps_is_understood() {
        let connect = |mapping| HolePunch { kind: Kind::Connect.into(), addresses: Vec::new(), mapping };
        for mapping in [None, Some(77)] {
            let bytes = connect(mapping).encode_length_delimited_to_vec();
            let offer = receive(&mut Cursor::new(bytes), Kind::Connect).await.unwrap();
            assert_eq!(offer, Offer { addresses: Vec::new(), mapping: MappingBehaviour::Unknown });
        }
    }

    #[tokio::test]
    async fn what_is_no_proposal_is_an_error() {
        let sync = HolePunch { kind: Kind::Sync.into(), addresses: Vec::new(), mapping: None };
        let sync = sync.encode_length_delimited_to_vec();
        for bytes in [&[][..], &[3, 1], &[0xff, 0xff, 1], &[2, 0xff, 0xff], &sync] {
            assert!(receive(&mut Cursor::new(bytes), Kind::Connect).await.is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_peer_cannot_make_a_node_dial_hosts_that_are_none_of_its_business() {
        let bad = addresses(&[
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/10.1.2.3/tcp/1",
            "/ip4/224.0.0.1/udp/1/quic-v1",
            "/ip6/::1/tcp/1",
            "/ip4/198.51.100.1/tcp/0",
            "/ip4/198.51.100.1/tcp/1/ws",
            "/dns4/example.com/tcp/1",
        ]);
        assert_eq!(dialable(bad.clone(), |_| false), []);
        let neighbours = dialable(bad, |ip| ip.to_string().starts_with("10.") || ip.is_loopback());
        assert_eq!(neighbours, addresses(&["/ip4/10.1.2.3/tcp/1"]));
        let many = (1..50).map(|port| format!("/ip4/198.51.100.1/tcp/{port}").parse().unwrap()).collect();
        assert_eq!(dialable(many, |_| false).len(), MAX_ADDRESSES);
    }
}
