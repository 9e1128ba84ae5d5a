//! The result for people.

use std::{
    io::{self, Write},
    time::Duration,
};

use libp2p::multiaddr::Protocol;

use super::{Outcome, Phases, Report, digits, milliseconds};

/// A few lines of plain text.
pub(crate) struct Text;

impl Report for Text {
    fn write(&self, outcome: &Outcome, out: &mut dyn Write) -> io::Result<()> {
        // A search that came to nothing has no figures; its trouble is told elsewhere.
        let Some(server) = &outcome.server else { return Ok(()) };
        let stats = &outcome.stats;
        writeln!(out, "--- {} at {} ---", outcome.name, server.address.clone().with(Protocol::P2p(server.peer)))?;
        write!(out, "{} pings sent, {} answered, {} lost", stats.sent, stats.received, stats.lost())?;
        write!(out, ", in {} s", digits(stats.duration().as_secs_f64()))?;
        match stats.rate() {
            // Of pings at leisure the rate says nothing but the interval that the user chose.
            Some(rate @ 10.0..) => writeln!(out, " ({rate:.0} a second)")?,
            _ => writeln!(out)?,
        }
        for (message, count) in stats.failures.values() {
            writeln!(out, "  {count} lost: {message}")?;
        }
        if let Some(rtt) = stats.rtt() {
            let (unit, scale) = if rtt.min >= Duration::from_secs(1) { ("s", 1.0) } else { ("ms", 1e3) };
            let figures = [("min", rtt.min), ("mean", rtt.mean), ("p50", rtt.p50), ("p99", rtt.p99), ("max", rtt.max)]
                .map(|(name, time)| format!("{name} {}", digits(time.as_secs_f64() * scale)));
            writeln!(out, "round trip: {} {unit}", figures.join(" / "))?;
        }
        if let Some(total) = stats.server_total {
            writeln!(out, "server's total: {total}")?;
        }
        phases(&outcome.phases, out)
    }
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
