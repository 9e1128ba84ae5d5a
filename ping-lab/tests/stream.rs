//! Pings over one stream, and streams that break the rules.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, process::Command};

use ping_lab::{Process, Server, file, finish, ping, program, stock};
use serde_json::Value;

/// Runs a client and checks that nothing was lost.
#[track_caller]
fn load(address: &str, arguments: &[&str]) -> Value {
    let run = ping(address, arguments);
    assert_eq!(run.code, Some(0), "{run}");
    let result = run.json();
    assert_eq!((&result["pings"]["lost"], &result["errors"]), (&0.into(), &Value::Array(vec![])), "{run}");
    result
}

#[test]
fn every_ping_of_every_mode_is_counted_once_in_one_total() {
    let server = Server::start();
    let mut total = 0;
    for transport in ["tcp", "quic-v1"] {
        for (mode, arguments, count) in [
            ("stream", &["-i", "0", "-c", "100"][..], 100),
            ("stream", &["-P", "256", "-c", "50000"], 50_000),
            ("stream", &["-P", "100000", "-c", "300000"], 300_000),
            ("stream", &["--rate", "20000", "-c", "5000"], 5000),
            ("stream-tell", &["-P", "1000", "-c", "20000"], 20_000),
            ("ask", &["-P", "8", "-c", "100"], 100),
            ("auto", &["-P", "8", "-c", "100"], 100),
        ] {
            let result = load(server.address(transport), &[&["--mode", mode], arguments].concat());
            total += count;
            assert_eq!(result["pings"]["received"], count, "{result}");
            assert_eq!(result["server_total"], total, "{result}");
            assert_eq!(result["load"]["mode"], if mode == "auto" { "stream" } else { mode });
            assert_eq!(result["pings"]["arrived"], if mode == "stream-tell" { count.into() } else { Value::Null });
        }
    }
}

#[test]
fn a_warm_up_is_counted_by_the_server_alone() {
    let server = Server::start();
    let result = load(server.address("tcp"), &["--mode", "stream", "-P", "64", "--warmup", "1000", "-c", "500"]);
    assert_eq!((&result["pings"]["received"], &result["server_total"]), (&500.into(), &1500.into()), "{result}");
    let result = load(server.address("tcp"), &["--mode", "stream-tell", "-P", "64", "--warmup", "1000", "-c", "500"]);
    assert_eq!((&result["pings"]["arrived"], &result["server_total"]), (&500.into(), &3000.into()), "{result}");
}

#[test]
fn payloads_of_any_size_come_back() {
    let server = Server::start();
    for transport in ["tcp", "quic-v1"] {
        for (size, count) in [("1", "1000"), ("16KiB", "500"), ("16385", "200"), ("1MiB", "20"), ("64MiB", "2")] {
            for mode in ["stream", "stream-tell"] {
                let arguments = ["--mode", mode, "--size", size, "-c", count, "-P", "4"];
                let result = load(server.address(transport), &arguments);
                assert!(result["bytes_per_s"]["there"].as_f64().unwrap() > 0.0, "{result}");
            }
        }
    }
}

#[test]
fn the_reports_are_the_same_as_in_other_modes() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let (csv, page) = (file(folder.path(), "pings.csv"), file(folder.path(), "report.html"));
    load(server.address("tcp"), &["--mode", "stream", "-P", "8", "-c", "1000", "--csv", &csv, "--report", &page]);
    let rows = fs::read_to_string(csv).unwrap();
    let mut numbers: Vec<u64> =
        rows.lines().skip(1).map(|row| row.split(',').next().unwrap().parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=1000).collect::<Vec<_>>());
    assert!(rows.lines().skip(1).all(|row| row.ends_with(",ok")));
    assert!(fs::read_to_string(page).unwrap().contains("stream"));
}

