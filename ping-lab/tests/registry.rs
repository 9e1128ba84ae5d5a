//! The registry of a server, as other Kameo programs use it.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use ping_lab::{Process, Server, client_command, program};

/// More restarts than one name has places.
const RESTARTS: usize = 6;

#[test]
fn a_program_that_restarts_with_fresh_keys_registers_each_time() {
    let server = Server::start();
    let (bare, _) = server.address("tcp").split_once("/p2p/").unwrap();
    for _ in 0..RESTARTS {
        let other = Process::start(Command::new(program("stock")).args(["rival", server.address("tcp")]));
        let peer = other.line().unwrap();
        // A client that requires no identity names all peers that the registry knows.
        Process::start(&mut client_command(bare, &["-c", "0"])).log_with(&peer);
        drop(other);
        while server.process.event("client_disconnected")["peer_id"] != peer.as_str() {}
    }
}
