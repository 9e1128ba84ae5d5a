//! The result for programs: one JSON object, whose fields `docs/json.md` and `docs/result.schema.json` describe.

use std::{
    io::{self, Write},
    time::Duration,
};

use serde::Serialize;

use super::{
    Report, Row,
    html::{Point, outages, points},
    rows::counted,
};
use crate::{
    figures::{
        Figures, Load as RunLoad, PathFigures, Phases as RunPhases, ServerVersion, SessionResult, Summary, Times,
    },
    pinger::{Mode, PathKind},
    run::Pace,
    units::ms,
};

/// The version of the object's fields.
pub(crate) const SCHEMA: u32 = 5;

/// In how many intervals the run is told at most.
const MAX_INTERVALS: usize = 100;

/// The percentiles of the table.
const PERCENTILES: [f64; 12] = [1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99, 100.0];

/// One JSON object on one line.
pub(super) struct Json;

#[derive(Serialize)]
pub(super) struct Object<'a> {
    schema: u32,
    client_version: &'static str,
    started: String,
    host: &'a str,
    system: &'a str,
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
    paths: Vec<Path>,
    over_time: Vec<Point>,
    gates_failed: &'a [String],
    warnings: &'a [String],
    errors: Vec<Error<'a>>,
}

#[derive(Serialize)]
struct Server<'a> {
    peer_id: String,
    address: String,
    name: &'a str,
    version: Option<&'a str>,
    transport: Option<String>,
    security: Option<&'static str>,
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
    not_sent: u64,
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
    /// Null for too few times to have one beyond it.
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
    /// When there was no connection, in seconds since the first ping.
    outages_s: Vec<(f64, f64)>,
}

#[derive(Serialize)]
struct Path {
    kind: PathKind,
    transport: Option<String>,
    from_ms: f64,
    to_ms: f64,
    pongs: u64,
    /// The median.
    rtt_ms: Option<f64>,
}

#[derive(Serialize)]
struct Error<'a> {
    cause: &'a str,
    message: String,
    count: u64,
}

impl From<Summary> for Rtt {
    fn from(summary: Summary) -> Self {
        let Summary { min, mean, stdev, p50, p90, p99, p99_9, max } = summary;
        let [min, mean, stdev, p50, p90, p99, max] = [min, mean, stdev, p50, p90, p99, max].map(ms);
        Self { min, mean, stdev, p50, p90, p99, p99_9: p99_9.map(ms), max }
    }
}

impl From<RunPhases> for Phases {
    fn from(phases: RunPhases) -> Self {
        Self {
            find: phases.find.map(ms),
            connect: phases.connect.map(ms),
            lookup: phases.lookup.map(ms),
            first_pong: phases.first_pong.map(ms),
            total_to_first_pong: phases.total_to_first_pong.map(ms),
        }
    }
}

impl From<RunLoad> for Load {
    fn from(load: RunLoad) -> Self {
        Self {
            mode: load.mode,
            concurrency: if let Pace::Closed(senders) = load.pace { Some(senders) } else { None },
            interval_s: if let Pace::Interval(interval) = load.pace { Some(interval.as_secs_f64()) } else { None },
            rate_per_s: if let Pace::Rate(rate) = load.pace { Some(rate) } else { None },
            payload_bytes: load.size,
        }
    }
}

/// The results of several servers.
#[derive(Serialize)]
struct Rows<'a> {
    schema: u32,
    client_version: &'static str,
    servers: Vec<RowObject<'a>>,
    total: Total,
}

#[derive(Serialize)]
struct RowObject<'a> {
    node: &'a str,
    gone: bool,
    #[serde(flatten)]
    object: Object<'a>,
}

#[derive(Serialize)]
struct Total {
    sent: u64,
    received: u64,
    lost: u64,
    /// Null if it is not known of one of them.
    counted: Option<u64>,
    rtt_ms: Option<Rtt>,
    rate_per_s: f64,
}

