//! Hosts a counting `PingActor` that clients on other machines find by address or by mDNS.

mod allow;
mod args;
#[cfg(unix)]
mod files;
mod listen;
mod report;
mod server;
mod state;

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;

/// Gives the system back what is not used any more. The C library's keeps most of what a peer that meant harm has once made it take.
/// Without huge pages, in which a thousand connections would take twice the memory.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// One thread: a ping costs a handful of wake-ups, and between threads each of them is dearer than the work it brings.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = args::Args::parse();
    ping_core::logging::init(tracing::Level::INFO);
    match server::run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ping_core::logging::last_words("ping-server", &format_args!("{error:#}"));
            ExitCode::from(2)
        }
    }
}
