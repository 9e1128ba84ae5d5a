//! The server by itself: addresses, identity, signals.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(unix)]
use std::process::Stdio;
use std::{fs, net::TcpListener, process::Command};

#[cfg(unix)]
use ping_lab::{Process, client_command, finish_child};
use ping_lab::{Run, Server, file, finish, ping, program};

fn server(arguments: &[&str]) -> Run {
    finish(Command::new(program("ping-server")).args(arguments))
}

#[track_caller]
fn refuses(arguments: &[&str], says: &[&str]) {
    let run = server(arguments);
    assert_eq!(run.code, Some(2), "{run}");
    for text in says {
        assert!(run.stderr.contains(text), "{text:?} is missing: {run}");
    }
}

#[test]
fn a_taken_port_is_named_with_what_to_do() {
    let held = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = held.local_addr().unwrap().port().to_string();
    refuses(&["--ephemeral", "--port", &port], &[&format!("/ip4/0.0.0.0/tcp/{port}"), "another program", "--port 0"]);
    let first = Server::start();
    for address in &first.addresses {
        let (listen, _) = address.split_once("/p2p/").unwrap();
        refuses(&["--ephemeral", "--listen", listen], &[listen, "another program uses that port"]);
    }
}

#[test]
fn what_is_not_a_listen_address_is_rejected() {
    refuses(&["--ephemeral", "--listen", "nonsense"], &["invalid value 'nonsense'"]);
    refuses(&["--ephemeral", "--listen", "/ip4/127.0.0.1/udp/1"], &["cannot listen on /ip4/127.0.0.1/udp/1"]);
    refuses(&["--ephemeral", "--listen", "/ip4/203.0.113.1/tcp/0"], &["no such address"]);
    refuses(&["--port", "65536"], &["65536"]);
    refuses(&["--name", ""], &["at least one character"]);
}

#[test]
fn the_identity_lasts_and_is_held_by_one_server_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let identity = file(folder.path(), "state/identity.key");
    let arguments = ["--identity", &identity, "--listen", "/ip4/127.0.0.1/tcp/0"];
    let first = Server::exactly(&arguments);
    let holder = format!("process {}", first.process.id());
    let holder = if cfg!(unix) { holder.as_str() } else { "in use by" };
    refuses(&arguments, &[holder, "--ephemeral"]);
    let peer = first.peer.clone();
    drop(first);
    assert_eq!(Server::exactly(&arguments).peer, peer);
    assert_ne!(Server::start().peer, peer);
}

#[test]
fn an_identity_file_must_be_readable_and_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let text = file(folder.path(), "text");
    fs::write(&text, "not a key").unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&text, fs::Permissions::from_mode(0o644)).unwrap();
        refuses(&["--identity", &text], &["other users can read", "(mode 0644)", "chmod 600"]);
        fs::set_permissions(&text, fs::Permissions::from_mode(0o600)).unwrap();
    }
    refuses(&["--identity", &text], &["holds no Ed25519 key", "--identity"]);
    refuses(&["--identity", folder.path().to_str().unwrap()], &["identity file", "--ephemeral"]);
    #[cfg(unix)]
    refuses(&["--identity", "/dev/null"], &["not a regular file", "--ephemeral"]);
    refuses(&["--identity", &text, "--ephemeral"], &["cannot be used with"]);
}

#[test]
fn clients_are_seen_to_come_and_go() {
    let server = Server::start();
    assert_eq!(ping(server.address("tcp"), &["-c", "2"]).code, Some(0));
    let came = server.process.event("client_connected");
    assert!(came["address"].as_str().unwrap().starts_with("/ip4/127.0.0.1/tcp/"), "{came}");
    let went = server.process.event("client_disconnected");
    assert_eq!((&came["peer_id"], &came["address"]), (&went["peer_id"], &went["address"]));
    assert_eq!(went["pings"], 2, "{went}");
    assert!(went["connected_s"].as_f64().unwrap() > 0.0 && went["time"].as_str() >= came["time"].as_str(), "{went}");
}

#[cfg(unix)]
#[test]
fn a_signal_stops_the_server_with_its_total() {
    for signal in ["INT", "TERM"] {
        let mut server = Server::start();
        assert_eq!(ping(server.address("quic-v1"), &["-c", "5"]).code, Some(0));
        server.process.signal(signal);
        assert_eq!(server.process.event("stopped")["total"], 5);
        assert_eq!(server.process.exit_code(), Some(0));
    }
}

#[test]
fn the_end_of_its_input_stops_the_server_that_was_told_so() {
    let mut server = Server::with(&["--stop-on-eof"]);
    drop(server.process.stdin.take());
    assert_eq!(server.process.event("stopped")["total"], 0);
    assert_eq!(server.process.exit_code(), Some(0));
}

#[test]
fn people_see_what_they_need_and_none_of_the_libraries_noise() {
    // What a run results in does not depend on how much is logged.
    for level in ["", "error", "off"] {
        let mut command = Command::new(program("ping-server"));
        command.args(["--ephemeral", "--stop-on-eof", "--listen", "/ip4/127.0.0.1/tcp/0"]).env("RUST_LOG", level);
        // Its input ends at once, so it stops as soon as it is ready.
        let run = finish(&mut command);
        assert_eq!(run.code, Some(0), "{run}");
        assert_eq!(run.stdout, "", "{run}");
        for text in [
            "Peer ID: 12D3",
            "On this machine: ping-client 127.0.0.1:",
            "Connection address: /ip4/127.0.0.1/tcp/",
            "PingActor registered and ready!",
            "Total pings: 0",
        ] {
            assert!(run.stderr.contains(text), "{text:?} is missing: {run}");
        }
        assert!(!run.stderr.contains("WARN") && !run.stderr.contains("bootstrap"), "{run}");
        assert!(!run.stderr.contains('\u{1b}'), "colour without a terminal: {run}");
    }
}

#[cfg(unix)]
#[test]
fn a_reader_that_pauses_does_not_hold_up_the_server_and_one_that_leaves_stops_it() {
    let mut command = Command::new(program("ping-server"));
    // If this test fails, the end of its input stops it.
    command.args(["--json", "--ephemeral", "--stop-on-eof", "--listen", "/ip4/127.0.0.1/tcp/0"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut server = command.spawn().unwrap();
    let mut reports = std::io::BufReader::new(server.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut reports, &mut line).unwrap();
    let listening: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address = listening["connection_address"].as_str().unwrap();
    // From here on nobody reads. A client that comes and goes is two lines of 150 bytes, a pipe holds 64 KiB.
    for _ in 0..200 {
        assert_eq!(ping(address, &["-c", "1"]).code, Some(0));
    }
    drop(reports);
    let _one_more = Process::start(&mut client_command(address, &["-c", "0"]));
    let run = finish_child(server);
    assert_eq!(run.code, Some(2), "{run}");
    assert!(run.stderr.contains("cannot write to standard output"), "{run}");
}
