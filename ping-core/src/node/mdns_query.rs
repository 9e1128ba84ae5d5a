//! One mDNS question more: who of libp2p's nodes is on this network?
//!
//! libp2p's mDNS asks ever more rarely, and after the first answer once in five minutes. Who waits for a server that is
//! about to start, or whose address has changed, asks again. All on the network hear the answers, so libp2p's mDNS
//! reads them.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
};

use super::discovery::MDNS_PORT;

/// One question for `_p2p._udp.local`, type PTR, class IN (RFC 6762, section 18; libp2p's mDNS discovery).
const QUESTION: &[u8] = b"\0\0\0\0\0\x01\0\0\0\0\0\0\x04_p2p\x04_udp\x05local\0\0\x0c\0\x01";

const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

/// Asks on every network of this machine. The answers arrive as [`Event::Discovered`](super::Event::Discovered) of a
/// node with [`Options::mdns`](super::Options::mdns), unless it knows them.
pub fn ask_mdns() {
    let mut asked = BTreeSet::new();
    for interface in if_addrs::get_if_addrs().unwrap_or_default() {
        if interface.is_loopback() {
            continue;
        }
        let (from, group) = match interface.ip() {
            IpAddr::V4(ip) => (SocketAddr::from((ip, 0)), SocketAddr::from((GROUP_V4, MDNS_PORT))),
            IpAddr::V6(_) => {
                let scope = interface.index.unwrap_or(0);
                let group = SocketAddrV6::new(GROUP_V6, MDNS_PORT, 0, scope);
                (SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)), group.into())
            }
        };
        if asked.insert((from, group))
            && let Err(error) = ask(from, group)
        {
            tracing::debug!(%error, interface = interface.name, "cannot ask by mDNS");
        }
    }
}

fn ask(from: SocketAddr, group: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(from)?;
    socket.set_nonblocking(true)?;
    socket.send_to(QUESTION, group).map(drop)
}
