//! The result for programs: one JSON object, whose fields `docs/json.md` and `docs/result.schema.json` describe.

use std::{
    io::{self, Write},
    time::Duration,
};

use serde::Serialize;

use super::{Outcome, Report};
use crate::{
    lane::Mode,
    schedule::Pace,
    stats::{Figures, Times},
};

/// The version of the object's fields. It grows when fields are added; none has changed its meaning since 1.
const SCHEMA: u32 = 4;

/// The percentiles of the table.
const PERCENTILES: [f64; 12] = [1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99, 100.0];

/// One JSON object on one line.
pub(crate) struct Json;

#[derive(Serialize)]
struct Object<'a> {
    schema: u32,
    client_version: &'static str,
    command: &'a str,
    server: Option<Server<'a>>,
    phases_ms: Phases,
    load: Load,
    pings: Pings,
    rtt_ms: Option<Rtt>,
    percentiles_ms: Vec<Percentile>,
    network_ms: Option<Network>,
    overhead_ms: Option<f64>,
    bytes_per_s: Option<Bytes>,
    duration_s: f64,
    rate_per_s: Option<f64>,
    client_busy: Option<f64>,
    server_total: Option<u64>,
    reconnects: Reconnects,
    warnings: &'a [String],
    errors: Vec<Error<'a>>,
}

#[derive(Serialize)]
struct Server<'a> {
    peer_id: String,
    address: String,
    name: &'a str,
    version: Option<&'a str>,
}

#[derive(Serialize)]
struct Phases {
    find: Option<f64>,
    connect: Option<f64>,
    lookup: Option<f64>,
    first_pong: Option<f64>,
    total_to_first_pong: Option<f64>,
}

#[derive(Serialize)]
struct Load {
    mode: Mode,
    concurrency: Option<u32>,
    interval_s: Option<f64>,
    rate_per_s: Option<f64>,
    payload_bytes: u64,
}

#[derive(Serialize)]
struct Pings {
    sent: u64,
    received: u64,
    lost: u64,
    late: u64,
    reordered: u64,
    arrived: Option<u64>,
    counted: Option<u64>,
    unknown: u64,
    resent: Option<u64>,
    busy: u64,
}

#[derive(Serialize)]
struct Rtt {
    min: f64,
    mean: f64,
    stdev: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    /// Null if there are too few times to have one beyond it.
    p99_9: Option<f64>,
    max: f64,
}

#[derive(Serialize)]
struct Percentile {
    percent: f64,
    ms: f64,
}

#[derive(Serialize)]
struct Network {
    samples: u64,
    #[serde(flatten)]
    rtt: Rtt,
}

#[derive(Serialize)]
struct Bytes {
    there: f64,
    back: f64,
}

#[derive(Serialize)]
struct Reconnects {
    count: u64,
    down_s: f64,
}

#[derive(Serialize)]
struct Error<'a> {
    cause: &'a str,
    message: String,
    count: u64,
}

impl From<Figures> for Rtt {
    fn from(figures: Figures) -> Self {
        let Figures { min, mean, stdev, p50, p90, p99, p99_9, max } = figures;
        let [min, mean, stdev, p50, p90, p99, max] = [min, mean, stdev, p50, p90, p99, max].map(ms);
        Self { min, mean, stdev, p50, p90, p99, p99_9: p99_9.map(ms), max }
    }
}

impl Report for Json {
    fn write(&self, outcome: &Outcome, out: &mut dyn Write) -> io::Result<()> {
        let Outcome { server, name, phases, load, stats, network, arrived, clocks, trouble, .. } = outcome;
        let lost = stats.failures.iter().map(|(cause, (message, count))| Error {
            cause,
            message: message.clone(),
            count: *count,
        });
        let trouble = trouble.iter().map(|trouble| Error {
            cause: trouble.kind(),
            message: format!("{trouble}. {}", trouble.mend()),
            count: 1,
        });
        let object = Object {
            schema: SCHEMA,
            client_version: env!("CARGO_PKG_VERSION"),
            command: &outcome.command,
            server: server.as_ref().map(|server| Server {
                peer_id: server.peer.to_string(),
                address: server.address.to_string(),
                name,
                version: server.version.as_deref(),
            }),
            phases_ms: Phases {
                find: phases.find.map(ms),
                connect: phases.connect.map(ms),
                lookup: phases.lookup.map(ms),
                first_pong: phases.first_pong.map(ms),
                total_to_first_pong: phases.total_to_first_pong.map(ms),
            },
            load: Load {
                mode: load.mode,
                concurrency: if let Pace::Closed(senders) = load.pace { Some(senders) } else { None },
                interval_s: if let Pace::Interval(interval) = load.pace { Some(interval.as_secs_f64()) } else { None },
                rate_per_s: if let Pace::Rate(rate) = load.pace { Some(rate) } else { None },
                payload_bytes: load.size,
            },
            pings: Pings {
                sent: stats.sent,
                received: stats.received,
                lost: stats.lost(),
                late: stats.late,
                reordered: stats.reordered,
                arrived: *arrived,
                counted: outcome.counted,
                unknown: outcome.unknown(),
                resent: outcome.resent,
                busy: outcome.busy,
            },
            rtt_ms: stats.rtt.figures().map(Rtt::from),
            percentiles_ms: percentiles(&stats.rtt),
            network_ms: network.figures().map(|rtt| Network { samples: network.count(), rtt: rtt.into() }),
            overhead_ms: outcome.network_against_actor().map(|(.., overhead)| ms(overhead)),
            bytes_per_s: outcome.throughput().map(|(there, back)| Bytes { there, back }),
            duration_s: stats.duration().as_secs_f64(),
            rate_per_s: stats.rate(),
            client_busy: clocks.and_then(|clocks| clocks.busy),
            server_total: stats.server_total,
            reconnects: Reconnects {
                count: outcome.interruptions.count,
                down_s: outcome.interruptions.duration.as_secs_f64(),
            },
            warnings: &outcome.warnings,
            errors: lost.chain(trouble).collect(),
        };
        serde_json::to_writer(&mut *out, &object)?;
        writeln!(out)
    }
}

fn percentiles(times: &Times) -> Vec<Percentile> {
    if times.count() == 0 {
        return Vec::new();
    }
    PERCENTILES.map(|percent| Percentile { percent, ms: ms(times.percentile(percent)) }).into()
}

/// Milliseconds, to the nanosecond.
fn ms(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e6
}
