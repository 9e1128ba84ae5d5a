//! The result for people.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use bytesize::ByteSize;
use libp2p::multiaddr::Protocol;
use terminal_size::{Width, terminal_size_of};

use super::Report;
use ping_core::program::print_line;

use crate::{
    figures::{Figures, PathFigures, Phases, SessionResult, Times},
    pinger::{Counters, Mode, Path, PathKind},
    run::Pace,
    units::{counted, digits, loss, milliseconds},
};

/// How many bars the histogram has at most.
const BARS: usize = 12;

/// How wide its longest bar is at most, in characters, and how wide what stands around it.
const BAR_WIDTH: usize = 40;
const BAR_MARGIN: usize = 30;

/// The fewest times of which a histogram shows anything.
const MIN_TIMES_FOR_HISTOGRAM: u64 = 20;

/// Plain text.
pub(super) struct Text;

impl Report for Text {
    fn write(&self, result: &SessionResult, out: &mut dyn Write) -> io::Result<()> {
        // A search without success has no figures; its error is on stderr.
        let Some(server) = &result.server else { return Ok(()) };
        writeln!(out, "--- {} at {} ---", result.name, server.address.clone().with(Protocol::P2p(server.peer)))?;
        counts(result, out)?;
        causes(result, out)?;
        server_counts(result, out)?;
        times(result, out)?;
        paths(&result.figures, out)?;
        if let Some(total) = result.figures.server_total {
            writeln!(out, "server's total: {total}")?;
        }
        phases(&result.phases, result.load.mode, out)?;
        if result.figures.rtt.count() >= MIN_TIMES_FOR_HISTOGRAM {
            histogram(&result.figures.rtt, out)?;
        }
        result.notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))
    }
}

/// How many pings were sent and answered, and how fast.
fn counts(result: &SessionResult, out: &mut dyn Write) -> io::Result<()> {
    let figures = &result.figures;
    let answered = if result.load.mode.tells() { "accepted" } else { "answered" };
    let sent = counted(figures.sent, "ping");
    write!(out, "{sent} sent, {} {answered}, {}", figures.received, loss(figures.lost(), figures.sent))?;
    write!(out, ", in {} s", digits(figures.duration().as_secs_f64()))?;
    match figures.rate() {
        // The rate of slow pings is the interval that the user chose.
        Some(rate @ 10.0..) if figures.received >= 10 => writeln!(out, " ({rate:.0} a second)"),
        _ => writeln!(out),
    }
}

/// Why pings were lost, late or sent again.
fn causes(result: &SessionResult, out: &mut dyn Write) -> io::Result<()> {
    let figures = &result.figures;
    let Counters { reconnects, down, busy, resent } = result.counters;
    for (cause, count) in figures.failures.values() {
        writeln!(out, "  {count} lost: {cause}")?;
    }
    if figures.late > 0 {
        writeln!(out, "  {} of the lost: answered after the timeout", figures.late)?;
    }
    if figures.reordered > 0 {
        writeln!(out, "  {} answered after a ping that was sent later", figures.reordered)?;
    }
    if figures.not_sent > 0 {
        writeln!(out, "  {} not sent: this machine slept, or this program was stopped", figures.not_sent)?;
    }
    if reconnects > 0 {
        let times = counted(reconnects, "time");
        writeln!(out, "  connection lost and made again: {times}, down for {} s", digits(down.as_secs_f64()))?;
    }
    if busy > 0 {
        writeln!(out, "  sent again because the actor was busy: {}", counted(busy, "time"))?;
    }
    if resent > 0 {
        writeln!(out, "  resent after a lost connection: {}", counted(resent, "time"))?;
    }
    Ok(())
}

/// How many pings the server counted.
fn server_counts(result: &SessionResult, out: &mut dyn Write) -> io::Result<()> {
    match (result.counted, result.unknown()) {
        (Some(counted), _) => writeln!(out, "  counted by the server, each once: {counted}")?,
        (None, unknown @ 1..) => {
            let them = if unknown == 1 { "it" } else { "them" };
            writeln!(out, "  {}: unknown whether the server counted {them}", counted(unknown, "ping"))?;
        }
        (None, 0) => {}
    }
    match (result.arrived, result.load.mode) {
        (Some(_), Mode::StreamTell) if result.counted.is_some() => Ok(()),
        (Some(arrived), Mode::StreamTell) => writeln!(out, "  counted by the server: {arrived}"),
        (Some(arrived), _) => {
            writeln!(out, "  the server's total grew by {arrived}, including the pings of other clients")
        }
        (None, _) => Ok(()),
    }
}

