//! Latency and throughput over the run: where each ping was due, what was lost, and when there was no connection.

use super::{
    data::{Point, Run},
    svg::{Chart, Panel, Scale},
};
use crate::units::{counted, digits};

/// How many times the usual distance of two points is a gap.
const GAP: f64 = 3.5;

/// How high the strip of a path is.
const STRIP: f64 = 6.0;

/// Draws one run, or the medians and highest of several over each other.
pub(crate) fn over_time(runs: &[Run]) -> Option<String> {
    let points = || runs.iter().flat_map(|run| &run.points);
    points().next()?;
    let end = runs.iter().map(Run::end).fold(1e-6, f64::max);
    let answered = || points().filter(|point| point.answered > 0);
    let (min, max) = (
        answered().map(|point| point.p50).fold(f64::INFINITY, f64::min),
        answered().map(|point| point.max).fold(0.0, f64::max),
    );
    let usual = runs.iter().filter_map(|run| run.p50).fold(0.0, f64::max);
    let scale = if min.is_finite() { Scale::of_times(min, usual, max) } else { Scale::Linear { from: 0.0, to: 1.0 } };
    let how = if matches!(scale, Scale::Log { .. }) { "ms, logarithmic" } else { "ms" };
    let mut chart = Chart::new(description(runs, end), Scale::Linear { from: 0.0, to: end });
    let losses = chart_losses(runs);
    let has_paths = matches!(runs, [run] if run.paths.len() > 1);
    let strip = if has_paths { " (strip below: orange through a relay, blue directly)" } else { "" };
    let panel = chart.panel(&format!("{}, {how}{losses}{strip}", latency_name(runs)), 260.0, scale);
    for (number, run) in runs.iter().enumerate() {
        latency(&mut chart, panel, run, (runs.len() > 1).then_some(number));
    }
    let highest = runs.iter().flat_map(|run| &run.rates).map(|(.., rate)| *rate).fold(0.0, f64::max);
    let rate = chart.panel("pongs a second", 90.0, Scale::Linear { from: 0.0, to: (highest * 1.1).max(1.0) });
    for (number, run) in runs.iter().enumerate() {
        let steps = run
            .rates
            .iter()
            .flat_map(|(from, to, value)| [(rate.x(*from), rate.y(*value)), (rate.x(*to), rate.y(*value))]);
        chart.line(&format!("rate run{number}"), &[steps.collect()]);
    }
    if let [run] = runs {
        paths(&mut chart, panel, run);
        // What the pointer reads lies above everything else.
        for point in &run.points {
            let (from, to) = (panel.x(point.from), panel.x(point.to));
            let size = (to - from, rate.bottom() - panel.top());
            chart.rect("value", (from, panel.top()), size, &value(point));
        }
    }
    Some(chart.finish("seconds since the first ping", None))
}

fn latency_name(runs: &[Run]) -> &'static str {
    if runs.iter().any(|run| run.is_from_due) { "latency since each ping was due" } else { "round trip" }
}

fn chart_losses(runs: &[Run]) -> &'static str {
    let has_losses = runs.iter().flat_map(|run| &run.points).any(|point| !point.lost.is_empty());
    let has_outages = runs.iter().any(|run| !run.outages.is_empty());
    match (has_losses, has_outages) {
        (true, true) => " (marks at the top: lost; shaded: no connection)",
        (true, false) => " (marks at the top: lost)",
        (false, true) => " (shaded: no connection)",
        (false, false) => "",
    }
}

/// The chart in words.
fn description(runs: &[Run], end: f64) -> String {
    let lost = runs.iter().flat_map(|run| &run.points).flat_map(|point| &point.lost);
    let lost = lost.fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
    let outages: usize = runs.iter().map(|run| run.outages.len()).sum();
    format!(
        "Latency and throughput over {} s, {} lost, {}",
        digits(end),
        counted(lost, "ping"),
        counted(outages as u64, "outage")
    )
}

/// Bands from the median to the highest, or for one run of several its median and 99th percentile.
fn latency(chart: &mut Chart, panel: Panel, run: &Run, number: Option<usize>) {
    for (from, to) in &run.outages {
        let (x, width) = (panel.x(*from), panel.x(*to) - panel.x(*from));
        let words = format!("no connection from {} to {} s", digits(*from), digits(*to));
        chart.rect("outage", (x, panel.top()), (width, panel.bottom() - panel.top()), &words);
    }
    let parts = parts(run);
    let line = |figure: fn(&Point) -> f64| -> Vec<Vec<(f64, f64)>> {
        parts.iter().map(|part| part.iter().map(|p| (panel.x(p.middle()), panel.y(figure(p)))).collect()).collect()
    };
    let band = |lower: fn(&Point) -> f64, upper: fn(&Point) -> f64| -> Vec<Vec<(f64, f64, f64)>> {
        let of = |p: &&Point| (panel.x(p.middle()), panel.y(lower(p)), panel.y(upper(p)));
        parts.iter().map(|part| part.iter().map(of).collect()).collect()
    };
    match number {
        None => {
            chart.band("max", &band(|p| p.p99, |p| p.max));
            chart.band("p99", &band(|p| p.p90, |p| p.p99));
            chart.band("p90", &band(|p| p.p50, |p| p.p90));
            chart.line("p50", &line(|p| p.p50));
        }
        Some(number) => {
            chart.line(&format!("run{number} faint"), &line(|p| p.p99));
            chart.line(&format!("run{number}"), &line(|p| p.p50));
        }
    }
    for point in run.points.iter().filter(|point| !point.lost.is_empty()) {
        let (x, y) = (panel.x(point.middle()), panel.top());
        let words = super::escape(&lost(point));
        chart.draw(format_args!(
            "<path class=\"lost\" d=\"M{:.1} {:.1}l6 8m0 -8l-6 8\"><title>{words}</title></path>",
            x - 3.0,
            y - 2.0
        ));
    }
}

