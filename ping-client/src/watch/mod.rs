//! `ping-client watch`: servers that are pinged for days, and a line for each change.
//!
//! - `state`: what of one server's pongs is news.
//! - `lines`: the news in words and as JSON.

mod lines;
mod state;

use std::{
    cell::RefCell,
    collections::BTreeMap,
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
use tokio::time::{Instant as Moment, interval_at, sleep};

use crate::{
    args::{SearchArgs, Target, place, server},
    error::Error,
    figures::Figures,
    find::{PathChoice, Route},
    gates::{EXIT_CODE, GateArgs},
    identity,
    output::{OutputArgs, Outputs},
    pinger::{Answer, Mode, Path, PingerPlan},
    plan::{FindPlan, Plan, RunPlan, Wanted},
    run::{Limit, Observer, Pace, Sample, Sending},
    runtime::block_on,
    session::{Events, find_and_measure, nothing_yet, options},
};
use lines::Lines;
use state::{Change, State, Tally};

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
    down_after: u64,

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

/// The pause before a server that is not reached is looked for again. Each search tries again and again by itself.
const PAUSE: Duration = Duration::from_millis(250);

/// How long one search lasts at least and at most, before its failure is news.
const SEARCH: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

fn losses(text: &str) -> Result<u64, String> {
    count(text)
        .ok()
        .filter(|count| (1..=1000).contains(count))
        .ok_or_else(|| "the number must be from 1 to 1000".into())
}

/// Watches servers until a signal or the deadline ends that. Fails if something fails that has nothing to do with them.
pub(crate) fn watch(args: &WatchArgs, started: Instant) -> Result<ExitCode> {
    block_on(async {
        let lines = Lines::start(args.search.json)?;
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
            loop {
                ticks.tick().await;
                watches.iter().for_each(Watch::summarize);
            }
        };
        let failure = tokio::select! {
            outcomes = all => outcomes.into_iter().collect::<Result<()>>().map(|()| None)?,
            reason = node.failed() => Some(Error::node_failed(&reason)),
            never = events.pass_on(node_events) => match never {},
            () = summaries => None,
        };
        node.stop().await;
        let gates: Vec<_> = watches.iter().flat_map(|watch| watch.end(&args.gates)).collect();
        lines.flush();
        flush_log();
        if let Some(error) = failure {
            last_words("ping-client", &format_args!("{error}. {}", error.help()));
            return Ok(ExitCode::from(2));
        }
        if !gates.is_empty() {
            last_words("ping-client", &gates.join("; "));
            return Ok(EXIT_CODE.into());
        }
        let is_answered = |watch: &Watch| watch.seen.borrow().total.figures.received > 0;
        Ok(if watches.iter().all(is_answered) { ExitCode::SUCCESS } else { ExitCode::from(1) })
    })
}

/// One server that is watched.
struct Watch {
    plan: Plan,
    seen: Rc<RefCell<Seen>>,
}

/// What was seen of a server.
struct Seen {
    target: String,
    state: State,
    /// Since the last summary.
    recent: Tally,
    total: Tally,
    /// When each ping was sent whose outcome is not known.
    in_flight: BTreeMap<u64, Instant>,
    lines: Lines,
}

impl Watch {
    fn new(target: &Target, args: &WatchArgs, lines: &Lines) -> Self {
        let now = Instant::now();
        let state = State::new(args.down_after, args.slow, now);
        let (recent, total) = (Tally::new(now), Tally::new(now));
        let seen =
            Seen { target: target.to_string(), state, recent, total, in_flight: BTreeMap::new(), lines: lines.clone() };
        Self { plan: plan(target, args), seen: Rc::new(RefCell::new(seen)) }
    }

    /// Finds the server and pings it, again and again. Fails if this machine does.
    async fn run(&self, (node, events): (&Node, &Events), started: Instant) -> Result<()> {
        let mut signals = StopSignals::new().context("cannot handle signals")?;
        loop {
            let (plan, mut result) = (&self.plan, nothing_yet(&self.plan));
            let (target, node_and_events) = ((plan.find.server.as_ref(), started), (node, events.subscribe()));
            let mut outputs = Outputs::of(Watching(self.seen.clone()));
            find_and_measure(plan, target, node_and_events, &mut signals, &mut outputs, &mut result).await;
            match result.error {
                None | Some(Error::Interrupted { .. } | Error::Deadline { .. }) => return Ok(()),
                Some(error) => self.seen.borrow_mut().on_error(&error, result.server.is_some()),
            }
            // It may stand although it is of no use.
            result.server.iter().for_each(|server| node.disconnect(server.peer));
            sleep(PAUSE).await;
        }
    }

