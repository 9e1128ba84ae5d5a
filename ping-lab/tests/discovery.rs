//! Servers that are found by mDNS on a network of two hosts, made of network namespaces. Needs Linux, root, iproute2
//! and python3; `just test-net` runs it.

#![cfg(target_os = "linux")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use ping_lab::{
    Process,
    lan::{Lan, ip},
    lost, result_of,
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
