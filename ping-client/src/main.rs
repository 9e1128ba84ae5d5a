//! Finds a `PingActor` on another machine, by address or by mDNS, pings it, and reports how it went.

mod args;
mod backoff;
mod cluster;
mod compare;
mod demo;
mod doctor;
mod error;
mod figures;
mod find;
mod gates;
mod identity;
mod list;
mod output;
mod pinger;
mod plan;
mod run;
mod runtime;
mod session;
mod ticket;
mod units;
mod version;
mod watch;

use std::{process::ExitCode, time::Instant};

use args::{Args, Command};
use ping_core::program::{self, otlp::Exporter};
use plan::Plan;

fn main() -> ExitCode {
    // Times "since the start" count from here.
    let started = Instant::now();
    let args = Args::read();
    let outcome = program::init_logging(args.verbosity()).map_err(Into::into).and_then(|()| match args.command {
        Some(Command::List(args)) => list::list(&args),
        Some(Command::Compare(args)) => compare::compare(&args),
        Some(Command::Ticket { ticket }) => ticket::print(&ticket),
        Some(Command::Id { identity }) => identity::print(&identity),
        Some(Command::Doctor(args)) => doctor::doctor(&args),
        Some(Command::Members(args)) => cluster::members(&args),
        Some(Command::Matrix(args)) => cluster::matrix(&args),
        Some(Command::Watch(args)) => watch::watch(&args, started),
        Some(Command::Completions { shell }) => done(program::print_completions(Args::command_line(), shell)),
        Some(Command::Manual { folder }) => done(program::write_manual(Args::command_line(), &folder)),
        None => ping(args, started),
    });
    outcome.unwrap_or_else(|error| {
        program::last_words("ping-client", &format_args!("{error:#}"));
        ExitCode::from(2)
    })
}

fn ping(args: Args, started: Instant) -> anyhow::Result<ExitCode> {
    let exporter = args.otlp.as_deref().map(|endpoint| Exporter::start(endpoint, "ping-client"));
    // Sends what is left when all is done.
    let _exporter = exporter.transpose().map_err(anyhow::Error::msg)?;
    let plan = Plan::from(args);
    match &plan.several {
        Some(several) if several.spread => cluster::spread(&plan, started),
        Some(_) => cluster::ping_several(&plan),
        None => session::run(plan, started),
    }
}

fn done(outcome: std::io::Result<()>) -> anyhow::Result<ExitCode> {
    Ok(outcome.map(|()| ExitCode::SUCCESS)?)
}
