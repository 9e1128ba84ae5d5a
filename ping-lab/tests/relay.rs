//! A relay, a server that has a place on it, and clients that reach the server by its ticket.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

#[cfg(unix)]
use ping_lab::{Port, file, lost, result_of};
use ping_lab::{Process, Server, client, ping, program};

/// Starts a relay with these arguments, and returns it with its address for servers.
fn relay(arguments: &[&str]) -> (Process, String) {
    let mut command = Command::new(program("ping-server"));
    command.args(["relay", "--json", "--stop-on-eof"]).args(arguments);
    let relay = Process::start(&mut command);
    let address = relay.event("listening")["connection_address"].as_str().unwrap().to_owned();
    relay.event("ready");
    (relay, address)
}

/// A relay on a port of loopback that the system chooses.
fn any_relay(arguments: &[&str]) -> (Process, String) {
    relay(&[&["--ephemeral", "--listen", "/ip4/127.0.0.1/tcp/0"], arguments].concat())
}

/// Starts a server that gets a place on a relay, and returns it with its ticket.
fn relayed(address: &str, arguments: &[&str]) -> (Server, String) {
    let server = Server::with(&[&["--relay-via", address], arguments].concat());
    let ticket = server.process.event("ticket")["ticket"].as_str().unwrap().to_owned();
    (server, ticket)
}

#[test]
fn a_server_is_reached_through_a_relay_by_its_ticket_in_every_mode() {
    let (relay, address) = any_relay(&[]);
    let (server, ticket) = relayed(&address, &[]);
    assert_eq!(relay.event("reserved")["peer_id"], server.peer.as_str());
    for mode in ["ask", "tell", "stream", "stream-tell"] {
        let run = ping(&ticket, &["-c", "100", "-P", "8", "--mode", mode]);
        let result = run.json();
        assert_eq!((run.code, &result["pings"]["received"]), (Some(0), &100.into()), "{mode}: {run}");
        assert_eq!(result["server"]["peer_id"], server.peer.as_str(), "{run}");
        let path = &result["paths"][0];
        assert_eq!((&path["kind"], &path["transport"]), (&"relayed".into(), &"tcp".into()), "{run}");
        assert_eq!(path["pongs"], 100, "{run}");
        assert!(result["server"]["address"].as_str().unwrap().ends_with("/p2p-circuit"), "{run}");
        assert_eq!(relay.event("circuit_opened")["server"], server.peer.as_str());
    }
    let circuit = format!("{address}/p2p-circuit/p2p/{}", server.peer);
    assert_eq!(ping(&circuit, &["-c", "1"]).code, Some(0));
    let run = client(&["ticket", &ticket]);
    assert!(
        run.stdout.contains(&circuit[..circuit.rfind("/p2p/").unwrap()]) && run.stdout.contains(&server.peer),
        "{run}"
    );
    #[cfg(unix)]
    {
        // The relay is no client.
        server.process.signal("TERM");
        let relay = format!("\"peer_id\":\"{}\"", address.rsplit('/').next().unwrap());
        let said: Vec<_> = std::iter::from_fn(|| server.process.line()).collect();
        assert!(said.iter().all(|line| !line.contains(&relay)), "{said:?}");
    }
}

