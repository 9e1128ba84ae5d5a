//! Pings that do not work: each cause is named, within the time the user gave, with a mend and the right exit code.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::Write,
    net::{TcpListener, UdpSocket},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use ping_lab::{Process, Run, Server, client, ping, program, stock};

const PEER: &str = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";

/// A run that is given little time must not take much more, and must say one sentence of cause and one of mend.
#[track_caller]
fn fails(address: &str, arguments: &[&str], cause: &str, says: &[&str]) -> Run {
    let started = Instant::now();
    let run = ping(address, &[&["--find-timeout", "1500ms"], arguments].concat());
    let took = started.elapsed();
    assert_eq!(run.code, Some(2), "{run}");
    assert_eq!(run.cause(), cause, "{run}");
    assert_eq!(run.json()["pings"]["sent"], 0, "{run}");
    let last = run.stderr.lines().last().unwrap();
    assert!(last.starts_with("ping-client: ") && last.ends_with('.') && last.contains(". "), "{run}");
    for text in says {
        assert!(last.contains(text), "{text:?} is missing: {run}");
    }
    // A search of a second and a half, and a machine as busy as they come.
    assert!(took < Duration::from_secs(15), "it took {took:?}");
    run
}

#[test]
fn text_that_is_no_address() {
    for address in ["not an address", "/ip4/1.2.3.4", "host:port", "/ip4/127.0.0.1/tcp/1/p2p/me"] {
        let run = client(&["--server", address]);
        assert_eq!(run.code, Some(2), "{run}");
        assert!(run.stderr.contains("invalid value"), "{run}");
    }
}

#[test]
fn a_host_name_that_does_not_resolve() {
    fails(
        "no-such-host.invalid",
        &[],
        "unresolved",
        &["no-such-host.invalid", "does not resolve", "Check the spelling"],
    );
}

#[test]
fn nothing_listens() {
    // A port that was free a moment ago; no one listens on it without having asked for it.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for address in [format!("127.0.0.1:{port}"), format!("/ip4/127.0.0.1/tcp/{port}/p2p/{PEER}")] {
        fails(&address, &[], "refused", &["connection refused", "Start ping-server"]);
    }
}

#[test]
fn packets_go_nowhere() {
    // It takes every packet and answers none.
    let hole = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/udp/{}/quic-v1", hole.local_addr().unwrap().port());
    fails(&address, &[], "timed_out", &["timed out", "firewall"]);
}

#[test]
fn another_program_on_that_port() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = (&stream).write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    fails(&address, &[], "not_libp2p", &["no libp2p peer", "another program"]);
}

#[test]
fn a_peer_of_another_identity() {
    let server = Server::start();
    for transport in ["tcp", "quic-v1"] {
        let address = server.address(transport).replace(&server.peer, PEER);
        fails(&address, &[], "wrong_peer", &[PEER, &server.peer, &format!("/p2p/{}.", server.peer)]);
    }
}

#[test]
fn a_libp2p_peer_without_kameo() {
    let (_peer, address) = stock("plain");
    fails(&address, &[], "not_kameo", &["does not host Kameo actors", "ping-server"]);
}

#[test]
fn no_actor_of_that_name() {
    let server = Server::start();
    fails(server.address("tcp"), &["--name", "nobody"], "no_such_actor", &["no actor named 'nobody'", "--name"]);
}

#[test]
fn an_actor_of_another_type() {
    let (_server, address) = stock("other-type");
    fails(&address, &[], "other_type", &["not a PingActor", "--name"]);
}

#[test]
fn quic_asked_of_a_server_that_speaks_tcp() {
    let server = Server::exactly(&["--ephemeral", "--listen", "/ip4/127.0.0.1/tcp/0"]);
    let port = server.port("tcp");
    let answers = format!("/ip4/127.0.0.1/tcp/{port}");
    for peer in [String::new(), format!("/p2p/{}", server.peer)] {
        let address = format!("/ip4/127.0.0.1/udp/{port}/quic-v1{peer}");
        fails(&address, &[], "other_transport", &["not by QUIC", &answers]);
    }
}

#[test]
fn tcp_asked_of_a_server_that_speaks_quic() {
    let server = Server::exactly(&["--ephemeral", "--listen", "/ip4/127.0.0.1/udp/0/quic-v1"]);
    let port = server.port("udp");
    let answers = format!("/ip4/127.0.0.1/udp/{port}/quic-v1");
    fails(&format!("/ip4/127.0.0.1/tcp/{port}"), &[], "other_transport", &["not by TCP", &answers]);
}

