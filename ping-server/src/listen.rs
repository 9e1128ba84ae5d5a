//! Where the server listens, and how others reach it there.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    num::NonZeroU16,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use humantime::format_duration;
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use ping_core::{
    Event, Node, Transport,
    transport::{Interfaces, endpoint},
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use crate::port_holder;

/// How long to wait until the listeners report the addresses that this machine has. They report within milliseconds; an
/// interface that vanishes in this moment must not delay the start.
pub(crate) const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to wait before a port that was taken is tried again.
const BIND_PAUSE: Duration = Duration::from_millis(100);

/// How many ports to try when the system chooses one for TCP that is taken for QUIC.
const PORT_ATTEMPTS: u32 = 16;

/// What to listen on.
pub(crate) struct Plan {
    addresses: Vec<Multiaddr>,
}

impl Plan {
    /// These addresses, or, if there are none, every address of this machine on this port. Fails if the server cannot
    /// listen there.
    pub(crate) fn new(addresses: &[Multiaddr], port: u16, is_private: bool) -> Result<Self> {
        match addresses.is_empty() {
            true => Self::on_port(port, &Transport::usable(is_private).collect::<Vec<_>>()),
            false => Self::explicit(addresses.to_vec(), is_private),
        }
    }

    /// The same, after waiting at most this long for outgoing connections of other programs that hold the port.
    pub(crate) async fn when_free(
        addresses: &[Multiaddr],
        port: u16,
        is_private: bool,
        limit: Duration,
    ) -> Result<Self> {
        let until = Instant::now() + limit;
        let mut has_warned = false;
        loop {
            let error = match Self::new(addresses, port, is_private) {
                Err(error) if error.is::<Held>() && Instant::now() < until => error,
                outcome => return outcome,
            };
            if !std::mem::replace(&mut has_warned, true) {
                warn!("{error} Waiting up to {} for it to end", format_duration(limit));
            }
            // The system does not tell when a port becomes free.
            sleep(BIND_PAUSE).await;
        }
    }

    /// These transports, over IPv4 and IPv6, all on one port; 0 stands for one that is free on all of them. Fails if
    /// the port is taken or not allowed.
    fn on_port(port: u16, transports: &[Transport]) -> Result<Self> {
        let mut attempts = if port == 0 { PORT_ATTEMPTS } else { 1 };
        loop {
            attempts -= 1;
            let candidate = if port == 0 { free_tcp_port()? } else { port };
            match wildcards_on(candidate, transports) {
                Err(error) if attempts > 0 => debug!(%error, "trying another port"),
                outcome => return Ok(Self { addresses: outcome? }),
            }
        }
    }

    /// Only these addresses, which a pre-shared key must be able to make private if the server is. Fails if it cannot
    /// listen on one of them.
    fn explicit(addresses: Vec<Multiaddr>, is_private: bool) -> Result<Self> {
        let mut used = BTreeSet::new();
        for address in &addresses {
            let (ip, port, transport) = endpoint(address).ok_or_else(|| {
                anyhow!(
                    "cannot listen on {address}. Use /ip4/IP/tcp/PORT, /ip4/IP/udp/PORT/quic-v1, /ip4/IP/tcp/PORT/ws \
                     or /ip4/IP/tcp/PORT/tls/ws (or /ip6)."
                )
            })?;
            if is_private && !transport.takes_secret() {
                bail!(
                    "cannot listen on {address} with --secret: a pre-shared key cannot make {transport} private. \
                     Listen on TCP only."
                );
            }
            transport.try_bind(SocketAddr::new(ip, port)).map_err(|error| explain(address, &error))?;
            // Two listeners on one TCP port would get each other's clients.
            if port != 0 && !used.insert((ip, port, transport == Transport::Quic)) {
                bail!("cannot listen on {address}: another --listen has that port. Choose another port.");
            }
        }
        Ok(Self { addresses })
    }

    /// The addresses.
    pub(crate) fn into_addresses(self) -> Vec<Multiaddr> {
        self.addresses
    }

    /// Whether other machines could reach any of these addresses.
    pub(crate) fn beyond_loopback(&self) -> bool {
        self.addresses.iter().filter_map(endpoint).any(|(ip, ..)| !ip.is_loopback())
    }

    /// Listens. Returns the addresses at which this machine can be reached, best first, and the other events of that
    /// time. Fails if the system refuses one of the addresses after all.
    pub(crate) async fn listen(
        self,
        node: &Node,
        events: &mut mpsc::UnboundedReceiver<Event>,
    ) -> Result<(Vec<Multiaddr>, Vec<Event>)> {
        for address in &self.addresses {
            node.listen(address.clone()).await.map_err(|error| explain(address, &error))?;
        }
        let mut expected = self.expected()?;
        let (mut listening, mut others) = (Vec::new(), Vec::new());
        let collect = async {
            while !expected.is_empty() {
                match events.recv().await {
                    Some(Event::Listening(address)) => {
                        expected.remove(&address);
                        // Only now is a port known that the system chose.
                        expected.retain(|open| !is_chosen_port_of(&address, open));
                        listening.push(address);
                    }
                    Some(other) => others.push(other),
                    // The node has failed, which the server notices.
                    None => break,
                }
            }
        };
        if timeout(REPORT_TIMEOUT, collect).await.is_err() {
            debug!(?expected, "some addresses were not reported");
        }
        listening.retain(is_usable);
        rank(&mut listening);
        Ok((listening, others))
    }

    /// The addresses that the listeners will report, according to the system's interfaces.
    pub(crate) fn expected(&self) -> Result<BTreeSet<Multiaddr>> {
        let ours: Vec<IpAddr> = if_addrs::get_if_addrs()
            .context("cannot list this machine's network interfaces")?
            .iter()
            .map(if_addrs::Interface::ip)
            .collect();
        let each = self.addresses.iter().filter_map(endpoint).flat_map(|(ip, port, transport)| {
            let ips = if ip.is_unspecified() {
                ours.iter().copied().filter(|our| our.is_ipv4() == ip.is_ipv4()).collect()
            } else {
                vec![ip]
            };
            ips.into_iter().map(move |ip| transport.multiaddr(ip, port))
        });
        Ok(each.collect())
    }
}

/// The address to give to a client.
pub(crate) fn connection_address(address: &Multiaddr, peer: PeerId) -> Multiaddr {
    address.clone().with(Protocol::P2p(peer))
}

/// Whether a client can use an address. It cannot use a link-local IPv6 address, because a multiaddr does not name the
/// interface.
pub(crate) fn is_usable(address: &Multiaddr) -> bool {
    !matches!(address.iter().next(), Some(Protocol::Ip6(ip)) if ip.is_unicast_link_local())
}

/// Whether only this machine can reach an address.
pub(crate) fn is_loopback(address: &Multiaddr) -> bool {
    endpoint(address).is_some_and(|(ip, ..)| ip.is_loopback())
}

fn free_tcp_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("the system has no free TCP port")?;
    Ok(listener.local_addr()?.port())
}

