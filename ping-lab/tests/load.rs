//! Pings under load, and everything that is reported of them.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use ping_lab::{Server, client, file, ping, stock};
use serde_json::Value;

/// Checks a result against the published schema.
#[track_caller]
fn valid(result: &Value) {
    let schema = serde_json::from_str(include_str!("../../docs/result.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<_> = validator.iter_errors(result).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?} in {result}");
}

/// Runs a client under load and checks what must hold of every result.
#[track_caller]
fn load(address: &str, arguments: &[&str]) -> Value {
    let run = client(&[&["--json", "--server", address], arguments].concat());
    assert_eq!(run.code, Some(0), "{run}");
    let result = run.json();
    valid(&result);
    assert_eq!(result["pings"]["lost"], 0, "{run}");
    result
}

#[test]
fn results_of_every_kind_fit_the_schema() {
    let server = Server::start();
    for arguments in [
        &["-i", "0", "-c", "10"][..],
        &["-n", "8", "-c", "2000"],
        &["--rate", "500", "-c", "100"],
        &["--size", "1000", "-n", "2", "-c", "10"],
        &["--mode", "tell", "-n", "4", "-c", "50"],
        &["--mode", "stream", "-n", "4", "-c", "50"],
        &["--mode", "stream-tell", "-n", "4", "-c", "50", "--size", "2MiB"],
    ] {
        load(server.address("tcp"), arguments);
    }
    valid(&ping("127.0.0.1:1", &["--find-timeout", "100ms"]).json());
    valid(&ping(server.address("tcp"), &["--name", "nobody", "--find-timeout", "200ms"]).json());
}

#[test]
fn more_than_the_connection_takes_waits_its_turn() {
    let server = Server::start();
    for transport in ["tcp", "quic-v1"] {
        let result = load(server.address(transport), &["-n", "5000", "-c", "20000"]);
        assert_eq!(result["pings"]["received"], 20_000, "{result}");
        let result = load(server.address(transport), &["-n", "300", "-c", "40", "--size", "1MiB", "-W", "5m"]);
        assert_eq!(result["pings"]["received"], 40, "{result}");
        assert!(result["bytes_per_s"]["back"].as_f64().unwrap() > 0.0, "{result}");
    }
    assert_eq!(load(server.address("tcp"), &["-i", "0", "-c", "1"])["server_total"], 2 * 20_040 + 1);
}

#[test]
fn a_server_of_another_program_gets_no_more_than_it_takes() {
    let (_server, address) = stock("server");
    let result = load(&address, &["-n", "1000", "-c", "5000"]);
    assert_eq!(result["server_total"], 5000);
    assert_eq!(result["server"]["version"], Value::Null);
    let run = client(&["--json", "--server", &address, "--size", "10"]);
    assert_eq!((run.code, run.cause().as_str()), (Some(1), "unsupported"), "{run}");
}

#[test]
fn an_open_loop_sends_at_its_rate_and_for_its_time() {
    let server = Server::start();
    let result = load(server.address("tcp"), &["--rate", "200", "--duration", "2s"]);
    assert_eq!(result["pings"]["sent"], 400, "{result}");
    assert_eq!(result["load"]["rate_per_s"], 200.0);
    let seconds = result["duration_s"].as_f64().unwrap();
    assert!(seconds >= 1.99, "{result}");
}

#[test]
fn a_stall_of_the_server_shows_in_full_in_an_open_loop() {
    let server = Server::start();
    let stall = std::time::Duration::from_millis(500);
    let address = server.address("tcp").to_owned();
    let pinging = std::thread::spawn(move || load(&address, &["--rate", "100", "-c", "200"]));
    server.process.event("pings");
    server.process.signal("STOP");
    std::thread::sleep(stall);
    server.process.signal("CONT");
    let result = pinging.join().unwrap();
    // Of 200 pings, those of half a second were due while the server stood still. A closed loop would have sent one.
    assert!(result["rtt_ms"]["max"].as_f64().unwrap() >= 400.0, "{result}");
    assert!(result["rtt_ms"]["p90"].as_f64().unwrap() >= 200.0, "{result}");
}

#[test]
fn the_warm_up_is_not_counted() {
    let server = Server::start();
    for (warm_up, at_least) in [("50", 50), ("100ms", 1)] {
        let before = load(server.address("tcp"), &["-i", "0", "-c", "1"])["server_total"].as_u64().unwrap();
        let result = load(server.address("tcp"), &["-i", "0", "-c", "10", "--warmup", warm_up]);
        assert_eq!(result["pings"]["sent"], 10);
        assert!(result["server_total"].as_u64().unwrap() >= before + at_least + 10, "{result}");
    }
}

#[test]
fn told_pings_are_counted_by_the_server() {
    let server = Server::start();
    let result = load(server.address("quic-v1"), &["--mode", "tell", "-n", "32", "-c", "1000", "--warmup", "10"]);
    assert_eq!(result["pings"]["arrived"], 1000);
    assert_eq!(result["server_total"], 1010);
}

#[test]
fn the_network_is_measured_beside_the_actor() {
    let server = Server::start();
    let result = load(server.address("tcp"), &["-i", "0", "-c", "2000"]);
    let [network, actor] = ["network_ms", "rtt_ms"].map(|what| result[what]["p50"].as_f64().unwrap());
    assert!(result["network_ms"]["samples"].as_u64().unwrap() >= 3, "{result}");
    assert!(network > 0.0 && actor > 0.0, "{result}");
    let overhead = result["overhead_ms"].as_f64().unwrap();
    assert!((overhead - (actor - network).max(0.0)).abs() < 1e-6, "{result}");
}

#[test]
fn the_network_is_measured_while_nothing_else_is_sent() {
    let server = Server::start();
    for transport in ["tcp", "quic-v1"] {
        // Between the pings lie 300 ms in which only the network is measured, every few milliseconds.
        let result = load(server.address(transport), &["-i", "300ms", "-c", "4"]);
        assert!(result["network_ms"]["samples"].as_u64().unwrap() >= 20, "{transport}: {result}");
    }
}

#[test]
fn a_run_of_no_end_ends_by_its_deadline() {
    let server = Server::start();
    let run = client(&["--json", "--server", server.address("tcp"), "-c", "0", "-i", "0", "-w", "1s"]);
    assert_eq!(run.code, Some(1), "{run}");
    assert!(run.json()["pings"]["received"].as_u64().unwrap() > 100, "{run}");
}

#[test]
fn every_ping_has_a_row() {
    let folder = tempfile::tempdir().unwrap();
    let csv = file(folder.path(), "pings.csv");
    let server = Server::start();
    let result = load(server.address("tcp"), &["-n", "4", "-c", "300", "--csv", &csv]);
    let rows = fs::read_to_string(&csv).unwrap();
    let mut lines = rows.lines();
    assert_eq!(lines.next().unwrap(), "sequence,intended_ns,sent_ns,received_ns,rtt_ns,outcome");
    let mut sequences = Vec::new();
    let mut slowest = 0;
    for line in lines {
        let fields: Vec<_> = line.split(',').collect();
        assert_eq!((fields.len(), fields[5]), (6, "ok"), "{line}");
        let [sequence, _, sent, received, rtt] = std::array::from_fn(|i| fields[i].parse::<i64>().unwrap());
        assert_eq!(received - sent, rtt, "{line}");
        sequences.push(sequence);
        slowest = slowest.max(rtt);
    }
    sequences.sort_unstable();
    assert!(sequences.iter().copied().eq(1..=300));
    assert!((slowest as f64 / 1e6 - result["rtt_ms"]["max"].as_f64().unwrap()).abs() < 1e-9);
}

#[test]
fn the_report_stands_alone_and_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let page = file(folder.path(), "report.html");
    let server = Server::start();
    load(server.address("tcp"), &["-n", "4", "-c", "2000", "--report", &page]);
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>\n"));
    assert_eq!(html.matches("<svg").count(), 3, "three plots");
    for text in
        ["Summary", "over the run", "by percentile", "Steps to the first pong", &server.peer, "prefers-color-scheme"]
    {
        assert!(html.contains(text), "{text} is missing");
    }
    for outside in ["<script", "src=", "@import", "url("] {
        assert!(!html.contains(outside), "{outside} would fetch something");
    }
    let again = ["--server", server.address("tcp"), "-i", "0", "-c", "1", "--report", &page];
    let run = client(&again);
    assert_eq!(run.code, Some(2), "{run}");
    assert!(run.stderr.contains("--force") && run.stdout.is_empty(), "{run}");
    assert_eq!(client(&[&again[..], &["--force"]].concat()).code, Some(0));
    let run = client(&["--server", server.address("tcp"), "--csv", "/no/such/folder/a.csv"]);
    assert_eq!(run.code, Some(2), "{run}");
    assert!(run.stderr.contains("cannot write /no/such/folder/a.csv"), "{run}");
}

