//! Clients: ping-client, run to its end or left running.

use std::process::Command;

use serde_json::Value;

use crate::{Process, Run, Server, finish, program};

/// What a client is told that is to reach its server and lose nothing, however slow the machine is. Of each, the names
/// of the argument, and its value.
const PATIENCE: [([&str; 2], &str); 2] = [(["-W", "--timeout"], "10m"), (["--find-timeout"; 2], "10m")];

/// The arguments that say how pings follow each other.
const PACES: [&str; 3] = ["-i", "-P", "--rate"];

/// Runs a ping-client with exactly these arguments to its end.
#[track_caller]
pub fn client(arguments: &[&str]) -> Run {
    finish(Command::new(program("ping-client")).args(arguments))
}

/// Runs a ping-client with `--json` against an address to its end: without pauses, and with much time for each step,
/// unless the arguments say otherwise.
#[track_caller]
pub fn ping(address: &str, arguments: &[&str]) -> Run {
    finish(&mut client_command(address, arguments))
}

/// Starts a ping-client as [`ping`] does, against the first address of a server.
#[track_caller]
pub fn start_client(server: &Server, arguments: &[&str]) -> Process {
    Process::start(&mut client_command(&server.addresses[0], arguments))
}

/// The command that [`ping`] runs.
pub fn client_command(address: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program("ping-client"));
    command.args(["--server", address]);
    add(&mut command, arguments);
    command
}

/// Adds `--json` and these arguments, and what they do not say of times and pace.
pub(crate) fn add(command: &mut Command, arguments: &[&str]) {
    let has = |names: &[&str]| arguments.iter().any(|argument| names.contains(argument));
    command.arg("--json");
    for (names, value) in PATIENCE {
        if !has(&names) {
            command.args([names[0], value]);
        }
    }
    if !has(&PACES) {
        command.args(["-i", "0"]);
    }
    command.args(arguments);
}

/// Interrupts a client that pings without end, and returns its result.
#[cfg(unix)]
#[track_caller]
pub fn result_of(mut client: Process) -> Value {
    client.signal("INT");
    let result = client.result();
    let code = if result["pings"]["received"] == 0 { 1 } else { 0 };
    assert_eq!(client.exit_code(), Some(code), "{result}");
    result
}

/// How many pings were lost for this cause.
pub fn lost(result: &Value, cause: &str) -> u64 {
    let errors = result["errors"].as_array().unwrap();
    errors.iter().filter(|error| error["cause"] == cause).map(|error| error["count"].as_u64().unwrap()).sum()
}
