//! Two hosts on a local network, made of network namespaces. Needs Linux, root and iproute2; `just test-net` runs it.

#![cfg(target_os = "linux")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::process::Command;

use support::{
    Run,
    lan::{Lan, ip},
    program,
};

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn a_server_is_found_by_mdns_from_the_same_host_and_from_another() {
    let lan = Lan::new();
    let server = lan.server(0, &[]);
    assert!(server.addresses[0].starts_with("/ip4/10.98.0.1/tcp/36341/p2p/"), "{:?}", server.addresses);
    for host in [0, 1] {
        let run = lan.client(host, &["-i", "0"]);
        assert_eq!(run.code, Some(0), "{run}");
        let result = run.json();
        assert_eq!(result["pings"]["received"], 100, "{run}");
        assert_eq!(result["server"]["peer_id"], server.peer.as_str(), "{run}");
        assert!(result["server"]["address"].as_str().unwrap().starts_with("/ip4/10.98.0.1/"), "{run}");
    }
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn of_several_servers_one_is_taken_and_the_others_are_named() {
    let lan = Lan::new();
    let servers = [lan.server(0, &[]), lan.server(1, &[]), lan.server(1, &["--port", "0"])];
    // Long enough for every server to answer; the deadline is never near.
    let run = lan.client(1, &["-i", "100ms", "-c", "10"]);
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!(run.json()["pings"]["lost"], 0, "{run}");
    let taken = run.json()["server"]["peer_id"].as_str().unwrap().to_owned();
    for server in &servers {
        let lines = run.stderr.lines().filter(|line| line.contains("Another server") && line.contains(&server.peer));
        assert_eq!(lines.count(), usize::from(server.peer != taken), "{}: {run}", server.peer);
        // The client does not stay with the ones it did not take, nor come back to them.
        let came = server.process.event("client_connected");
        assert_eq!(server.process.event("client_disconnected")["peer_id"], came["peer_id"]);
        server.process.signal("INT");
        let client = came["peer_id"].as_str().unwrap();
        let rest = std::iter::from_fn(|| server.process.line());
        let again = rest.filter(|line| line.contains("client_connected") && line.contains(client));
        // The second of two transports may have been about to connect when the first one won.
        assert!(again.count() <= 1, "{}: {run}", server.peer);
    }
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn an_empty_network_has_nothing_to_discover() {
    let lan = Lan::new();
    let run = lan.client(0, &["--find-timeout", "500ms"]);
    assert_eq!((run.code, run.cause().as_str()), (Some(2), "nothing_discovered"), "{run}");
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
    for (address, cause) in unreachable {
        let run = lan.client(0, &["--find-timeout", "1s", "--server", address]);
        assert_eq!((run.code, run.cause().as_str()), (Some(2), cause), "{address}: {run}");
    }
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn every_ping_is_counted_once_through_a_minute_of_faults() {
    if Command::new("nft").arg("--version").output().is_err() {
        eprintln!("skipped: the faults want nft, which is not installed");
        return;
    }
    let run: Run = Command::new(program("chaos")).args(["1", "5"]).output().unwrap().into();
    assert_eq!(run.code, Some(0), "{run}");
}
