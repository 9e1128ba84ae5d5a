//! The client's habits: gates, comparisons, intervals, rows on standard output, and options from the environment.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use ping_lab::{Run, Server, client, client_command, file, finish, ping};
use serde_json::Value;

/// Runs a client that prints text.
fn text(server: &Server, arguments: &[&str]) -> Run {
    client(&[&["--server", server.address("tcp"), "-i", "0"], arguments].concat())
}

#[test]
fn a_gate_that_fails_ends_with_exit_code_3_and_says_by_how_much() {
    let server = Server::start();
    let run =
        ping(server.address("tcp"), &["-c", "10", "--max-loss", "0%", "--max-p99", "1h", "--max-first-pong", "1h"]);
    assert_eq!((run.code, &run.json()["gates_failed"]), (Some(0), &Value::Array(Vec::new())), "{run}");
    let run = ping(server.address("tcp"), &["-c", "10", "--max-p50", "0", "--max-loss", "0%"]);
    assert_eq!(run.code, Some(3), "{run}");
    let failed = run.json()["gates_failed"].clone();
    assert_eq!(failed.as_array().unwrap().len(), 1, "{run}");
    assert!(failed[0].as_str().unwrap().starts_with("gate failed: p50 is "), "{run}");
    assert!(run.stderr.contains("above --max-p50 0s"), "{run}");
}

#[test]
fn two_results_are_compared_and_a_change_for_the_worse_can_fail() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let [one, other, page] = ["a.json", "b.json", "ab.html"].map(|name| file(folder.path(), name));
    for path in [&one, &other] {
        let run = ping(server.address("tcp"), &["-c", "500"]);
        fs::write(path, &run.stdout).unwrap();
    }
    let run = client(&["compare", &one, &other, "--fail-if", "p50>+100000%", "--report", &page]);
    assert_eq!(run.code, Some(0), "{run}");
    for word in ["p50", "p99", "rate", "first-pong", "Welch"] {
        assert!(run.stdout.contains(word), "{word}: {run}");
    }
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.matches("<svg").count() == 2 && html.contains("run1"), "both runs are drawn");
    let run = client(&["compare", &one, &other, "--markdown", "--fail-if", "rate<+100000%"]);
    assert_eq!(run.code, Some(3), "{run}");
    assert!(run.stdout.starts_with("|  | A | B |") && run.stderr.contains("gate failed: rate"), "{run}");
    let run = client(&["compare", &one, &page]);
    assert_eq!(run.code, Some(2), "{run}");
    assert!(run.stderr.contains("is no result"), "{run}");
}

#[test]
fn a_stream_of_json_lines_adds_up_to_the_result() {
    let server = Server::start();
    let arguments = ["--json-stream", "--report-interval", "100ms", "--duration", "1s"];
    let run = text(&server, &arguments);
    assert_eq!(run.code, Some(0), "{run}");
    let lines: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [start, intervals @ .., end] = &lines[..] else { panic!("{run}") };
    assert_eq!((&start["event"], &end["event"]), (&"start".into(), &"end".into()), "{run}");
    assert!(intervals.iter().all(|line| line["event"] == "interval"), "{run}");
    for field in ["sent", "received", "lost"] {
        let sum: u64 = intervals.iter().map(|line| line[field].as_u64().unwrap()).sum();
        assert_eq!(sum, end["result"]["pings"][field], "{field}: {run}");
    }
    let ends = intervals.iter().map(|line| line["to_s"].as_f64().unwrap());
    assert!(ends.is_sorted(), "{run}");
}

#[test]
fn rows_on_standard_output_are_rows_alone() {
    let server = Server::start();
    let run = text(&server, &["-c", "5", "--csv", "-"]);
    assert_eq!((run.code, run.stdout.lines().count()), (Some(0), 6), "{run}");
    assert!(run.stdout.starts_with("sequence,") && run.stderr.contains("5 answered"), "{run}");
    let run = text(&server, &["--csv", "-", "--json"]);
    assert_eq!(run.code, Some(2), "{run}");
}

#[test]
fn every_option_can_come_from_the_environment_and_the_command_line_wins() {
    let server = Server::start();
    let run = |arguments: &[&str]| {
        let mut command = client_command(server.address("tcp"), arguments);
        let run = finish(
            command.env("KAMEO_PING_COUNT", "3").env("KAMEO_PING_SIZE", "1K").env("KAMEO_PING_NO_RECONNECT", "1"),
        );
        assert_eq!(run.code, Some(0), "{run}");
        let result = run.json();
        (result["pings"]["sent"].clone(), result["load"]["payload_bytes"].clone())
    };
    assert_eq!(run(&[]), (3.into(), 1024.into()));
    assert_eq!(run(&["-c", "4", "-s", "0"]), (4.into(), 0.into()));
}

#[test]
fn the_chart_tells_of_every_ping_that_the_rows_have() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let rows = file(folder.path(), "rows.csv");
    let result = ping(server.address("tcp"), &["-c", "1000", "--csv", &rows]).json();
    let points = result["over_time"].as_array().unwrap();
    let sum = |field: &str| points.iter().map(|point| point[field].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("answered"), sum("arrived")), (1000, 1000), "{result}");
    // Each interval has the pings that were due in it.
    let due: Vec<f64> = fs::read_to_string(&rows).unwrap().lines().skip(1).map(due).collect();
    for point in points {
        let [from, to] = ["from_s", "to_s"].map(|field| point[field].as_f64().unwrap());
        let count = due.iter().filter(|due| (from..to).contains(&due.max(0.0))).count();
        assert_eq!(count as u64, point["answered"], "{point}");
    }
}

/// When the ping of a row was due, in seconds.
fn due(row: &str) -> f64 {
    row.split(',').nth(1).unwrap().parse::<f64>().unwrap() / 1e9
}

#[cfg(unix)]
#[test]
fn the_figures_so_far_are_printed_on_request() {
    let server = Server::start();
    let client = ping_lab::start_client(&server, &["-c", "0"]);
    server.process.two_pings();
    client.signal("QUIT");
    let line = client.log_with("answered, ");
    assert!(line.contains("pings sent") && line.contains("min/p50/p99/max"), "{line}");
    assert_eq!(ping_lab::lost(&ping_lab::result_of(client), "timed_out"), 0);
}

#[test]
fn several_servers_stand_in_the_order_of_the_command_line_with_their_ratio_to_the_first() {
    let servers = [Server::start(), Server::start()];
    let [one, other] = servers.each_ref().map(|server| server.address("tcp"));
    let run = client(&["-c", "10", "-i", "0", other, one]);
    assert_eq!(run.code, Some(0), "{run}");
    let lines: Vec<_> = run.stdout.lines().collect();
    assert!(lines[0].ends_with("P50/1ST") && lines[1].trim_end().ends_with("1.00"), "{run}");
    let port = |address: &str| address.split('/').nth(4).unwrap().to_owned();
    assert!(lines[1].contains(&port(other)) && lines[2].contains(&port(one)), "{run}");
}