/// Writes the results of several servers as one object.
pub(super) fn write_rows(rows: &[Row], total: Option<&Figures>, out: &mut dyn Write) -> io::Result<()> {
    let figures = || rows.iter().map(|row| &row.result.figures);
    let object = Rows {
        schema: SCHEMA,
        client_version: env!("CARGO_PKG_VERSION"),
        servers: rows
            .iter()
            .map(|row| RowObject { node: &row.node, gone: row.is_gone, object: (&row.result).into() })
            .collect(),
        total: Total {
            sent: figures().map(|figures| figures.sent).sum(),
            received: figures().map(|figures| figures.received).sum(),
            lost: figures().map(Figures::lost).sum(),
            counted: counted(rows),
            rtt_ms: total.and_then(|total| total.rtt.summary()).map(Rtt::from),
            rate_per_s: total.map_or_else(|| figures().filter_map(Figures::rate).sum(), |it| it.rate().unwrap_or(0.0)),
        },
    };
    serde_json::to_writer(&mut *out, &object)?;
    writeln!(out)
}

impl<'a> From<&'a SessionResult> for Object<'a> {
    fn from(result: &'a SessionResult) -> Self {
        let SessionResult { figures, network, counters, .. } = result;
        Self {
            schema: SCHEMA,
            client_version: env!("CARGO_PKG_VERSION"),
            started: result.origin.started_text(),
            host: &result.origin.host,
            system: &result.origin.system,
            command: &result.command,
            server: server(result),
            phases_ms: result.phases.into(),
            load: result.load.into(),
            pings: pings(result),
            rtt_ms: figures.rtt.summary().map(Rtt::from),
            percentiles_ms: percentiles(&figures.rtt),
            network_ms: network.summary().map(|rtt| Network { samples: network.count(), rtt: rtt.into() }),
            overhead_ms: result.network_and_actor().map(|(.., overhead)| ms(overhead)),
            bytes_per_s: result.throughput().map(|(there, back)| Bytes { there, back }),
            duration_s: figures.duration().as_secs_f64(),
            rate_per_s: figures.rate(),
            client_busy: result.clocks.and_then(|clocks| clocks.busy),
            server_total: figures.server_total,
            reconnects: Reconnects {
                count: counters.reconnects,
                down_s: counters.down.as_secs_f64(),
                outages_s: outages(&figures.series),
            },
            paths: paths(figures),
            over_time: points(&figures.series.at_most(MAX_INTERVALS)),
            gates_failed: &result.gates,
            warnings: &result.notes,
            errors: errors(result),
        }
    }
}

impl Report for Json {
    fn write(&self, result: &SessionResult, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, &Object::from(result))?;
        writeln!(out)
    }

    fn shows_version(&self) -> bool {
        true
    }
}

fn server(result: &SessionResult) -> Option<Server<'_>> {
    result.server.as_ref().map(|server| Server {
        peer_id: server.peer.to_string(),
        address: server.address.to_string(),
        name: &result.name,
        version: if let ServerVersion::Known(version) = &server.version { Some(version.as_ref()) } else { None },
        transport: server.transport().map(|transport| transport.to_string().to_lowercase()),
        security: server.security(),
    })
}

fn pings(result: &SessionResult) -> Pings {
    let figures = &result.figures;
    Pings {
        sent: figures.sent,
        received: figures.received,
        lost: figures.lost(),
        late: figures.late,
        reordered: figures.reordered,
        not_sent: figures.not_sent,
        arrived: result.arrived,
        counted: result.counted,
        unknown: result.unknown(),
        resent: result.retries.then_some(result.counters.resent),
        busy: result.counters.busy,
    }
}

/// The ways that pings took, each until the next one began.
fn paths(figures: &Figures) -> Vec<Path> {
    let path = |(it, to): (&PathFigures, Duration)| Path {
        kind: it.path.kind,
        transport: it.path.transport_name(),
        from_ms: ms(it.from),
        to_ms: ms(to.max(it.from)),
        pongs: it.times.count(),
        rtt_ms: it.times.summary().map(|summary| ms(summary.p50)),
    };
    figures.paths_to_end().map(path).collect()
}

/// One for each cause of lost pings, and one for what ended the run early.
fn errors(result: &SessionResult) -> Vec<Error<'_>> {
    let lost = result.figures.failures.iter();
    let lost = lost.map(|(cause, (message, count))| Error { cause, message: message.clone(), count: *count });
    let ended = result.error.iter().map(|error| Error {
        cause: error.cause(),
        message: format!("{error}. {}", error.help()),
        count: 1,
    });
    lost.chain(ended).collect()
}

fn percentiles(times: &Times) -> Vec<Percentile> {
    if times.count() == 0 {
        return Vec::new();
    }
    PERCENTILES.map(|percent| Percentile { percent, ms: ms(times.percentile(percent)) }).into()
}
