//! How two nodes connect.
//!
//! [`Transport`] is the one list of transports. To add one, add its file, a variant and a line in `kind`.
//!
//! - `tcp` secures a TCP connection by `noise` or TLS 1.3, and multiplexes it by `yamux`. `coalesce` joins small writes;
//!   `unread` counts what yamux keeps, by the `heads` of its frames.
//! - `tcp_dialer` dials from a certain address or over a certain interface, or lets the peer come: `arrivals`.
//! - `quic` brings its own TLS 1.3 and its own streams.
//! - `ws` carries the same as `tcp` in WebSocket messages.
//! - `signs` sees when anything of a peer arrives.
//! - `prohibited` finds out whether a firewall refuses packets.
//! - `interfaces` ranks this machine's addresses.
//! - `lazy` builds a transport when it is first used.

mod arrivals;
mod coalesce;
mod heads;
mod interfaces;
mod lazy;
mod noise;
mod prohibited;
mod quic;
mod signs;
mod tcp;
mod tcp_dialer;
mod unread;
mod ws;
mod yamux;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, TcpListener},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId, Transport as _,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, OptionalTransport, timeout::TransportTimeout},
    },
    identity::Keypair,
    multiaddr::Protocol,
    pnet::PreSharedKey,
    relay,
};

use crate::{hardening::Memory, keys::Certificate, nat::is_circuit};
use lazy::Lazy;

pub(crate) use arrivals::Arrivals;
pub(crate) use interfaces::interface_index;
pub use interfaces::{Interfaces, addresses_of, source_of};
pub use prohibited::is_prohibited;
pub(crate) use signs::Signs;
pub use signs::Traffic;

/// How long a connection may take from the first packet until it is secured and multiplexed, in either direction.
///
/// Four round trips of 3.2 s, and short enough that a peer which connects and then says nothing is soon dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(14);

/// How a node connects to another.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Transport {
    /// QUIC version 1, over UDP.
    Quic,
    /// TCP, secured by Noise or TLS and multiplexed by yamux.
    Tcp,
    /// The same in WebSocket messages.
    Ws,
    /// The same in WebSocket messages over TLS.
    Wss,
}

/// What distinguishes one transport from another.
trait Kind {
    /// The name that people know it by.
    fn name(&self) -> &'static str;

    /// What follows the host in its multiaddrs.
    fn path(&self, port: u16) -> Multiaddr;

    /// How many parts of a multiaddr that begin behind the host are its own, if it begins with them.
    fn length(&self, parts: &[Protocol<'_>]) -> Option<usize> {
        let (Protocol::Tcp(port) | Protocol::Udp(port)) = *parts.first()? else { return None };
        let path = self.path(port);
        let length = path.iter().count();
        parts.get(..length).is_some_and(|start| path.iter().eq(start.iter().cloned())).then_some(length)
    }

    /// Whether a pre-shared key can make it private.
    fn takes_secret(&self) -> bool {
        true
    }

    /// Fails if the system does not let this process listen on the socket address.
    ///
    /// libp2p's transport over TCP would not notice that the address is taken: it lets several programs of one user
    /// share a port, and the system then distributes the clients among them.
    fn try_bind(&self, socket: SocketAddr) -> io::Result<()> {
        TcpListener::bind(socket).map(drop)
    }

    /// Builds the transport.
    fn build(&self, setup: &Setup) -> io::Result<Connections>;
}

/// A transport whose connections are secured and multiplexed.
type Connections = Boxed<(PeerId, StreamMuxerBox)>;

/// What every transport of a node is built from.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) keypair: Keypair,
    pub(crate) listens: bool,
    /// The key of a private network.
    pub(crate) secret: Option<PreSharedKey>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) signs: Arc<Signs>,
    /// The addresses to dial from.
    pub(crate) sources: Vec<IpAddr>,
    pub(crate) arrivals: Arc<Arrivals>,
    /// What is shown over TLS, if it is not one that the node signs itself.
    pub(crate) certificate: Option<Certificate>,
}

