//! Server addresses and names as people write them.

mod parse;

use std::{
    fmt, io,
    net::{IpAddr, Ipv6Addr},
    slice,
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

pub use parse::ParseAddressError;
use parse::refuse;

use crate::{
    protocol::MAX_NAME_LEN,
    transport::{Transport, endpoint},
};

/// A version of IP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpVersion {
    /// Whether an address is of this version.
    pub fn is_of(self, ip: IpAddr) -> bool {
        match self {
            Self::V4 => ip.is_ipv4(),
            Self::V6 => ip.is_ipv6(),
        }
    }
}

impl fmt::Display for IpVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::V4 { "IPv4" } else { "IPv6" })
    }
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Host {
    Ip(IpAddr),
    /// A link-local address, and the interface of this machine that leads to it.
    Zoned(Ipv6Addr, String),
    /// One machine with several addresses, at least one.
    Ips(Vec<IpAddr>),
    /// A name, and which of its addresses count.
    Name(String, Option<IpVersion>),
}

/// A server to connect to, as the user named it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerAddress {
    host: Host,
    /// The TCP or UDP port.
    pub port: u16,
    /// The transport that the address names; all are tried if it names none.
    pub transport: Option<Transport>,
    /// The identity that the server must prove, if the address names one.
    pub peer: Option<PeerId>,
}

impl ServerAddress {
    /// The server with this identity, which listens on these addresses: all of those with the transport and the port of
    /// the first one. `None` if that is no address of a server.
    pub fn of_peer(peer: PeerId, addresses: &[Multiaddr]) -> Option<Self> {
        let (_, port, transport) = endpoint(addresses.first()?)?;
        let alike = addresses
            .iter()
            .filter_map(endpoint)
            .filter(|(_, its_port, its_transport)| *its_port == port && *its_transport == transport);
        let host = Host::Ips(alike.map(|(ip, ..)| ip).collect());
        Some(Self { host, port, transport: Some(transport), peer: Some(peer) })
    }

    /// The same server, with this identity required.
    #[must_use]
    pub fn with_peer(self, peer: PeerId) -> Self {
        Self { peer: Some(peer), ..self }
    }

    /// The same server, reached by this transport.
    #[must_use]
    pub fn with_transport(self, transport: Transport) -> Self {
        Self { transport: Some(transport), ..self }
    }

    /// The same server, reached by this version of IP.
    ///
    /// # Errors
    ///
    /// When the address is of the other one.
    pub fn with_version(self, version: IpVersion) -> Result<Self, ParseAddressError> {
        let wrong = || refuse(format!("{self} is no {version} address"));
        let host = match self.host.clone() {
            Host::Ip(ip) if !version.is_of(ip) => return wrong(),
            Host::Zoned(..) if version == IpVersion::V4 => return wrong(),
            Host::Name(_, Some(other)) if other != version => return wrong(),
            Host::Name(name, _) => Host::Name(name, Some(version)),
            host => host,
        };
        Ok(Self { host, ..self })
    }

    /// The transports to try.
    pub fn transports(&self) -> &[Transport] {
        self.transport.as_ref().map_or(&Transport::USUAL, slice::from_ref)
    }

    /// The host as the user wrote it.
    pub fn host(&self) -> String {
        match &self.host {
            Host::Ip(ip) => ip.to_string(),
            Host::Zoned(ip, zone) => format!("{ip}%{zone}"),
            Host::Ips(ips) => ips.first().map(ToString::to_string).unwrap_or_default(),
            Host::Name(name, _) => name.clone(),
        }
    }

    /// The multiaddr of the server over this transport, with its name if it has one. `None` if it has several
    /// addresses.
    pub fn multiaddr(&self, transport: Transport) -> Option<Multiaddr> {
        let host = match &self.host {
            Host::Ip(ip) => return Some(transport.multiaddr(*ip, self.port)),
            Host::Zoned(ip, _) => return Some(self.multiaddr_at((*ip).into(), transport)),
            Host::Ips(_) => return None,
            Host::Name(name, None) => Protocol::Dns(name.into()),
            Host::Name(name, Some(IpVersion::V4)) => Protocol::Dns4(name.into()),
            Host::Name(name, Some(IpVersion::V6)) => Protocol::Dns6(name.into()),
        };
        Some(Multiaddr::empty().with(host).into_iter().chain(&transport.path(self.port)).collect())
    }

