//! The result for programs: one JSON object, whose fields `docs/json.md` describes.

use std::{
    io::{self, Write},
    time::Duration,
};

use serde::Serialize;

use super::{Outcome, Report};

/// The version of the object's fields. It changes when one of them changes its meaning or goes.
const SCHEMA: u32 = 1;

/// One JSON object on one line.
pub(crate) struct Json;

#[derive(Serialize)]
struct Object<'a> {
    schema: u32,
    server: Option<Server<'a>>,
    phases_ms: Phases,
    pings: Pings,
    rtt_ms: Option<Rtt>,
    duration_s: f64,
    rate_per_s: Option<f64>,
    server_total: Option<u64>,
    errors: Vec<Error<'a>>,
}

#[derive(Serialize)]
struct Server<'a> {
    peer_id: String,
    address: String,
    name: &'a str,
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
struct Pings {
    sent: u64,
    received: u64,
    lost: u64,
}

#[derive(Serialize)]
struct Rtt {
    min: f64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

#[derive(Serialize)]
struct Error<'a> {
    cause: &'a str,
    message: String,
    count: u64,
}

impl Report for Json {
    fn write(&self, outcome: &Outcome, out: &mut dyn Write) -> io::Result<()> {
        let Outcome { server, name, phases, stats, trouble } = outcome;
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
            server: server.as_ref().map(|server| Server {
                peer_id: server.peer.to_string(),
                address: server.address.to_string(),
                name,
            }),
            phases_ms: Phases {
                find: phases.find.map(ms),
                connect: phases.connect.map(ms),
                lookup: phases.lookup.map(ms),
                first_pong: phases.first_pong.map(ms),
                total_to_first_pong: phases.total_to_first_pong.map(ms),
            },
            pings: Pings { sent: stats.sent, received: stats.received, lost: stats.lost() },
            rtt_ms: stats.rtt().map(|rtt| Rtt {
                min: ms(rtt.min),
                mean: ms(rtt.mean),
                p50: ms(rtt.p50),
                p90: ms(rtt.p90),
                p99: ms(rtt.p99),
                max: ms(rtt.max),
            }),
            duration_s: stats.duration().as_secs_f64(),
            rate_per_s: stats.rate(),
            server_total: stats.server_total,
            errors: lost.chain(trouble).collect(),
        };
        serde_json::to_writer(&mut *out, &object)?;
        writeln!(out)
    }
}

/// Milliseconds, to the nanosecond.
fn ms(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e6
}
