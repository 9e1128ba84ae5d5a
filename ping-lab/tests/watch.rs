//! Servers that are watched.

#![cfg(unix)]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use ping_lab::{Port, Process, Server, client, file, program};

/// Starts to watch with these arguments.
fn watch(arguments: &[&str]) -> Process {
    let mut command = Command::new(program("ping-client"));
    Process::start(command.args(["watch", "--json", "-i", "50ms", "-W", "10m"]).args(arguments))
}

#[test]
fn each_change_is_a_line_and_the_end_sums_them_up() {
    let folder = tempfile::tempdir().unwrap();
    let key = file(folder.path(), "key");
    let mut port = Port::claim();
    let target = format!("/ip4/127.0.0.1/tcp/{}", port.number);
    port.free_tcp();
    let start = || Server::exactly(&["--identity", &key, "--listen", &target]);
    let mut watch = watch(&[&target]);
    let down = watch.event("down");
    assert!(down["reason"].as_str().unwrap().contains("nothing listens"), "{down}");
    let first = start();
    assert!(watch.event("up")["down_s"].is_number());
    first.process.two_pings();
    drop(first);
    // It may be back before it counts as down.
    let down = watch.event("down");
    assert_eq!(down["target"], format!("127.0.0.1:{}", port.number), "{down}");
    let second = start();
    assert!(watch.event("up")["rtt_ms"].is_number());
    second.process.two_pings();
    watch.signal("INT");
    let end = watch.event("end");
    assert!(end["outages"].as_u64() >= Some(2), "{end}");
    assert!(end["received"].as_u64() >= Some(4) && end["down_s"].as_f64() > Some(0.0), "{end}");
    assert_eq!(watch.exit_code(), Some(0));
}

#[test]
fn a_watch_ends_with_the_exit_code_of_its_gates() {
    let server = Server::start();
    let mut gated = watch(&[server.address("tcp"), "--max-p50", "0s", "--summary", "1s"]);
    gated.event("up");
    while gated.event("summary")["sent"] == 0 {}
    gated.signal("TERM");
    assert_eq!(gated.exit_code(), Some(3));
    let run = client(&["watch", "127.0.0.1:1", "-w", "1ms"]);
    assert_eq!(run.code, Some(1), "{run}");
    let run = client(&["watch", "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"]);
    assert_eq!(run.code, Some(2), "{run}");
}
