//! Hostile peers. After each attack, honest clients are served as before and the count is exact.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use ping_lab::{Process, Server, client_command, finish, ping, program, stock};

/// Runs a hostile peer to its end.
#[track_caller]
fn attack(arguments: &[&str]) {
    let run = finish(Command::new(program("hostile")).args(arguments));
    assert_eq!(run.code, Some(0), "{run}");
}

/// Pings ten times and checks that the server counted exactly these since it had counted `before`.
#[track_caller]
fn honest_ping(server: &Server, before: u64) {
    for (transport, more) in [("tcp", 10), ("quic-v1", 20)] {
        let run = ping(server.address(transport), &["-c", "10", "--find-timeout", "1m", "-W", "1m"]);
        assert_eq!(run.code, Some(0), "{run}");
        let result = run.json();
        assert_eq!((&result["pings"]["lost"], &result["server_total"]), (&0.into(), &(before + more).into()), "{run}");
    }
}

#[test]
fn records_that_are_malformed_or_not_the_senders_or_many_do_no_harm() {
    let server = Server::start();
    attack(&["records", server.address("tcp"), "500"]);
    attack(&["records", server.address("quic-v1"), "50"]);
    honest_ping(&server, 0);
}

#[test]
fn deaths_and_links_that_strangers_announce_do_no_harm() {
    let server = Server::start();
    attack(&["signals", server.address("tcp")]);
    honest_ping(&server, 0);
}

#[test]
fn an_actor_id_that_panics_its_reader_costs_one_connection() {
    let server = Server::start();
    for _ in 0..3 {
        attack(&["panics", server.address("tcp")]);
        attack(&["panics", server.address("quic-v1")]);
    }
    honest_ping(&server, 0);
    // Each attacker was connected, and its connection ended, in the server's eyes too.
    for _ in 0..6 {
        server.process.event("client_disconnected");
    }
}

#[test]
fn requests_that_do_not_decode_or_claim_to_be_huge_do_no_harm() {
    let server = Server::start();
    attack(&["claims", server.address("tcp")]);
    attack(&["claims", server.address("quic-v1")]);
    honest_ping(&server, 0);
}

#[cfg(target_os = "linux")]
#[test]
fn large_requests_that_do_not_end_leave_room_for_others() {
    for transport in ["tcp", "quic-v1"] {
        let server = Server::start();
        honest_ping(&server, 0);
        let before = ping_lab::memory(server.process.id());
        // Without a limit, each connection would take a gigabyte.
        let hoard = Process::start(Command::new(program("hostile")).args(["hoard", server.address(transport), "10"]));
        let sent: u64 = hoard.line().unwrap().parse().unwrap();
        assert!(sent > 10_000_000, "the ten connections took only {sent} bytes");
        let taken = ping_lab::memory(server.process.id()).saturating_sub(before);
        assert!(taken < 256 * 1024 * 1024, "{transport}: {taken} bytes more");
        honest_ping(&server, 20);
        drop(hoard);
        // By QUIC, the server hears nothing of the end; the requests are given up after ten seconds.
        ping_lab::until("large requests are served again", || {
            ping(server.address(transport), &["-c", "1", "--size", "1MiB", "-W", "20s"]).code == Some(0)
        });
    }
}

#[test]
fn a_flood_of_requests_does_not_hold_up_honest_clients() {
    for what in ["flood", "look-ups", "keep-alives"] {
        for transport in ["tcp", "quic-v1"] {
            let server = Server::start();
            let flood = Process::start(Command::new(program("hostile")).args([what, server.address(transport)]));
            flood.line_with("flooding");
            honest_ping(&server, 0);
        }
    }
}

#[test]
fn what_is_not_libp2p_does_not_hold_up_honest_clients() {
    for transport in ["tcp", "quic-v1"] {
        let server = Server::start();
        let garbage = Process::start(Command::new(program("hostile")).args(["garbage", server.address(transport)]));
        garbage.line_with("sent");
        honest_ping(&server, 0);
    }
}

#[test]
fn a_thousand_silent_connections_do_not_hold_up_honest_clients() {
    let server = Server::start();
    let held = Process::start(Command::new(program("hostile")).args(["connects", server.address("tcp"), "1000"]));
    held.line_with("connected");
    honest_ping(&server, 0);
}