impl Setup {
    /// Of a node with this key, which dials from where the system chooses.
    pub(crate) fn new(
        keypair: &Keypair,
        listens: bool,
        secret: Option<PreSharedKey>,
        (memory, signs): (Arc<Memory>, Arc<Signs>),
    ) -> Self {
        let (keypair, arrivals) = (keypair.clone(), Arc::default());
        Self { keypair, listens, secret, memory, signs, sources: Vec::new(), arrivals, certificate: None }
    }
}

impl Transport {
    /// Every transport; what begins like another one comes before it.
    const ALL: [Self; 4] = [Self::Quic, Self::Wss, Self::Ws, Self::Tcp];

    /// Those that are tried where none is named.
    pub const USUAL: [Self; 2] = [Self::Quic, Self::Tcp];

    const fn kind(self) -> &'static dyn Kind {
        match self {
            Self::Quic => &quic::Quic,
            Self::Tcp => &tcp::Tcp,
            Self::Ws => &ws::Ws,
            Self::Wss => &ws::Wss,
        }
    }

    /// The usual transports of a node: in a private network, those that a pre-shared key can make private.
    pub fn usable(is_private: bool) -> impl Iterator<Item = Self> {
        Self::USUAL.into_iter().filter(move |transport| !is_private || transport.takes_secret())
    }

    /// The transport of a multiaddr that names nothing else but where it leads.
    pub fn of(address: &Multiaddr) -> Option<Self> {
        endpoint(address).map(|(.., transport)| transport)
    }

    /// Whether it is tried where none is named.
    pub fn is_usual(self) -> bool {
        Self::USUAL.contains(&self)
    }

    /// The multiaddr of this transport at `ip` and `port`.
    #[must_use]
    pub fn multiaddr(self, ip: IpAddr, port: u16) -> Multiaddr {
        Multiaddr::from(ip).into_iter().chain(&self.kind().path(port)).collect()
    }

    /// What follows the host in a multiaddr of this transport.
    pub(crate) fn path(self, port: u16) -> Multiaddr {
        self.kind().path(port)
    }

    /// Reads the transport and the port that follow the host in a multiaddr; returns them with the parts after them.
    pub(crate) fn read<'a, 'b>(parts: &'a [Protocol<'b>]) -> Option<(Self, u16, &'a [Protocol<'b>])> {
        let (Protocol::Tcp(port) | Protocol::Udp(port)) = *parts.first()? else { return None };
        Self::ALL.into_iter().find_map(|transport| {
            let length = transport.kind().length(parts)?;
            Some((transport, port, parts.get(length..)?))
        })
    }

    pub(crate) fn speaks(self, address: &Multiaddr) -> bool {
        let parts: Vec<_> = without_zone(address).skip(1).collect();
        // What leads through a relay begins with the address of the relay.
        !is_circuit(address) && Self::read(&parts).is_some_and(|(transport, ..)| transport == self)
    }

    /// Whether a pre-shared key can make its connections private.
    pub fn takes_secret(self) -> bool {
        self.kind().takes_secret()
    }

    /// What secures the connections that a node dials.
    pub const fn security(self) -> &'static str {
        match self {
            Self::Quic => "TLS 1.3",
            Self::Tcp | Self::Ws | Self::Wss => "Noise",
        }
    }

    /// Finds out whether a node can listen on a socket address.
    ///
    /// # Errors
    ///
    /// When the address is taken, not allowed, or not this machine's.
    pub fn try_bind(self, socket: SocketAddr) -> io::Result<()> {
        self.kind().try_bind(socket)
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind().name())
    }
}

impl FromStr for Transport {
    type Err = String;

    /// Reads its name, in any case.
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|transport| transport.to_string().eq_ignore_ascii_case(text));
        found.ok_or_else(|| "a transport is tcp, quic, ws or wss".into())
    }
}

/// The parts of an address after the interface that it may name.
fn without_zone(address: &Multiaddr) -> impl Iterator<Item = Protocol<'_>> {
    address.iter().skip_while(|part| matches!(part, Protocol::Ip6zone(_)))
}