    /// The multiaddr of the server over this transport at one of its IP addresses.
    pub fn multiaddr_at(&self, ip: IpAddr, transport: Transport) -> Multiaddr {
        let address = transport.multiaddr(ip, self.port);
        match &self.host {
            // A proxy may serve several names at one address.
            Host::Name(name, _) if transport == Transport::Wss => {
                let named =
                    [Protocol::Tcp(self.port), Protocol::Tls, Protocol::Sni(name.into()), Protocol::Ws("/".into())];
                Multiaddr::from(ip).into_iter().chain(&named.into_iter().collect::<Multiaddr>()).collect()
            }
            Host::Zoned(_, zone) => {
                Multiaddr::empty().with(Protocol::Ip6zone(zone.into())).into_iter().chain(&address).collect()
            }
            _ => address,
        }
    }

    /// Asks the system for the IP addresses of the host, at least one.
    ///
    /// # Errors
    ///
    /// When the name does not resolve. The error is of the kind `NotFound` if the name has no address of the wanted
    /// kind, as far as the system knows for certain; otherwise a later attempt may succeed.
    pub async fn resolve(&self) -> io::Result<Vec<IpAddr>> {
        let (name, version) = match &self.host {
            Host::Ip(ip) => return Ok(vec![*ip]),
            Host::Zoned(ip, _) => return Ok(vec![(*ip).into()]),
            Host::Ips(ips) => return Ok(ips.clone()),
            Host::Name(name, version) => (name, *version),
        };
        let mut ips: Vec<IpAddr> = tokio::net::lookup_host((name.as_str(), self.port))
            .await
            .map_err(|error| if is_certain(&error) { io::Error::new(io::ErrorKind::NotFound, error) } else { error })?
            .map(|socket| socket.ip())
            .filter(|ip| version.is_none_or(|version| version.is_of(*ip)))
            .collect();
        ips.dedup();
        if ips.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "it has no address of that kind"));
        }
        Ok(ips)
    }
}

/// Whether a failed look-up says that the name does not exist, in the words of `getaddrinfo` on Linux, on macOS and on
/// Windows. The standard library passes on nothing but the words.
fn is_certain(error: &io::Error) -> bool {
    let text = error.to_string();
    ["Name or service not known", "No address associated", "nodename nor servname", "No such host is known"]
        .iter()
        .any(|words| text.contains(words))
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Host::Zoned(ip, zone) => write!(f, "[{ip}%{zone}]:{}", self.port),
            Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}:{}", self.port),
            Host::Ips(_) => write!(f, "{}:{}", self.host(), self.port),
            Host::Name(name, _) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Checks a name to register or look up an actor under, for use as a command-line value parser.