/// The percentiles, the network beside the actor, and the throughput.
fn times(result: &SessionResult, out: &mut dyn Write) -> io::Result<()> {
    let is_open_loop = matches!(result.load.pace, Pace::Rate(_));
    if let Some(summary) = result.figures.rtt.summary() {
        let (unit, scale) = if summary.min >= Duration::from_secs(1) { ("s", 1.0) } else { ("ms", 1e3) };
        let named = [
            ("min", Some(summary.min)),
            ("mean", Some(summary.mean)),
            ("p50", Some(summary.p50)),
            ("p90", Some(summary.p90)),
            ("p99", Some(summary.p99)),
            ("p99.9", summary.p99_9),
            ("max", Some(summary.max)),
            ("stdev", Some(summary.stdev)),
        ];
        let figures: Vec<_> = named
            .into_iter()
            .filter_map(|(name, time)| Some(format!("{name} {}", digits(time?.as_secs_f64() * scale))))
            .collect();
        let what = if is_open_loop { "latency since each was due" } else { "round trip" };
        writeln!(out, "{what}: {} {unit}", figures.join(" / "))?;
    }
    if let Some((network, actor, overhead)) = result.network_and_actor().filter(|_| !is_open_loop) {
        let [network, actor, overhead] = [network, actor, overhead].map(milliseconds);
        let overhead = if result.is_overhead_clamped() { "unknown" } else { &overhead };
        writeln!(out, "medians: network {network} · actor {actor} · overhead {overhead}")?;
    }
    if let Some((there, back)) = result.throughput() {
        let per_second = |bytes: f64| format!("{}/s", ByteSize(bytes as u64).display().iec());
        writeln!(out, "payload: {} sent, {} sent back", per_second(there), per_second(back))?;
    }
    Ok(())
}

/// The ways that the pings took, if there is more to say than that it was direct.
fn paths(figures: &Figures, out: &mut dyn Write) -> io::Result<()> {
    let is_plain = matches!(&figures.paths[..], [] | [PathFigures { path: Path { kind: PathKind::Direct, .. }, .. }]);
    if is_plain {
        return Ok(());
    }
    let text = |it: &PathFigures| {
        let median =
            it.times.summary().map(|summary| format!(", p50 {}", milliseconds(summary.p50))).unwrap_or_default();
        format!("{} from {:.2} s, {}{median}", it.path, it.from.as_secs_f64(), counted(it.times.count(), "pong"))
    };
    writeln!(out, "paths: {}", figures.paths.iter().map(text).collect::<Vec<_>>().join(" · "))
}

fn phases(phases: &Phases, mode: Mode, out: &mut dyn Write) -> io::Result<()> {
    let Some(total) = phases.total_to_first_pong else { return Ok(()) };
    let (first, last_step) =
        if mode.tells() { ("first ping accepted", "ping accepted") } else { ("first pong", "ping answered") };
    let steps = [
        ("found", phases.find),
        ("connected", phases.connect),
        ("looked up", phases.lookup),
        (last_step, phases.first_pong),
    ];
    let steps: Vec<_> = steps
        .into_iter()
        .filter_map(|(step, took)| Some(format!("{step} {}", digits(took?.as_secs_f64() * 1e3))))
        .collect();
    writeln!(out, "{first} {} after the start: {} ms", milliseconds(total), steps.join(" + "))
}

/// Bars for times that grow by the same factor from one to the next.
fn histogram(times: &Times, out: &mut dyn Write) -> io::Result<()> {
    let bounds = times.log_bounds(BARS);
    // Times that three digits do not tell apart have no shape.
    if bounds.len() < 4 {
        return Ok(());
    }
    let width = terminal_size_of(io::stdout()).map_or(usize::MAX, |(Width(width), _)| width.into());
    let widest = BAR_WIDTH.min(width.saturating_sub(BAR_MARGIN)).max(1) as u64;
    let counts = times.counts_between(&bounds);
    let longest = counts.iter().copied().max().unwrap_or(1).max(1);
    for (bound, count) in bounds[1..].iter().zip(counts) {
        let width = usize::try_from((count * widest).div_ceil(longest)).unwrap_or(0);
        writeln!(out, "  up to {:>9} {} {count}", milliseconds(*bound), "#".repeat(width))?;
    }
    Ok(())
}

/// Prints the figures so far on stderr, as `ping(8)` does at SIGQUIT.
pub(super) fn interim(figures: &Figures, now: Instant) {
    let mut line = format!("{} sent, {} answered, ", counted(figures.sent, "ping"), figures.received);
    // What is in flight is not lost.
    let lost: u64 = figures.failures.values().map(|(_, count)| count).sum();
    line += &loss(lost, figures.received + lost);
    if let Some(elapsed) = figures.elapsed(now) {
        line += &format!(", in {} s", digits(elapsed.as_secs_f64()));
    }
    if let Some(summary) = figures.rtt.summary() {
        let times = [summary.min, summary.p50, summary.p99, summary.max].map(|time| digits(time.as_secs_f64() * 1e3));
        line += &format!(", min/p50/p99/max {} ms", times.join("/"));
    }
    print_line(&line);
}
