//! A result that `--json` wrote.

use std::path::Path;

use anyhow::{Result, anyhow};
use ping_core::program::read_file;
use serde::Deserialize;

use crate::{
    output::{ChartedRun, Point, SCHEMA, rates},
    units::digits,
};

/// The part of a result that is compared. `docs/json.md` describes the fields.
#[derive(Debug, Deserialize)]
pub(super) struct ResultFile {
    #[serde(default)]
    pub(super) started: String,
    #[serde(default)]
    pub(super) host: String,
    phases_ms: Phases,
    load: Load,
    pings: Pings,
    rtt_ms: Option<Rtt>,
    percentiles_ms: Vec<Percentile>,
    rate_per_s: Option<f64>,
    duration_s: f64,
    reconnects: Reconnects,
    pub(super) over_time: Vec<Point>,
    /// The file itself.
    #[serde(skip)]
    pub(super) text: String,
}

#[derive(Debug, Deserialize)]
struct Phases {
    total_to_first_pong: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Load {
    rate_per_s: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Pings {
    sent: u64,
    received: u64,
    lost: u64,
}

#[derive(Debug, Deserialize)]
struct Rtt {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: Option<f64>,
    max: f64,
}

#[derive(Debug, Deserialize)]
struct Percentile {
    percent: f64,
    ms: f64,
}

#[derive(Debug, Deserialize)]
struct Reconnects {
    outages_s: Vec<(f64, f64)>,
}

/// Only the version, of any result.
#[derive(Deserialize)]
struct Version {
    schema: u32,
}

/// The largest result that is read, in bytes. One takes some 20 kB.
const MAX_SIZE: u64 = 16 * 1024 * 1024;

impl ResultFile {
    /// Reads a result. Fails if the file has none, or one of another version.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let text = read_file(path, MAX_SIZE).map_err(|error| anyhow!("cannot read {name}: {error}."))?;
        let no_result = || anyhow!("{name} is no result of one server; write one with ping-client --json > {name}.");
        let Version { schema } = serde_json::from_str(&text).map_err(|_| no_result())?;
        if schema != SCHEMA {
            return Err(anyhow!(
                "{name} is a result of schema {schema}, and this program reads {SCHEMA}. Measure again."
            ));
        }
        let file: Self = serde_json::from_str(&text).map_err(|_| no_result())?;
        Ok(Self { text, ..file })
    }
}

impl From<&ResultFile> for ChartedRun {
    fn from(file: &ResultFile) -> Self {
        Self {
            points: file.over_time.clone(),
            rates: rates(&file.over_time, file.duration_s.max(1e-6)),
            outages: file.reconnects.outages_s.clone(),
            // Those of several runs would lie over each other.
            paths: Vec::new(),
            p50: file.rtt_ms.as_ref().map(|rtt| rtt.p50),
            percentiles: file.percentiles_ms.iter().map(|it| (it.percent, it.ms)).collect(),
            count: file.pings.received,
            duration: file.duration_s,
            is_from_due: file.load.rate_per_s.is_some(),
        }
    }
}

/// A figure that is compared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Metric {
    Loss,
    P50,
    P90,
    P99,
    P99_9,
    Max,
    Mean,
    Rate,
    FirstPong,
}

impl Metric {
    pub(super) const ALL: [Self; 9] =
        [Self::Loss, Self::P50, Self::P90, Self::P99, Self::P99_9, Self::Max, Self::Mean, Self::Rate, Self::FirstPong];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::P50 => "p50",
            Self::P90 => "p90",
            Self::P99 => "p99",
            Self::P99_9 => "p99.9",
            Self::Max => "max",
            Self::Mean => "mean",
            Self::Rate => "rate",
            Self::FirstPong => "first-pong",
        }
    }

    /// Its value in a result: milliseconds, pongs a second, or per cent.
    pub(super) fn of(self, file: &ResultFile) -> Option<f64> {
        let rtt = file.rtt_ms.as_ref();
        match self {
            Self::Loss => (file.pings.sent > 0).then(|| file.pings.lost as f64 * 100.0 / file.pings.sent as f64),
            Self::P50 => rtt.map(|rtt| rtt.p50),
            Self::P90 => rtt.map(|rtt| rtt.p90),
            Self::P99 => rtt.map(|rtt| rtt.p99),
            Self::P99_9 => rtt.and_then(|rtt| rtt.p99_9),
            Self::Max => rtt.map(|rtt| rtt.max),
            Self::Mean => rtt.map(|rtt| rtt.mean),
            Self::Rate => file.rate_per_s,
            Self::FirstPong => file.phases_ms.total_to_first_pong,
        }
    }

    /// Its value in one interval of a run, if it has one there.
    pub(super) fn at(self, point: &Point) -> Option<f64> {
        match self {
            Self::P50 => Some(point.p50),
            Self::P90 => Some(point.p90),
            Self::P99 => Some(point.p99),
            Self::Mean => Some(point.mean),
            Self::Rate => Some(point.rate()),
            Self::Loss | Self::P99_9 | Self::Max | Self::FirstPong => None,
        }
    }

    /// A value with its unit.
    pub(super) fn text(self, value: f64) -> String {
        match self {
            Self::Loss => format!("{value:.2} %"),
            Self::Rate => format!("{}/s", digits(value)),
            _ => format!("{} ms", digits(value)),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A result with these percentiles and rate.
    pub(crate) fn result(p50: f64, p99: f64, lost: u64, rate: f64) -> ResultFile {
        ResultFile {
            started: String::new(),
            host: String::new(),
            phases_ms: Phases { total_to_first_pong: Some(5.0) },
            load: Load { rate_per_s: None },
            pings: Pings { sent: 100, received: 100 - lost, lost },
            rtt_ms: Some(Rtt { mean: p50, p50, p90: p99, p99, p99_9: None, max: p99 }),
            percentiles_ms: Vec::new(),
            rate_per_s: Some(rate),
            duration_s: 1.0,
            reconnects: Reconnects { outages_s: Vec::new() },
            over_time: Vec::new(),
            text: String::new(),
        }
    }

    #[test]
    fn every_figure_is_named_and_has_a_unit() {
        let result = result(1.0, 2.0, 1, 1000.0);
        let texts = Metric::ALL.map(|metric| metric.of(&result).map(|value| metric.text(value)).unwrap_or_default());
        assert_eq!(texts, ["1.00 %", "1.00 ms", "2.00 ms", "2.00 ms", "", "2.00 ms", "1.00 ms", "1000/s", "5.00 ms"]);
    }

    #[test]
    fn what_is_no_result_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        for (text, words) in
            [("no", "is no result"), ("{\"schema\":4}", "schema 4"), ("{\"schema\":5}", "is no result")]
        {
            std::fs::write(&path, text).unwrap();
            let error = ResultFile::read(&path).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        assert!(ResultFile::read(&folder.path().join("none")).unwrap_err().to_string().contains("cannot read"));
    }
}
