//! Pings that do not work: each cause is named, with what to do about it and the right exit code.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod schema;

use std::{
    io::Write,
    net::{TcpListener, UdpSocket},
    thread,
};

use ping_lab::{Port, Run, Server, client, ping, stock};
use serde_json::Value;

const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

/// How long a search lasts whose cause is told when its time is over. A slow machine meets the cause within this time.
const SEARCH: &str = "30s";

/// How long a search may last that ends by itself, when it has met a cause that another try cannot change.
const NO_LIMIT: &str = "1d";

/// Checks that a search ends without a ping, and says one sentence of cause and one of what to do.
#[track_caller]
fn fails(time: &str, address: &str, arguments: &[&str], cause: &str, says: &[&str]) -> Run {
    let run = ping(address, &[&["--find-timeout", time], arguments].concat());
    assert_eq!((run.code, run.cause().as_str()), (Some(2), cause), "{address}: {run}");
    schema::check(&run.json());
    assert_eq!(run.json()["pings"]["sent"], 0, "{run}");
    let last = run.stderr.lines().last().unwrap();
    assert!(last.starts_with("ping-client: ") && last.ends_with('.') && last.contains(". "), "{run}");
    for text in says {
        assert!(last.contains(text), "{text:?} is missing: {run}");
    }
    run
}

/// Runs tests side by side, since most of what they do is wait.
fn side_by_side(tests: Vec<Box<dyn Fn() + Send>>) {
    thread::scope(|scope| tests.into_iter().for_each(|test| drop(scope.spawn(test))));
}

#[test]
fn text_that_is_not_an_address_is_rejected() {
    for address in ["not an address", "/ip4/1.2.3.4", "host:port", "/ip4/127.0.0.1/tcp/1/p2p/me"] {
        let run = client(&["--server", address]);
        assert_eq!(run.code, Some(2), "{run}");
        assert!(run.stderr.contains("invalid value"), "{run}");
    }
}

#[test]
fn a_search_ends_at_its_time_limit_and_names_the_cause() {
    side_by_side(vec![
        Box::new(a_host_name_that_does_not_resolve),
        Box::new(nothing_listens),
        Box::new(packets_go_nowhere),
        Box::new(another_program_on_that_port),
        Box::new(a_port_that_stays_silent),
        Box::new(no_actor_of_that_name),
        Box::new(an_actor_of_another_type),
    ]);
}

fn a_host_name_that_does_not_resolve() {
    let says = ["no-such-host.invalid", "does not resolve", "Check the spelling"];
    fails(SEARCH, "no-such-host.invalid", &[], "unresolved", &says);
}

fn nothing_listens() {
    let port = Port::claim();
    let addresses = [format!("127.0.0.1:{}", port.number), format!("/ip4/127.0.0.1/tcp/{}/p2p/{PEER}", port.number)];
    thread::scope(|scope| {
        for address in &addresses {
            scope.spawn(|| fails(SEARCH, address, &[], "refused", &["connection refused", "Start ping-server"]));
        }
    });
}

fn packets_go_nowhere() {
    // It takes every packet and answers none.
    let hole = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/udp/{}/quic-v1", hole.local_addr().unwrap().port());
    fails(SEARCH, &address, &[], "timed_out", &["timed out", "firewall"]);
}

fn another_program_on_that_port() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = (&stream).write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    fails(SEARCH, &address, &[], "not_libp2p", &["not a libp2p peer", "another program"]);
}

fn a_port_that_stays_silent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().unwrap().port());
    thread::spawn(move || listener.incoming().collect::<Vec<_>>());
    fails(SEARCH, &address, &[], "not_libp2p", &["no handshake followed"]);
}

fn no_actor_of_that_name() {
    let server = Server::start();
    let says = ["no actor named 'nobody'", "--name"];
    fails(SEARCH, server.address("tcp"), &["--name", "nobody"], "no_such_actor", &says);
}

fn an_actor_of_another_type() {
    let (_server, address) = stock("other-type");
    fails(SEARCH, &address, &[], "other_type", &["not a PingActor", "--name"]);
}

