//! Pings under load, and everything that is reported of them.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod schema;

use std::fs;

#[cfg(unix)]
use ping_lab::{Process, client_command, result_of, start_client};
use ping_lab::{Server, client, file, lost, ping, stock};
use serde_json::Value;

/// Runs a client under load and checks what must hold of every result.
#[track_caller]
fn load(address: &str, arguments: &[&str]) -> Value {
    let run = ping(address, arguments);
    assert_eq!(run.code, Some(0), "{run}");
    let result = run.json();
    schema::check(&result);
    assert_eq!(result["pings"]["lost"], 0, "{run}");
    result
}

#[test]
fn results_of_every_kind_fit_the_schema() {
    let server = Server::start();
    for arguments in [
        &["-i", "0", "-c", "10"][..],
        &["-P", "8", "-c", "2000"],
        &["--rate", "500", "-c", "100"],
        &["--size", "1000", "-P", "2", "-c", "10"],
        &["--mode", "tell", "-P", "4", "-c", "50"],
        &["--mode", "stream", "-P", "4", "-c", "50"],
        &["--mode", "stream-tell", "-P", "4", "-c", "50", "--size", "2MiB"],
    ] {
        load(server.address("tcp"), arguments);
    }
}

#[test]
fn more_than_the_connection_takes_waits_its_turn() {
    let server = Server::start();
    for transport in ["tcp", "quic-v1"] {
        let result = load(server.address(transport), &["-P", "5000", "-c", "20000"]);
        assert_eq!(result["pings"]["received"], 20_000, "{result}");
        // 32 of these are in flight at a time. By QUIC, a server that is busy with them on a slow machine looks as if
        // it had been restarted; what a new connection costs then is not what this tests, so such pings are sent again.
        let again: &[&str] = if transport == "tcp" { &[] } else { &["--retry"] };
        let large = ["-P", "300", "-c", "100", "--size", "128KiB"];
        let result = load(server.address(transport), &[&large[..], again].concat());
        assert_eq!(result["pings"]["received"], 100, "{result}");
        assert!(result["bytes_per_s"]["back"].as_f64().unwrap() > 0.0, "{result}");
    }
    assert_eq!(load(server.address("tcp"), &["-i", "0", "-c", "1"])["server_total"], 2 * 20_100 + 1);
}

#[test]
fn a_server_of_another_program_gets_no_more_than_it_takes() {
    let (_server, address) = stock("server");
    let result = load(&address, &["-P", "1000", "-c", "5000"]);
    assert_eq!(result["server_total"], 5000);
    assert_eq!(result["server"]["version"], Value::Null);
    let run = ping(&address, &["--size", "10"]);
    assert_eq!((run.code, run.cause().as_str()), (Some(1), "unsupported"), "{run}");
}

#[test]
fn an_open_loop_sends_at_its_rate_and_for_its_time() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    // A machine that is too slow for the rate sends each ping later than it was due, and no more of them.
    for (limit, at_least) in [(["--duration", "2s"], 1), (["-c", "400"], 400)] {
        let csv = file(folder.path(), limit[0]);
        let result = load(server.address("tcp"), &[&["--rate", "200", "--csv", &csv], &limit[..]].concat());
        assert!((at_least..=400).contains(&result["pings"]["sent"].as_u64().unwrap()), "{result}");
        assert_eq!(result["load"]["rate_per_s"], 200.0);
        assert!(result["duration_s"].as_f64().unwrap() >= 1.99, "{result}");
        let mut rows = rows(&csv);
        rows.sort_unstable_by_key(|row| row.sequence);
        for pair in rows.windows(2) {
            assert!((pair[1].intended - pair[0].intended - 5_000_000).abs() <= 1, "a ping each 5 ms: {pair:?}");
        }
        assert!(rows.iter().all(|row| row.sent >= row.intended), "{rows:?}");
    }
}

/// One answered ping in a CSV file; times in nanoseconds.
#[derive(Debug)]
struct Row {
    sequence: u64,
    intended: i64,
    sent: i64,
    received: i64,
    rtt: i64,
}

