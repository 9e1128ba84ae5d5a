//! Finds a `PingActor` on another machine, by address or by mDNS, pings it, and says how it went.

mod args;
mod chronicle;
mod demo;
mod diagnose;
mod discover;
mod find;
mod lane;
mod live;
mod measure;
mod measurement;
mod network;
mod report;
mod run;
mod schedule;
mod series;
mod session;
mod stats;
mod units;

use std::{process::ExitCode, time::Instant};

use clap::Parser;

fn main() -> ExitCode {
    // Everything that is reported as "since the start" counts from here.
    let started = Instant::now();
    let args = args::Args::parse();
    ping_core::logging::init(args.level());
    let outcome = run(&args, started);
    outcome.unwrap_or_else(|error| {
        ping_core::logging::last_words("ping-client", &format_args!("{error:#}"));
        ExitCode::from(2)
    })
}

/// One thread: a ping costs a handful of wake-ups, and between threads each is dearer than the work it brings.
fn run(args: &args::Args, started: Instant) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(session::run(args, started));
    // A name server that does not answer must not hold up the end.
    runtime.shutdown_background();
    outcome
}
