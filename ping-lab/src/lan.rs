//! Two hosts on a local network, made of network namespaces. Needs Linux, root and iproute2.

use std::{
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{Process, Run, Server, client, finish, program};

/// Two hosts, 10.98.0.1 and 10.98.0.2, joined by a cable.
pub struct Lan {
    /// The names of their namespaces.
    pub hosts: [String; 2],
}

impl Lan {
    /// Makes the hosts and the cable.
    #[expect(clippy::new_without_default, reason = "it makes network namespaces")]
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let lan = Self { hosts: ["a", "b"].map(|host| format!("ping-{host}-{id}")) };
        let [a, b] = &lan.hosts;
        ip(&format!("netns add {a}"));
        ip(&format!("netns add {b}"));
        ip(&format!("link add eth0 netns {a} type veth peer name eth0 netns {b}"));
        for (host, address) in [(a, "10.98.0.1"), (b, "10.98.0.2")] {
            // Without IPv6 the cable is usable at once; with it, an address is first checked for duplicates.
            ip(&format!("-n {host} link set eth0 addrgenmode none"));
            ip(&format!("-n {host} addr add {address}/24 dev eth0"));
            ip(&format!("-n {host} link set lo up"));
            ip(&format!("-n {host} link set eth0 up"));
        }
        lan
    }

    /// A command that runs one of the programs on a host.
    pub fn command(&self, host: usize, name: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.hosts[host]]).arg(program(name));
        command
    }

    /// Starts a ping-server on a host, and waits until it is ready.
    pub fn server(&self, host: usize, arguments: &[&str]) -> Server {
        Server::from(Process::start(self.command(host, "ping-server").args(["--ephemeral", "--json"]).args(arguments)))
    }

    /// Runs a ping-client on a host to its end, as [`ping`](crate::ping) does.
    #[track_caller]
    pub fn client(&self, host: usize, arguments: &[&str]) -> Run {
        finish(&mut self.client_command(host, arguments))
    }

    /// The command that [`client`](Self::client) runs.
    pub fn client_command(&self, host: usize, arguments: &[&str]) -> Command {
        let mut command = self.command(host, "ping-client");
        client::add(&mut command, arguments);
        command
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for host in &self.hosts {
            finish(Command::new("ip").args(["netns", "del", host]));
        }
    }
}

/// Runs `ip` with these arguments.
pub fn ip(arguments: &str) {
    let run = finish(Command::new("ip").args(arguments.split(' ')));
    assert_eq!(run.code, Some(0), "ip {arguments}: are you root? {run}");
}
