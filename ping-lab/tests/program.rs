//! How the programs behave as programs: pipes, logs, signals and limits of the system.

#![cfg(unix)]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    net::TcpStream,
    os::unix::ffi::OsStrExt,
    process::{Command, Stdio},
};

use ping_lab::{Process, Server, client_command, finish, finish_child, ignores_hangups, ping, program};

/// More connections than log lines of theirs fit into a pipe.
const CONNECTIONS: &str = "600";

#[test]
fn a_log_that_nobody_reads_does_not_stop_the_server() {
    let mut command = Command::new(program("ping-server"));
    command.args(["--ephemeral", "--listen", "/ip4/127.0.0.1/tcp/0"]);
    let mut server = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(server.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("Connection address: ") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "the server ends before it listens");
    }
    let address = line.trim().rsplit(' ').next().unwrap();
    // From here on nothing reads the log. Each connection is two lines of 150 bytes; a pipe holds 64 KiB.
    let churn = finish(Command::new(program("hostile")).args(["churn", address, CONNECTIONS]));
    assert_eq!(churn.code, Some(0), "{churn}");
    assert_eq!(ping(address, &["-c", "10"]).code, Some(0));
    let stopped = finish(Command::new("kill").arg(server.id().to_string()));
    assert_eq!(stopped.code, Some(0), "{stopped}");
    let run = finish_child(server);
    assert_eq!(run.code, Some(0), "{run}");
}

#[test]
fn a_reader_of_the_result_that_has_seen_enough_is_no_error() {
    let server = Server::start();
    let mut command = client_command(server.address("tcp"), &["-c", "0"]);
    let mut client = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    server.process.two_pings();
    drop(client.stdout.take());
    assert_eq!(finish(Command::new("kill").arg(client.id().to_string())).code, Some(0));
    let run = finish_child(client);
    assert_eq!(run.code, Some(0), "{run}");
    assert!(!run.stderr.contains("cannot write"), "{run}");
}

#[test]
fn the_end_of_the_terminal_ends_both_programs_with_their_result() {
    if ignores_hangups() {
        eprintln!("skipped: this process ignores SIGHUP, and so do the programs that it starts");
        return;
    }
    let mut server = Server::start();
    let mut client = Process::start(&mut client_command(server.address("tcp"), &["-c", "0"]));
    server.process.two_pings();
    client.signal("HUP");
    assert!(client.result()["pings"]["received"].as_u64().unwrap() >= 1);
    assert_eq!(client.exit_code(), Some(0));
    server.process.signal("HUP");
    assert!(server.process.event("stopped")["total"].as_u64().unwrap() >= 1);
    assert_eq!(server.process.exit_code(), Some(0));
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_under_nohup_survives_the_end_of_the_terminal() {
    let mut command = Command::new("nohup");
    command.arg(program("ping-server")).args(["--json", "--ephemeral", "--listen", "/ip4/127.0.0.1/tcp/0"]);
    let server = Server::from(Process::start(&mut command));
    server.process.signal("HUP");
    assert_eq!(ping(server.address("tcp"), &["-c", "1"]).code, Some(0));
}

#[test]
fn a_path_that_is_no_utf_8_is_a_path() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(OsStr::from_bytes(b"\xff.csv"));
    let mut command = client_command(server.address("tcp"), &["-c", "1"]);
    let run = finish(command.arg("--csv").arg(&path));
    assert_eq!(run.code, Some(0), "{run}");
    assert!(std::fs::read_to_string(&path).unwrap().lines().count() > 1, "{run}");
}

#[test]
fn the_flags_of_the_log_win_over_the_environment() {
    let server = Server::start();
    let run = |level: &str, flag: &str| {
        let run = finish(client_command(server.address("tcp"), &["-c", "1", flag]).env("RUST_LOG", level));
        assert_eq!(run.code, Some(0), "{run}");
        run.stderr
    };
    assert_eq!(run("trace", "--quiet"), "");
    assert!(run("off", "--verbose").contains("DEBUG"));
    let run = |level: &str| finish(client_command(server.address("tcp"), &["-c", "1"]).env("RUST_LOG", level)).stderr;
    assert!(run("ping_client=debug").contains("DEBUG") && !run("off").contains("INFO"));
    assert!(run("a=b=c").contains("RUST_LOG is ignored"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_without_free_files_says_so_and_recovers() {
    // The shell lowers the hard limit too, so that the server cannot raise it.
    let script = "ulimit -n 40 && exec \"$0\" --ephemeral --listen /ip4/127.0.0.1/tcp/0";
    let server = Process::start(Command::new("sh").args(["-c", script]).arg(program("ping-server")));
    server.log_with("allows this process 40 open files");
    let line = server.log_with("Connection address: ");
    let address = line.rsplit(' ').next().unwrap();
    let port = address.split('/').nth(4).unwrap().parse().unwrap();
    let held: Vec<_> = (0..60).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    let line = server.log_with("Cannot accept a connection");
    assert!(line.contains("the limit is 40") && line.contains("--max-connections"), "{line}");
    drop(held);
    assert_eq!(ping(address, &["-c", "1"]).code, Some(0));
}