/// The wildcard addresses on one port, without those whose IP version this machine does not have.
fn wildcards_on(port: u16, transports: &[Transport]) -> Result<Vec<Multiaddr>> {
    let mut usable = Vec::new();
    for ip in [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()] {
        for &transport in transports {
            let address = transport.multiaddr(ip, port);
            match transport.try_bind(SocketAddr::new(ip, port)) {
                Ok(()) => usable.push(address),
                Err(error) if is_taken_or_forbidden(&error) => return Err(explain(&address, &error)),
                Err(error) => debug!(%address, %error, "not available on this machine"),
            }
        }
    }
    if usable.is_empty() {
        bail!("this machine has neither IPv4 nor IPv6. Set up a network, at least the loopback interface.");
    }
    Ok(usable)
}

fn is_taken_or_forbidden(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied)
}

/// Another program's outgoing connection holds the port of this address.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {0}: an outgoing connection of another program holds that port. Choose another port (--port), or \
     wait longer (--bind-timeout)."
)]
struct Held(Multiaddr);

fn explain(address: &Multiaddr, error: &io::Error) -> anyhow::Error {
    let is_held = || endpoint(address).is_some_and(|(ip, port, by)| port_holder::is_outgoing(by, (ip, port).into()));
    match error.kind() {
        io::ErrorKind::AddrInUse if is_held() => Held(address.clone()).into(),
        io::ErrorKind::AddrInUse => anyhow!(
            "cannot listen on {address}: another program uses that port. Stop it, or choose another port \
             (--port 0 lets the system choose)."
        ),
        io::ErrorKind::PermissionDenied => {
            anyhow!("cannot listen on {address}: the system does not allow it. Choose a port from 1024 up.")
        }
        io::ErrorKind::AddrNotAvailable => {
            anyhow!("cannot listen on {address}: this machine has no such address. Choose one that it has.")
        }
        _ => anyhow!("cannot listen on {address}: {error}. Choose another address."),
    }
}