#[test]
fn a_stock_node_still_registers_and_finds_its_actor_beside_ours() {
    let server = Server::start();
    let (_stock, address) = stock("server");
    attack(&["records", server.address("tcp"), "100"]);
    assert_eq!(ping(&address, &["-c", "5"]).code, Some(0));
    honest_ping(&server, 0);
}

#[test]
fn connections_beyond_the_limit_are_turned_away_and_the_others_served() {
    let server = Server::with(&["--max-connections", "4"]);
    for transport in ["tcp", "quic-v1"] {
        let start = || Process::start(&mut client_command(server.address(transport), &["-i", "100ms", "-c", "0"]));
        // One address may have three of the four.
        let clients: Vec<_> = (0..3).map(|_| start()).collect();
        clients.iter().for_each(|client| drop(client.log_with("Received PONG")));
        let turned_away = start();
        turned_away.log_with("trying for another");
        clients.iter().for_each(|client| drop(client.log_with("Received PONG")));
        // When there is room, it gets in.
        drop(clients);
        turned_away.log_with("Received PONG");
    }
}

/// A server whose data may take only three times the memory that peers may use.
#[cfg(target_os = "linux")]
fn confined(mebibytes: u32) -> Server {
    // The system counts what the allocator has set aside, too.
    let limit = format!("ulimit -d {} && exec \"$0\" \"$@\"", 3 * 1024 * mebibytes);
    let memory = format!("{mebibytes}MiB");
    let listen = ["--listen", "/ip4/127.0.0.1/tcp/0", "--listen", "/ip4/127.0.0.1/udp/0/quic-v1"];
    let mut command = Command::new("sh");
    command.args(["-c", &limit]).arg(program("ping-server")).args(["--json", "--ephemeral", "--max-memory", &memory]);
    Server::from(Process::start(command.args(listen)))
}

#[cfg(target_os = "linux")]
#[test]
fn bytes_that_nobody_reads_are_bounded_in_total() {
    let attacks = [("tcp", "12", "65536"), ("tcp", "1", "1"), ("quic-v1", "40", "65536"), ("quic-v1", "1", "64")];
    // Side by side, because most of the time is waiting.
    std::thread::scope(|scope| {
        for (transport, connections, frame) in attacks {
            scope.spawn(move || {
                let server = confined(64);
                honest_ping(&server, 0);
                let before = ping_lab::memory(server.process.id());
                let what = ["unread", server.address(transport), connections, frame];
                let attacker = Process::start(Command::new(program("hostile")).args(what));
                attacker.line().expect("it says how many bytes were taken");
                let taken = ping_lab::memory(server.process.id()).saturating_sub(before);
                assert!(taken < 96 * 1024 * 1024, "{what:?}: {taken} bytes more");
                honest_ping(&server, 20);
            });
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn frames_that_no_library_sends_are_bounded_and_do_not_hold_up_honest_clients() {
    for kind in ["reset", "open-and-reset", "open", "ping", "window", "long", "garbage"] {
        let server = confined(64);
        honest_ping(&server, 0);
        let before = ping_lab::memory(server.process.id());
        let what = ["frames", server.address("tcp"), kind];
        let attacker = Process::start(Command::new(program("hostile")).args(what));
        // Much more than a connection may hold, if each frame left something.
        attacker.line_with("sent");
        honest_ping(&server, 20);
        let taken = ping_lab::memory(server.process.id()).saturating_sub(before);
        assert!(taken < 64 * 1024 * 1024, "{kind}: {taken} bytes more");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn first_packets_that_nobody_goes_on_with_do_not_close_quic() {
    let server = Server::start();
    let attacker = Process::start(Command::new(program("hostile")).args(["initials", server.address("quic-v1")]));
    attacker.line_with("sent");
    // The attack goes on.
    for _ in 0..5 {
        let run = ping(server.address("quic-v1"), &["-c", "2", "--find-timeout", "20s"]);
        assert_eq!(run.code, Some(0), "{run}");
    }
    honest_ping(&server, 10);
}