/// The answered pings of a CSV file. Interrupted pings have no times.
fn rows(path: &str) -> Vec<Row> {
    let text = fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next().unwrap(), "sequence,intended_ns,sent_ns,received_ns,rtt_ns,outcome");
    let answered = lines.filter_map(|line| line.strip_suffix(",ok"));
    let row = |line: &str| {
        let fields: Vec<i64> = line.split(',').map(|field| field.parse().unwrap()).collect();
        let [sequence, intended, sent, received, rtt] = fields[..] else { panic!("{line}") };
        Row { sequence: sequence as u64, intended, sent, received, rtt }
    };
    answered.map(row).collect()
}

#[cfg(unix)]
#[test]
fn a_stall_of_the_server_shows_in_full_in_an_open_loop() {
    let folder = tempfile::tempdir().unwrap();
    let csv = file(folder.path(), "pings.csv");
    let server = Server::start();
    let pinging = start_client(&server, &["--rate", "100", "-c", "0", "--csv", &csv]);
    server.process.event("pings");
    server.process.signal("STOP");
    // A sleep never ends early: the stall is at least this long.
    std::thread::sleep(std::time::Duration::from_millis(500));
    server.process.signal("CONT");
    // The pongs of the stall are in when the server has counted many more pings than could wait for it.
    let total = load(server.address("tcp"), &["-c", "1"])["server_total"].as_u64().unwrap();
    server.process.pings(total + 100);
    let result = result_of(pinging);
    // Latency counts from when a ping was due: each ping of the first 300 ms waited for 200 ms or more. A closed loop
    // would have sent one.
    let mut latencies: Vec<i64> = rows(&csv).iter().map(|row| row.received - row.intended).collect();
    let slow = latencies.iter().filter(|latency| **latency >= 200_000_000).count();
    assert!(slow >= 25, "{slow}: {result}");
    // The figures are those of all these pings.
    latencies.sort_unstable();
    for (figure, per_cent) in [("p50", 50), ("p90", 90), ("p99", 99), ("max", 100)] {
        let place = (latencies.len() * per_cent).div_ceil(100) - 1;
        // A figure has three significant digits, and its place may be rounded.
        let around = &latencies[place.saturating_sub(1)..(place + 2).min(latencies.len())];
        let [from, to] = [around[0] as f64 * 0.99e-6, around[around.len() - 1] as f64 * 1.01e-6];
        let reported = result["rtt_ms"][figure].as_f64().unwrap();
        assert!((from..=to).contains(&reported), "{figure}: not within {from} to {to}: {result}");
    }
}

#[test]
fn the_warm_up_is_not_counted() {
    let server = Server::start();
    for (warm_up, at_least) in [("50", 50), ("1s", 1)] {
        let before = load(server.address("tcp"), &["-i", "0", "-c", "1"])["server_total"].as_u64().unwrap();
        let result = load(server.address("tcp"), &["-i", "0", "-c", "10", "--warmup", warm_up]);
        assert_eq!(result["pings"]["sent"], 10);
        assert!(result["server_total"].as_u64().unwrap() >= before + at_least + 10, "{result}");
    }
}

