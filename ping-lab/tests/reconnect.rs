//! Connections that are lost in the middle of a run.

#![cfg(unix)]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use ping_lab::{Lasting, Server, lost, result_of, start_client};
use std::thread;

#[test]
fn a_run_outlives_its_server_and_goes_on_with_the_next() {
    for transport in ["tcp", "quic"] {
        for arguments in [
            &["-P", "8", "-c", "0"][..],
            &["-i", "10ms", "-c", "0"],
            &["--rate", "200", "-c", "0"],
            &["-P", "8", "-c", "0", "--mode", "stream"],
        ] {
            let mut lasting = Lasting::start(transport);
            let client = start_client(lasting.server(), arguments);
            for _ in 0..2 {
                lasting.server().process.two_pings();
                lasting.kill();
                lasting.start_again();
            }
            // More than can be in flight.
            lasting.server().process.pings(100);
            let result = result_of(client);
            let [sent, received, lost_in_all] =
                ["sent", "received", "lost"].map(|field| result["pings"][field].as_u64().unwrap());
            assert_eq!(result["reconnects"]["count"], 2, "{arguments:?}: {result}");
            assert!(received >= 1 && sent == received + lost_in_all, "{arguments:?}: {result}");
            let named = ["connection_lost", "not_connected", "cut_short"].map(|cause| lost(&result, cause));
            assert_eq!(named.iter().sum::<u64>(), lost_in_all, "{arguments:?}: {result}");
            // In a closed loop no more can be lost than was in flight: eight, and those that took their places before
            // the loss was noticed.
            assert!(!arguments.contains(&"-P") || lost_in_all <= 6 * 8, "{arguments:?}: {result}");
        }
    }
}

#[test]
fn a_run_ends_with_its_count_or_time_though_the_server_does_not_come_back() {
    // Both go on for 20 s, in which the server is killed after the second ping.
    let runs = [(&["-i", "1s", "-c", "20"][..], Some(20)), (&["-P", "4", "--duration", "20s"], None)];
    thread::scope(|scope| {
        for (arguments, sent) in runs {
            scope.spawn(move || {
                let mut lasting = Lasting::start("tcp");
                let client = start_client(lasting.server(), arguments);
                lasting.server().process.two_pings();
                lasting.kill();
                let result = client.result();
                assert!(sent.is_none_or(|sent| result["pings"]["sent"] == sent), "{result}");
                assert!(lost(&result, "connection_lost") + lost(&result, "not_connected") > 0, "{result}");
            });
        }
    });
}

#[test]
fn no_ping_is_logged_as_sent_while_there_is_no_connection() {
    let mut lasting = Lasting::start("tcp");
    let client = start_client(lasting.server(), &["-i", "100ms", "-c", "0"]);
    client.log_with("Received PONG");
    lasting.kill();
    client.log_with("reconnecting");
    client.log_with("there was no connection");
    lasting.start_again();
    loop {
        let line = client.log().expect("the client continues");
        assert!(!line.contains("Sending PING"), "{line}");
        if line.contains("Connected again") {
            break;
        }
    }
    client.log_with("Received PONG");
}

#[test]
fn another_identity_in_the_same_place_ends_the_run() {
    let mut lasting = Lasting::start("tcp");
    let client = start_client(lasting.server(), &["-i", "0", "-c", "0"]);
    lasting.server().process.two_pings();
    lasting.kill();
    let _other = Server::exactly(&["--ephemeral", "--listen", &lasting.listen]);
    let result = client.result();
    assert_eq!(lost(&result, "wrong_peer"), 1, "{result}");
}
