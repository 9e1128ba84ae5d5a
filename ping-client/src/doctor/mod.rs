//! `ping-client doctor`: every step from a name to a pong, one after the other, and which of them fails.
//!
//! - `checks`: the steps.
//! - `sizes`: which payloads pass.
//! - `ticket`: those of a ticket, through its relays and past them.
//! - `name_servers`: what each name server answers.

mod checks;
mod name_servers;
mod sizes;
mod ticket;

use std::{
    fmt,
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Args as ClapArgs;
use ping_core::{Node, Options, node::is_mdns_port_taken, program::StopSignals};
use serde::Serialize;

use crate::{
    args::{SearchArgs, Target, place},
    identity,
    output::table_of_words,
    runtime::block_on,
    session::secret,
};
use checks::Checks;

/// The arguments of `doctor`.
#[derive(Debug, ClapArgs)]
pub(crate) struct DoctorArgs {
    /// Where the server is: an address or a ticket, as TARGET of a ping
    #[arg(value_name = "TARGET", value_parser = place)]
    target: Target,

    #[command(flatten)]
    search: SearchArgs,
}

/// What became of a step.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Passed,
    Failed,
    /// It failed, and a ping does without it.
    NotNeeded,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::NotNeeded => "not needed",
        })
    }
}

/// One step.
#[derive(Clone, Debug, Serialize)]
struct Check {
    /// What is checked.
    step: &'static str,
    outcome: Outcome,
    /// How long it took.
    ms: Option<f64>,
    /// What was found, or why not.
    detail: String,
}

#[derive(Serialize)]
struct Object<'a> {
    target: String,
    works: bool,
    steps: &'a [Check],
}

/// Walks all steps. The exit code is 0 if a ping works, and 1 if not.
pub(crate) fn doctor(args: &DoctorArgs) -> Result<ExitCode> {
    block_on(async {
        let mut signals = StopSignals::new().context("cannot handle signals")?;
        let own = identity::load(args.search.identity.as_deref())?;
        let secret = secret(args.search.secret.as_deref())?;
        // Asked before this program shares the port.
        let is_port_taken = is_mdns_port_taken();
        let has_ticket = matches!(args.target, Target::Ticket(_));
        let options =
            Options { mdns: true, secret, uses_relays: has_ticket, leaves_relays: has_ticket, ..Options::default() };
        let (node, events) = Node::start(&own.keypair, options).context("cannot start the node")?;
        let mut checks = Checks::new(args, &node, events);
        tokio::select! {
            () = checks.run(is_port_taken) => {}
            () = signals.next() => {}
        }
        let steps = checks.into_steps();
        node.stop().await;
        print(args, &steps)
    })
}

/// Whether a ping works, if this is what was found.
fn works(steps: &[Check]) -> bool {
    steps.iter().any(|check| check.step == "ping" && check.outcome == Outcome::Passed)
}

fn print(args: &DoctorArgs, steps: &[Check]) -> Result<ExitCode> {
    let works = works(steps);
    let text = if args.search.json {
        let object = Object { target: args.target.to_string(), works, steps };
        // Text and numbers always have a form in JSON.
        serde_json::to_string(&object).unwrap_or_default() + "\n"
    } else {
        text(steps)
    };
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(error).context("cannot write the result");
        }
        _ => {}
    }
    Ok(if works { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(steps: &[Check]) -> String {
    let mut rows = vec![["STEP", "RESULT", "TIME", "DETAIL"].map(String::from).into()];
    rows.extend(steps.iter().map(|check| {
        let time = check.ms.map_or_else(|| "-".into(), |ms| format!("{ms:.1} ms"));
        vec![check.step.into(), check.outcome.to_string(), time, check.detail.clone()]
    }));
    let verdict = if works(steps) {
        "A ping works.".into()
    } else {
        let failed = steps.iter().find(|check| check.outcome == Outcome::Failed);
        let cause = failed.map(|check| format!(": {}: {}", check.step, check.detail)).unwrap_or_default();
        format!("A ping does not work{cause}")
    };
    table_of_words(&rows) + &verdict + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(step: &'static str, outcome: Outcome) -> Check {
        Check { step, outcome, ms: Some(1.25), detail: format!("about {step}") }
    }

    #[test]
    fn the_first_step_that_failed_is_the_cause() {
        let steps = [check("resolve", Outcome::Passed), check("tcp", Outcome::Failed), check("ping", Outcome::Failed)];
        let text = text(&steps);
        assert!(text.contains("resolve  passed  1.2 ms  about resolve"), "{text}");
        assert!(text.ends_with("A ping does not work: tcp: about tcp\n"), "{text}");
    }

    #[test]
    fn a_ping_may_work_though_a_step_that_is_not_needed_failed() {
        let steps = [check("quic", Outcome::NotNeeded), check("ping", Outcome::Passed)];
        assert!(text(&steps).ends_with("A ping works.\n"));
        assert!(!works(&[]));
    }
}
