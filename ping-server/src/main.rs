//! Hosts a counting `PingActor` that clients on other machines find by address or by mDNS.

mod allow;
mod args;
mod client_reports;
mod events;
mod greeting;
mod identity;
mod listen;
mod membership;
mod memory;
mod metrics;
mod node_name;
#[cfg(unix)]
mod open_files;
mod ping_reports;
mod port_holder;
mod rally;
mod relay;
mod relays;
mod reload;
mod reports;
mod server;
mod service_manager;
mod state;
#[cfg(unix)]
mod statistics;
mod stop_on_eof;
mod tls;
mod visits;
mod ways;

use std::process::ExitCode;

use args::Command;
use mimalloc::MiMalloc;
use ping_core::program;

/// glibc keeps most freed memory after a burst; mimalloc returns it to the system. Without huge pages, with which a
/// thousand connections would take twice the memory.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// One thread: a ping costs a handful of wake-ups, and between threads each costs more than the work it brings.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = args::Args::read();
    let outcome = match program::init_logging(args.verbosity()) {
        Ok(()) => match args.command {
            Some(Command::Relay(args)) => relay::run(args).await,
            Some(Command::Completions { shell }) => {
                program::print_completions(args::Args::command_line(), shell).map_err(Into::into)
            }
            Some(Command::Manual { folder }) => {
                program::write_manual(args::Args::command_line(), &folder).map_err(Into::into)
            }
            None => server::run(args).await,
        },
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => {
            program::flush_log();
            ExitCode::SUCCESS
        }
        Err(error) => {
            program::last_words("ping-server", &format_args!("{error:#}"));
            ExitCode::from(2)
        }
    }
}
