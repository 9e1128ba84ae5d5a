//! The result for people.

use std::{
    io::{self, Write},
    time::Duration,
};

use bytesize::ByteSize;
use libp2p::multiaddr::Protocol;

use super::{Outcome, Phases, Report};
use crate::{
    lane::{Interruptions, Mode},
    schedule::Pace,
    stats::Times,
    units::{digits, milliseconds},
};

/// How many lines the histogram has.
const BARS: u32 = 8;

/// How wide its longest bar is, in characters.
const BAR_WIDTH: u64 = 40;

/// The fewest times of which a histogram shows anything.
const WORTH_A_HISTOGRAM: u64 = 20;

/// Some lines of plain text.
pub(crate) struct Text;

impl Report for Text {
    fn write(&self, outcome: &Outcome, out: &mut dyn Write) -> io::Result<()> {
        // A search that came to nothing has no figures; its trouble is told elsewhere.
        let Some(server) = &outcome.server else { return Ok(()) };
        let stats = &outcome.stats;
        writeln!(out, "--- {} at {} ---", outcome.name, server.address.clone().with(Protocol::P2p(server.peer)))?;
        counts(outcome, out)?;
        let open_loop = matches!(outcome.load.pace, Pace::Rate(_));
        if let Some(figures) = stats.rtt.figures() {
            let (unit, scale) = if figures.min >= Duration::from_secs(1) { ("s", 1.0) } else { ("ms", 1e3) };
            let named = [
                ("min", Some(figures.min)),
                ("mean", Some(figures.mean)),
                ("p50", Some(figures.p50)),
                ("p90", Some(figures.p90)),
                ("p99", Some(figures.p99)),
                ("p99.9", figures.p99_9),
                ("max", Some(figures.max)),
                ("stdev", Some(figures.stdev)),
            ];
            let figures: Vec<_> = named
                .into_iter()
                .filter_map(|(name, time)| Some(format!("{name} {}", digits(time?.as_secs_f64() * scale))))
                .collect();
            let what = if open_loop { "latency from when each was due" } else { "round trip" };
            writeln!(out, "{what}: {} {unit}", figures.join(" / "))?;
        }
        if let Some((network, actor, overhead)) = outcome.network_against_actor().filter(|_| !open_loop) {
            let [network, actor, overhead] = [network, actor, overhead].map(milliseconds);
            writeln!(out, "medians: network {network} · actor {actor} · overhead {overhead}")?;
        }
        if let Some((there, back)) = outcome.throughput() {
            let per_second = |bytes: f64| format!("{}/s", ByteSize(bytes as u64).display().iec());
            writeln!(out, "payload: {} there, {} back", per_second(there), per_second(back))?;
        }
        if let Some(total) = stats.server_total {
            writeln!(out, "server's total: {total}")?;
        }
        phases(&outcome.phases, out)?;
        if stats.rtt.count() >= WORTH_A_HISTOGRAM {
            histogram(&stats.rtt, out)?;
        }
        outcome.warnings.iter().try_for_each(|warning| writeln!(out, "note: {warning}"))
    }
}

fn counts(outcome: &Outcome, out: &mut dyn Write) -> io::Result<()> {
    let stats = &outcome.stats;
    let answered = if outcome.load.mode.tells() { "accepted" } else { "answered" };
    let pings = if stats.sent == 1 { "ping" } else { "pings" };
    write!(out, "{} {pings} sent, {} {answered}, {} lost", stats.sent, stats.received, stats.lost())?;
    write!(out, ", in {} s", digits(stats.duration().as_secs_f64()))?;
    match stats.rate() {
        // Of pings at leisure the rate says nothing but the interval that the user chose.
        Some(rate @ 10.0..) if stats.received >= 10 => writeln!(out, " ({rate:.0} a second)")?,
        _ => writeln!(out)?,
    }
    for (message, count) in stats.failures.values() {
        writeln!(out, "  {count} lost: {message}")?;
    }
    if stats.late > 0 {
        writeln!(out, "  {} of the lost were answered after their time was up", stats.late)?;
    }
    if stats.reordered > 0 {
        writeln!(out, "  {} were answered after one that was sent later", stats.reordered)?;
    }
    if outcome.interruptions.count > 0 {
        let Interruptions { count, duration } = outcome.interruptions;
        let times = if count == 1 { "once" } else { &format!("{count} times") };
        writeln!(out, "  connection lost and made again {times}, down for {} s", digits(duration.as_secs_f64()))?;
    }
    if outcome.busy > 0 {
        writeln!(out, "  the actor was busy {} times, and pinged again", outcome.busy)?;
    }
    if let Some(resent @ 1..) = outcome.resent {
        writeln!(out, "  sent again: {resent}")?;
    }
    match (outcome.counted, outcome.unknown()) {
        (Some(counted), _) => writeln!(out, "  counted by the server, each once: {counted}")?,
        (None, unknown @ 1..) => writeln!(out, "  of {unknown} pings nobody knows whether the server counted them")?,
        (None, 0) => {}
    }
    if let Some(arrived) = outcome.arrived {
        match outcome.load.mode {
            Mode::StreamTell => writeln!(out, "  {arrived} of them counted by the server")?,
            _ => writeln!(out, "  the server's total grew by {arrived} meanwhile, pings of others included")?,
        }
    }
    Ok(())
}

fn phases(phases: &Phases, out: &mut dyn Write) -> io::Result<()> {
    let Some(total) = phases.total_to_first_pong else { return Ok(()) };
    let steps = [
        ("found", phases.find),
        ("connected", phases.connect),
        ("looked up", phases.lookup),
        ("first ping answered", phases.first_pong),
    ];
    let steps: Vec<_> = steps
        .into_iter()
        .filter_map(|(step, took)| Some(format!("{step} {}", digits(took?.as_secs_f64() * 1e3))))
        .collect();
    writeln!(out, "first pong {} after the start: {} ms", milliseconds(total), steps.join(" + "))
}

/// Bars of equal width in time from the shortest to the 99th percentile, and one for the rest.
fn histogram(times: &Times, out: &mut dyn Write) -> io::Result<()> {
    let Some(figures) = times.figures() else { return Ok(()) };
    let step = (figures.p99.saturating_sub(figures.min) / BARS).max(Duration::from_nanos(1));
    let mut bounds: Vec<_> = (0..=BARS).map(|bar| figures.min + step * bar).collect();
    // The first bar begins at zero, so that the shortest time is in it however it was rounded.
    bounds[0] = Duration::ZERO;
    bounds.push(Duration::MAX);
    let counts = times.counts_between(&bounds);
    let longest = counts.iter().copied().max().unwrap_or(1).max(1);
    for (bar, count) in counts.iter().enumerate() {
        let rest = bar as u32 == BARS;
        let label = milliseconds(if rest { figures.max } else { bounds[bar + 1] });
        let width = usize::try_from((count * BAR_WIDTH).div_ceil(longest)).unwrap_or(0);
        writeln!(out, "  up to {label:>9} {} {count}", "#".repeat(width))?;
    }
    Ok(())
}
