//! Links between two hosts that fail, made of network namespaces. Needs Linux, root, iproute2, nft and python3;
//! `just test-net` runs it.

#![cfg(target_os = "linux")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use ping_lab::{
    Process, Run, Server, file, finish, finish_child,
    lan::{Lan, ip},
    lost, program, result_of,
};

/// How long a search lasts whose cause is told when its time is over. A slow machine meets the cause within this time.
const SEARCH: &str = "30s";

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn a_ping_leaves_from_the_interface_that_is_named() {
    let lan = Lan::new();
    for (host, number) in lan.hosts.iter().zip(["1", "2"]) {
        ip(&format!("-n {host} addr add fe80::{number}/64 dev eth0 nodad"));
    }
    ip(&format!("-n {} addr add 10.98.0.5/24 dev eth0", lan.hosts[1]));
    let server = lan.server(0, &[]);
    for (arguments, from) in [
        (&["fe80::1%eth0"][..], "/ip6/fe80::2/"),
        (&["/ip6zone/eth0/ip6/fe80::1/tcp/36341"], "/ip6/fe80::2/"),
        (&["10.98.0.1", "-I", "10.98.0.5"], "/ip4/10.98.0.5/"),
        (&["10.98.0.1", "-I", "eth0"], "/ip4/10.98.0.2/"),
        (&["-I", "10.98.0.5"], "/ip4/10.98.0.5/"),
    ] {
        let run = lan.client(1, &[&["-c", "1"], arguments].concat());
        assert_eq!(run.code, Some(0), "{arguments:?}: {run}");
        let came = server.process.event("client_connected");
        assert!(came["address"].as_str().unwrap().starts_with(from), "{arguments:?}: {came}");
        server.process.event("client_disconnected");
    }
    // Also where the interface has no other address.
    for host in &lan.hosts {
        ip(&format!("-n {host} -4 addr flush dev eth0"));
    }
    assert_eq!(lan.client(1, &["-c", "1", "fe80::1%eth0"]).code, Some(0));
    let run = lan.client(1, &["10.98.0.1", "-I", "wlan7"]);
    assert!(run.code == Some(2) && run.stderr.contains("there is no interface wlan7"), "{run}");
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn one_port_serves_both_transports_and_both_families_with_loopback_last() {
    let lan = Lan::new();
    let server = lan.server(0, &["--port", "0"]);
    let port = server.port("tcp");
    for address in ["127.0.0.1", "10.98.0.1", "::1"] {
        let ip = if address.contains(':') { "ip6" } else { "ip4" };
        for transport in [format!("tcp/{port}"), format!("udp/{port}/quic-v1")] {
            let address = format!("/{ip}/{address}/{transport}/p2p/{}", server.peer);
            assert!(server.addresses.contains(&address), "{address} is missing: {:?}", server.addresses);
        }
    }
    let is_loopback = |address: &&String| address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/");
    let first_loopback = server.addresses.iter().position(|address| is_loopback(&address)).unwrap();
    assert!(first_loopback > 0, "{:?}", server.addresses);
    assert!(server.addresses[first_loopback..].iter().all(|address| is_loopback(&address)), "{:?}", server.addresses);
    for address in &server.addresses {
        assert_eq!(lan.client(0, &["-c", "1", "--server", address]).code, Some(0), "{address}");
    }
    let taken = ["--ephemeral", "--port", &port.to_string()];
    let run = finish(lan.command(0, "ping-server").args(taken));
    assert_eq!(run.code, Some(2), "{run}");
    assert!(run.stderr.contains("another program uses that port"), "{run}");
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn dropped_packets_time_out_and_a_missing_route_is_named() {
    let lan = Lan::new();
    // A host whose network card no one has: packets to it leave and are never seen again.
    ip(&format!("-n {} neigh add 10.98.0.9 lladdr 02:00:00:00:00:09 dev eth0", lan.hosts[0]));
    let unreachable = [
        ("10.98.0.9", "timed_out"),
        ("/ip4/10.98.0.9/tcp/36341", "timed_out"),
        ("/ip4/10.98.0.9/udp/36341/quic-v1", "timed_out"),
        ("203.0.113.7", "no_route"),
        ("/ip4/203.0.113.7/tcp/36341", "no_route"),
        ("/ip4/203.0.113.7/udp/36341/quic-v1", "no_route"),
    ];
    thread::scope(|scope| {
        for (address, cause) in unreachable {
            let lan = &lan;
            scope.spawn(move || {
                let run = lan.client(0, &["--find-timeout", SEARCH, "--server", address]);
                assert_eq!((run.code, run.cause().as_str()), (Some(2), cause), "{address}: {run}");
            });
        }
    });
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn a_firewall_that_refuses_is_told_from_a_missing_route() {
    if !has_nft() {
        return;
    }
    let lan = Lan::new();
    let _server = lan.server(0, &[]);
    let rule = "add table inet f; add chain inet f in { type filter hook input priority 0; }; \
                add rule inet f in meta l4proto { tcp, udp } th dport 36341 reject with icmp type admin-prohibited";
    // Versions of nft differ in the word "type".
    let run = nft(&lan.hosts[0], rule);
    let run = if run.code == Some(0) { run } else { nft(&lan.hosts[0], &rule.replace("icmp type", "icmp")) };
    assert_eq!(run.code, Some(0), "nft refuses {rule}: {run}");
    let run = lan.client(1, &["--find-timeout", SEARCH, "--server", "10.98.0.1"]);
    assert_eq!((run.code, run.cause().as_str()), (Some(2), "prohibited"), "{run}");
}

/// Adds rules to a host's firewall.
fn nft(host: &str, rules: &str) -> Run {
    finish(Command::new("ip").args(["netns", "exec", host, "nft", rules]))
}

fn has_nft() -> bool {
    let has = Command::new("nft").arg("--version").stdout(Stdio::piped()).spawn().map(finish_child).is_ok();
    if !has {
        eprintln!("skipped: the faults want nft, which is not installed");
    }
    has
}

/// A client that pings without end and logs what it does.
fn pinging(lan: &Lan, address: &str, mode: &str) -> Process {
    let arguments = ["-i", "100ms", "-c", "0", "--mode", mode, "--server", address];
    let client = Process::start(&mut lan.client_command(1, &arguments));
    client.log_with("Received PONG");
    client
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn a_cable_that_is_cut_is_noticed_once_and_the_run_goes_on_when_it_is_back() {
    for transport in ["tcp", "quic-v1"] {
        let lan = Lan::new();
        let server = lan.server(0, &[]);
        let client = pinging(&lan, server.address(transport), "ask");
        ip(&format!("-n {} link set eth0 down", lan.hosts[0]));
        client.log_with("reconnecting");
        ip(&format!("-n {} link set eth0 up", lan.hosts[0]));
        loop {
            let line = client.log().expect("the client goes on");
            assert!(!line.contains("reconnecting"), "it is said once: {line}");
            if line.contains("Connected again") {
                break;
            }
        }
        client.log_with("Received PONG");
    }
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn a_short_silence_of_the_link_loses_no_ping_and_does_not_outlast_itself() {
    if !has_nft() {
        return;
    }
    for (transport, mode) in [("tcp", "ask"), ("tcp", "stream"), ("quic-v1", "ask"), ("quic-v1", "stream")] {
        let lan = Lan::new();
        let server = lan.server(0, &[]);
        let client = pinging(&lan, server.address(transport), mode);
        // Packets vanish on the way, which neither side notices.
        let rule = "add table inet cut; add chain inet cut in { type filter hook input priority 0; }; \
                    add rule inet cut in drop";
        let before: u64 = number_of(&client.log_with("Sending PING"));
        assert_eq!(nft(&lan.hosts[0], rule).code, Some(0));
        // For three seconds, at ten pings a second. Nothing arrives before six, after which the connection is given up.
        client.log_with(&format!("Sending PING #{}", before + 30));
        assert_eq!(nft(&lan.hosts[0], "flush ruleset").code, Some(0));
        client.log_with(&format!("Received PONG #{}", before + 60));
        let result = result_of(client);
        assert_eq!(
            (lost(&result, "timed_out"), &result["reconnects"]["count"]),
            (0, &0.into()),
            "{transport}, {mode}: {result}"
        );
        assert_eq!(lost(&result, "connection_lost"), 0, "{transport}, {mode}: {result}");
    }
}

/// The number of the ping in a line of the log.
fn number_of(line: &str) -> u64 {
    line.rsplit('#').next().unwrap().split(' ').next().unwrap().parse().unwrap()
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn packets_that_are_lost_cost_time_and_no_pings() {
    if !has_nft() {
        return;
    }
    let lan = Lan::new();
    let server = lan.server(0, &[]);
    for host in &lan.hosts {
        let rule = "add table inet loss; add chain inet loss in { type filter hook input priority 0; }; \
                    add rule inet loss in numgen random mod 100 < 5 drop";
        let run = nft(host, rule);
        assert_eq!(run.code, Some(0), "nft refuses {rule}: {run}");
    }
    for transport in ["tcp", "quic-v1"] {
        let run = lan.client(1, &["-c", "1000", "--server", server.address(transport)]);
        let result = run.json();
        assert_eq!((&result["pings"]["received"], &result["reconnects"]["count"]), (&1000.into(), &0.into()), "{run}");
    }
}

/// What a host's programs find in `/etc/hosts`.
struct Hosts(PathBuf);

impl Hosts {
    fn new(host: &str) -> Self {
        let folder = PathBuf::from(format!("/etc/netns/{host}"));
        fs::create_dir_all(&folder).unwrap();
        let hosts = Self(folder);
        hosts.say("");
        hosts
    }

    /// Writes into the same file, which programs that run already see.
    fn say(&self, text: &str) {
        fs::write(self.0.join("hosts"), text).unwrap();
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn a_name_is_resolved_afresh_when_its_server_has_moved() {
    for (transport, listen) in [("tcp", "tcp/36341"), ("udp", "udp/36341/quic-v1")] {
        let lan = Lan::new();
        ip(&format!("-n {} addr add 10.98.0.3/24 dev eth0", lan.hosts[0]));
        let hosts = Hosts::new(&lan.hosts[1]);
        hosts.say("10.98.0.1 moving.example\n");
        let folder = tempfile::tempdir().unwrap();
        let key = file(folder.path(), "key");
        let at = |host: &str| {
            let listen = format!("/ip4/{host}/{listen}");
            let mut server = lan.command(0, "ping-server");
            Server::from(Process::start(server.args(["--json", "--identity", &key, "--listen", &listen])))
        };
        let server = at("10.98.0.1");
        let suffix = if transport == "udp" { "/quic-v1" } else { "" };
        let client = pinging(&lan, &format!("/dns4/moving.example/{transport}/36341{suffix}"), "ask");
        server.process.signal("KILL");
        drop(server);
        hosts.say("10.98.0.3 moving.example\n");
        let _moved = at("10.98.0.3");
        client.log_with("Connected again");
        client.log_with("Received PONG");
    }
}

/// Runs `ping-client doctor` on a host.
fn doctor(lan: &Lan, host: usize, target: &str) -> Run {
    finish(lan.command(host, "ping-client").args(["doctor", target]))
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn two_machines_with_one_identity_are_told_apart() {
    let lan = Lan::new();
    ip(&format!("-n {} addr add 10.98.0.3/24 dev eth0", lan.hosts[0]));
    let hosts = Hosts::new(&lan.hosts[1]);
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [key, copy] = [0, 1].map(|number: usize| file(folders[number].path(), "key"));
    let at = |host: &str, key: &str| {
        let listen = format!("/ip4/{host}/tcp/36341");
        let mut server = lan.command(0, "ping-server");
        Server::from(Process::start(server.args(["--json", "--identity", key, "--listen", &listen])))
    };
    let first = at("10.98.0.1", &key);
    fs::copy(&key, &copy).unwrap();
    let second = at("10.98.0.3", &copy);
    assert_eq!(first.peer, second.peer);

    hosts.say("10.98.0.1 twins.example\n10.98.0.3 twins.example\n");
    // Neither has QUIC, which is tried between the two.
    let run = doctor(&lan, 1, "twins.example");
    assert!(run.stdout.contains("10.98.0.1 and 10.98.0.3 are two machines with one identity"), "{run}");

    hosts.say("10.98.0.1 twins.example\n");
    let arguments = ["-i", "500ms", "-c", "0", "--server", "/dns4/twins.example/tcp/36341"];
    let client = Process::start(&mut lan.client_command(1, &arguments));
    // By then the client knows who answers.
    client.log_with("Received PONG #6");
    hosts.say("10.98.0.3 twins.example\n");
    first.process.signal("KILL");
    client.log_with("Two machines have the identity");
    client.log_with("Received PONG");
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn a_path_that_drops_large_packets_is_named_with_the_size_that_passes() {
    if !has_nft() {
        return;
    }
    let lan = Lan::new();
    let _server = lan.server(0, &[]);
    for host in &lan.hosts {
        // Each segment is a packet of its own.
        ip(&format!("-n {host} link set eth0 gso_max_segs 1"));
        let rule = "add table inet mtu; add chain inet mtu in { type filter hook input priority 0; }; \
                    add rule inet mtu in meta length > 1000 drop";
        let run = nft(host, rule);
        assert_eq!(run.code, Some(0), "nft refuses {rule}: {run}");
    }
    let run = doctor(&lan, 1, "/ip4/10.98.0.1/tcp/36341");
    let sizes = run.stdout.lines().find(|line| line.starts_with("path mtu")).unwrap_or_default();
    let words: Vec<_> = sizes.split_whitespace().collect();
    assert_eq!(words[..3], ["path", "mtu", "FAILED"], "{run}");
    let passes: usize = words[4].parse().unwrap();
    assert!((400..1000).contains(&passes), "{run}");
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn a_name_that_does_not_resolve_yet_is_tried_again() {
    let lan = Lan::new();
    let hosts = Hosts::new(&lan.hosts[1]);
    // A name server that never answers.
    fs::write(hosts.0.join("resolv.conf"), "nameserver 10.98.0.9\noptions timeout:1 attempts:1\n").unwrap();
    let _server = lan.server(0, &[]);
    let client = Process::start(&mut lan.client_command(1, &["-c", "1", "--server", "late.example"]));
    client.log_with("does not resolve");
    hosts.say("10.98.0.1 late.example\n");
    assert_eq!(client.result()["pings"]["received"], 1);
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn a_client_that_slept_goes_on_when_it_wakes() {
    for (transport, address) in [("tcp", "tcp/36341"), ("quic", "udp/36341/quic-v1")] {
        let lan = Lan::new();
        let folder = tempfile::tempdir().unwrap();
        let [key, state] = ["key", "state"].map(|name| file(folder.path(), name));
        let start = || {
            let listen = format!("/ip4/10.98.0.1/{address}");
            let mut server = lan.command(0, "ping-server");
            server.args(["--json", "--identity", &key, "--state", &state, "--listen", &listen]);
            Server::from(Process::start(&mut server))
        };
        let server = start();
        let arguments = ["--retry", "-i", "50ms", "-c", "0", "--server", &server.addresses[0]];
        let client = Process::start(&mut lan.client_command(1, &arguments));
        server.process.two_pings();
        client.signal("STOP");
        server.process.signal("KILL");
        drop(server);
        let server = start();
        client.signal("CONT");
        server.process.event("client_connected");
        server.process.two_pings();
        let result = result_of(client);
        assert_eq!(result["reconnects"]["count"], 1, "{transport}: {result}");
        server.process.signal("TERM");
        assert_eq!(result["pings"]["counted"], server.process.event("stopped")["total"], "{transport}: {result}");
    }
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn every_ping_is_counted_once_through_a_minute_of_faults() {
    if !has_nft() {
        return;
    }
    let run = finish(Command::new(program("chaos")).args(["1", "5"]));
    assert_eq!(run.code, Some(0), "{run}");
}

/// Makes the cable slow in both directions, as `tc` says it.
fn shape(lan: &Lan, how: &str) {
    for host in &lan.hosts {
        let arguments = format!("-n {host} qdisc add dev eth0 root {how}");
        let run = finish(Command::new("tc").args(arguments.split(' ')));
        assert_eq!(run.code, Some(0), "tc {arguments}: {run}");
    }
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn data_that_fills_a_slow_link_is_no_sign_of_death() {
    let loads: [(&str, &[&str]); 2] = [
        ("tbf rate 20mbit burst 4kb latency 30ms", &["-P", "32", "--size", "256KiB", "-c", "64"]),
        ("tbf rate 2mbit burst 4kb latency 100ms", &["-P", "8", "--size", "128KiB", "-c", "16"]),
    ];
    thread::scope(|scope| {
        for (link, load) in loads {
            for transport in ["tcp", "quic-v1"] {
                scope.spawn(move || {
                    let lan = Lan::new();
                    let server = lan.server(0, &[]);
                    shape(&lan, link);
                    let run = lan.client(1, &[&["--server", server.address(transport), "-W", "10m"], load].concat());
                    let result = run.json();
                    assert_eq!(result["pings"]["lost"], 0, "{transport}, {link}: {run}");
                    assert_eq!(result["reconnects"]["count"], 0, "{transport}, {link}: {run}");
                });
            }
        }
    });
}