///
/// # Errors
///
/// Says what is wrong with a name that is empty, too long, or contains control characters.
pub fn parse_name(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("a name has at least one character".into());
    }
    if text.len() > MAX_NAME_LEN {
        return Err(format!("a name has at most {MAX_NAME_LEN} bytes, this one has {}", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err("a name contains no control characters".into());
    }
    Ok(text.to_owned())
}

/// An address without the peer id at its end, if it has one. That of a relay stays.
pub fn without_peer(mut address: Multiaddr) -> Multiaddr {
    if matches!(address.iter().last(), Some(Protocol::P2p(_))) {
        address.pop();
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::DEFAULT_PORT;

    const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

    fn parse(text: &str) -> Result<ServerAddress, ParseAddressError> {
        text.parse()
    }

    #[test]
    fn what_people_type_is_understood() {
        for (text, host, port) in [
            ("192.168.1.9", "192.168.1.9", DEFAULT_PORT),
            ("192.168.1.9:7", "192.168.1.9", 7),
            ("::1", "::1", DEFAULT_PORT),
            ("[::1]", "::1", DEFAULT_PORT),
            ("[::1]:36341", "::1", 36341),
            ("localhost", "localhost", DEFAULT_PORT),
            ("host.example:9", "host.example", 9),
            ("my_box.local.", "my_box.local.", DEFAULT_PORT),
            ("2001:db8::1:36341", "2001:db8::1", 36341),
            ("fd00:50:0:1:2:3:4:5:36341", "fd00:50:0:1:2:3:4:5", 36341),
            ("::ffff:192.0.2.1", "192.0.2.1", DEFAULT_PORT),
            ("[::ffff:192.0.2.1]:5", "192.0.2.1", 5),
        ] {
            let server = parse(text).unwrap();
            assert_eq!((server.host().as_str(), server.port), (host, port), "{text}");
            assert_eq!(server.transports(), Transport::USUAL, "{text}");
            assert_eq!(server.peer, None, "{text}");
        }
    }

    #[test]
    fn a_multiaddr_names_its_transport_and_may_name_its_peer() {
        let tcp = parse(&format!("/ip4/10.0.0.1/tcp/5/p2p/{PEER}")).unwrap();
        assert_eq!((tcp.port, tcp.transports()), (5, &[Transport::Tcp][..]));
        assert_eq!(tcp.peer, Some(PEER.parse().unwrap()));
        let quic = parse("/dns6/host/udp/6/quic-v1").unwrap();
        assert_eq!((quic.host().as_str(), quic.transports()), ("host", &[Transport::Quic][..]));
        assert_eq!(quic.peer, None);
    }

    #[test]
    fn an_identity_may_follow_an_address_of_any_form() {
        for text in ["192.0.2.1:5", "host.example", "[2001:db8::1]:5"] {
            assert_eq!(parse(&format!("{text}/p2p/{PEER}")).unwrap().peer, Some(PEER.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_link_local_address_names_its_interface() {
        for (text, port) in [
            ("fe80::1%eth0", 36341),
            ("[fe80::1%eth0]", 36341),
            ("[fe80::1%eth0]:7", 7),
            ("/ip6zone/eth0/ip6/fe80::1/tcp/7", 7),
        ] {
            let server = parse(text).unwrap();
            assert_eq!(
                (server.host(), server.port, server.transports()),
                ("fe80::1%eth0".into(), port, &[Transport::Tcp][..])
            );
            let address = server.multiaddr(Transport::Tcp).unwrap();
            assert_eq!(address.to_string(), format!("/ip6zone/eth0/ip6/fe80::1/tcp/{port}"), "{text}");
            assert_eq!(parse(&server.to_string()).unwrap(), server);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_reason() {
        for (text, reason) in [
            ("", "neither an IP address nor a host name"),
            ("not an address!", "neither an IP address nor a host name"),
            ("300.1.1.1", "neither an IP address nor a host name"),
            ("1.2.3", "neither an IP address nor a host name"),
            ("-x.example", "neither an IP address nor a host name"),
            ("host:", "not a port"),
            ("host:99999", "not a port"),
            ("host:0", "port from 1"),
            ("[::1", "square brackets"),
            ("[1.2.3.4]", "square brackets"),
            ("/ip4/300.1.1.1/tcp/1", "not a multiaddr"),
            ("/ip4/1.1.1.1", "continues with /tcp/PORT"),
            ("/ip4/1.1.1.1/udp/1", "continues with /tcp/PORT"),
            ("/ip4/1.1.1.1/tcp/0", "port from 1"),
            ("/ip4/1.1.1.1/tcp/1/tls", "not supported"),
            ("/ip4/1.1.1.1/tcp/1/ws/http", "not supported"),
            ("/unix/a", "starts with /ip4"),
            ("/dns6/,ost/udp/6/quic-v1", "nor a host name"),
            ("fe80::1", "link-local"),
            ("0.0.0.0", "every address"),
            ("2001:db8::1%eth0", "not link-local"),
            ("fe80::1%", "behind the address"),
            ("[fe80::1%eth0]:x", "not a port"),
            ("/ip6zone/eth0/ip6/fe80::1/udp/1/quic-v1", "one of TCP"),
            ("/ip6/fe80::1%eth0/tcp/1", "in front"),
            ("http://192.0.2.1:36341/", "write 192.0.2.1:36341"),
            ("tcp://host.example", "write host.example"),
            ("192.0.2.1/24", "is a network"),
            ("me@192.0.2.1", "write 192.0.2.1"),
            ("192.0.2.1:36341:36341", "two ports"),
            ("2001:db8::g", "is not an IPv6 address"),
            ("b\u{fc}cher.example", "xn--"),
            ("192.0.2.1/p2p/oops", "not a peer id"),
            ("/ip6/fe80::1/tcp/1", "link-local"),
            ("/ip4/1.1.1.1/tcp/1/p2p/oops", "not a multiaddr"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    #[tokio::test]
    async fn localhost_resolves_and_an_impossible_name_does_not() {
        assert!(parse("localhost").unwrap().resolve().await.unwrap().iter().all(IpAddr::is_loopback));
        assert!(parse("name.invalid").unwrap().resolve().await.is_err());
    }

    #[test]
    fn only_a_definite_answer_is_certain() {
        let error = |text: &str| io::Error::other(format!("failed to lookup address information: {text}"));
        assert!(is_certain(&error("Name or service not known")));
        assert!(!is_certain(&error("Temporary failure in name resolution")));
    }

    #[test]
    fn a_name_is_neither_empty_nor_long_nor_unprintable() {
        assert_eq!(parse_name("ping_actor").unwrap(), "ping_actor");
        assert!(parse_name("").is_err());
        assert!(parse_name(&"x".repeat(256)).is_err());
        assert!(parse_name("a\nb").is_err());
    }
}
