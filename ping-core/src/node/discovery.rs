//! mDNS, over IPv4 and IPv6, with an announcement that every receiver can read.
//!
//! libp2p's mDNS announces every address of a machine in packets that may be longer than the 4,096 bytes that it reads.
//! So it learns of the best twenty alone: none of loopback or of a single link, which lead nobody here, and none of
//! QUIC where TCP listens at the same address and port; who finds that tries both.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{
        Endpoint,
        transport::{ListenerId, PortUse},
    },
    mdns,
    swarm::{
        ConnectionDenied, ConnectionId, ExpiredListenAddr, FromSwarm, NetworkBehaviour, NewListenAddr, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
    },
};
use socket2::{Domain, Socket, Type};

use crate::transport::{Interfaces, Transport, endpoint};

/// How many addresses are announced. Each takes some 170 bytes.
const MAX_ANNOUNCED: usize = 20;

/// The UDP port of mDNS (RFC 6762).
pub(super) const MDNS_PORT: u16 = 5353;

/// mDNS over both versions of IP.
pub(super) struct Discovery {
    by_ip: [mdns::tokio::Behaviour; 2],
    /// Every address that the node listens on.
    listening: Vec<(ListenerId, Multiaddr)>,
    announced: Vec<(ListenerId, Multiaddr)>,
}

impl Discovery {
    /// # Errors
    ///
    /// When the system does not let this process watch the network interfaces.
    pub(super) fn new(peer: PeerId) -> io::Result<Self> {
        let of = |enable_ipv6| mdns::tokio::Behaviour::new(mdns::Config { enable_ipv6, ..Default::default() }, peer);
        Ok(Self { by_ip: [of(false)?, of(true)?], listening: Vec::new(), announced: Vec::new() })
    }

    /// Forgets what was announced once more than `limit` peers have. They are found again if they are there.
    pub(super) fn limit(&mut self, limit: usize) {
        for mdns in self.by_ip.iter_mut().filter(|mdns| mdns.discovered_nodes().len() > limit) {
            let peers: Vec<PeerId> = mdns.discovered_nodes().copied().collect();
            #[allow(deprecated, reason = "there is no other way, and it works")]
            peers.iter().for_each(|peer| mdns.expire_node(peer));
        }
    }

    /// Announces what should be announced now.
    fn update(&mut self) {
        let wanted = announcement(&self.listening);
        let new: Vec<_> = wanted.iter().filter(|known| !self.announced.contains(known)).collect();
        for mdns in &mut self.by_ip {
            for (listener_id, addr) in self.announced.iter().filter(|known| !wanted.contains(known)) {
                let listener_id = *listener_id;
                mdns.on_swarm_event(FromSwarm::ExpiredListenAddr(ExpiredListenAddr { listener_id, addr }));
            }
            for (listener_id, addr) in &new {
                let listener_id = *listener_id;
                mdns.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr { listener_id, addr }));
            }
        }
        self.announced = wanted;
    }
}

/// Whether mDNS cannot work here, because another program has its port for itself.
pub fn is_mdns_port_taken() -> bool {
    let bind = || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(socket2::Protocol::UDP))?;
        // As libp2p's mDNS does: it shares the port with all who share it, too.
        socket.set_reuse_address(true)?;
        #[cfg(unix)]
        socket.set_reuse_port(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, MDNS_PORT)).into())
    };
    bind().is_err_and(|error: io::Error| error.kind() == io::ErrorKind::AddrInUse)
}

/// The addresses of these that are announced.
fn announcement(listening: &[(ListenerId, Multiaddr)]) -> Vec<(ListenerId, Multiaddr)> {
    let has_tcp = |ip, port| listening.iter().any(|(_, it)| endpoint(it) == Some((ip, port, Transport::Tcp)));
    let leads_here = |address: &Multiaddr| match endpoint(address) {
        Some((ip, port, Transport::Quic)) if has_tcp(ip, port) => false,
        Some((IpAddr::V6(ip), ..)) => !ip.is_loopback() && !ip.is_unicast_link_local(),
        Some((ip, ..)) => !ip.is_loopback(),
        None => false,
    };
    let mut wanted: Vec<_> = listening.iter().filter(|(_, address)| leads_here(address)).cloned().collect();
    if wanted.len() > MAX_ANNOUNCED {
        let interfaces = Interfaces::now();
        wanted.sort_by_key(|(_, address)| endpoint(address).map(|(ip, ..)| interfaces.rank(ip)));
        wanted.truncate(MAX_ANNOUNCED);
    }
    wanted
}

impl NetworkBehaviour for Discovery {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = mdns::Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::NewListenAddr(NewListenAddr { listener_id, addr }) => {
                self.listening.push((listener_id, addr.clone()));
                self.update();
            }
            FromSwarm::ExpiredListenAddr(ExpiredListenAddr { listener_id, addr }) => {
                self.listening.retain(|(id, known)| *id != listener_id || known != addr);
                self.update();
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<mdns::Event, THandlerInEvent<Self>>> {
        for mdns in &mut self.by_ip {
            if let Poll::Ready(action) = mdns.poll(context) {
                return Poll::Ready(action);
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_fits_into_what_is_read_and_has_no_useless_address() {
        let id = ListenerId::next();
        let listening = |addresses: &[&str]| -> Vec<_> {
            addresses.iter().map(|text| (id, text.parse::<Multiaddr>().unwrap())).collect()
        };
        let announced = |listening: &[(ListenerId, Multiaddr)]| -> Vec<String> {
            announcement(listening).iter().map(|(_, address)| address.to_string()).collect()
        };
        let some = listening(&[
            "/ip4/127.0.0.1/tcp/1",
            "/ip4/192.0.2.1/udp/1/quic-v1",
            "/ip4/192.0.2.1/tcp/1",
            "/ip4/192.0.2.1/udp/2/quic-v1",
            "/ip6/::1/tcp/1",
            "/ip6/fe80::1/tcp/1",
            "/ip6/fd00::1/tcp/1",
        ]);
        assert_eq!(announced(&some), ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.1/udp/2/quic-v1", "/ip6/fd00::1/tcp/1"]);
        let many: Vec<_> = (0..100).map(|n| format!("/ip4/192.0.2.{n}/tcp/1")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(announced(&listening(&many)).len(), MAX_ANNOUNCED);
    }
}
