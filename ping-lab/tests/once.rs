//! Pings that are sent again, and counted once.

#![cfg(unix)]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use ping_lab::{Lasting, Process, Relay, Server, client_command, file, lost, ping, result_of, start_client, stock};
use serde_json::Value;

/// How pings can be carried, each with many in flight.
const WAYS: [&[&str]; 5] = [
    &["-P", "8", "-c", "0"],
    &["--rate", "500", "-c", "0"],
    &["-P", "8", "-c", "0", "--size", "2KiB"],
    &["-P", "8", "-c", "0", "--mode", "stream"],
    &["-P", "8", "-c", "0", "--mode", "stream-tell"],
];

fn count(result: &Value, field: &str) -> u64 {
    result["pings"][field].as_u64().unwrap_or_else(|| panic!("no {field}: {result}"))
}

/// Stops a server; returns the total that it ends with.
fn total_of(server: &Server) -> u64 {
    server.process.signal("TERM");
    server.process.event("stopped")["total"].as_u64().unwrap()
}

/// Checks that nothing was lost but what was in flight at the end, and that all was counted once.
fn check(result: &Value, total: u64, context: &str) {
    assert_eq!(count(result, "lost"), lost(result, "cut_short"), "{context}: {result}");
    assert_eq!(count(result, "counted"), total, "{context}: {result}");
    assert!((count(result, "received")..=count(result, "sent")).contains(&total), "{context}: {result}");
    assert_eq!(count(result, "unknown"), 0, "{context}: {result}");
}

#[test]
fn a_server_that_keeps_its_state_counts_each_ping_once_however_often_it_is_killed() {
    for transport in ["tcp", "quic"] {
        for arguments in WAYS {
            let mut lasting = Lasting::with(transport, &["--state", "FOLDER/state"]);
            let client = start_client(lasting.server(), &[arguments, &["--retry"]].concat());
            for _ in 0..2 {
                lasting.server().process.event("pings");
                lasting.server().process.event("pings");
                lasting.kill();
                lasting.start_again();
            }
            lasting.server().process.event("pings");
            let result = result_of(client);
            let reconnects = result["reconnects"]["count"].as_u64().unwrap();
            match transport {
                // A server that is away for a second is found by another connection before the first one is missed.
                "quic" => assert!(reconnects <= 2, "{arguments:?}: {result}"),
                _ => assert_eq!(reconnects, 2, "{arguments:?}: {result}"),
            }
            check(&result, total_of(lasting.server()), &format!("{transport} {arguments:?}"));
        }
    }
}

#[test]
fn a_server_that_forgot_says_so_and_the_run_goes_on() {
    for arguments in [WAYS[0], WAYS[3]] {
        let mut lasting = Lasting::start("tcp");
        let client = start_client(lasting.server(), &[arguments, &["--retry"]].concat());
        lasting.server().process.two_pings();
        lasting.kill();
        lasting.start_again();
        lasting.server().process.two_pings();
        let result = result_of(client);
        assert!(result["pings"]["counted"].is_null(), "{result}");
        let unknown = lost(&result, "forgotten") + lost(&result, "cut_short");
        assert!(lost(&result, "forgotten") > 0, "{result}");
        assert_eq!((count(&result, "lost"), count(&result, "unknown")), (unknown, unknown), "{result}");
    }
}

#[test]
fn a_ping_whose_pong_was_lost_is_sent_again_and_not_counted_again() {
    for arguments in WAYS {
        for kept in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let path = file(folder.path(), "state");
            let server = if kept { Server::with(&["--state", &path]) } else { Server::start() };
            let (relay, port) = Relay::to(server.port("tcp"));
            let address = format!("/ip4/127.0.0.1/tcp/{port}");
            let client = Process::start(&mut client_command(&address, &[arguments, &["--retry"]].concat()));
            server.process.two_pings();
            relay.keep_back();
            relay.cut();
            server.process.event("client_connected");
            // Some of these were counted before. After a hundred more, the lost ones have been sent again.
            let total = server.process.event("pings")["total"].as_u64().unwrap();
            server.process.pings(total + 100);
            let result = result_of(client);
            assert!(count(&result, "resent") > 0, "{arguments:?}: {result}");
            check(&result, total_of(&server), &format!("{arguments:?}"));
        }
    }
}

