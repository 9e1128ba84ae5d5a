//! One word that says where a server is and who it is: `kping1` and lower-case base32.
//!
//! | bytes | content |
//! |---|---|
//! | 1 | the version, 1 |
//! | 32 | the server's Ed25519 key |
//! | 1, … | how many addresses of the server follow, and these |
//! | 1, … | how many relays follow, and of each its Ed25519 key, how many addresses, and these |
//! | 4 | the first bytes of the SHA-256 of all before |
//!
//! An address is a kind, a host and a port. The kind is 0 for IPv4, 1 for IPv6 and 2 for a name, and 16 more for
//! QUIC, 32 for WebSocket, 48 for WebSocket over TLS.
//! An IP address has 4 or 16 bytes; a name has one byte for its length, and its ASCII letters. The port has two bytes,
//! the higher first.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use data_encoding::BASE32_NOPAD;
use libp2p::{
    Multiaddr, PeerId,
    identity::{PublicKey, ed25519},
    multiaddr::Protocol,
};
use sha2::{Digest, Sha256};

use super::circuit;
use crate::{address::IpVersion, transport::Transport};

/// What every ticket begins with.
const PREFIX: &str = "kping1";

const VERSION: u8 = 1;

/// How many bytes of the checksum a ticket has. A mistyped letter is noticed but once in four billion times.
const CHECKSUM: usize = 4;

/// How many addresses of the server a ticket has at most, how many relays, and how many addresses each.
pub const MAX_ADDRESSES: usize = 6;
/// See [`MAX_ADDRESSES`].
pub const MAX_RELAYS: usize = 3;

/// The kinds of hosts, and the bits that say how one is reached.
const IP4: u8 = 0;
const IP6: u8 = 1;
const NAME: u8 = 2;
const TRANSPORT: u8 = 48;

/// Whether an address is of this transport and version of IP; `None` for any. A name may be of either version.
fn is_of(address: &Multiaddr, transport: Option<Transport>, version: Option<IpVersion>) -> bool {
    let is_of_version = |version| match address.iter().next() {
        Some(Protocol::Ip4(_) | Protocol::Dns4(_)) => version == IpVersion::V4,
        Some(Protocol::Ip6(_) | Protocol::Dns6(_)) => version == IpVersion::V6,
        _ => true,
    };
    transport.is_none_or(|transport| transport.speaks(address)) && version.is_none_or(is_of_version)
}

/// Where a server is, and who it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ticket {
    /// The identity of the server.
    pub peer: PeerId,
    /// Where it can be reached directly.
    pub addresses: Vec<Multiaddr>,
    /// The relays on which it has a place, and where they are.
    pub relays: Vec<(PeerId, Vec<Multiaddr>)>,
}

/// Why a text is no ticket: one sentence without the full stop.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TicketError {
    /// It does not begin like one.
    #[error("a ticket begins with {PREFIX}")]
    NoTicket,
    /// A letter is missing or wrong.
    #[error("the ticket is damaged; copy all of it")]
    Damaged,
    /// It is of a later version.
    #[error("the ticket is of version {0}, which this program does not know; use a newer one")]
    Version(u8),
}

impl Ticket {
    /// The same with the addresses alone that are of this transport and version of IP; `None` for any.
    #[must_use]
    pub fn only(mut self, transport: Option<Transport>, version: Option<IpVersion>) -> Self {
        self.addresses.retain(|address| is_of(address, transport, version));
        self.relays.iter_mut().for_each(|(_, addresses)| addresses.retain(|it| is_of(it, transport, version)));
        self.relays.retain(|(_, addresses)| !addresses.is_empty());
        self
    }

    /// Reads the address of a server that has a place on a relay: `/…/p2p/RELAY/p2p-circuit/p2p/SERVER`.
    pub fn of_circuit(address: &Multiaddr) -> Option<Self> {
        let parts: Vec<_> = address.iter().collect();
        let [at @ .., Protocol::P2p(relay), Protocol::P2pCircuit, Protocol::P2p(peer)] = &parts[..] else {
            return None;
        };
        let at: Multiaddr = at.iter().cloned().collect();
        self::parts(&at)?;
        Some(Self { peer: *peer, addresses: Vec::new(), relays: vec![(*relay, vec![at])] })
    }

