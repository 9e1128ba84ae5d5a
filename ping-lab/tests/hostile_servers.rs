//! Servers that do not follow the rules. The client never panics, prints a result, and repeats nothing raw that they
//! say.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, process::Command, thread};

use ping_lab::{Process, Run, file, finish, program};
use serde_json::Value;

/// How much of what a server says may be repeated, in bytes.
const MAX_WORDS: usize = 4096;

/// Starts a hostile server; returns it with its address.
fn serve(kind: &str) -> (Process, String) {
    let server = Process::start(Command::new(program("hostile")).args(["serve", kind]));
    let address = server.line().expect("it prints its address");
    (server, address)
}

/// Pings a hostile server three times, and checks what the client leaves behind.
fn ping(kind: &str, arguments: &[&str]) -> Run {
    let (_server, address) = serve(kind);
    let run = finish(
        Command::new(program("ping-client"))
            .args(["--server", &address, "-c", "3", "-i", "0", "-W", "1s", "--find-timeout", "10s", "--no-reconnect"])
            .args(arguments),
    );
    assert!(matches!(run.code, Some(0..=2)), "{kind} {arguments:?}: {run}");
    let panicked = run.stderr.contains("panicked");
    assert!(!panicked, "{kind} {arguments:?}: {run}");
    for output in [&run.stdout, &run.stderr] {
        assert_harmless(output, &format!("{kind} {arguments:?}"));
        assert!(output.len() < 16 * 1024, "{kind} {arguments:?}: {} bytes", output.len());
        assert!(output.matches("owned").count() * 64 < MAX_WORDS, "{kind} {arguments:?}: {run}");
    }
    run
}

/// No character acts on a terminal.
#[track_caller]
fn assert_harmless(text: &str, what: &str) {
    let harmful = |c: char| {
        (c.is_control() && c != '\n')
            || ('\u{200b}'..='\u{200f}').contains(&c)
            || ('\u{202a}'..='\u{202e}').contains(&c)
    };
    assert!(!text.contains(harmful), "{what}: {text:?}");
    assert!(!text.lines().any(|line| line.contains("INFO forged") && line.starts_with("2026-01-01")), "{what}: {text}");
}

/// Every text in a JSON value.
fn texts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(values) => values.iter().for_each(|value| texts(value, found)),
        Value::Object(fields) => fields.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

#[test]
fn an_answer_of_another_kind_than_its_request_fails_the_ping_alone() {
    for kind in ["link", "unlink", "died", "failure", "tell", "other-form"] {
        let result = ping(kind, &["--json"]).json();
        assert_eq!(
            (&result["pings"]["sent"], &result["pings"]["received"]),
            (&3.into(), &0.into()),
            "{kind}: {result}"
        );
    }
    for kind in ["link", "failure", "ask"] {
        // The client asks about the total first, and learns nothing.
        ping(kind, &["--json", "--mode", "tell"]);
    }
}

#[test]
fn an_answer_that_does_not_decode_or_end_fails_the_ping_alone() {
    for kind in ["claims", "garbage", "nothing", "endless", "silence"] {
        let result = ping(kind, &["--json"]).json();
        assert_eq!(
            (&result["pings"]["sent"], &result["pings"]["received"]),
            (&3.into(), &0.into()),
            "{kind}: {result}"
        );
    }
    for kind in ["garbage", "nothing", "endless"] {
        ping(kind, &["--mode", "stream"]);
        ping(kind, &["--size", "100"]);
        ping(kind, &["--retry", "-w", "5s"]);
    }
}

#[test]
fn a_server_that_welcomes_and_closes_is_not_asked_again_and_again() {
    let (_server, address) = serve("leaver");
    let run = finish(
        Command::new(program("ping-client"))
            .args(["--server", &address, "--mode", "stream", "--json", "-c", "0", "-i", "0", "-w", "5s"]),
    );
    let result = run.json();
    let reconnects = result["reconnects"]["count"].as_u64().unwrap_or_else(|| panic!("{result}"));
    // Without pauses, there are a hundred a second.
    assert!((2..=10).contains(&reconnects), "{run}");
    assert!(run.stderr.lines().count() < 30, "{run}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_that_asks_the_client_gets_nowhere() {
    let (_server, address) = serve("calls");
    let mut command = Command::new(program("ping-client"));
    command.args(["--server", &address, "--json", "-c", "0", "-i", "100ms"]);
    let mut client = Process::start(&mut command);
    // Until it is closed for what it holds.
    client.log_with("the connection to the server was lost");
    let most = ping_lab::most_memory(client.id());
    assert!(most < 80 * 1024 * 1024, "{most} bytes");
    client.signal("INT");
    let result = client.result();
    assert!(result["pings"]["sent"].as_u64().unwrap() >= 1, "{result}");
    assert!(matches!(client.exit_code(), Some(0 | 1)));
}

#[test]
fn a_look_up_that_hangs_is_not_blamed_on_a_firewall() {
    let run = ping("no-registry", &["--json"]);
    assert_eq!((run.code, &*run.cause()), (Some(2), "look_up_timed_out"), "{run}");
}

#[test]
fn what_a_server_says_reaches_no_output_raw() {
    let cases = [("words", "ask"), ("words", "stream"), ("novel", "ask"), ("version", "ask"), ("goodbye", "ask")];
    thread::scope(|scope| {
        for (kind, mode) in cases {
            scope.spawn(move || repeats_nothing_raw(kind, mode));
            scope.spawn(move || {
                let mut found = Vec::new();
                texts(&ping(kind, &["--mode", mode, "--json"]).json(), &mut found);
                found.iter().for_each(|text| assert_harmless(text, kind));
            });
        }
    });
}

fn repeats_nothing_raw(kind: &str, mode: &str) {
    let folder = tempfile::tempdir().unwrap();
    let [report, rows] = ["report.html", "rows.csv"].map(|name| file(folder.path(), name));
    let run = ping(kind, &["--mode", mode, "--report", &report, "--csv", &rows]);
    for file in [&report, &rows] {
        if let Ok(text) = fs::read_to_string(file) {
            assert_harmless(&text, kind);
            // The page's own: the result and the script that shows values.
            assert!(text.matches("<script").count() <= 2, "{kind}: {text}");
        }
    }
    assert!(kind != "words" || run.stderr.contains("owned") || run.stdout.contains("owned"), "{kind}: {run}");
}
