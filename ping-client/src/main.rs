//! Finds a `PingActor` on another machine, by address or by mDNS, pings it, and says how it went.

mod args;
mod demo;
mod diagnose;
mod discover;
mod find;
mod report;
mod run;
mod session;
mod stats;

use std::{process::ExitCode, time::Instant};

use clap::Parser;

fn main() -> ExitCode {
    // Everything that is reported as "since the start" counts from here.
    let started = Instant::now();
    let args = args::Args::parse();
    ping_core::logging::init(tracing::Level::INFO);
    // One thread: a ping costs a handful of wake-ups, and between threads each is dearer than the work it brings.
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(session::run(&args, started)));
    outcome.unwrap_or_else(|error| {
        eprintln!("ping-client: {error:#}");
        ExitCode::from(2)
    })
}