/// The answered points, parted where pings were lost or much time passed without any.
fn parts(run: &Run) -> Vec<Vec<&Point>> {
    let answered: Vec<_> = run.points.iter().filter(|point| point.answered > 0).collect();
    let mut distances: Vec<_> = answered.windows(2).map(|two| two[1].middle() - two[0].middle()).collect();
    distances.sort_by(f64::total_cmp);
    let usual = distances.get(distances.len() / 2).copied().unwrap_or(0.0);
    let is_lost_between = |from: f64, to: f64| {
        let dead = |point: &&Point| point.answered == 0 && !point.lost.is_empty();
        run.points.iter().filter(dead).any(|point| (from..to).contains(&point.middle()))
            || run.outages.iter().any(|(began, ended)| *began < to && from < *ended && ended - began > usual)
    };
    let mut parts: Vec<Vec<&Point>> = Vec::new();
    for point in answered {
        match parts.last_mut().and_then(|part| part.last().copied().zip(Some(part))) {
            Some((last, part))
                if point.middle() - last.middle() <= usual * GAP && !is_lost_between(last.middle(), point.middle()) =>
            {
                part.push(point);
            }
            _ => parts.push(vec![point]),
        }
    }
    parts
}

/// A strip for each path that pings took, if there is more than one.
fn paths(chart: &mut Chart, panel: Panel, run: &Run) {
    for (from, to, is_relayed, name) in run.paths.iter().filter(|_| run.paths.len() > 1) {
        let (x, width) = (panel.x(*from), panel.x(*to) - panel.x(*from));
        let class = if *is_relayed { "path relayed" } else { "path" };
        let words = format!("{name} from {} to {} s", digits(*from), digits(*to));
        chart.rect(class, (x, panel.bottom() - STRIP), (width, STRIP), &words);
    }
}

/// What the pointer reads.
fn value(point: &Point) -> String {
    let mut text = format!("{} to {} s", digits(point.from), digits(point.to));
    if point.answered > 0 {
        let [p50, p90, p99, max] = [point.p50, point.p90, point.p99, point.max].map(digits);
        text += &format!(": {} · p50 {p50} · p90 {p90} · p99 {p99} · max {max} ms", counted(point.answered, "pong"));
    }
    if !point.lost.is_empty() {
        text += &format!(" · {}", lost(point));
    }
    text + &format!(" · {} arrived", counted(point.arrived, "pong"))
}

fn lost(point: &Point) -> String {
    let causes = point.lost.iter().map(|(cause, count)| format!("{count} lost: {}", cause.replace('_', " ")));
    causes.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(from: f64, answered: u64, lost: u64) -> Point {
        let lost = if lost > 0 { vec![("timed_out".to_owned(), lost)] } else { Vec::new() };
        Point {
            from,
            to: from + 0.1,
            answered,
            arrived: answered,
            p50: 1.0,
            p90: 1.0,
            p99: 2.0,
            max: 3.0,
            mean: 1.0,
            lost,
        }
    }

    #[test]
    fn the_line_breaks_where_pings_were_lost_or_none_came() {
        let points: Vec<_> = [0, 1, 2, 5, 6, 7, 8, 30, 31]
            .into_iter()
            .map(|n| point(f64::from(n) / 10.0, 1, 0))
            .chain([point(0.65, 0, 3)])
            .collect();
        let run = Run { points, p50: Some(1.0), ..Run::default() };
        let parts: Vec<_> = parts(&run).iter().map(Vec::len).collect();
        // A distance of three is usual enough; the loss at 0.65 and the long silence are not.
        assert_eq!(parts, [5, 2, 2]);
        let svg = over_time(&[run]).unwrap();
        assert!(svg.contains("3 lost: timed out") && svg.contains("class=\"p50\""), "{svg}");
    }

    #[test]
    fn the_paths_of_a_run_are_strips_if_there_are_several() {
        let path = |from: f64, is_relayed: bool, name: &str| (from, from + 1.0, is_relayed, name.to_owned());
        let paths = vec![path(0.0, true, "through a relay by TCP"), path(1.0, false, "hole punched by TCP")];
        let run = Run { points: vec![point(0.0, 1, 0)], duration: 2.0, paths, ..Run::default() };
        let svg = over_time(std::slice::from_ref(&run)).unwrap();
        assert!(svg.contains("class=\"path relayed\"") && svg.contains("hole punched by TCP from 1"), "{svg}");
        let plain = Run { paths: run.paths[1..].to_vec(), ..run };
        assert!(!over_time(&[plain]).unwrap().contains("hole punched"));
    }

    #[test]
    fn a_run_without_any_pong_shows_its_losses_at_their_place() {
        let run = Run { points: vec![point(4.0, 0, 5)], ..Run::default() };
        let svg = over_time(&[run]).unwrap();
        assert!(svg.contains("5 lost: timed out"), "{svg}");
        assert!(over_time(&[Run::default()]).is_none());
    }
}