    /// The addresses of the server through its relays.
    pub fn circuits(&self) -> Vec<Multiaddr> {
        self.relays.iter().flat_map(|(relay, at)| at.iter().map(|address| circuit(address, *relay))).collect()
    }

    /// The bytes before the checksum; `None` if a key is not Ed25519. Addresses of other forms are left out.
    fn encode(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![VERSION];
        bytes.extend(key_of(&self.peer)?);
        write_addresses(&self.addresses, &mut bytes);
        bytes.push(self.relays.len().min(MAX_RELAYS) as u8);
        for (relay, addresses) in self.relays.iter().take(MAX_RELAYS) {
            bytes.extend(key_of(relay)?);
            write_addresses(addresses, &mut bytes);
        }
        Some(bytes)
    }

    /// The word; `None` if a key is not Ed25519.
    pub fn to_word(&self) -> Option<String> {
        let mut bytes = self.encode()?;
        let checksum = Sha256::digest(&bytes);
        bytes.extend(&checksum[..CHECKSUM]);
        Some(format!("{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()))
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_word().unwrap_or_else(|| self.peer.to_string()))
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Self, TicketError> {
        let word = text.trim().to_ascii_lowercase();
        let word = word.strip_prefix(PREFIX).ok_or(TicketError::NoTicket)?;
        let bytes = BASE32_NOPAD.decode(word.to_ascii_uppercase().as_bytes()).map_err(|_| TicketError::Damaged)?;
        let (content, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(TicketError::Damaged)?;
        if Sha256::digest(content)[..CHECKSUM] != checksum[..] {
            return Err(TicketError::Damaged);
        }
        let mut reader = Reader(content);
        match reader.byte() {
            Some(VERSION) => reader.ticket().filter(|_| reader.0.is_empty()).ok_or(TicketError::Damaged),
            Some(version) => Err(TicketError::Version(version)),
            None => Err(TicketError::Damaged),
        }
    }
}

/// The Ed25519 key that a peer id holds.
fn key_of(peer: &PeerId) -> Option<[u8; 32]> {
    // The id of a short key is the key itself, in its protobuf form.
    let key = PublicKey::try_decode_protobuf(peer.as_ref().digest()).ok()?;
    Some(key.try_into_ed25519().ok()?.to_bytes())
}

/// Reads a multiaddr with a host, a transport and a port alone.
fn parts(address: &Multiaddr) -> Option<(Protocol<'_>, u16, Transport)> {
    let mut parts = address.iter();
    let host = parts.next()?;
    let rest: Vec<_> = parts.collect();
    match Transport::read(&rest)? {
        (transport, port, []) => Some((host, port, transport)),
        _ => None,
    }
}

/// What an address of this transport adds to the kind of its host.
fn kind_of(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => 0,
        Transport::Quic => 16,
        Transport::Ws => 32,
        Transport::Wss => 48,
    }
}

fn write_addresses(addresses: &[Multiaddr], bytes: &mut Vec<u8>) {
    let place = bytes.len();
    bytes.push(0);
    for (host, port, transport) in addresses.iter().filter_map(parts).take(MAX_ADDRESSES) {
        let kind = kind_of(transport);
        match host {
            Protocol::Ip4(ip) => {
                bytes.push(IP4 + kind);
                bytes.extend(ip.octets());
            }
            Protocol::Ip6(ip) => {
                bytes.push(IP6 + kind);
                bytes.extend(ip.octets());
            }
            Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) if name.len() <= 255 => {
                bytes.extend([NAME + kind, name.len() as u8]);
                bytes.extend(name.as_bytes());
            }
            _ => continue,
        }
        bytes.extend(port.to_be_bytes());
        bytes[place] += 1;
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn ticket(&mut self) -> Option<Ticket> {
        let (peer, addresses) = (self.peer()?, self.addresses()?);
        let count = usize::from(self.byte()?);
        if count > MAX_RELAYS {
            return None;
        }
        let relays = (0..count).map(|_| Some((self.peer()?, self.addresses()?))).collect::<Option<_>>()?;
        Some(Ticket { peer, addresses, relays })
    }

    fn peer(&mut self) -> Option<PeerId> {
        let key = ed25519::PublicKey::try_from_bytes(&self.array::<32>()?).ok()?;
        Some(PublicKey::from(key).to_peer_id())
    }

    fn addresses(&mut self) -> Option<Vec<Multiaddr>> {
        let count = usize::from(self.byte()?);
        if count > MAX_ADDRESSES {
            return None;
        }
        (0..count).map(|_| self.address()).collect()
    }

    fn address(&mut self) -> Option<Multiaddr> {
        let kind = self.byte()?;
        let known = [Transport::Tcp, Transport::Quic, Transport::Ws, Transport::Wss];
        let transport = known.into_iter().find(|transport| kind & TRANSPORT == kind_of(*transport))?;
        let host: Multiaddr = match kind & !TRANSPORT {
            IP4 => IpAddr::from(Ipv4Addr::from(self.array::<4>()?)).into(),
            IP6 => IpAddr::from(Ipv6Addr::from(self.array::<16>()?)).into(),
            NAME => {
                let length = usize::from(self.byte()?);
                let (name, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
                let name = str::from_utf8(name).ok().filter(|name| name.as_bytes().iter().all(is_name))?;
                Multiaddr::empty().with(Protocol::Dns(name.into()))
            }
            _ => return None,
        };
        let port = u16::from_be_bytes(self.array()?);
        Some(host.into_iter().chain(&transport.path(port)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> PeerId {
        PublicKey::from(ed25519::Keypair::generate().public()).to_peer_id()
    }

    fn ticket() -> Ticket {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Ticket {
            peer: peer(),
            addresses: addresses(&["/ip4/203.0.113.5/udp/36341/quic-v1", "/ip6/2001:db8::1/tcp/7"]),
            relays: vec![(peer(), addresses(&["/ip4/198.51.100.1/tcp/36341", "/dns/relay.example/udp/1/quic-v1"]))],
        }
    }

    #[test]
    fn a_ticket_is_one_word_that_holds_everything() {
        let ticket = ticket();
        let word = ticket.to_string();
        assert!(word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()), "{word}");
        assert!(word.starts_with(PREFIX) && (150..220).contains(&word.len()), "{}", word.len());
        assert_eq!(word.parse(), Ok(ticket.clone()));
        // As a person may type it.
        assert_eq!(format!(" {}\n", word.to_ascii_uppercase()).parse(), Ok(ticket.clone()));
        assert_eq!(ticket.circuits().len(), 2);
        assert!(ticket.circuits()[0].to_string().ends_with("/p2p-circuit"));
    }

    #[test]
    fn a_ticket_is_narrowed_to_a_transport_and_a_version_of_ip() {
        let only = |transport, version| {
            let Ticket { addresses, relays, .. } = ticket().only(transport, version);
            (addresses.len(), relays.iter().map(|(_, addresses)| addresses.len()).collect::<Vec<_>>())
        };
        assert_eq!(only(None, None), (2, vec![2]));
        assert_eq!(only(Some(Transport::Tcp), None), (1, vec![1]));
        // A name may have addresses of either version.
        assert_eq!(only(Some(Transport::Quic), Some(IpVersion::V6)), (0, vec![1]));
        assert_eq!(only(Some(Transport::Tcp), Some(IpVersion::V6)), (1, vec![]));
    }

    #[test]
    fn a_damaged_ticket_is_told_from_a_later_one_and_from_none() {
        let word = ticket().to_string();
        assert_eq!("host".parse::<Ticket>(), Err(TicketError::NoTicket));
        assert_eq!(word[..word.len() - 1].parse::<Ticket>(), Err(TicketError::Damaged));
        let other = if word.ends_with('a') { 'b' } else { 'a' };
        assert_eq!(format!("{}{other}", &word[..word.len() - 1]).parse::<Ticket>(), Err(TicketError::Damaged));
        let mut later = vec![2];
        let checksum = Sha256::digest(&later);
        later.extend(&checksum[..CHECKSUM]);
        let later = format!("{PREFIX}{}", BASE32_NOPAD.encode(&later));
        assert_eq!(later.parse::<Ticket>(), Err(TicketError::Version(2)));
    }
}