#[test]
fn a_server_without_streams_is_named_as_such_or_asked_instead() {
    let (_server, address) = stock("server");
    let run = ping(&address, &["--mode", "stream", "-c", "5"]);
    assert_eq!((run.code, run.cause().as_str()), (Some(1), "no_stream"), "{run}");
    let run = ping(&address, &["--mode", "auto", "-c", "5"]);
    assert_eq!((run.code, &run.json()["load"]["mode"]), (Some(0), &"ask".into()), "{run}");
    assert!(run.stderr.contains("does not speak"), "{run}");
}

/// Has a hostile peer write these bytes into a stream; returns what comes back after the welcome, as hexadecimal.
fn say(address: &str, bytes: &str) -> String {
    let run = finish(Command::new(program("hostile")).args(["say", address, bytes]));
    run.stdout.trim().get(26..).unwrap_or_else(|| panic!("no welcome: {run}")).to_owned()
}

#[test]
fn a_stream_that_is_spoiled_ends_with_its_reason_and_no_other_does() {
    let server = Server::start();
    for (sent, reason) in [
        ("00000000", "a frame of 0 bytes"),
        ("ffffffff", "a frame of 4294967295 bytes"),
        ("0000000907", "unknown kind 0x07"),
        ("000000080100", "wrong length 8"),
        // A reply is not sent to a server.
        ("00000011810000000000000001 0000000000000001", "unexpected frame of kind 0x81"),
        ("0000000901000000", "ended within a frame"),
    ] {
        let back = say(server.address("tcp"), &sent.replace(' ', ""));
        let hex: String = reason.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert!(back.contains(&hex), "{sent}: {back} does not say '{reason}'");
    }
    // A good ping before bad bytes is answered and counted.
    let back = say(server.address("quic-v1"), "000000090100000000000000070000000099");
    assert!(back.starts_with("0000001181 0000000000000007 0000000000000001".replace(' ', "").as_str()), "{back}");
    assert_eq!(load(server.address("tcp"), &["--mode", "stream", "-i", "0", "-c", "10"])["server_total"], 11);
}

#[test]
fn the_server_logs_why_it_ended_a_stream_and_how_many() {
    let mut command = Command::new(program("ping-server"));
    let server = Process::start(command.args(["--ephemeral", "--listen", "/ip4/127.0.0.1/tcp/0"]));
    let line = server.log_with("Connection address: ");
    let address = line.rsplit(' ').next().unwrap();
    say(address, "00000000");
    let line = server.log_with("Ended a stream from");
    assert!(line.contains("a frame of 0 bytes") && line.contains("(1 so far)"), "{line}");
}

#[test]
fn a_stream_that_is_reset_half_way_ends_alone() {
    let server = Server::start();
    for bytes in ["00000009010000", "00000009010000000000000001", ""] {
        let run = finish(Command::new(program("hostile")).args(["reset", server.address("tcp"), bytes]));
        assert_eq!(run.code, Some(0), "{run}");
    }
    load(server.address("tcp"), &["--mode", "stream", "-i", "0", "-c", "10"]);
}

/// What 64 clients that never read cost the server, as the documentation promises.
#[cfg(target_os = "linux")]
const MUTE_MEMORY: u64 = 64_000_000;

#[cfg(target_os = "linux")]
#[test]
fn clients_that_never_read_cost_little_memory_and_hold_up_nobody() {
    for transport in ["tcp", "quic-v1"] {
        let server = Server::start();
        load(server.address(transport), &["--mode", "stream", "-P", "64", "-c", "10000"]);
        let before = ping_lab::memory(server.process.id());
        let mute = Process::start(Command::new(program("hostile")).args(["mute", server.address(transport), "64"]));
        let taken: u64 = mute.line_with("").trim().parse().unwrap();
        assert!(taken > 64 * 100_000, "the streams took only {taken} bytes");
        let cost = ping_lab::memory(server.process.id()).saturating_sub(before);
        assert!(cost < MUTE_MEMORY, "{cost} bytes by {transport}");
        load(server.address(transport), &["--mode", "stream", "-P", "64", "-c", "10000"]);
    }
}
