//! From what people write to an address, or to a sentence that says what is wrong with it.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use libp2p::{Multiaddr, multiaddr::Protocol};

use super::{Host, IpVersion, ServerAddress};
use crate::{protocol::DEFAULT_PORT, transport::Transport};

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

pub(super) fn refuse<T>(reason: impl Into<String>) -> Result<T, ParseAddressError> {
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
    if let Some(Protocol::Sni(name)) = parts.iter().find(|part| matches!(part, Protocol::Sni(_))) {
        return refuse(format!("a name is written as the host, as in /dns/{name}/tcp/443/tls/ws"));
    }
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
        return refuse(
            "after the host, a multiaddr continues with /tcp/PORT, /udp/PORT/quic-v1, /tcp/PORT/ws or /tcp/PORT/tls/ws",
        );
    };
    let peer = match rest {
        [] => None,
        [Protocol::P2p(peer)] => Some(*peer),
        [Protocol::P2p(_), other, ..] => return refuse(format!("nothing may follow the peer id, but {other} does")),
        [other, ..] => {
            return refuse(format!(
                "{other} is not supported; after the port, only /quic-v1, /ws, /tls/ws and then /p2p/PEER_ID may follow"
            ));
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
    // QUIC does not take interfaces.
    let transport = matches!(host, Host::Zoned(..)).then_some(Transport::Tcp);
    Ok(ServerAddress { host, port, transport, peer })
}

/// Rejects what belongs to other kinds of addresses, and shows how it is written here.
fn check_form(text: &str) -> Result<(), ParseAddressError> {
    if let Some((scheme, rest)) = text.split_once("://") {
        let host = rest.split('/').next().unwrap_or(rest);
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        return match scheme {
            "ws" | "http" => refuse(format!("an address has no '{scheme}://'; write {host}, or /dns/{name}/tcp/80/ws")),
            "wss" | "https" => {
                refuse(format!("an address has no '{scheme}://'; write {host}, or /dns/{name}/tcp/443/tls/ws"))
            }
            _ => refuse(format!("an address has no '{scheme}://'; write {host}")),
        };
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

/// Reads what follows the interface in a multiaddr. QUIC does not take interfaces.
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