#[test]
fn a_port_that_stays_silent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().unwrap().port());
    thread::spawn(move || listener.incoming().collect::<Vec<_>>());
    let run = ping(&address, &["--find-timeout", "7s"]);
    assert_eq!((run.code, run.cause().as_str()), (Some(2), "not_libp2p"), "{run}");
    assert!(run.stderr.contains("says nothing"), "{run}");
}

#[test]
fn nothing_is_found_by_mdns() {
    let run = client(&["--json", "--find-timeout", "300ms", "--name", "\u{1F9ED} nobody"]);
    assert_eq!(run.code, Some(2), "{run}");
    // There may be servers on this network; none of them has an actor of that name.
    assert!(["nothing_discovered", "no_such_actor"].contains(&run.cause().as_str()), "{run}");
}

#[cfg(unix)]
#[test]
fn the_server_goes_away_in_the_middle() {
    for signal in ["TERM", "KILL"] {
        let server = Server::start();
        let pinging = Process::start(Command::new(program("ping-client")).args([
            "--json",
            "--no-reconnect",
            "-i",
            "0",
            "-W",
            "2s",
            "-c",
            "0",
            "--server",
            server.address("tcp"),
        ]));
        server.process.two_pings();
        server.process.signal(signal);
        let result: serde_json::Value = serde_json::from_str(&pinging.line().unwrap()).unwrap();
        let errors = result["errors"].as_array().unwrap();
        assert!(errors.iter().any(|error| error["cause"] == "connection_lost"), "{signal}: {result}");
        let [sent, received, lost] = ["sent", "received", "lost"].map(|field| result["pings"][field].as_u64().unwrap());
        assert!(received >= 1 && sent == received + lost, "{signal}: {result}");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_still_has_a_result() {
    let server = Server::start();
    let mut pinging = Process::start(Command::new(program("ping-client")).args([
        "-i",
        "0",
        "-c",
        "0",
        "--server",
        server.address("tcp"),
    ]));
    server.process.two_pings();
    pinging.signal("INT");
    let mut result = String::new();
    while let Some(line) = pinging.line() {
        result += &line;
    }
    assert!(result.contains("round trip"), "{result}");
    assert_eq!(pinging.exit_code(), Some(0));
}

#[cfg(unix)]
#[test]
fn an_interrupted_search_has_sent_nothing() {
    let mut command = Command::new(program("ping-client"));
    command.args(["--server", "/ip4/127.0.0.1/tcp/1", "--find-timeout", "1d"]);
    let mut searching = Process::logging(&mut command);
    searching.line_with("trying for another");
    searching.signal("INT");
    searching.line_with("interrupted before the server was found");
    assert_eq!(searching.exit_code(), Some(1));
}

#[test]
fn a_deadline_ends_the_search_and_the_run() {
    let run = ping("127.0.0.1:1", &["-w", "200ms"]);
    // The deadline ended the search, but the cause is another.
    assert_eq!((run.code, run.cause().as_str()), (Some(2), "refused"), "{run}");
    let server = Server::start();
    let run = client(&["--json", "--server", server.address("tcp"), "-i", "10ms", "-c", "100000", "-w", "1s"]);
    assert_eq!(run.code, Some(1), "{run}");
    assert!(run.json()["pings"]["received"].as_u64().unwrap() >= 1, "{run}");
    assert!(run.json()["duration_s"].as_f64().unwrap() <= 1.5, "{run}");
    let run = client(&["--json", "--server", server.address("tcp"), "-i", "0", "-c", "10", "-w", "1m"]);
    assert_eq!(run.code, Some(0), "{run}");
}

#[test]
fn pings_without_a_pong_are_lost_in_time() {
    // A relay that forwards everything until it is told to swallow all that follows.
    let server = Server::start();
    let relay = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}/p2p/{}", relay.local_addr().unwrap().port(), server.peer);
    let port = server.port("tcp");
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    thread::spawn(move || ping_lab::relay(&relay, port, &stopped));
    let pinging = Process::start(Command::new(program("ping-client")).args([
        "--json",
        "-i",
        "0",
        "-W",
        "300ms",
        "--duration",
        "3s",
        "--server",
        &address,
    ]));
    server.process.two_pings();
    stop.send(()).unwrap();
    let result: serde_json::Value = serde_json::from_str(&pinging.line().unwrap()).unwrap();
    let [sent, received, lost] = ["sent", "received", "lost"].map(|field| result["pings"][field].as_u64().unwrap());
    assert!(received >= 1 && lost >= 1 && sent == received + lost, "{result}");
    assert_eq!(result["errors"][0]["cause"], "timed_out", "{result}");
    assert_eq!(result["errors"][0]["count"], lost, "{result}");
}