#[test]
fn the_doctor_walks_every_step_and_names_the_one_that_fails() {
    let server = Server::exactly(&["--ephemeral", "--port", "0"]);
    let port = server.address("tcp").split('/').nth(4).unwrap().to_owned();
    let examine = |arguments: &[&str]| {
        let run = client(&[&["doctor"], arguments, &["--json"]].concat());
        let result: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run}"));
        let steps = result["steps"].as_array().unwrap().clone();
        (run.code, result["works"].as_bool().unwrap(), steps)
    };
    let names = |steps: &[Value], outcome: &str| -> Vec<String> {
        let steps = steps.iter().filter(|step| step["outcome"] == outcome && step["step"] != "mdns");
        steps.map(|step| step["step"].as_str().unwrap().to_owned()).collect()
    };
    let (code, works, steps) = examine(&[&format!("127.0.0.1:{port}")]);
    assert_eq!((code, works), (Some(0), true), "{steps:?}");
    let all = [
        "resolve",
        "route",
        "tcp",
        "secure tcp",
        "quic",
        "identity",
        "kameo",
        "registry",
        "actor",
        "clock",
        "ping",
        "path mtu",
    ];
    assert_eq!(names(&steps, "passed"), all, "{steps:?}");
    assert!(names(&steps, "failed").is_empty(), "{steps:?}");

    let (code, works, steps) = examine(&[&format!("127.0.0.1:{port}"), "--name", "nobody"]);
    assert_eq!((code, works, names(&steps, "failed")), (Some(1), false, vec!["registry".to_owned()]), "{steps:?}");
    let elsewhere = Port::claim();
    let (code, works, steps) = examine(&[&format!("/ip4/127.0.0.1/tcp/{}", elsewhere.number)]);
    assert_eq!((code, works, names(&steps, "failed")), (Some(1), false, vec!["tcp".to_owned()]), "{steps:?}");
    let run = client(&["doctor", "no-such-host.invalid"]);
    assert_eq!(run.code, Some(1), "{run}");
    assert!(run.stdout.contains("A ping does not work: resolve: no-such-host.invalid"), "{run}");
}

#[test]
fn a_peer_of_another_identity_ends_the_search() {
    let server = Server::start();
    for transport in ["tcp", "quic-v1"] {
        let address = server.address(transport).replace(&server.peer, PEER);
        fails(NO_LIMIT, &address, &[], "wrong_peer", &[PEER, &server.peer, &format!("/p2p/{}.", server.peer)]);
    }
}

#[test]
fn a_libp2p_peer_without_kameo_ends_the_search() {
    let (_peer, address) = stock("plain");
    fails(NO_LIMIT, &address, &[], "not_kameo", &["does not host Kameo actors", "ping-server"]);
}

#[test]
fn a_server_that_answers_by_the_other_transport_ends_the_search() {
    side_by_side(vec![
        Box::new(|| quic_asked_of_a_server_that_speaks_tcp(false)),
        Box::new(|| quic_asked_of_a_server_that_speaks_tcp(true)),
        Box::new(tcp_asked_of_a_server_that_speaks_quic),
    ]);
}

fn quic_asked_of_a_server_that_speaks_tcp(pinned: bool) {
    let mut port = Port::claim();
    port.free_tcp();
    let answers = format!("/ip4/127.0.0.1/tcp/{}", port.number);
    let server = Server::exactly(&["--ephemeral", "--listen", &answers]);
    let peer = if pinned { format!("/p2p/{}", server.peer) } else { String::new() };
    // The help keeps the identity that the user requires.
    let help = format!("Use {answers}{peer}.");
    let address = format!("/ip4/127.0.0.1/udp/{}/quic-v1{peer}", port.number);
    fails(NO_LIMIT, &address, &[], "other_transport", &["not over QUIC", &help]);
}

fn tcp_asked_of_a_server_that_speaks_quic() {
    let mut port = Port::claim();
    port.free_udp();
    let answers = format!("/ip4/127.0.0.1/udp/{}/quic-v1", port.number);
    let _server = Server::exactly(&["--ephemeral", "--listen", &answers]);
    let address = format!("/ip4/127.0.0.1/tcp/{}", port.number);
    fails(NO_LIMIT, &address, &[], "other_transport", &["not over TCP", &answers]);
}

