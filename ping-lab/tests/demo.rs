//! The demo: one command, a result, and nothing left behind.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use ping_lab::client;

#[test]
fn the_demo_answers_a_hundred_pings() {
    let run = client(&["--demo"]);
    assert_eq!(run.code, Some(0), "{run}");
    assert!(run.stdout.contains("100 pings sent, 100 answered, 0 lost"), "{run}");
    assert!(run.stdout.contains("first pong"), "{run}");
    assert!(!run.stderr.contains("Peer ID"), "the server's log is not the client's: {run}");
    let run = client(&["--demo", "--json", "-c", "7"]);
    assert_eq!(run.json()["server_total"], 7, "{run}");
}

#[cfg(unix)]
mod interrupted {
    use std::process::Command;

    use ping_lab::{Process, finish, is_running, program, until};

    /// A demo that does not end, and the number of its server's process.
    fn endless_demo() -> (Process, u32) {
        let demo = Process::start(Command::new(program("ping-client")).args(["--demo", "-c", "0", "-i", "10ms"]));
        let mut server = None;
        until("the demo starts a server", || {
            let children = finish(Command::new("pgrep").args(["-P", &demo.id().to_string()])).stdout;
            server = children.trim().parse().ok();
            server.is_some()
        });
        (demo, server.unwrap())
    }

    #[test]
    fn an_interrupted_demo_leaves_nothing_behind() {
        let (mut demo, server) = endless_demo();
        demo.signal("INT");
        assert!(demo.exit_code().is_some());
        assert!(!is_running(server));
    }

    #[test]
    fn a_killed_demo_leaves_nothing_behind() {
        let (mut demo, server) = endless_demo();
        demo.signal("KILL");
        assert_eq!(demo.exit_code(), None);
        until("the server ends with the demo", || !is_running(server));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_stderr_that_takes_nothing_does_not_cost_the_result() {
    use std::process::{Command, Stdio};

    use ping_lab::{finish_child, program};

    let run = |name: &str, arguments: &[&str]| {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(program(name));
        finish_child(command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(full).spawn().unwrap())
    };
    let demo = run("ping-client", &["--demo", "-c", "3"]);
    assert_eq!(demo.code, Some(0), "{demo}");
    assert!(demo.stdout.contains("3 pings sent, 3 answered"), "{demo}");
    let server = run("ping-server", &["--ephemeral", "--listen", "/ip4/1.2.3.4/tcp/1"]);
    assert_eq!(server.code, Some(2), "{server}");
}