#[test]
fn a_quiet_run_prints_the_result_alone() {
    let server = Server::start();
    let run = client(&["--quiet", "--server", server.address("tcp"), "-n", "2", "-c", "200"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run}");
    assert!(run.stdout.contains("200 pings sent, 200 answered, 0 lost"), "{run}");
    assert!(run.stdout.contains("medians: network"), "{run}");
    let run = client(&["-v", "--server", server.address("tcp"), "-i", "0", "-c", "1"]);
    assert!(run.stderr.contains("DEBUG"), "{run}");
}

#[test]
fn an_actor_that_is_busy_is_pinged_again_until_it_is_not() {
    let (_server, address) = stock("busy-server");
    let run = client(&["--json", "--server", &address, "-n", "16", "-c", "100"]);
    let pings = &run.json()["pings"];
    assert_eq!(
        (&pings["received"], &pings["lost"], run.json()["server_total"].as_u64()),
        (&100.into(), &0.into(), Some(100)),
        "{run}"
    );
    assert!(pings["busy"].as_u64().unwrap() > 0, "{run}");
    // Who has no time for that is told so.
    let run = client(&["--json", "--server", &address, "-n", "64", "-c", "64", "-W", "100ms"]);
    let busy = run.json()["errors"].as_array().unwrap().iter().any(|error| error["cause"] == "busy");
    assert!(busy, "{run}");
}