    fn summarize(&self) {
        let now = Instant::now();
        let mut seen = self.seen.borrow_mut();
        let recent = std::mem::replace(&mut seen.recent, Tally::new(now));
        seen.lines.summary(&seen.target, &recent, seen.state.down_since(), now);
    }

    /// Reports everything; returns the gates that it fails.
    fn end(&self, gates: &GateArgs) -> Vec<String> {
        let seen = &mut *self.seen.borrow_mut();
        seen.give_up();
        seen.lines.end(&seen.target, &seen.total, seen.state.down_since(), Instant::now());
        let mut result = nothing_yet(&self.plan);
        result.phases.total_to_first_pong = seen.total.first_pong();
        std::mem::swap(&mut result.figures, &mut seen.total.figures);
        let failures = gates.failures(&result);
        std::mem::swap(&mut result.figures, &mut seen.total.figures);
        failures.into_iter().map(|failure| format!("{}: {failure}", seen.target)).collect()
    }
}

impl Seen {
    fn tell(&mut self, change: Option<Change>, now: Instant) {
        let Some(change) = change else { return };
        if let Change::Up { down_since: Some(since), .. } = change {
            self.recent.up_again(since, now);
            self.total.up_again(since, now);
        }
        self.lines.change(&self.target, &change, now);
    }

    /// The connection was lost, or the server was not found.
    fn on_error(&mut self, error: &Error, was_found: bool) {
        let now = Instant::now();
        self.give_up();
        let change = self.state.on_error(error.to_string(), was_found, now);
        self.tell(change, now);
    }

    /// Does this with the figures since the last summary, and with all.
    fn count(&mut self, mut count: impl FnMut(&mut Figures)) {
        [&mut self.recent.figures, &mut self.total.figures].into_iter().for_each(&mut count);
    }

    /// The outcome of what is in flight will not be known.
    fn give_up(&mut self) {
        for (sequence, now) in std::mem::take(&mut self.in_flight) {
            self.count(|figures| figures.sending(Sending { sequence, now, is_connected: true }));
        }
        self.count(Figures::cut_short);
    }
}

/// Sees the pings of one connection.
struct Watching(Rc<RefCell<Seen>>);

impl Observer for Watching {
    fn sending(&mut self, Sending { sequence, now, .. }: Sending) {
        self.0.borrow_mut().in_flight.insert(sequence, now);
    }

    fn outcome(&mut self, sample: &Sample) {
        let seen = &mut *self.0.borrow_mut();
        seen.in_flight.remove(&sample.sequence);
        // A ping counts when its outcome is known, so that each is in one summary.
        let sending = Sending { sequence: sample.sequence, now: sample.sent, is_connected: true };
        seen.count(|figures| {
            figures.sending(sending);
            figures.outcome(sample);
        });
        let change = match &sample.outcome {
            Ok(_) => seen.state.on_pong(sample.ended - sample.from, sample.ended),
            Err(error) => seen.state.on_loss(&error.summary()),
        };
        seen.tell(change, sample.ended);
    }

    fn late(&mut self, sequence: u64, answer: Answer) {
        self.0.borrow_mut().count(|figures| figures.late(sequence, answer));
    }

    fn path(&mut self, now: Instant, path: Path) {
        let seen = &mut *self.0.borrow_mut();
        let change = seen.state.on_path(path);
        seen.tell(change, now);
    }

    fn slept(&mut self, slept: Duration, missed: u64) {
        self.0.borrow_mut().count(|figures| figures.slept(slept, missed));
    }
}

/// How to ping one server: until its connection is lost, so that the next search says why it is not back.
fn plan(target: &Target, args: &WatchArgs) -> Plan {
    let route = match target {
        Target::Ticket(ticket) => Some(Route { ticket: ticket.clone(), choice: PathChoice::Any }),
        _ => None,
    };
    let peer = if let Target::Peer(peer) = target { Some(*peer) } else { None };
    let (shortest, longest) = SEARCH;
    Plan {
        find: FindPlan {
            server: server(target).cloned(),
            route,
            wanted: Wanted { peer, ..Wanted::default() },
            from: Vec::new(),
            demo: false,
            name: args.search.name.clone(),
            timeout: args
                .interval
                .saturating_mul(u32::try_from(args.down_after).unwrap_or(u32::MAX))
                .clamp(shortest, longest),
            identity: args.search.identity.clone(),
            secret: args.search.secret.clone(),
        },
        run: RunPlan {
            pace: Pace::Interval(args.interval),
            limit: Limit { count: None, duration: None },
            warm_up: None,
            timeout: args.timeout,
        },
        pinger: PingerPlan { mode: Mode::Ask, size: 0, timeout: args.timeout, reconnects: false, retries: false },
        deadline: args.deadline,
        required: None,
        several: None,
        output: OutputArgs::default(),
        gates: args.gates.clone(),
    }
}
