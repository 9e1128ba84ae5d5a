//! A server and a client behind routers, and a relay on an internet between them, made of network namespaces. Needs
//! Linux, root, iproute2 and nftables.

use std::{
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{Process, finish, lan::ip, program};

/// How a router maps and filters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Router {
    /// It maps nothing, and lets in everything.
    Open,
    /// It maps nothing, and lets in what answers.
    Firewall,
    /// It keeps the port, and lets in what answers: the usual home router.
    Restricted,
    /// Another port for each connection, and it lets in what answers: enterprises, and much of mobile networks.
    Symmetric,
}

/// The relay's address.
pub const RELAY: &str = "203.0.113.1";

/// The names of the namespaces, in the order of [`Nat::hosts`].
const NAMES: [&str; 6] = ["relay", "server", "client", "ra", "rb", "net"];

/// The hosts.
pub struct Nat {
    hosts: [String; 6],
}

impl Nat {
    /// Puts the server and the client behind such routers. The client's lets no UDP out if it `blocks_udp`.
    pub fn new(server: Router, client: Router, blocks_udp: bool) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let nat = Self { hosts: NAMES.map(|name| format!("nat-{name}-{id}")) };
        let [relay, server_host, client_host, ra, rb, net] = &nat.hosts;
        nat.hosts.iter().for_each(|host| ip(&format!("netns add {host}")));
        nat.hosts.iter().for_each(|host| ip(&format!("-n {host} link set lo up")));
        ip(&format!("-n {net} link add br0 type bridge"));
        ip(&format!("-n {net} link set br0 up"));
        for (host, port, address) in [(relay, "p0", RELAY), (ra, "p1", "203.0.113.10"), (rb, "p2", "203.0.113.20")] {
            ip(&format!("link add wan0 netns {host} type veth peer name {port} netns {net}"));
            ip(&format!("-n {net} link set {port} master br0 up"));
            bring_up(host, "wan0", &format!("{address}/24"));
        }
        for (router, host, kind, number, blocks_udp) in
            [(ra, server_host, server, 1, false), (rb, client_host, client, 2, blocks_udp)]
        {
            let is_mapped = matches!(kind, Router::Restricted | Router::Symmetric);
            let network = if is_mapped { "192.168.1" } else { "198.51.100" };
            let (gateway, own) = (number * 16 + 1, number * 16 + 2);
            ip(&format!("link add eth0 netns {host} type veth peer name lan0 netns {router}"));
            bring_up(router, "lan0", &format!("{network}.{gateway}/28"));
            bring_up(host, "eth0", &format!("{network}.{own}/28"));
            ip(&format!("-n {host} route add default via {network}.{gateway}"));
            run(router, &["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
            run(router, &["nft", &rules(kind, blocks_udp)]);
            // Everyone on this internet knows the way to a network that is not mapped.
            let router = 10 * number;
            let way = format!("198.51.100.{}/28 via 203.0.113.{router}", number * 16);
            let neighbours = [relay, ra, rb].into_iter().filter(|host| **host != nat.hosts[2 + number]);
            neighbours.for_each(|host| ip(&format!("-n {host} route add {way}")));
        }
        nat
    }

    /// A command on the relay's host (0), the server's (1), the client's (2), or the server's router (3).
    pub fn command(&self, host: usize) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.hosts[host]]);
        command
    }

    /// Gives the server's router another address, with which it forgets all connections.
    pub fn move_server(&self) {
        let router = &self.hosts[3];
        ip(&format!("-n {router} addr del 203.0.113.10/24 dev wan0"));
        ip(&format!("-n {router} addr add 203.0.113.11/24 dev wan0"));
    }

    /// Starts one of the programs there.
    pub fn start(&self, host: usize, name: &str, arguments: &[&str]) -> Process {
        Process::start(self.command(host).arg(program(name)).args(arguments))
    }
}

impl Drop for Nat {
    fn drop(&mut self) {
        for host in &self.hosts {
            finish(Command::new("ip").args(["netns", "del", host]));
        }
    }
}

fn bring_up(host: &str, interface: &str, address: &str) {
    // Without IPv6 the interface is usable at once; with it, an address is first checked for duplicates.
    ip(&format!("-n {host} link set {interface} addrgenmode none"));
    ip(&format!("-n {host} addr add {address} dev {interface}"));
    ip(&format!("-n {host} link set {interface} up"));
}

fn run(host: &str, command: &[&str]) {
    let run = finish(Command::new("ip").args(["netns", "exec", host]).args(command));
    assert_eq!(run.code, Some(0), "{command:?}: {run}");
}

/// The router's rules. What comes unasked is dropped: an answer, or an entry in the table of connections, would give
/// the packets that follow another port.
fn rules(kind: Router, blocks_udp: bool) -> String {
    let answers = match kind {
        Router::Open => "",
        _ => "iifname wan0 ct state established,related accept; iifname wan0 drop;",
    };
    let udp = if blocks_udp { "oifname wan0 meta l4proto udp drop;" } else { "" };
    let mapping = match kind {
        Router::Open | Router::Firewall => "",
        Router::Restricted => "oifname wan0 masquerade;",
        Router::Symmetric => "oifname wan0 masquerade random,fully-random;",
    };
    format!(
        "table ip f {{ chain input {{ type filter hook input priority 0; {answers} }}; chain forward {{ type filter \
         hook forward priority 0; {answers} {udp} }}; chain post {{ type nat hook postrouting priority 100; {mapping} \
         }}; }}"
    )
}
