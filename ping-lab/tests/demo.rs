//! The demo: one command, a result, and nothing left behind.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use ping_lab::{Process, client, program};

#[test]
fn the_demo_answers_a_hundred_pings() {
    let run = client(&["--demo"]);
    assert_eq!(run.code, Some(0), "{run}");
    assert!(run.stdout.contains("100 pings sent, 100 answered, 0 lost"), "{run}");
    assert!(run.stdout.contains("first pong"), "{run}");
    let run = client(&["--demo", "--json", "-c", "7"]);
    assert_eq!(run.json()["server_total"], 7, "{run}");
}

/// The demo under way, and the number of its server's process.
#[cfg(unix)]
fn endless_demo() -> (Process, u32) {
    let demo = Process::start(Command::new(program("ping-client")).args(["--demo", "-c", "1000000000", "-i", "10ms"]));
    let started = std::time::Instant::now();
    loop {
        let children = Command::new("pgrep").args(["-P", &demo.id().to_string()]).output().unwrap().stdout;
        if let Ok(server) = String::from_utf8(children).unwrap().trim().parse() {
            return (demo, server);
        }
        assert!(started.elapsed() < ping_lab::DEADLINE, "the demo starts no server");
        std::thread::yield_now();
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let (mut demo, server) = endless_demo();
    demo.signal("INT");
    assert!(demo.exit_code().is_some());
    assert!(!ping_lab::runs(server));
}

#[cfg(unix)]
#[test]
fn a_killed_demo_leaves_nothing_behind() {
    let (mut demo, server) = endless_demo();
    demo.signal("KILL");
    assert_eq!(demo.exit_code(), None);
    let started = std::time::Instant::now();
    while ping_lab::runs(server) {
        assert!(started.elapsed() < ping_lab::DEADLINE, "the server outlives the demo");
        std::thread::yield_now();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_stderr_that_takes_nothing_does_not_cost_the_result() {
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let run: ping_lab::Run =
        Command::new(program("ping-client")).args(["--demo", "-c", "3"]).stderr(full()).output().unwrap().into();
    assert_eq!(run.code, Some(0), "{run}");
    assert!(run.stdout.contains("3 pings sent, 3 answered"), "{run}");
    let run: ping_lab::Run = Command::new(program("ping-server"))
        .args(["--listen", "/ip4/1.2.3.4/tcp/1"])
        .stderr(full())
        .output()
        .unwrap()
        .into();
    assert_eq!(run.code, Some(2), "{run}");
}
