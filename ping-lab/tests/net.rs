//! Two hosts on a local network, made of network namespaces. Needs Linux, root, iproute2 and python3; `just test-net`
//! runs it.

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
fn a_server_is_found_by_mdns_from_the_same_host_and_from_another() {
    let lan = Lan::new();
    let server = lan.server(0, &[]);
    assert!(server.addresses[0].starts_with("/ip4/10.98.0.1/tcp/36341/p2p/"), "{:?}", server.addresses);
    for host in [0, 1] {
        let run = lan.client(host, &[]);
        assert_eq!(run.code, Some(0), "{run}");
        let result = run.json();
        assert_eq!(result["pings"]["received"], 100, "{run}");
        assert_eq!(result["server"]["peer_id"], server.peer.as_str(), "{run}");
        assert!(result["server"]["address"].as_str().unwrap().starts_with("/ip4/10.98.0.1/"), "{run}");
    }
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn servers_find_each_other_by_mdns_and_make_a_cluster() {
    let lan = Lan::new();
    let member = |host: usize, node: &str| lan.server(host, &["--node", node, "--join", "mdns"]);
    let (alpha, beta) = (member(0, "alpha"), member(1, "beta"));
    assert_eq!(alpha.process.event("member_joined")["node"], "beta");
    assert_eq!(beta.process.event("member_joined")["node"], "alpha");
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn of_several_servers_one_is_taken_and_the_others_are_named() {
    let lan = Lan::new();
    let servers = [lan.server(0, &[]), lan.server(1, &[]), lan.server(1, &["--port", "0"])];
    let mut client = Process::start(&mut lan.client_command(1, &["-i", "1s", "-c", "0"]));
    let mut named: Vec<_> = (0..2).map(|_| client.log_with("servers found")).collect();
    let came = servers.each_ref().map(|server| server.process.event("client_connected"));
    let is_named = |named: &[String], peer: &str| {
        let choice = format!("/p2p/{peer}");
        named.iter().filter(|line| line.ends_with(&choice)).count()
    };
    let taken = servers.iter().find(|server| is_named(&named, &server.peer) == 0).expect("one is not named");
    taken.process.two_pings();
    client.signal("INT");
    let result = client.result();
    named.extend(std::iter::from_fn(|| client.log()).filter(|line| line.contains("servers found")));
    assert_eq!((client.exit_code(), lost(&result, "timed_out")), (Some(0), 0), "{result}");
    assert_eq!(result["server"]["peer_id"], taken.peer.as_str(), "{named:?}");
    for (server, came) in servers.iter().zip(&came) {
        assert_eq!(is_named(&named, &server.peer), usize::from(server.peer != taken.peer), "{named:?}");
        // The client does not stay with the ones it did not take, nor come back to them.
        assert_eq!(server.process.event("client_disconnected")["peer_id"], came["peer_id"]);
        server.process.signal("INT");
        let client = came["peer_id"].as_str().unwrap();
        let rest = std::iter::from_fn(|| server.process.line());
        let again = rest.filter(|line| line.contains("client_connected") && line.contains(client));
        // The second of two transports may have been about to connect when the first one won.
        assert!(again.count() <= 1, "{}", server.peer);
    }
}

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
fn an_empty_network_has_nothing_to_discover() {
    let lan = Lan::new();
    let run = lan.client(0, &["--find-timeout", "3s"]);
    assert_eq!((run.code, run.cause().as_str()), (Some(2), "nothing_discovered"), "{run}");
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn a_network_whose_servers_have_no_actor_of_that_name_is_not_an_empty_one() {
    let lan = Lan::new();
    let server = lan.server(0, &[]);
    let run = lan.client(1, &["--find-timeout", SEARCH, "--name", "\u{1F9ED} nobody"]);
    assert_eq!((run.code, run.cause().as_str()), (Some(2), "no_such_actor"), "{run}");
    assert!(run.stderr.contains(&server.peer), "{run}");
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

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn a_server_whose_address_changes_is_found_again_by_mdns() {
    let lan = Lan::new();
    let _server = lan.server(0, &[]);
    let client = Process::start(&mut lan.client_command(1, &["-i", "100ms", "-c", "0"]));
    client.log_with("Received PONG");
    ip(&format!("-n {} addr add 10.98.0.3/24 dev eth0", lan.hosts[0]));
    ip(&format!("-n {} addr del 10.98.0.1/24 dev eth0", lan.hosts[0]));
    ip(&format!("-n {} addr replace 10.98.0.3/24 dev eth0", lan.hosts[0]));
    client.log_with("Connected again");
    client.log_with("Received PONG");
    let result = result_of(client);
    assert_eq!(result["reconnects"]["count"], 1, "{result}");
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
    let run = doctor(&lan, 1, "/dns4/twins.example/tcp/36341");
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
fn a_search_ends_when_the_actor_is_found() {
    let lan = Lan::new();
    let (_server, other) = (lan.server(0, &[]), lan.server(0, &["--port", "0", "--name", "other"]));
    let client = Process::start(&mut lan.client_command(1, &["-i", "1s", "-c", "0"]));
    client.log_with("Received PONG");
    // The client stays with the server that it found, and no longer asks the other one.
    other.process.event("client_connected");
    other.process.event("client_disconnected");
    client.log_with("Received PONG");
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

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn a_host_with_many_networks_and_one_with_ipv6_alone_are_found_by_mdns() {
    let lan = Lan::new();
    for network in 0..30 {
        ip(&format!("-n {} link add docker{network} type veth peer name port{network}", lan.hosts[0]));
        ip(&format!("-n {} link set port{network} up", lan.hosts[0]));
        ip(&format!("-n {} link set docker{network} up", lan.hosts[0]));
        ip(&format!("-n {} addr add 172.20.{network}.1/24 dev docker{network}", lan.hosts[0]));
        ip(&format!("-n {} addr add fd20:{network}::1/64 dev docker{network} nodad", lan.hosts[0]));
    }
    let server = lan.server(0, &[]);
    assert!(server.addresses[0].starts_with("/ip4/10.98.0.1/"), "the cable's comes first: {:?}", server.addresses);
    for _ in 0..3 {
        let run = lan.client(1, &["-c", "1"]);
        assert_eq!(run.json()["server"]["peer_id"], server.peer.as_str(), "{run}");
    }

    let lan = Lan::new();
    for (host, number) in lan.hosts.iter().zip(["1", "2"]) {
        ip(&format!("-n {host} addr flush dev eth0"));
        ip(&format!("-n {host} addr add fd98::{number}/64 dev eth0 nodad"));
        ip(&format!("-n {host} -6 route add ff02::/16 dev eth0 table local"));
    }
    let server = lan.server(0, &[]);
    let run = lan.client(1, &["-c", "1"]);
    assert_eq!(run.json()["server"]["peer_id"], server.peer.as_str(), "{run}");
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn a_program_that_holds_the_port_of_mdns_is_named() {
    let lan = Lan::new();
    let hold = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 5353)); \
                print('held', flush=True); input()";
    let mut holder = Command::new("ip");
    let holder = Process::start(holder.args(["netns", "exec", &lan.hosts[0], "python3", "-c", hold]));
    holder.line_with("held");
    let server = lan.server(0, &[]);
    server.process.log_with("UDP port 5353");
    let run = lan.client(0, &["--find-timeout", "3s"]);
    assert_eq!(run.cause(), "nothing_discovered", "{run}");
    assert!(run.stderr.contains("UDP port 5353"), "{run}");
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn a_port_that_an_outgoing_connection_holds_is_waited_for() {
    let lan = Lan::new();
    let server = lan.server(0, &["--port", "9000"]);
    let hold = "import socket, struct; \
                s = socket.create_connection(('10.98.0.1', 9000), source_address=('10.98.0.2', 36341)); \
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); \
                print('held', flush=True); input()";
    let mut holder = Command::new("ip");
    let mut holder = Process::start(holder.args(["netns", "exec", &lan.hosts[1], "python3", "-c", hold]));
    holder.line_with("held");
    let mut waiting = lan.command(1, "ping-server");
    let waiting = Process::start(waiting.args(["--ephemeral", "--json", "--bind-timeout", "1h"]));
    waiting.log_with("an outgoing connection of another program holds that port");
    // A signal stops it all the same.
    let mut stopped = lan.command(1, "ping-server");
    let mut stopped = Process::start(stopped.args(["--ephemeral", "--json", "--bind-timeout", "1h"]));
    stopped.log_with("an outgoing connection of another program holds that port");
    stopped.signal("TERM");
    assert_eq!(stopped.exit_code(), Some(0));
    holder.stdin = None;
    waiting.event("ready");
    drop(server);
}
