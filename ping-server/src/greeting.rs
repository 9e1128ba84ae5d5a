//! What to type on another machine.

use libp2p::{Multiaddr, PeerId};
use ping_core::{
    ServerAddress, Transport,
    program::RESULT,
    protocol::{DEFAULT_NAME, DEFAULT_PORT},
    transport::endpoint,
};
use tracing::info;

use crate::{
    args::Args,
    listen::{connection_address, is_loopback},
};

/// The multiaddrs of an address as people write it: of the transport that it names, or of all.
pub(crate) fn multiaddrs(address: &ServerAddress) -> Vec<Multiaddr> {
    // TCP first, as in the addresses of this machine.
    address.transports().iter().rev().filter_map(|transport| address.multiaddr(*transport)).collect()
}

/// Prints the command for a client, the shortest one and the one that requires this server's identity.
pub(crate) fn greet(args: &Args, peer: PeerId, addresses: &[Multiaddr]) {
    let Some(best) = addresses.first() else { return };
    let options = client_options(args);
    let host = args.external_address.first().map(|address| {
        let unusual = address.transport.filter(|transport| !transport.is_usual());
        let multiaddr = unusual.and_then(|transport| address.multiaddr(transport));
        short(&address.host(), address.port, multiaddr.as_ref())
    });
    let host = host.or_else(|| {
        let (ip, port, transport) = endpoint(best)?;
        // A client tries both transports, and meets the one that is there.
        let has_other = addresses.iter().filter_map(endpoint).any(|it| it.0 == ip && it.1 == port && it.2 != transport);
        let only = (!has_other && transport != Transport::Tcp).then_some(best);
        Some(short(&ip.to_string(), port, only))
    });
    let place = if is_loopback(best) { "On this machine" } else { "On another machine" };
    if let Some(host) = host {
        info!(target: RESULT, "{place}: ping-client {options}{host}");
    }
    info!(target: RESULT, "Connection address: {}", connection_address(best, peer));
}

/// A host and a port as a client takes them, or a multiaddr.
fn short(host: &str, port: u16, multiaddr: Option<&Multiaddr>) -> String {
    match (multiaddr, port) {
        (Some(address), _) => address.to_string(),
        (None, DEFAULT_PORT) => host.to_owned(),
        (None, port) if host.contains(':') => format!("[{host}]:{port}"),
        (None, port) => format!("{host}:{port}"),
    }
}

/// What a client must be told besides the address.
fn client_options(args: &Args) -> String {
    let mut options = String::new();
    if args.secret.is_some() {
        options += "--secret FILE ";
    }
    if args.name != DEFAULT_NAME {
        options += &format!("--name {} ", quoted(&args.name));
    }
    options
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_as_short_as_it_can_be() {
        assert_eq!(short("192.0.2.1", DEFAULT_PORT, None), "192.0.2.1");
        assert_eq!(short("192.0.2.1", 7, None), "192.0.2.1:7");
        assert_eq!(short("2001:db8::1", 7, None), "[2001:db8::1]:7");
        assert_eq!(short("2001:db8::1", DEFAULT_PORT, None), "2001:db8::1");
        assert_eq!((quoted("a-b"), quoted("it's me")), ("a-b".into(), r"'it'\''s me'".into()));
    }

    #[test]
    fn an_external_address_stands_for_both_transports_unless_it_names_one() {
        let texts = |address: &str| -> Vec<String> {
            multiaddrs(&address.parse().unwrap()).iter().map(ToString::to_string).collect()
        };
        assert_eq!(texts("203.0.113.5:9"), ["/ip4/203.0.113.5/tcp/9", "/ip4/203.0.113.5/udp/9/quic-v1"]);
        assert_eq!(texts("/dns4/example.org/tcp/9"), ["/dns4/example.org/tcp/9"]);
    }
}