/// The IP address, port and transport of a multiaddr that names nothing else, but perhaps the interface.
pub fn endpoint(address: &Multiaddr) -> Option<(IpAddr, u16, Transport)> {
    let parts: Vec<_> = without_zone(address).collect();
    let ip = match parts.first()? {
        Protocol::Ip4(ip) => (*ip).into(),
        Protocol::Ip6(ip) => (*ip).into(),
        _ => return None,
    };
    match Transport::read(&parts[1..])? {
        (transport, port, []) => Some((ip, port, transport)),
        _ => None,
    }
}

/// All transports of a node, or, with a secret, those that it can make private. With a secret, the node reaches only
/// nodes that have the same. With `circuits`, it reaches them through relays too.
pub(crate) fn new(setup: &Setup, circuits: Option<relay::client::Transport>) -> io::Result<Connections> {
    let none: Connections = OptionalTransport::<Connections>::none().boxed();
    let can_be_used = |transport: &Transport| setup.secret.is_none() || transport.takes_secret();
    let all = Transport::ALL.into_iter().filter(can_be_used).fold(none, |all, transport| {
        let setup = setup.clone();
        let next = Lazy::new(move |address| transport.speaks(address), move || transport.kind().build(&setup));
        let either = all.or_transport(next);
        either.map(|connection, _| connection.into_inner()).map_err(|error| error.into_inner()).boxed()
    });
    let all = match circuits {
        Some(circuits) => {
            let upgrade = tcp::Upgrade::new(setup)?;
            let circuits = circuits.map_err(io::Error::other);
            let secured = circuits.and_then(move |stream, endpoint| upgrade.run(stream, endpoint));
            let either = secured.map_err(|error| error.into_inner()).or_transport(all);
            either.map(|connection, _| connection.into_inner()).map_err(|error| error.into_inner()).boxed()
        }
        None => all,
    };
    Ok(TransportTimeout::new(all, HANDSHAKE_TIMEOUT).boxed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_transport_reads_the_addresses_that_it_writes_and_no_others() {
        for transport in Transport::ALL {
            let address = transport.multiaddr([192, 0, 2, 1].into(), 7).with(Protocol::P2p(PeerId::random()));
            assert!(transport.speaks(&address));
            assert!(Transport::ALL.iter().all(|other| *other == transport || !other.speaks(&address)));
            let parts: Vec<_> = address.iter().skip(1).collect();
            let (read, port, rest) = Transport::read(&parts).unwrap();
            assert_eq!((read, port), (transport, 7));
            assert!(matches!(rest, [Protocol::P2p(_)]));
        }
        assert!(Transport::ALL.iter().all(|transport| !transport.speaks(&"/ip4/192.0.2.1/udp/7".parse().unwrap())));
    }

    #[test]
    fn an_endpoint_is_an_ip_address_and_a_transport_alone() {
        let endpoint = |text: &str| endpoint(&text.parse().unwrap());
        assert_eq!(endpoint("/ip4/10.0.0.1/tcp/5"), Some(([10, 0, 0, 1].into(), 5, Transport::Tcp)));
        assert_eq!(endpoint("/ip4/10.0.0.1/udp/5/quic-v1"), Some(([10, 0, 0, 1].into(), 5, Transport::Quic)));
        assert_eq!(endpoint("/ip4/10.0.0.1/tcp/5/ws"), Some(([10, 0, 0, 1].into(), 5, Transport::Ws)));
        for wss in ["tls/ws", "wss", "tls/sni/example.com/ws"] {
            let address = format!("/ip4/10.0.0.1/tcp/5/{wss}");
            assert_eq!(endpoint(&address), Some(([10, 0, 0, 1].into(), 5, Transport::Wss)), "{address}");
        }
        for other in ["/ip4/10.0.0.1", "/ip4/10.0.0.1/udp/5", "/dns/host/tcp/5", "/ip4/10.0.0.1/tcp/5/tls"] {
            assert_eq!(endpoint(other), None, "{other}");
        }
    }
}
