//! Which of this machine's addresses others reach best.
//!
//! First the one that the default route uses. Then those of other networks, IPv4 before IPv6; then those of bridges,
//! containers and tunnels, which few others can reach; and last loopback. Bridges and tunnels are known by the names
//! that their programs give them, and tunnels also by being links between two points.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
};

/// How the names of interfaces begin that belong to containers, virtual machines and tunnels.
const VIRTUAL: [&str; 21] = [
    "br-",
    "bridge",
    "cali",
    "cni",
    "docker",
    "flannel",
    "ipsec",
    "lxc",
    "lxdbr",
    "podman",
    "ppp",
    "tailscale",
    "tap",
    "tun",
    "utun",
    "vEthernet",
    "vboxnet",
    "veth",
    "virbr",
    "vmnet",
    "wg",
];

/// This machine's interfaces at one time.
#[derive(Clone, Debug, Default)]
pub struct Interfaces {
    primary: [Option<IpAddr>; 2],
    virtual_ips: HashSet<IpAddr>,
    names: HashMap<IpAddr, String>,
}

impl Interfaces {
    /// Looks at them. Where the system does not list them, all count alike.
    pub fn now() -> Self {
        let all = if_addrs::get_if_addrs().unwrap_or_default();
        let is_virtual = |name: &str| VIRTUAL.iter().any(|beginning| name.starts_with(beginning));
        let names = all.iter().map(|it| (it.ip(), it.name.clone())).collect();
        let virtual_ips = all.into_iter().filter(|it| is_virtual(&it.name) || it.is_p2p).map(|it| it.ip()).collect();
        // The addresses there belong to nobody (RFC 5737, RFC 3849).
        let primary = [
            source_of(Ipv4Addr::new(192, 0, 2, 1).into()).ok(),
            source_of(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()).ok(),
        ];
        Self { primary, virtual_ips, names }
    }

    /// The name of the interface that has one of this machine's addresses.
    pub fn name(&self, ip: IpAddr) -> Option<&str> {
        self.names.get(&ip).map(String::as_str)
    }

    /// The place of one of this machine's addresses: the lower, the better.
    pub fn rank(&self, ip: IpAddr) -> u8 {
        let class = match ip {
            ip if ip.is_loopback() => 3,
            ip if self.primary.contains(&Some(ip)) => 0,
            ip if self.virtual_ips.contains(&ip) => 2,
            _ => 1,
        };
        2 * class + u8::from(ip.is_ipv6())
    }
}

/// The addresses of this machine's interface with this name, but for those of a single link; or of the one that has
/// this address, that address alone.
///
/// # Errors
///
/// When there is no such interface; the text names those that there are.
pub fn addresses_of(name: &str) -> io::Result<Vec<IpAddr>> {
    let all = if_addrs::get_if_addrs()?;
    if let Ok(ip) = name.parse::<IpAddr>() {
        let is_ours = all.iter().any(|it| it.ip() == ip);
        return if is_ours { Ok(vec![ip]) } else { Err(io::Error::other(format!("this machine has no address {ip}"))) };
    }
    let is_link_local = |ip: IpAddr| matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let ips: Vec<_> =
        all.iter().filter(|it| it.name == name).map(if_addrs::Interface::ip).filter(|ip| !is_link_local(*ip)).collect();
    if ips.is_empty() {
        let mut names: Vec<_> = all.into_iter().map(|it| it.name).collect();
        names.sort();
        names.dedup();
        return Err(io::Error::other(format!(
            "there is no interface {name} with an address, only {}",
            names.join(", ")
        )));
    }
    Ok(ips)
}

/// The number of the interface with this name, or the number itself.
pub(crate) fn interface_index(name: &str) -> io::Result<u32> {
    if let Ok(index) = name.parse() {
        return Ok(index);
    }
    index_of(name).ok_or_else(|| io::Error::other(format!("there is no interface {name}")))
}

#[cfg(target_os = "linux")]
fn index_of(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

/// Where only interfaces with other addresses than link-local ones are listed.
#[cfg(not(target_os = "linux"))]
fn index_of(name: &str) -> Option<u32> {
    if_addrs::get_if_addrs().ok()?.into_iter().find(|it| it.name == name)?.index
}

/// The address from which this machine reaches another one. No packet is sent to find out: connecting a UDP socket only
/// looks up the route.
///
/// # Errors
///
/// When there is no route.
pub fn source_of(destination: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if destination.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((destination, 9))?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_comes_before_other_networks_before_bridges_before_loopback() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let interfaces = Interfaces {
            primary: [Some(ip("203.0.113.9")), Some(ip("2001:db8::9"))],
            virtual_ips: [ip("172.17.0.1"), ip("fd12::1")].into(),
            names: HashMap::new(),
        };
        let mut ips =
            ["::1", "127.0.0.1", "fd12::1", "172.17.0.1", "fd00::1", "10.0.0.1", "2001:db8::9", "203.0.113.9"].map(ip);
        ips.sort_by_key(|ip| interfaces.rank(*ip));
        let sorted = ips.map(|ip| ip.to_string());
        assert_eq!(
            sorted,
            ["203.0.113.9", "2001:db8::9", "10.0.0.1", "fd00::1", "172.17.0.1", "fd12::1", "127.0.0.1", "::1"]
        );
    }
}
