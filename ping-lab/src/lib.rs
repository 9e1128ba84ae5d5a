//! The lab: starts the real programs as processes and reads what they print, for end-to-end tests and benchmarks.
//!
//! - [`program`] builds the programs once and says where they are.
//! - [`Process`] is a program that runs: its lines, its signals, its end.
//! - [`Server`] is a ping-server that is ready; [`Lasting`] is one that can be killed and started again.
//! - [`ping`] and [`client`] run a ping-client to its end; [`start_client`] starts one that goes on.
//! - [`Port`] is a port that nobody else gets; [`Relay`] is a TCP connection that can fall silent or break.
//! - [`lan`] and [`nat`] make networks of namespaces, on Linux.
//!
//! Every wait is for an event, with a deadline that only a failure reaches.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
#[cfg(target_os = "linux")]
pub mod lan;
#[cfg(target_os = "linux")]
pub mod nat;
mod port;
mod process;
mod programs;
mod relay;
mod run;
mod server;
mod system;

#[cfg(target_os = "linux")]
pub use self::system::{cpu_time, memory, most_memory, open_files};
#[cfg(unix)]
pub use self::{
    client::result_of,
    system::{ignores_hangups, is_running},
};
pub use self::{
    client::{client, client_command, lost, ping, start_client},
    port::{Port, has_ipv6},
    process::Process,
    programs::{is_installed, program},
    relay::Relay,
    run::{Run, finish, finish_child},
    server::{Lasting, Server, stock},
    system::{DEADLINE, RUN_DEADLINE, file, until},
};