#[test]
fn pings_on_a_connection_that_is_lost_beside_another_are_lost_at_once_or_sent_again() {
    for (arguments, retries) in WAYS.iter().flat_map(|way| [(*way, false), (*way, true)]) {
        let server = Server::start();
        let (relay, port) = Relay::to(server.port("tcp"));
        let address = format!("/ip4/127.0.0.1/tcp/{port}");
        let retry: &[&str] = if retries { &["--retry"] } else { &[] };
        let client = Process::start(&mut client_command(&address, &[arguments, retry, &["-W", "10m"]].concat()));
        server.process.two_pings();
        relay.keep_back_these();
        client.log_with("new pings take another one beside it");
        relay.cut_these();
        // So much is answered only if the pings that were in flight take up no room.
        let total = server.process.event("pings")["total"].as_u64().unwrap();
        server.process.pings(total + 200);
        let result = result_of(client);
        let context = format!("{arguments:?}, retries: {retries}");
        if retries {
            assert!(count(&result, "resent") > 0, "{context}: {result}");
            check(&result, total_of(&server), &context);
        } else {
            assert!(lost(&result, "connection_lost") > 0, "{context}: {result}");
        }
        assert_eq!(result["reconnects"]["count"], 0, "{context}: {result}");
    }
}

#[test]
fn pings_that_are_given_up_while_the_server_rests_do_not_end_the_run() {
    for arguments in [
        &["--rate", "1000", "--mode", "stream"][..],
        &["--rate", "1000", "--mode", "stream", "--size", "4KiB"],
        &["--rate", "1000", "--mode", "stream-tell"],
    ] {
        let server = Server::start();
        // They are given up before the connection is, which takes some seconds.
        let client = start_client(&server, &[arguments, &["--retry", "-W", "1s", "-c", "0"]].concat());
        server.process.event("pings");
        server.process.signal("STOP");
        client.log_with("no pong within 1s");
        server.process.signal("CONT");
        server.process.event("pings");
        server.process.event("pings");
        let result = result_of(client);
        assert!(lost(&result, "timed_out") > 0, "{result}");
        assert_eq!((lost(&result, "stream_ended"), &result["reconnects"]["count"]), (0, &0.into()), "{result}");
        assert_eq!(count(&result, "counted"), total_of(&server), "{result}");
    }
}

#[test]
fn a_server_that_rests_until_its_connection_is_given_up_counts_each_ping_once() {
    for transport in ["tcp", "quic"] {
        for mode in ["ask", "stream"] {
            let server = Server::start();
            let arguments = ["--retry", "-i", "20ms", "-W", "5min", "-c", "0", "--mode", mode];
            let client = Process::start(&mut client_command(server.address(transport), &arguments));
            server.process.two_pings();
            server.process.signal("STOP");
            client.log_with("reconnecting");
            server.process.signal("CONT");
            client.log_with("Connected again");
            server.process.two_pings();
            let result = result_of(client);
            check(&result, total_of(&server), &format!("{transport}, {mode}"));
        }
    }
}

#[test]
fn what_was_counted_in_the_warm_up_is_not_among_the_pings() {
    let server = Server::start();
    for mode in ["ask", "stream"] {
        let run = ping(server.address("tcp"), &["--retry", "-c", "50", "--warmup", "20", "--mode", mode]);
        let result = run.json();
        assert_eq!((count(&result, "counted"), count(&result, "received")), (50, 50), "{run}");
    }
    assert_eq!(total_of(&server), 140);
}

#[test]
fn a_run_that_its_deadline_ends_is_counted() {
    let server = Server::start();
    let run = ping(server.address("tcp"), &["--retry", "-c", "0", "-w", "20s"]);
    let result = run.json();
    assert!(count(&result, "received") >= 1, "{run}");
    assert_eq!(count(&result, "counted"), total_of(&server), "{run}");
}

#[test]
fn a_run_that_ends_in_its_warm_up_has_measured_nothing() {
    let server = Server::start();
    let mut client = start_client(&server, &["--retry", "--warmup", "1h"]);
    server.process.two_pings();
    client.signal("INT");
    let result = client.result();
    assert_eq!((count(&result, "sent"), result["pings"]["counted"].as_u64()), (0, None), "{result}");
    assert_eq!(client.exit_code(), Some(1));
}

#[test]
fn a_server_that_cannot_tell_pings_apart_is_named_as_such() {
    let (_server, address) = stock("server");
    let run = ping(&address, &["--retry"]);
    assert_eq!((run.cause().as_str(), run.code), ("no_retry", Some(1)), "{run}");
    assert!(run.stderr.contains("--retry"), "{run}");
}