#[test]
fn a_deadline_ends_the_search_and_the_run() {
    // Long enough for a slow machine to find the server and get a pong.
    let deadline = ["-w", "30s"];
    let server = Server::start();
    let address = server.address("tcp");
    thread::scope(|scope| {
        scope.spawn(|| {
            let port = Port::claim();
            // The deadline ended the search, but the cause is another.
            let run = ping(&format!("127.0.0.1:{}", port.number), &deadline);
            assert_eq!((run.code, run.cause().as_str()), (Some(2), "refused"), "{run}");
        });
        // Without the deadline, neither of these would end within a day.
        for (count, code) in [("100000", 1), ("0", 0)] {
            scope.spawn(move || {
                let run = ping(address, &[&["-i", "1s", "-c", count], &deadline[..]].concat());
                assert_eq!(run.code, Some(code), "{run}");
                assert!(run.json()["pings"]["received"].as_u64().unwrap() >= 1, "{run}");
            });
        }
        let run = ping(address, &["-c", "10", "-w", "10m"]);
        assert_eq!(run.code, Some(0), "{run}");
    });
}

#[cfg(unix)]
mod interrupted {
    use ping_lab::{Process, Relay, client_command, lost, program, start_client};

    use super::*;

    #[test]
    fn a_server_that_goes_away_ends_a_run_that_is_not_to_reconnect() {
        for signal in ["TERM", "KILL"] {
            let server = Server::start();
            let pinging = start_client(&server, &["--no-reconnect", "-c", "0"]);
            server.process.two_pings();
            server.process.signal(signal);
            let result = pinging.result();
            assert!(lost(&result, "connection_lost") >= 1, "{signal}: {result}");
            let [sent, received, lost] =
                ["sent", "received", "lost"].map(|field| result["pings"][field].as_u64().unwrap());
            assert!(received >= 1 && sent == received + lost, "{signal}: {result}");
        }
    }

    #[test]
    fn an_interrupted_run_still_has_a_result() {
        let server = Server::start();
        let arguments = ["-i", "0", "-c", "0", "--server", server.address("tcp")];
        let mut pinging = Process::start(std::process::Command::new(program("ping-client")).args(arguments));
        server.process.two_pings();
        pinging.signal("INT");
        let mut result = String::new();
        while let Some(line) = pinging.line() {
            result += &line;
        }
        assert!(result.contains("round trip"), "{result}");
        assert_eq!(pinging.exit_code(), Some(0));
    }

    #[test]
    fn an_interrupted_search_has_sent_nothing() {
        let port = Port::claim();
        let address = format!("/ip4/127.0.0.1/tcp/{}", port.number);
        let mut searching = Process::start(&mut client_command(&address, &["--find-timeout", NO_LIMIT]));
        searching.log_with("trying for another");
        searching.signal("INT");
        let line = searching.log_with("interrupted before the server was found");
        assert!(line.contains("connection refused"), "it names what stood in the way: {line}");
        assert_eq!(searching.result()["pings"]["sent"], 0);
        assert_eq!(searching.exit_code(), Some(1));
    }

    #[test]
    fn pings_without_a_pong_are_lost_in_time() {
        let server = Server::start();
        let (relay, port) = Relay::to(server.port("tcp"));
        let address = format!("/ip4/127.0.0.1/tcp/{port}/p2p/{}", server.peer);
        // Pongs that do not come are noticed before the connection is given up, which takes some seconds.
        let mut pinging = Process::start(&mut client_command(&address, &["-W", "1s", "-c", "0"]));
        server.process.two_pings();
        relay.mute();
        pinging.log_with("no pong within 1s");
        pinging.signal("INT");
        let result = pinging.result();
        let [sent, received, lost_in_all] =
            ["sent", "received", "lost"].map(|field| result["pings"][field].as_u64().unwrap());
        assert!(received >= 1 && sent == received + lost_in_all, "{result}");
        assert!(lost(&result, "timed_out") >= 1, "{result}");
        let causes = ["timed_out", "cut_short", "connection_lost", "not_connected"];
        assert_eq!(causes.map(|cause| lost(&result, cause)).iter().sum::<u64>(), lost_in_all, "{result}");
        assert_eq!(pinging.exit_code(), Some(0));
    }
}
