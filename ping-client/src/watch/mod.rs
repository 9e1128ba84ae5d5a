//! `ping-client watch`: servers that are pinged for days, and a line for each change.
//!
//! - `seen`: what was seen of one server, ping by ping.
//! - `state`: what of that is news.
//! - `lines`: the news in words and as JSON.

mod lines;
mod seen;
mod state;

use std::{
    cell::RefCell,
    io::ErrorKind,
    process::ExitCode,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::{ArgAction, Args as ClapArgs};
use futures::future::join_all;
use ping_core::{
    Node,
    program::{StopSignals, count, duration, flush_log, last_words},
};
use tokio::time::{Instant as Moment, MissedTickBehavior, interval_at, sleep};

use crate::{
    args::{SearchArgs, Target, place, server},
    error::Error,
    find::{OnFailure, PathChoice, Route},
    gates::{EXIT_CODE, GateArgs},
    identity,
    output::{OutputArgs, Outputs},
    pinger::{Mode, PingerPlan},
    plan::{FindPlan, Plan, RunPlan, Wanted},
    run::{Limit, Pace},
    runtime::block_on,
    session::{Events, find_and_measure, nothing_yet, options},
};
use lines::Lines;
use seen::{Seen, Watching};

/// The arguments of `watch`.
#[derive(Debug, ClapArgs)]
pub(crate) struct WatchArgs {
    /// Where the servers are: addresses or a ticket, each as TARGET of a ping
    #[arg(value_name = "TARGET", required = true, value_parser = place)]
    targets: Vec<Target>,

    /// Time between two pings (10ms to 1h)
    #[arg(short, long, value_name = "TIME", default_value = "1s",
        value_parser = duration(Duration::from_millis(10)..=HOUR))]
    interval: Duration,

    /// How long to wait for each pong (1ms to 1h)
    #[arg(short = 'W', long, value_name = "TIME", default_value = "2s",
        value_parser = duration(Duration::from_millis(1)..=HOUR))]
    timeout: Duration,

    /// How many pings in a row must be lost for a server to be down (1 to 1000)
    #[arg(long, value_name = "COUNT", default_value = "3", value_parser = losses)]
    down_after: u32,

    /// Report when the median of the last ten pongs exceeds this, and when it no longer does (1us to 1h)
    #[arg(long, value_name = "TIME", value_parser = duration(Duration::from_micros(1)..=HOUR))]
    slow: Option<Duration>,

    /// Report a summary each time this has passed (1s to 30d)
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = duration(Duration::from_secs(1)..=DAY * 30))]
    summary: Duration,

    /// End after this time (1ms to 365d) [default: at Ctrl-C]
    #[arg(short = 'w', long, value_name = "TIME", value_parser = duration(Duration::from_millis(1)..=DAY * 365))]
    deadline: Option<Duration>,

    #[command(flatten)]
    search: SearchArgs,

    /// Also log what happens in between
    #[arg(short, long, action = ArgAction::SetTrue)]
    pub(crate) verbose: bool,

    #[command(flatten)]
    gates: GateArgs,
}

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The pause before a server that is not reached is looked for again.
const PAUSE: Duration = Duration::from_millis(250);

/// How long one search tries again and again by itself, as that of a ping.
const SEARCH_TIME: Duration = Duration::from_secs(30);

fn losses(text: &str) -> Result<u32, String> {
    let number = count(text).ok().and_then(|count| u32::try_from(count).ok());
    number.filter(|count| (1..=1000).contains(count)).ok_or_else(|| "the number must be from 1 to 1000".into())
}

