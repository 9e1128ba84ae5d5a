//! Peers that come to the port from which this node dials them.
//!
//! A router may use another port for each address, so that nobody knows where to dial the peer behind it. What the peer
//! sends still arrives here, if nothing on this side keeps it out, and shows where it comes from.

use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
};

use libp2p::Multiaddr;
use tokio::{net::TcpStream, sync::oneshot};

use super::{Transport, endpoint};
use crate::lock::lock;

/// Who may come, and who has.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    pub(super) tcp: Awaited<TcpStream>,
    /// Over QUIC, a packet shows where to dial.
    pub(super) quic: Awaited<()>,
    /// Where those came from that were dialed at another port.
    came: Mutex<Vec<(Multiaddr, Multiaddr)>>,
    /// The local port of the last TCP connection over IPv4 that reuses a port; 0 before the first.
    left_from: AtomicU16,
    /// Whether such connections have had different local ports.
    left_from_others: AtomicBool,
}

impl Arrivals {
    /// Lets the next dial to this address also wait for what comes from its host.
    pub(crate) fn expect(&self, address: &Multiaddr) {
        match endpoint(address) {
            Some((ip, port, Transport::Tcp)) => self.tcp.expect(SocketAddr::new(ip, port)),
            Some((ip, port, Transport::Quic)) => self.quic.expect(SocketAddr::new(ip, port)),
            _ => {}
        }
    }

    /// Whether all TCP connections over IPv4 that reuse a port have had the same. While the system still holds an
    /// earlier connection between the same two ports, a new one gets another port.
    pub(crate) fn leaves_from_one_port(&self) -> bool {
        !self.left_from_others.load(Ordering::Relaxed)
    }

    /// A TCP connection over IPv4 that reuses a port leaves from this one.
    pub(super) fn leave_from(&self, port: u16) {
        let last = self.left_from.swap(port, Ordering::Relaxed);
        self.left_from_others.fetch_or(last != 0 && last != port, Ordering::Relaxed);
    }

    /// From where the peer came that was dialed there, if it did.
    pub(crate) fn take(&self, dialed: &Multiaddr) -> Option<Multiaddr> {
        let mut came = lock(&self.came);
        let place = came.iter().position(|(other, _)| other == dialed)?;
        Some(came.swap_remove(place).1)
    }

    pub(super) fn record(&self, transport: Transport, dialed: SocketAddr, from: SocketAddr) {
        let [dialed, from] = [dialed, from].map(|address| transport.multiaddr(address.ip(), address.port()));
        if dialed != from {
            lock(&self.came).push((dialed, from));
        }
    }
}

/// The dials that wait for their peers.
#[derive(Debug)]
pub(super) struct Awaited<T>(Mutex<Dials<T>>);

#[derive(Debug)]
struct Dials<T> {
    /// Those that have not begun.
    expected: Vec<SocketAddr>,
    waiting: Vec<(SocketAddr, oneshot::Sender<(T, SocketAddr)>)>,
}

impl<T> Default for Awaited<T> {
    fn default() -> Self {
        Self(Mutex::new(Dials { expected: Vec::new(), waiting: Vec::new() }))
    }
}

impl<T> Awaited<T> {
    fn expect(&self, address: SocketAddr) {
        lock(&self.0).expected.push(address);
    }

    /// What a dial to this address waits for besides, if it is to.
    pub(super) fn wait(&self, address: SocketAddr) -> Option<oneshot::Receiver<(T, SocketAddr)>> {
        let mut dials = lock(&self.0);
        let place = dials.expected.iter().position(|other| *other == address)?;
        dials.expected.swap_remove(place);
        dials.waiting.retain(|(_, waiting)| !waiting.is_closed());
        let (sender, receiver) = oneshot::channel();
        dials.waiting.push((address, sender));
        Some(receiver)
    }

    /// Gives what came from this address to the dial there, or to another to the same host. Others find nothing here.
    pub(super) fn deliver(&self, arrival: T, from: SocketAddr) {
        let waiting = &mut lock(&self.0).waiting;
        waiting.retain(|(_, waiting)| !waiting.is_closed());
        let same = waiting.iter().position(|(dialed, _)| *dialed == from);
        let place = same.or_else(|| waiting.iter().position(|(dialed, _)| dialed.ip() == from.ip()));
        if let Some(place) = place {
            let _ = waiting.swap_remove(place).1.send((arrival, from));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_from_another_port_shows() {
        let arrivals = Arrivals::default();
        [1000, 1000].into_iter().for_each(|port| arrivals.leave_from(port));
        assert!(arrivals.leaves_from_one_port());
        [2000, 2000].into_iter().for_each(|port| arrivals.leave_from(port));
        assert!(!arrivals.leaves_from_one_port());
    }

    #[test]
    fn who_comes_is_given_to_the_dial_to_its_host() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let arrivals = Arrivals::default();
        assert!(arrivals.quic.wait(address("192.0.2.1:1")).is_none(), "it was not expected");
        let dials = ["/ip4/192.0.2.1/udp/1/quic-v1", "/ip4/192.0.2.1/udp/2/quic-v1"];
        dials.iter().for_each(|dialed| arrivals.expect(&dialed.parse().unwrap()));
        let mut first = arrivals.quic.wait(address("192.0.2.1:1")).unwrap();
        let mut second = arrivals.quic.wait(address("192.0.2.1:2")).unwrap();
        for stranger in ["192.0.2.9:1", "192.0.2.2:2"] {
            arrivals.quic.deliver((), address(stranger));
        }
        assert!(first.try_recv().is_err() && second.try_recv().is_err());
        arrivals.quic.deliver((), address("192.0.2.1:2"));
        assert_eq!(second.try_recv().unwrap().1, address("192.0.2.1:2"));
        arrivals.quic.deliver((), address("192.0.2.1:7"));
        assert_eq!(first.try_recv().unwrap().1, address("192.0.2.1:7"));
        arrivals.record(Transport::Quic, address("192.0.2.1:1"), address("192.0.2.1:7"));
        let came = arrivals.take(&dials[0].parse().unwrap());
        assert_eq!(came, Some("/ip4/192.0.2.1/udp/7/quic-v1".parse().unwrap()));
        assert_eq!(arrivals.take(&dials[0].parse().unwrap()), None);
    }
}
