//! Ports that are held until they are used.

use std::{
    env,
    fs::{self, File},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    ops::Range,
    process,
    sync::atomic::{AtomicU16, Ordering},
};

use tokio::net::TcpSocket;

/// Where ports are taken from. Systems give ports from above this range to programs that ask for any free one.
const RANGE: Range<u16> = 20_000..32_000;

/// A port of the loopback addresses, for TCP and UDP, that no other test gets.
///
/// Until it is freed, nothing listens on it: a connection by TCP is refused, and packets by UDP are never read.
pub struct Port {
    /// Its number.
    pub number: u16,
    tcp: Option<TcpSocket>,
    udp: Option<UdpSocket>,
    /// Locked for as long as this process has the port; other tests respect it.
    _claim: File,
}

impl Port {
    /// Takes a port.
    #[track_caller]
    pub fn claim() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Tests that run side by side start at different places.
        let first = process::id() * 64;
        for _ in RANGE {
            let place = (first + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % u32::from(RANGE.end - RANGE.start);
            if let Some(port) = Self::try_claim(RANGE.start + place as u16) {
                return port;
            }
        }
        panic!("no port of {RANGE:?} is free");
    }

    fn try_claim(number: u16) -> Option<Self> {
        let folder = env::temp_dir().join("kameo-ping-ports");
        fs::create_dir_all(&folder).unwrap();
        let claim = File::options().append(true).create(true).open(folder.join(number.to_string())).ok()?;
        claim.try_lock().ok()?;
        let address = (Ipv4Addr::LOCALHOST, number).into();
        let (tcp, udp) = (bind_tcp(address)?, bind_udp(address)?);
        if has_ipv6() {
            let address = (Ipv6Addr::LOCALHOST, number).into();
            drop((bind_tcp(address)?, bind_udp(address)?));
        }
        Some(Self { number, tcp: Some(tcp), udp: Some(udp), _claim: claim })
    }

    /// Lets a program listen on it by TCP.
    pub fn free_tcp(&mut self) {
        self.tcp = None;
    }

    /// Lets a program listen on it by UDP.
    pub fn free_udp(&mut self) {
        self.udp = None;
    }
}

/// A socket that does not listen.
fn bind_tcp(address: SocketAddr) -> Option<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
    socket.bind(address).is_ok().then_some(socket)
}

fn bind_udp(address: SocketAddr) -> Option<UdpSocket> {
    UdpSocket::bind(address).ok()
}

/// Whether this machine has a loopback address of IPv6.
pub fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}
