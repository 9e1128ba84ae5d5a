//! Which clients may ping which servers.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path, process::Command, thread};

use ping_lab::{Process, Server, client, client_command, file, finish, ping, program};

/// How long a search lasts whose cause is told when its time is over. A slow machine meets the cause within this time.
const SEARCH: &str = "30s";

/// Makes a file that only its owner can read.
fn private_file(folder: &Path, name: &str, content: &str) -> String {
    let path = file(folder, name);
    fs::write(&path, content).unwrap();
    #[cfg(unix)]
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    path
}

/// A key of a private network.
fn secret(folder: &Path, name: &str, digit: &str) -> String {
    private_file(folder, name, &format!("/key/swarm/psk/1.0.0/\n/base16/\n{}\n", digit.repeat(64)))
}

#[cfg(unix)]
#[test]
fn a_server_reads_again_who_may_connect_and_keeps_those_who_still_may() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| file(folder.path(), name));
    let id = |path: &str| client(&["id", "--identity", path]).stdout.trim().to_owned();
    let (first_id, second_id) = (id(&first), id(&second));
    let list = private_file(folder.path(), "list", &first_id);
    let server = Server::with(&["--allow", &list]);
    let address = server.address("tcp");
    let pinging = Process::start(&mut client_command(address, &["--identity", &first, "-c", "0", "-i", "10ms"]));
    server.process.two_pings();
    let read_again = |content: &str| {
        fs::write(&list, content).unwrap();
        server.process.signal("HUP");
        server.process.log_with("--allow")
    };
    assert!(read_again("rubbish").contains("--allow stays as it was"));
    assert!(read_again(&format!("{first_id}\n{second_id}\n")).contains("2 identities may connect"));
    assert_eq!(ping(address, &["--identity", &second, "-c", "1"]).code, Some(0));
    let result = ping_lab::result_of(pinging);
    assert_eq!(result["reconnects"]["count"], 0, "{result}");
    read_again(&second_id);
    assert_eq!(ping(address, &["--identity", &first, "-c", "1", "--find-timeout", "2s"]).code, Some(2));
    assert_eq!(ping(address, &["--identity", &second, "-c", "1"]).code, Some(0));
}

#[test]
fn a_server_lets_in_those_it_is_told_to_and_the_others_learn_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| file(folder.path(), name));
    let [first_id, second_id] = [&first, &second].map(|path| {
        let run = client(&["id", "--identity", path]);
        assert_eq!(run.code, Some(0), "{run}");
        let _in_use = Server::exactly(&["--identity", path, "--listen", "/ip4/127.0.0.1/tcp/0"]);
        assert_eq!(client(&["id", "--identity", path]).stdout, run.stdout, "it stays the same, and can be in use");
        run.stdout.trim().to_owned()
    });
    let list = private_file(folder.path(), "list", &format!("{second_id} # the second one\n"));
    let server = Server::with(&["--allow", &first_id, "--allow", &list]);
    for transport in ["tcp", "quic-v1"] {
        let address = server.address(transport);
        for identity in [&first, &second] {
            let run = ping(address, &["-c", "1", "--identity", identity]);
            assert_eq!(run.code, Some(0), "{run}");
        }
    }
    thread::scope(|scope| {
        for transport in ["tcp", "quic-v1"] {
            let address = server.address(transport);
            scope.spawn(move || {
                let run = ping(address, &["-c", "1", "--find-timeout", SEARCH]);
                assert_eq!((run.cause().as_str(), run.code), ("turned_away", Some(2)), "{run}");
                assert!(run.stderr.contains("--allow"), "{run}");
            });
        }
    });
}

#[test]
fn a_private_server_is_reached_with_its_secret_alone() {
    let folder = tempfile::tempdir().unwrap();
    let [ours, theirs] = [("ours", "a"), ("theirs", "b")].map(|(name, digit)| secret(folder.path(), name, digit));
    let listen = ["--ephemeral", "--listen", "/ip4/127.0.0.1/tcp/0"];
    let server = Server::exactly(&[&listen[..], &["--secret", &ours]].concat());
    let port = format!("127.0.0.1:{}", server.port("tcp"));
    for address in [server.address("tcp"), &port] {
        for mode in ["ask", "stream"] {
            let run = ping(address, &["-c", "3", "--secret", &ours, "--mode", mode]);
            assert_eq!(run.code, Some(0), "{run}");
        }
    }
    let open = Server::start();
    // A client with another key may wait for more of what it cannot read; it gives up after five seconds.
    let patience = ["-c", "1", "--find-timeout", SEARCH];
    let strangers = [
        (server.address("tcp"), &["--secret", theirs.as_str()][..]),
        (server.address("tcp"), &[]),
        (open.address("tcp"), &["--secret", ours.as_str()]),
    ];
    thread::scope(|scope| {
        for (address, arguments) in strangers {
            scope.spawn(move || {
                let run = ping(address, &[&patience, arguments].concat());
                assert_eq!((run.cause().as_str(), run.code), ("not_libp2p", Some(2)), "{run}");
                assert!(run.stderr.contains("--secret"), "{run}");
            });
        }
    });
}

#[test]
fn what_would_not_be_private_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let key = secret(folder.path(), "key", "c");
    let run = client(&["--server", "/ip4/127.0.0.1/udp/1/quic-v1", "--secret", &key]);
    assert_eq!(run.code, Some(2), "{run}");
    assert!(run.stderr.contains("QUIC"), "{run}");
    let server = |arguments: &[&str]| -> ping_lab::Run {
        finish(Command::new(program("ping-server")).arg("--ephemeral").args(arguments))
    };
    let run = server(&["--secret", &key, "--listen", "/ip4/127.0.0.1/udp/0/quic-v1"]);
    assert_eq!(run.code, Some(2), "{run}");
    assert!(run.stderr.contains("QUIC"), "{run}");
    let listen = ["--listen", "/ip4/127.0.0.1/tcp/0"];
    let missing = file(folder.path(), "missing");
    let wrong = private_file(folder.path(), "wrong", "hello");
    for (arguments, text) in [
        (["--secret", &missing], "cannot read"),
        (["--secret", &wrong], "holds no key"),
        (["--allow", &missing], "neither an identity"),
        (["--allow", &wrong], "line 1 of"),
        (["--state", folder.path().to_str().unwrap()], "state file"),
        (["--state", &wrong], "not a state file"),
    ] {
        let run = server(&[&listen[..], &arguments].concat());
        assert_eq!(run.code, Some(2), "{run}");
        assert!(run.stderr.contains(text) && run.stdout.is_empty(), "{text}: {run}");
    }
}

#[test]
fn another_peer_of_the_same_name_is_named_and_not_pinged() {
    let server = Server::start();
    let rival = Process::start(Command::new(program("stock")).args(["rival", server.address("tcp")]));
    let rival = rival.line().unwrap();
    for transport in ["tcp", "quic-v1"] {
        let pinned = server.address(transport);
        let (bare, _) = pinned.split_once("/p2p/").unwrap();
        for (address, named) in [(pinned, false), (bare, true)] {
            let run = ping(address, &["-c", "200"]);
            assert_eq!((run.code, run.json()["pings"]["received"].as_u64()), (Some(0), Some(200)), "{run}");
            assert_eq!(run.json()["server"]["peer_id"], server.peer.as_str(), "{run}");
            // It may take longer than those pings until the other one is heard of.
            assert!(named || !run.stderr.contains(&rival), "{run}");
            if named {
                Process::start(&mut client_command(address, &["-c", "0"])).log_with(&rival);
            }
        }
    }
}