#[test]
fn a_relay_is_reached_by_websocket_where_nothing_else_gets_out() {
    let listen = ["tls/ws", "tcp"].map(|end| match end {
        "tcp" => "/ip4/127.0.0.1/tcp/0".to_owned(),
        end => format!("/ip4/127.0.0.1/tcp/0/{end}"),
    });
    let mut command = Command::new(program("ping-server"));
    command.args(["relay", "--json", "--stop-on-eof", "--ephemeral"]);
    let relay = Process::start(command.args(["--listen", &listen[0], "--listen", &listen[1]]));
    let mut addresses: Vec<_> =
        (0..2).map(|_| relay.event("listening")["connection_address"].as_str().unwrap().to_owned()).collect();
    // The first is of TCP.
    addresses.sort_by_key(|address| address.contains("/tls/ws"));
    let (_server, ticket) = relayed(&addresses[0], &["--relay-via", &addresses[1]]);
    for (transport, options) in [("tcp", &["--transport", "tcp"]), ("wss", &["--transport", "wss"])] {
        let run = ping(&ticket, &[&["-c", "10", "--path", "relay"], &options[..]].concat());
        let path = &run.json()["paths"][0];
        let path = [&path["kind"], &path["transport"]].map(|it| it.as_str().unwrap().to_owned());
        assert_eq!((run.code, path), (Some(0), ["relayed".into(), transport.into()]), "{run}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_relay_that_watches_its_input_takes_one_thread_for_it() {
    let (relay, address) = any_relay(&[]);
    let threads = || std::fs::read_dir(format!("/proc/{}/task", relay.id())).unwrap().count();
    let server = |_| {
        let served = relayed(&address, &[]);
        relay.event("reserved");
        served
    };
    let _first = server(0);
    let before = threads();
    let _others: Vec<_> = (0..3).map(server).collect();
    // One may be of a connection whose turns take long.
    assert!(threads() <= before + 1, "{before} before");
}

#[test]
fn a_damaged_ticket_is_refused_before_anything_is_dialed() {
    let run = client(&["kping1aaaaaaaa"]);
    assert_eq!(run.code, Some(2), "{run}");
    assert!(run.stderr.contains("the ticket is damaged"), "{run}");
    let run = client(&["127.0.0.1", "--path", "direct"]);
    assert_eq!(run.code, Some(2), "{run}");
    assert!(run.stderr.contains("--path needs a ticket"), "{run}");
}

#[test]
fn a_relay_gives_places_to_those_that_may_and_as_many_as_it_has() {
    let other = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN";
    let (relay_for_one, address) = any_relay(&["--relay-for", other]);
    let denied = Server::with(&["--relay-via", &address]);
    denied.process.log_with("holds no place for this server");
    assert_eq!(relay_for_one.event("reservation_denied")["peer_id"], denied.peer.as_str());

    let (_small, address) = any_relay(&["--reservations", "1"]);
    let (first, ticket) = relayed(&address, &[]);
    let second = Server::with(&["--relay-via", &address]);
    second.process.log_with("holds no place for this server");
    assert_eq!(ping(&ticket, &["-c", "3"]).code, Some(0));
    // A place that is given up is the next one's.
    drop(first);
    second.process.event("ticket");
}

#[test]
fn a_relay_that_connects_nobody_is_named_with_its_reason() {
    let (_relay, address) = any_relay(&["--circuits", "1"]);
    let (server, ticket) = relayed(&address, &[]);
    let client = || {
        let mut command = Command::new(program("ping-client"));
        Process::start(command.args([&*ticket, "--json", "-c", "0", "-i", "50ms", "--find-timeout", "10m"]))
    };
    let first = client();
    server.process.two_pings();
    client().log_with("the relay takes no more clients");
    drop(first);
    drop(server);
    client().log_with("the server has no place on the relay");
}

#[cfg(unix)]
#[test]
fn a_relay_that_comes_back_is_used_again_and_every_ping_is_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let key = file(folder.path(), "relay.key");
    let mut port = Port::claim();
    let listen = format!("/ip4/127.0.0.1/tcp/{}", port.number);
    port.free_tcp();
    let start = || relay(&["--identity", &key, "--listen", &listen]);
    let (first, address) = start();
    let (server, ticket) = relayed(&address, &[]);
    let mut command = Command::new(program("ping-client"));
    command.args([&*ticket, "--json", "--retry", "-i", "10ms", "-c", "0", "-W", "10m"]);
    let client = Process::start(&mut command);
    server.process.two_pings();
    first.signal("KILL");
    drop(first);
    assert_eq!(server.process.event("relay_lost")["relay"], address.rsplit('/').next().unwrap());
    let _second = start();
    server.process.event("relay_held");
    client.log_with("Connected again");
    server.process.two_pings();
    client.signal("INT");
    let result = client.result();
    assert_eq!(result["reconnects"]["count"], 1, "{result}");
    server.process.signal("TERM");
    assert_eq!(result["pings"]["counted"], server.process.event("stopped")["total"], "{result}");
}

#[cfg(unix)]
#[test]
fn pings_move_to_another_circuit_before_the_relay_ends_the_first() {
    // Half of it is enough for a slow machine to make another.
    for limit in [["--circuit-time", "20s"], ["--circuit-bytes", "2M"]] {
        move_before_the_end(&limit);
    }
}

#[cfg(unix)]
fn move_before_the_end(limit: &[&str]) {
    let (relay, address) = any_relay(limit);
    let (_server, ticket) = relayed(&address, &[]);
    let clients = ["ask", "stream"].map(|mode| {
        let mut command = Command::new(program("ping-client"));
        command.args([&*ticket, "--json", "--path", "relay", "-i", "10ms", "-c", "0", "-W", "10m"]);
        Process::start(command.args(["--size", "1K", "--mode", mode]))
    });
    for client in &clients {
        client.log_with("new pings take another one through it");
        client.log_with("new pings take another one through it");
    }
    relay.event("circuit_closed");
    for client in clients {
        let result = result_of(client);
        assert_eq!(result["pings"]["lost"], lost(&result, "cut_short"), "{limit:?}: {result}");
        assert_eq!((&result["reconnects"]["count"], &result["paths"][0]["kind"]), (&0.into(), &"relayed".into()));
    }
}

/// A relay that does not keep to the protocol, with its address.
fn hostile(kind: &str) -> (Process, String) {
    let relay = Process::start(Command::new(program("hostile")).args(["relay", kind]));
    let address = relay.line().unwrap();
    (relay, address)
}

/// The server is as well as it was.
fn serves(server: &Server) {
    let run = ping(&server.addresses[0], &["-c", "100", "-P", "8", "-W", "10m"]);
    assert_eq!((run.code, &run.json()["pings"]["received"]), (Some(0), &100.into()), "{run}");
    #[cfg(target_os = "linux")]
    {
        let memory = ping_lab::most_memory(server.process.id());
        assert!(memory < 100_000_000, "{memory}");
    }
}

#[test]
fn a_relay_that_gives_no_real_place_is_named_and_the_server_serves_without_it() {
    for kind in ["past", "garbage"] {
        let (_relay, address) = hostile(kind);
        let server = Server::with(&["--relay-via", &address]);
        server.process.log_with("holds no place for this server");
        serves(&server);
    }
}

#[test]
fn a_relay_that_takes_every_place_back_is_asked_less_and_less_often() {
    let (relay, address) = hostile("take-back");
    let server = Server::with(&["--relay-via", &address]);
    let times: Vec<u64> =
        (0..4).map(|_| relay.line_with("reserved").split(' ').nth(1).unwrap().parse().unwrap()).collect();
    // Pauses of 0.25, 0.5 and 1 s.
    assert!(times[3] - times[0] >= 1700, "{times:?}");
    serves(&server);
}

#[test]
fn strangers_that_a_relay_sends_do_no_harm() {
    let (relay, address) = hostile("strangers");
    let (server, _) = relayed(&address, &[]);
    let line = relay.line_with("strangers called");
    assert!(!line.starts_with("0 "), "{line}");
    serves(&server);
}

#[test]
fn a_relay_that_answers_in_the_place_of_the_server_is_not_believed() {
    let (relay, address) = hostile("swap");
    let (server, ticket) = relayed(&address, &[]);
    let run = client(&[&ticket, "--path", "relay", "-c", "1", "--find-timeout", "3s"]);
    assert_eq!(run.code, Some(2), "{run}");
    assert!(run.stdout.is_empty() || !run.stdout.contains("PONG"), "{run}");
    relay.line_with("called");
    serves(&server);
}