/// Whether `address` results from `open`, an address with port 0.
pub(crate) fn is_chosen_port_of(address: &Multiaddr, open: &Multiaddr) -> bool {
    match (endpoint(address), endpoint(open)) {
        (Some((ip, _, transport)), Some((open_ip, 0, open_transport))) => ip == open_ip && transport == open_transport,
        _ => false,
    }
}

/// Sorts the addresses by how many clients can use them; TCP, which firewalls let through more often, before other
/// transports.
pub(crate) fn rank(addresses: &mut [Multiaddr]) {
    let interfaces = Interfaces::now();
    addresses.sort_by_key(|address| {
        endpoint(address).map(|(ip, _, transport)| (interfaces.rank(ip), ip, transport != Transport::Tcp))
    });
}

/// The ports of the server that others than this machine reach over IPv4, one a transport.
pub(crate) fn ports(addresses: &[Multiaddr]) -> Vec<(Transport, NonZeroU16)> {
    let of = |wanted: Transport| {
        addresses.iter().filter_map(endpoint).find_map(|(ip, port, transport)| {
            let port = NonZeroU16::new(port).filter(|_| transport == wanted && ip.is_ipv4() && !ip.is_loopback());
            port.map(|port| (transport, port))
        })
    };
    Transport::USUAL.into_iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn lan_comes_before_ipv6_before_loopback_and_tcp_before_quic() {
        let mut addresses: Vec<_> = [
            "/ip6/::1/tcp/1",
            "/ip4/127.0.0.1/tcp/1",
            "/ip6/fd00::1/tcp/1",
            "/ip4/203.0.113.9/udp/1/quic-v1",
            "/ip4/203.0.113.9/tcp/1",
        ]
        .map(address)
        .into();
        rank(&mut addresses);
        let ranked: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        assert_eq!(
            ranked,
            [
                "/ip4/203.0.113.9/tcp/1",
                "/ip4/203.0.113.9/udp/1/quic-v1",
                "/ip6/fd00::1/tcp/1",
                "/ip4/127.0.0.1/tcp/1",
                "/ip6/::1/tcp/1",
            ]
        );
    }

    #[test]
    fn a_taken_port_is_noticed_even_if_it_could_be_shared() {
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = held.local_addr().unwrap().port();
        let error =
            Plan::explicit(vec![Transport::Tcp.multiaddr(Ipv4Addr::LOCALHOST.into(), port)], false).err().unwrap();
        assert!(error.to_string().contains("another program uses that port"), "{error}");
    }

    #[test]
    fn anything_but_a_listen_address_is_rejected() {
        for text in ["/ip4/1.2.3.4", "/dns/localhost/tcp/1", "/ip4/127.0.0.1/tcp/1/tls", "/ip4/127.0.0.1/udp/1"] {
            assert!(Plan::explicit(vec![address(text)], false).is_err(), "{text}");
        }
    }

    #[test]
    fn link_local_ipv6_is_not_shown_to_clients() {
        assert!(!is_usable(&address("/ip6/fe80::1/tcp/1")));
        assert!(is_usable(&address("/ip6/fd00::1/tcp/1")));
    }
}