#[test]
fn told_pings_are_counted_by_the_server() {
    let server = Server::start();
    let result = load(server.address("quic-v1"), &["--mode", "tell", "-P", "32", "-c", "1000", "--warmup", "10"]);
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

#[cfg(unix)]
#[test]
fn the_network_is_measured_while_nothing_else_is_sent() {
    for transport in ["tcp", "quic-v1"] {
        // The one ping is followed by an hour in which only the network is measured. How much of it a slow machine
        // needs for 20 samples is found out by trying.
        let mut samples = 0;
        for seconds in [3, 6, 12, 24, 48] {
            let server = Server::start();
            let arguments = ["-i", "1h", "-c", "2"];
            let pinging = Process::start(&mut client_command(server.address(transport), &arguments));
            server.process.event("pings");
            std::thread::sleep(std::time::Duration::from_secs(seconds));
            samples = result_of(pinging)["network_ms"]["samples"].as_u64().unwrap();
            if samples >= 20 {
                break;
            }
        }
        assert!(samples >= 20, "{transport}: {samples}");
    }
}

#[test]
fn every_ping_has_a_row() {
    let folder = tempfile::tempdir().unwrap();
    let csv = file(folder.path(), "pings.csv");
    let server = Server::start();
    let result = load(server.address("tcp"), &["-P", "4", "-c", "300", "--csv", &csv]);
    assert_eq!(fs::read_to_string(&csv).unwrap().lines().count(), 301, "a header, and a row for each ping");
    let mut rows = rows(&csv);
    assert!(rows.iter().all(|row| row.received - row.sent == row.rtt), "{rows:?}");
    rows.sort_unstable_by_key(|row| row.sequence);
    assert!(rows.iter().map(|row| row.sequence).eq(1..=300));
    let slowest = rows.iter().map(|row| row.rtt).max().unwrap();
    assert!((slowest as f64 / 1e6 - result["rtt_ms"]["max"].as_f64().unwrap()).abs() < 1e-9);
}

#[test]
fn the_report_stands_alone_and_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let page = file(folder.path(), "report.html");
    let server = Server::start();
    load(server.address("tcp"), &["-P", "4", "-c", "2000", "--report", &page]);
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>\n"));
    assert_eq!(html.matches("<svg").count(), 4, "four charts");
    let parts = ["Summary", "over the run", "Percentiles", "Histogram", "Steps to the first pong"];
    for text in parts.into_iter().chain([&*server.peer, "prefers-color-scheme"]) {
        assert!(html.contains(text), "{text} is missing");
    }
    for outside in ["src=", "@import", "url("] {
        assert!(!html.contains(outside), "{outside} would fetch something");
    }
    let again = ["--server", server.address("tcp"), "-i", "0", "-c", "1", "--report", &page];
    let run = client(&again);
    assert_eq!(run.code, Some(2), "{run}");
    assert!(run.stderr.contains("--force") && run.stdout.is_empty(), "{run}");
    assert_eq!(client(&[&again[..], &["--force"]].concat()).code, Some(0));
    let both = ["--csv", &page, "--report", &page, "--force"];
    let run = client(&[&["--server", server.address("tcp")], &both[..]].concat());
    assert_eq!(run.code, Some(2), "{run}");
    assert!(run.stderr.contains("name the same file"), "{run}");
    let run = client(&["--server", server.address("tcp"), "--csv", "/no/such/folder/a.csv"]);
    assert_eq!(run.code, Some(2), "{run}");
    assert!(run.stderr.contains("cannot write /no/such/folder/a.csv"), "{run}");
}

#[test]
fn a_quiet_run_prints_the_result_alone() {
    let server = Server::start();
    let run = client(&["--quiet", "--server", server.address("tcp"), "-P", "2", "-c", "200"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run}");
    assert!(run.stdout.contains("200 pings sent, 200 answered, 0 lost"), "{run}");
    assert!(run.stdout.contains("medians: network"), "{run}");
    let run = client(&["-v", "--server", server.address("tcp"), "-i", "0", "-c", "1"]);
    assert!(run.stderr.contains("DEBUG"), "{run}");
}

#[test]
fn an_actor_that_is_busy_is_pinged_again_until_it_is_not() {
    let (_server, address) = stock("busy-server");
    let run = ping(&address, &["-P", "16", "-c", "50"]);
    let pings = &run.json()["pings"];
    assert_eq!(
        (&pings["received"], &pings["lost"], run.json()["server_total"].as_u64()),
        (&50.into(), &0.into(), Some(50)),
        "{run}"
    );
    assert!(pings["busy"].as_u64().unwrap() > 0, "{run}");
}

#[test]
fn a_ping_to_an_actor_that_stays_busy_is_lost_because_of_that() {
    let (_server, address) = stock("stuck-server");
    // One ping is handled for ever, and one waits in the mailbox. A slow machine hears of the others within one of
    // these times.
    let busy = |time: &&str| {
        let run = ping(&address, &["-P", "8", "-c", "8", "-W", time]);
        assert_eq!(run.json()["pings"]["received"], 0, "{run}");
        lost(&run.json(), "busy") > 0
    };
    assert!(["1s", "4s", "16s", "64s"].iter().any(busy), "none is said to be lost because the actor is busy");
}
