//! What the charts draw: of a run that has just ended, or of the file of an earlier one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    figures::{Figures, PathFigures, Series, SessionResult},
    pinger::PathKind,
    run::Pace,
    units::ms,
};

/// What happened in one interval of a run. Times are in milliseconds.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Point {
    /// Seconds since the first ping.
    #[serde(rename = "from_s")]
    pub(crate) from: f64,
    #[serde(rename = "to_s")]
    pub(crate) to: f64,
    /// How many of the pings that were due then were answered.
    pub(crate) answered: u64,
    /// How many pongs arrived then.
    pub(crate) arrived: u64,
    #[serde(rename = "mean_ms")]
    pub(crate) mean: f64,
    #[serde(rename = "p50_ms")]
    pub(crate) p50: f64,
    #[serde(rename = "p90_ms")]
    pub(crate) p90: f64,
    #[serde(rename = "p99_ms")]
    pub(crate) p99: f64,
    #[serde(rename = "max_ms")]
    pub(crate) max: f64,
    /// How many of the pings that were due then were lost, by cause.
    #[serde(with = "causes")]
    pub(crate) lost: Vec<(String, u64)>,
}

/// Causes as an object.
mod causes {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(causes: &[(String, u64)], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(causes.iter().map(|(cause, count)| (cause, count)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, u64)>, D::Error> {
        BTreeMap::deserialize(deserializer).map(|causes| causes.into_iter().collect())
    }
}

impl Point {
    pub(super) fn middle(&self) -> f64 {
        f64::midpoint(self.from, self.to)
    }

    /// Pongs a second.
    pub(crate) fn rate(&self) -> f64 {
        self.arrived as f64 / (self.to - self.from).max(1e-9)
    }
}

/// The intervals in which something happened.
pub(crate) fn points(series: &Series) -> Vec<Point> {
    let length = series.length().as_secs_f64();
    let intervals = series.intervals().iter().enumerate();
    let busy = intervals.filter(|(_, interval)| interval.pings() + interval.arrived > 0);
    busy.map(|(number, interval)| {
        let times = &interval.times;
        let percentile = |percent| ms(times.percentile(percent));
        Point {
            from: number as f64 * length,
            to: (number + 1) as f64 * length,
            answered: times.count(),
            arrived: interval.arrived,
            mean: ms(times.mean()),
            p50: percentile(50.0),
            p90: percentile(90.0),
            p99: percentile(99.0),
            max: ms(times.max()),
            lost: interval.lost.iter().map(|(cause, count)| ((*cause).to_owned(), *count)).collect(),
        }
    })
    .collect()
}

/// When there was no connection, in seconds since the first ping.
pub(crate) fn outages(series: &Series) -> Vec<(f64, f64)> {
    series.outages().iter().map(|(from, to)| (from.as_secs_f64(), to.as_secs_f64())).collect()
}

/// The paths that pings took, in seconds since the first ping.
fn paths(figures: &Figures) -> Vec<(f64, f64, bool, String)> {
    let path = |(PathFigures { path, from, .. }, to): (&PathFigures, Duration)| {
        (from.as_secs_f64(), to.as_secs_f64(), path.kind == PathKind::Relayed, path.to_string())
    };
    figures.paths_to_end().map(path).collect()
}

/// A run, as far as charts draw it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    pub(crate) points: Vec<Point>,
    /// From when to when, and how many pongs a second arrived, from the start of the run to its end.
    pub(crate) rates: Vec<(f64, f64, f64)>,
    pub(crate) outages: Vec<(f64, f64)>,
    /// From when to when pings took each path, whether that is a relay, and its name. One alone is not shown.
    pub(crate) paths: Vec<(f64, f64, bool, String)>,
    pub(crate) p50: Option<f64>,
    /// Percentages, and the milliseconds that this share of the pongs does not exceed.
    pub(crate) percentiles: Vec<(f64, f64)>,
    /// How many pongs there are.
    pub(crate) count: u64,
    pub(crate) duration: f64,
    /// Whether latency counts from when each ping was due.
    pub(crate) is_from_due: bool,
}

/// How many steps the line of the rate has at most, and how many pongs each should have.
const RATE_STEPS: usize = 60;
const PONGS_PER_STEP: usize = 5;

/// The rate over the run, in steps of enough pongs to have one.
pub(crate) fn rates(points: &[Point], end: f64) -> Vec<(f64, f64, f64)> {
    let arrived = points.iter().fold(0_u64, |sum, point| sum.saturating_add(point.arrived));
    let steps = (arrived as usize / PONGS_PER_STEP).clamp(1, RATE_STEPS);
    let length = end / steps as f64;
    let step_of = |point: &Point| ((point.middle() / length) as usize).min(steps - 1);
    let mut counts = vec![0_u64; steps];
    for point in points {
        let count = &mut counts[step_of(point)];
        *count = count.saturating_add(point.arrived);
    }
    let step = |(number, count): (usize, u64)| {
        (number as f64 * length, (number + 1) as f64 * length, count as f64 / length.max(1e-9))
    };
    counts.into_iter().enumerate().map(step).collect()
}

/// How many places the curve of percentiles has for each ten times that it comes closer to 100 %.
const PLACES_PER_DECADE: u32 = 20;

impl From<&SessionResult> for Run {
    fn from(result: &SessionResult) -> Self {
        let figures = &result.figures;
        let count = figures.rtt.count();
        // The curve ends at the last sample.
        let decades = (count as f64).max(1.0).log10();
        let places = (decades * f64::from(PLACES_PER_DECADE)).ceil() as u32;
        let percent =
            |place: u32| 100.0 - 100.0 / 10_f64.powf((f64::from(place) / f64::from(PLACES_PER_DECADE)).min(decades));
        let curve = (0..=places).map(percent).map(|percent| (percent, ms(figures.rtt.percentile(percent))));
        let mut percentiles: Vec<_> = if count > 0 { curve.collect() } else { Vec::new() };
        if let (Some((_, last)), Some(summary)) = (percentiles.last_mut(), figures.rtt.summary()) {
            *last = ms(summary.max);
        }
        let (points, duration) = (points(&figures.series), figures.duration().as_secs_f64());
        Self {
            rates: rates(&points, duration.max(1e-6)),
            points,
            outages: outages(&figures.series),
            paths: paths(figures),
            p50: figures.rtt.summary().map(|summary| ms(summary.p50)),
            percentiles,
            count,
            duration,
            is_from_due: matches!(result.load.pace, Pace::Rate(_)),
        }
    }
}

impl Run {
    /// The end of the run, in seconds since the first ping.
    pub(super) fn end(&self) -> f64 {
        self.duration.max(1e-6)
    }
}
