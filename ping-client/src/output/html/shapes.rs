//! The distribution of the times: by percentile and as a histogram; and the steps to the first pong.

use std::time::Duration;

use super::{
    data::Run,
    svg::{Chart, Scale},
};
use crate::{
    figures::{Phases, Times},
    units::{counted, digits, ms},
};

/// The percentages that the axis names, as HdrHistogram's plots do.
const MARKS: [f64; 7] = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999];

/// How many buckets the histogram has at most.
const MAX_BUCKETS: usize = 60;

/// Where the axis of a histogram ends at least, so that its marks are whole pongs.
const MIN_COUNT: f64 = 5.0;

/// Each ten times closer to 100 % takes as much room as the one before.
fn place(percent: f64) -> f64 {
    (100.0 / (100.0 - percent).max(1e-9)).log10()
}

/// The curve of each run, up to its last pong.
pub(crate) fn by_percentile(runs: &[Run]) -> Option<String> {
    let end = runs.iter().map(|run| (run.count as f64).log10()).fold(0.0, f64::max);
    if end <= 0.0 {
        return None;
    }
    let times = || runs.iter().flat_map(|run| run.percentiles.iter().map(|(_, time)| *time));
    let (min, max) = (times().fold(f64::INFINITY, f64::min), times().fold(0.0, f64::max));
    let usual = runs.iter().filter_map(|run| run.p50).fold(0.0, f64::max);
    let scale = Scale::of_times(min, usual, max);
    let mut chart = Chart::new(
        format_args!("Latency by percentile, up to {} ms", digits(max)),
        Scale::Linear { from: 0.0, to: end },
    );
    let how = if matches!(scale, Scale::Log { .. }) { "ms, logarithmic" } else { "ms" };
    let panel = chart.panel(how, 220.0, scale);
    for (number, run) in runs.iter().enumerate() {
        let points = run.percentiles.iter().filter(|(percent, _)| place(*percent) <= end + 1e-6);
        let line: Vec<_> = points.map(|(percent, time)| (panel.x(place(*percent)), panel.y(*time))).collect();
        chart.line(&if runs.len() > 1 { format!("run{number}") } else { "p50".into() }, &[line]);
        for pair in run.percentiles.windows(2) {
            let (from, to) = (panel.x(place(pair[0].0)), panel.x(place(pair[1].0).min(end)));
            let value = format!("{} % of the pongs took at most {} ms", percent_text(pair[1].0), digits(pair[1].1));
            if runs.len() == 1 {
                chart.rect("value", (from, panel.top()), (to - from, panel.bottom() - panel.top()), &value);
            }
        }
    }
    let marks = MARKS.into_iter().filter(|mark| place(*mark) <= end + 1e-9);
    let marks = marks.map(|mark| (place(mark), format!("{} %", percent_text(mark)))).collect();
    Some(chart.finish("percentile", Some(marks)))
}

fn percent_text(percent: f64) -> String {
    let text = format!("{percent:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// How many pongs took how long, in buckets that grow with the time.
pub(super) fn histogram(times: &Times) -> Option<String> {
    let summary = times.summary()?;
    let (min, max) = (summary.min.as_secs_f64().max(1e-9), summary.max.as_secs_f64());
    if max <= min {
        return None;
    }
    let bounds = times.log_bounds(MAX_BUCKETS);
    let counts = times.counts_between(&bounds);
    let highest = counts.iter().copied().max().unwrap_or(1) as f64;
    let bounds: Vec<f64> = bounds.iter().map(|bound| ms(*bound)).collect();
    let (from, to) = (bounds.first().copied()?.max(1e-6), bounds.last().copied()?);
    let title = format!("Histogram of {} from {} to {} ms", counted(times.count(), "pong"), digits(from), digits(to));
    let mut chart = Chart::new(title, Scale::Log { from, to });
    let panel = chart.panel("pongs", 180.0, Scale::Linear { from: 0.0, to: (highest * 1.05).max(MIN_COUNT) });
    for (bounds, count) in bounds.windows(2).zip(counts).filter(|(_, count)| *count > 0) {
        let (x, y) = (panel.x(bounds[0]), panel.y(count as f64));
        let words = format!("{} from {} to {} ms", counted(count, "pong"), digits(bounds[0]), digits(bounds[1]));
        chart.rect("bar", (x, y), (panel.x(bounds[1]) - x - 0.6, panel.bottom() - y), &words);
    }
    Some(chart.finish("ms, logarithmic", None))
}

/// The steps from the start of the client to the first pong.
pub(super) fn steps(phases: &Phases) -> Option<String> {
    let total = ms(phases.total_to_first_pong?);
    let steps: [(&str, Option<Duration>); 4] = [
        ("found", phases.find),
        ("connected", phases.connect),
        ("looked up", phases.lookup),
        ("first pong", phases.first_pong),
    ];
    let mut chart = Chart::new(
        format_args!("Steps to the first pong, {} ms", digits(total)),
        Scale::Linear { from: 0.0, to: total.max(1e-6) * 1.25 },
    );
    let panel = chart.panel("", 96.0, Scale::Linear { from: 0.0, to: 0.0 });
    let (mut from, mut y) = (0.0, panel.top());
    for (name, took) in steps {
        let Some(took) = took.map(ms) else { continue };
        let words = format!("{name}: {} ms", digits(took));
        let x = panel.x(from);
        chart.rect("bar", (x, y + 3.0), (panel.x(from + took) - x, 18.0), &words);
        chart.draw(format_args!("<text x=\"{:.1}\" y=\"{:.1}\">{words}</text>", panel.x(from + took) + 6.0, y + 16.0));
        (from, y) = (from + took, y + 24.0);
    }
    Some(chart.finish("ms since the start", None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_ends_at_the_last_pong() {
        let run = Run {
            percentiles: vec![(0.0, 1.0), (50.0, 2.0), (99.0, 9.0)],
            count: 100,
            p50: Some(2.0),
            ..Run::default()
        };
        let svg = by_percentile(&[run]).unwrap();
        assert!(svg.contains("99 %</text>") && !svg.contains("99.9 %</text>"), "{svg}");
        assert!(by_percentile(&[Run::default()]).is_none());
    }

    #[test]
    fn every_pong_is_in_a_bar() {
        let mut times = Times::new();
        (1..=1000).for_each(|n| times.record(Duration::from_micros(n * n)));
        let svg = histogram(&times).unwrap();
        let counts = svg.split("<title>").skip(1).filter_map(|title| title.split(' ').next()?.parse::<u64>().ok());
        assert_eq!(counts.sum::<u64>(), 1000);
    }
}
