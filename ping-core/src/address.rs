//! Server addresses and names as people write them.

use std::{
    fmt, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    slice,
    str::FromStr,
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

use crate::{
    protocol::{DEFAULT_PORT, MAX_NAME_LEN},
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
        self.transport.as_ref().map_or(&Transport::ALL, slice::from_ref)
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

    /// The multiaddr of the server over this transport, with its name if it has one. `None` if it has several addresses.
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

/// Why a text is not a server address: one sentence without the full stop.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct ParseAddressError(String);

impl ParseAddressError {
    /// The reason, in the words of another parser.
    pub fn new(reason: String) -> Self {
        Self(reason)
    }
}

fn refuse<T>(reason: impl Into<String>) -> Result<T, ParseAddressError> {
    Err(ParseAddressError(reason.into()))
}

impl FromStr for ServerAddress {
    type Err = ParseAddressError;

    /// Reads a multiaddr, or an IP address or host name with or without a port.
    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let server = if text.starts_with('/') { parse_multiaddr(text) } else { parse_host_and_port(text) }?;
        check_port(server.port)?;
        check_host(&server.host)?;
        Ok(server)
    }
}

fn parse_multiaddr(text: &str) -> Result<ServerAddress, ParseAddressError> {
    if text.contains('%') {
        return refuse("a multiaddr names an interface in front, as in /ip6zone/eth0/ip6/fe80::1/tcp/36341");
    }
    let address: Multiaddr =
        text.parse().map_err(|error| ParseAddressError(format!("that is not a multiaddr ({error})")))?;
    let mut parts: Vec<_> = address.iter().collect();
    if let [Protocol::Ip6zone(zone), ..] = &parts[..] {
        let zone = zone.to_string();
        parts.remove(0);
        return parse_zoned(&zone, &parts);
    }
    let host = match parts.first() {
        Some(Protocol::Ip4(ip)) => Host::Ip((*ip).into()),
        Some(Protocol::Ip6(ip)) => Host::Ip(IpAddr::from(*ip).to_canonical()),
        Some(Protocol::Dns(name)) => Host::Name(name.to_string(), None),
        Some(Protocol::Dns4(name)) => Host::Name(name.to_string(), Some(IpVersion::V4)),
        Some(Protocol::Dns6(name)) => Host::Name(name.to_string(), Some(IpVersion::V6)),
        _ => return refuse("a server address starts with /ip4, /ip6, /dns, /dns4 or /dns6"),
    };
    let Some((transport, port, rest)) = Transport::read(&parts[1..]) else {
        return refuse("after the host, a multiaddr continues with /tcp/PORT or /udp/PORT/quic-v1");
    };
    let peer = match rest {
        [] => None,
        [Protocol::P2p(peer)] => Some(*peer),
        [Protocol::P2p(_), other, ..] => return refuse(format!("nothing may follow the peer id, but {other} does")),
        [other, ..] => {
            return refuse(format!("{other} is not supported; after the port, only /p2p/PEER_ID may follow"));
        }
    };
    Ok(ServerAddress { host, port, transport: Some(transport), peer })
}

fn parse_host_and_port(text: &str) -> Result<ServerAddress, ParseAddressError> {
    check_form(text)?;
    let (text, peer) = match text.split_once("/p2p/") {
        Some((text, peer)) => {
            let peer = peer.parse().map_err(|_| ParseAddressError(format!("'{peer}' is not a peer id")))?;
            (text, Some(peer))
        }
        None => (text, None),
    };
    let (host, port) = host_and_port(text)?;
    // libp2p's QUIC does not take interfaces.
    let transport = matches!(host, Host::Zoned(..)).then_some(Transport::Tcp);
    Ok(ServerAddress { host, port, transport, peer })
}

/// Rejects what belongs to other kinds of addresses, and shows how it is written here.
fn check_form(text: &str) -> Result<(), ParseAddressError> {
    if let Some((scheme, rest)) = text.split_once("://") {
        let host = rest.split('/').next().unwrap_or(rest);
        return refuse(format!("an address has no '{scheme}://'; write {host}"));
    }
    if let Some((_, host)) = text.split_once('@') {
        return refuse(format!("an address names no user; write {host}"));
    }
    if let Some((ip, _)) = text.split_once('/').filter(|(ip, _)| ip.parse::<IpAddr>().is_ok())
        && !text.contains("/p2p/")
    {
        return refuse(format!("{text} is a network; write one address, such as {ip}"));
    }
    Ok(())
}

/// Reads what follows the interface in a multiaddr. libp2p's QUIC does not take interfaces.
fn parse_zoned(zone: &str, parts: &[Protocol<'_>]) -> Result<ServerAddress, ParseAddressError> {
    let [Protocol::Ip6(ip), rest @ ..] = parts else { return refuse("after /ip6zone/NAME, /ip6 follows") };
    let Some((Transport::Tcp, port, rest)) = Transport::read(rest) else {
        return refuse("an address with an interface is one of TCP: /ip6zone/eth0/ip6/fe80::1/tcp/36341");
    };
    let peer = match rest {
        [] => None,
        [Protocol::P2p(peer)] => Some(*peer),
        _ => return refuse("after the port, only /p2p/PEER_ID may follow"),
    };
    Ok(ServerAddress { host: zoned(*ip, zone)?, port, transport: Some(Transport::Tcp), peer })
}

/// An address of a single link, and the interface that leads there.
fn zoned(ip: Ipv6Addr, zone: &str) -> Result<Host, ParseAddressError> {
    if !ip.is_unicast_link_local() {
        return refuse(format!("{ip} is not link-local, so it has no interface; write {ip}"));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:@".contains(c);
    if zone.is_empty() || !zone.chars().all(allowed) {
        return refuse("an interface is named behind the address, as in fe80::1%eth0");
    }
    Ok(Host::Zoned(ip, zone.to_owned()))
}

fn host_and_port(text: &str) -> Result<(Host, u16), ParseAddressError> {
    if let Some((ip, rest)) = text.split_once('%') {
        let ip = ip.trim_start_matches('[').parse().or_else(|_| refuse(format!("'{ip}' is not an IPv6 address")))?;
        let (zone, port) = match rest.split_once(']') {
            Some((zone, "")) => (zone, DEFAULT_PORT),
            Some((zone, port)) => match port.strip_prefix(':').and_then(|port| port.parse().ok()) {
                Some(port) => (zone, port),
                None => return refuse(format!("'{port}' is not a port; write it as [fe80::1%eth0]:36341")),
            },
            None => (rest, DEFAULT_PORT),
        };
        return Ok((zoned(ip, zone)?, port));
    }
    let ip = |ip: IpAddr| Host::Ip(ip.to_canonical());
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((ip(address), DEFAULT_PORT));
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok((ip(socket.ip()), socket.port()));
    }
    if let Some(inner) = text.strip_prefix('[') {
        return match inner.strip_suffix(']').map(str::parse::<Ipv6Addr>) {
            Some(Ok(address)) => Ok((ip(address.into()), DEFAULT_PORT)),
            _ => refuse("square brackets hold an IPv6 address, as in [2001:db8::1] or [2001:db8::1]:36341"),
        };
    }
    // An IPv6 address with a port needs no brackets where it can be read in one way only.
    if let Some((address, port)) = text.rsplit_once(':')
        && let (Ok(address), Ok(port)) = (address.parse::<Ipv6Addr>(), port.parse())
    {
        return Ok((ip(address.into()), port));
    }
    match text.split(':').collect::<Vec<_>>()[..] {
        [name] => Ok((Host::Name(name.to_owned(), None), DEFAULT_PORT)),
        [name, port] => match port.parse() {
            Ok(port) => Ok((Host::Name(name.to_owned(), None), port)),
            Err(_) => refuse(format!("'{port}' is not a port; a port is a number from 1 to 65535")),
        },
        [host, _, _] if !host.is_empty() => refuse(format!("there are two ports; write {host}:36341")),
        _ => refuse(format!(
            "'{text}' is not an IPv6 address; one is written as 2001:db8::1, or with a port as [2001:db8::1]:36341"
        )),
    }
}

/// A name must be one that can be resolved. A link-local address needs the interface to use.
fn check_host(host: &Host) -> Result<(), ParseAddressError> {
    match host {
        Host::Name(name, _) if !name.is_ascii() => refuse(format!(
            "'{name}' has letters beyond a to z; write the name as DNS has it, with xn-- in front of such a part"
        )),
        Host::Name(name, _) if !is_host_name(name) => {
            refuse(format!("'{name}' is neither an IP address nor a host name"))
        }
        Host::Ip(IpAddr::V6(ip)) if ip.is_unicast_link_local() => refuse(format!(
            "{ip} is link-local and needs the interface of this machine that leads to it; write {ip}%eth0 or the like"
        )),
        Host::Ip(ip) if ip.is_unspecified() => {
            refuse(format!("{ip} stands for every address of a machine; use one of the server's addresses"))
        }
        _ => Ok(()),
    }
}

fn check_port(port: u16) -> Result<(), ParseAddressError> {
    if port == 0 { refuse("a server has a port from 1 to 65535") } else { Ok(()) }
}

/// RFC 1123, section 2.1, with the underscores that local networks use; a name whose last label is a number can only
/// be a mistyped IP address.
fn is_host_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or(name);
    name.len() <= 253 && name.split('.').all(is_label) && !last.chars().all(|c| c.is_ascii_digit())
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
            assert_eq!(server.transports(), Transport::ALL, "{text}");
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
            ("/ip4/1.1.1.1/tcp/1/ws", "not supported"),
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
