//! Finds a `PingActor` on another machine, by address or by mDNS, pings it, and says how it went.

mod args;
mod chronicle;
mod demo;
mod diagnose;
mod discover;
mod find;
mod identity;
mod lane;
mod live;
mod measure;
mod network;
mod report;
mod run;
mod schedule;
mod series;
mod session;
mod stats;
mod units;
mod vigil;
mod warnings;

use std::{process::ExitCode, time::Instant};

use args::Command;

fn main() -> ExitCode {
    // Everything that is reported as "since the start" counts from here.
    let started = Instant::now();
    let args = args::Args::read();
    ping_core::logging::init(args.level());
    let outcome = match &args.command {
        Some(Command::Id { identity }) => identity::print(identity),
        None => session::run(&args, started),
    };
    outcome.unwrap_or_else(|error| {
        ping_core::logging::last_words("ping-client", &format_args!("{error:#}"));
        ExitCode::from(2)
    })
}