/// Watches servers until a signal or the deadline ends that. Fails if something fails that has nothing to do with them.
pub(crate) fn watch(args: &WatchArgs, started: Instant) -> Result<ExitCode> {
    block_on(async {
        let (lines, unwritten) = Lines::start(args.search.json)?;
        let watches: Vec<_> = args.targets.iter().map(|target| Watch::new(target, args, &lines)).collect();
        let own = identity::load(args.search.identity.as_deref())?;
        let Some(plan) = watches.iter().map(|watch| &watch.plan).max_by_key(|plan| plan.find.route.is_some()) else {
            return Ok(ExitCode::SUCCESS);
        };
        let (node, node_events) =
            Node::start(&own.keypair, options(plan, plan.find.server.as_ref())?).context("cannot start the node")?;
        let events = Events::default();
        let all = join_all(watches.iter().map(|watch| watch.run((&node, &events), started)));
        let summaries = async {
            let mut ticks = interval_at(Moment::now() + args.summary, args.summary);
            // Of those that were due while the machine slept, one is enough.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                watches.iter().for_each(Watch::summarize);
            }
        };
        let failure = tokio::select! {
            outcomes = all => outcomes.into_iter().collect::<Result<()>>().map(|()| None)?,
            reason = node.failed() => Some(Error::node_failed(&reason)),
            never = events.pass_on(node_events) => match never {},
            Ok(error) = unwritten => Some(Error::output(&error)),
            () = summaries => None,
        };
        node.stop().await;
        let gates: Vec<_> = watches.iter().flat_map(|watch| watch.end(&args.gates)).collect();
        lines.flush();
        flush_log();
        let is_answered = watches.iter().all(Watch::is_answered);
        match failure {
            // A reader that has seen enough ends the program quietly, as it does `ping`.
            Some(error) if !matches!(error, Error::Output { kind: ErrorKind::BrokenPipe, .. }) => {
                last_words("ping-client", &format_args!("{error}. {}", error.help()));
                Ok(ExitCode::from(2))
            }
            _ if !gates.is_empty() => {
                last_words("ping-client", &gates.join("; "));
                Ok(EXIT_CODE.into())
            }
            _ => Ok(if is_answered { ExitCode::SUCCESS } else { ExitCode::from(1) }),
        }
    })
}

/// One server that is watched.
struct Watch {
    plan: Plan,
    seen: Rc<RefCell<Seen>>,
}

impl Watch {
    fn new(target: &Target, args: &WatchArgs, lines: &Lines) -> Self {
        let seen = Rc::new(RefCell::new(Seen::new(target, args, lines)));
        let told = seen.clone();
        let on_failure = OnFailure(Rc::new(move |error| told.borrow_mut().on_error(error)));
        Self { plan: plan(target, args, on_failure), seen }
    }

    /// Finds the server and pings it, again and again. Fails if this machine does.
    async fn run(&self, (node, events): (&Node, &Events), started: Instant) -> Result<()> {
        let mut signals = StopSignals::new().context("cannot handle signals")?;
        loop {
            let (plan, mut result) = (&self.plan, nothing_yet(&self.plan));
            let (target, node_and_events) = ((plan.find.server.as_ref(), started), (node, events.subscribe()));
            let mut outputs = Outputs::of(Watching(self.seen.clone()));
            find_and_measure(plan, target, node_and_events, &mut signals, &mut outputs, &mut result).await;
            let is_over = plan.deadline.is_some_and(|deadline| started.elapsed() >= deadline);
            match result.error {
                Some(error) if !is_over && !matches!(error, Error::Interrupted { .. }) => {
                    self.seen.borrow_mut().on_error(&error);
                }
                _ => return Ok(()),
            }
            // It may stand although it is of no use.
            result.server.iter().for_each(|server| node.disconnect(server.peer));
            sleep(PAUSE).await;
        }
    }

    fn summarize(&self) {
        self.seen.borrow_mut().summarize();
    }

    /// Whether a pong ever came.
    fn is_answered(&self) -> bool {
        self.seen.borrow().total.figures.received > 0
    }

    /// Reports everything; returns the gates that it fails. Where no pong came there is nothing to judge.
    fn end(&self, gates: &GateArgs) -> Vec<String> {
        let seen = &mut *self.seen.borrow_mut();
        seen.end();
        if seen.total.figures.received == 0 {
            return Vec::new();
        }
        let failures = gates.failures(&seen.total.figures, seen.total.first_pong());
        failures.into_iter().map(|failure| format!("{}: {failure}", seen.target)).collect()
    }
}

/// How to ping one server: until its connection is lost, so that the next search says why it is not back.
fn plan(target: &Target, args: &WatchArgs, on_failure: OnFailure) -> Plan {
    let route = match target {
        Target::Ticket(ticket) => Some(Route { ticket: ticket.clone(), choice: PathChoice::Any }),
        _ => None,
    };
    Plan {
        find: FindPlan {
            server: server(target).cloned(),
            route,
            wanted: Wanted::default(),
            from: Vec::new(),
            demo: false,
            name: args.search.name.clone(),
            timeout: SEARCH_TIME,
            identity: args.search.identity.clone(),
            secret: args.search.secret.clone(),
            on_failure: Some(on_failure),
        },
        run: RunPlan {
            pace: Pace::Interval(args.interval),
            limit: Limit { count: None, duration: None },
            warm_up: None,
            timeout: args.timeout,
        },
        pinger: PingerPlan {
            mode: Mode::Ask,
            size: 0,
            timeout: args.timeout,
            reconnects: false,
            retries: false,
            traces: false,
        },
        deadline: args.deadline,
        required: None,
        several: None,
        output: OutputArgs::default(),
        gates: args.gates.clone(),
    }
}
