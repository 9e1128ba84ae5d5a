//! The example that learners start with.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use ping_lab::{Process, finish, program};

#[test]
fn hello_greets_each_client_with_its_number() {
    let hello = || Command::new(program("examples/hello"));
    let host = Process::start(&mut hello());
    let address = host.line().expect("it names no address");
    for number in 1..=2 {
        let run = finish(hello().arg(&address));
        assert_eq!(run.stdout, format!("Hello world, you are number {number}\n"), "{run}");
    }
}
