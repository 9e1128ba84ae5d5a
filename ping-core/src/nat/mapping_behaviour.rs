//! Whether a router uses another port for each peer, from where peers see a host behind it.
//!
//! RFC 4787 (section 4.1) calls that an address and port-dependent mapping, and others a symmetric router. Nobody
//! learns from the others at which port it lets them in.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use libp2p::Multiaddr;

use crate::{
    cluster::is_global,
    transport::{Transport, endpoint},
};

/// What is known of how a router maps the connections of one host.
#[derive(Clone, Copy, Debug, Eq, PartialEq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum MappingBehaviour {
    /// Not enough peers say where they see the host.
    Unknown = 0,
    /// Several peers see it at the same port.
    OnePort = 1,
    /// They see it at different ports.
    PortPerPeer = 2,
}

impl MappingBehaviour {
    /// From where peers see the host, each address once for each peer that sees it. The connections of each transport
    /// must all have left from one local port.
    pub(crate) fn of(seen: impl IntoIterator<Item = Multiaddr>) -> Self {
        let mut ports = HashMap::<(IpAddr, Transport), (BTreeSet<u16>, usize)>::new();
        // A host of a local network is seen by itself and its neighbours alone, and IPv6 is not mapped.
        for (ip, port, transport) in seen.into_iter().filter_map(|address| endpoint(&address)) {
            if is_global(ip) && ip.is_ipv4() {
                let (ports, peers) = ports.entry((ip, transport)).or_default();
                ports.insert(port);
                *peers += 1;
            }
        }
        if ports.values().any(|(ports, _)| ports.len() > 1) {
            Self::PortPerPeer
        } else if ports.values().any(|(_, peers)| *peers > 1) {
            Self::OnePort
        } else {
            Self::Unknown
        }
    }
}

/// Why two hosts behind such routers do not connect directly.
pub(crate) fn reason(own: MappingBehaviour, theirs: MappingBehaviour) -> &'static str {
    use MappingBehaviour::{OnePort, PortPerPeer, Unknown};
    match (own, theirs) {
        (PortPerPeer, PortPerPeer) => "both routers use another port for each peer",
        (PortPerPeer, _) => "this side's router uses another port for each peer",
        (_, PortPerPeer) => "the server's router uses another port for each peer",
        (OnePort, Unknown | OnePort) => {
            "the server's router uses another port for each peer, or a firewall drops the packets"
        }
        (Unknown, Unknown | OnePort) => {
            "one of the two routers uses another port for each peer, or a firewall drops the packets"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(seen: &[&str]) -> MappingBehaviour {
        MappingBehaviour::of(seen.iter().map(|address| address.parse().unwrap()))
    }

    #[test]
    fn peers_that_see_different_ports_tell_how_the_router_maps() {
        let (one, other) = ("/ip4/198.51.100.1/udp/1000/quic-v1", "/ip4/198.51.100.1/udp/2000/quic-v1");
        assert_eq!(mapping(&[]), MappingBehaviour::Unknown);
        assert_eq!(mapping(&[one]), MappingBehaviour::Unknown);
        assert_eq!(mapping(&[one, one]), MappingBehaviour::OnePort);
        assert_eq!(mapping(&[one, other]), MappingBehaviour::PortPerPeer);
        assert_eq!(mapping(&[one, one, other]), MappingBehaviour::PortPerPeer);
    }

    #[test]
    fn ports_of_other_transports_and_addresses_are_not_compared() {
        let seen = [
            "/ip4/198.51.100.1/udp/1000/quic-v1",
            "/ip4/198.51.100.1/tcp/2000",
            "/ip4/198.51.100.2/udp/3000/quic-v1",
            "/ip4/192.168.1.2/udp/4000/quic-v1",
            "/ip4/192.168.1.2/udp/5000/quic-v1",
        ];
        assert_eq!(mapping(&seen), MappingBehaviour::Unknown);
    }
}
