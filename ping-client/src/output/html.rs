//! `--report`: a web page that needs nothing but itself.

use std::{
    error::Error,
    fmt::{Display, Write as _},
    io::{self, Write},
    time::Duration,
};

use libp2p::multiaddr::Protocol;
use plotters::{coord::ranged1d::AsRangedCoord, coord::ranged1d::ValueFormatter, prelude::*};

use super::Report;
use crate::{
    figures::{Interval, ServerVersion, SessionResult},
    run::Pace,
    units::{digits, ms},
};

/// The size of a plot in its own units; the page scales it to the window.
const SIZE: (u32, u32) = (800, 320);

/// Colours that are legible on white and on black. Text and lines take theirs from the page.
const BLUE: RGBColor = RGBColor(0x3b, 0x82, 0xf6);
const ORANGE: RGBColor = RGBColor(0xf0, 0x7d, 0x12);

/// The style: the system's fonts, a column that fits a phone, and colours for light and dark.
const STYLE: &str = "\
:root{color-scheme:light dark;--text:#1b1f24;--faint:#8884;--page:#fff}
@media(prefers-color-scheme:dark){:root{--text:#e6e6e6;--page:#14171a}}
body{margin:0 auto;max-width:56rem;padding:1rem;font:1rem/1.5 system-ui,sans-serif}
body{background:var(--page);color:var(--text)}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}
pre,table{overflow-x:auto;display:block;font:.85rem/1.5 ui-monospace,monospace}
th,td{padding:.1rem 1rem .1rem 0;text-align:left;vertical-align:top}td{overflow-wrap:anywhere}
.plot{overflow-x:auto}.plot svg{min-width:34rem}
svg{width:100%;height:auto}svg text{fill:var(--text)}
svg [stroke=\"#000000\"]{stroke:var(--text)}svg [stroke=\"#808080\"]{stroke:var(--faint)}";

/// One HTML page.
pub(super) struct Html;

impl Report for Html {
    fn shows_version(&self) -> bool {
        true
    }

    fn write(&self, result: &SessionResult, out: &mut dyn Write) -> io::Result<()> {
        let mut summary = Vec::new();
        super::text::Text.write(result, &mut summary)?;
        let mut body = String::new();
        facts(result, &mut body);
        section(&mut body, "Summary", &format!("<pre>{}</pre>", escape(&String::from_utf8_lossy(&summary))));
        let over_the_run = match result.load.pace {
            Pace::Rate(_) => "Latency over the run",
            Pace::Closed(_) | Pace::Interval(_) => "Round-trip time over the run",
        };
        for (title, plot) in [
            (over_the_run, over_time(result)),
            ("Latency by percentile", by_percentile(result)),
            ("Steps to the first pong", steps(result)),
        ] {
            if let Some(svg) = plot.map_err(|error| io::Error::other(error.to_string()))? {
                section(&mut body, title, &format!("<div class=\"plot\">{svg}</div>"));
            }
        }
        write!(
            out,
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
             <link rel=\"icon\" href=\"data:,\">\n<title>kameo-ping: {}</title>\n<style>{STYLE}</style></head>\n\
             <body><h1>kameo-ping: {}</h1>\n{body}</body></html>\n",
            escape(&result.name),
            escape(&result.name),
        )
    }
}

fn section(body: &mut String, title: &str, content: &str) {
    // Writing to a string cannot fail.
    let _ = write!(body, "<h2>{title}</h2>\n{content}\n");
}

/// What was run, with what, against what.
fn facts(result: &SessionResult, body: &mut String) {
    let mut row = |name: &str, value: &dyn Display| {
        let _ = write!(body, "<tr><th>{name}</th><td>{}</td></tr>", escape(&value.to_string()));
    };
    row("command", &result.command);
    row("client", &env!("CARGO_PKG_VERSION"));
    if let Some(server) = &result.server {
        match &server.version {
            ServerVersion::Known(version) => row("server", version),
            ServerVersion::OtherProgram => row("server", &"another program"),
            ServerVersion::Unknown => row("server", &"unknown version"),
        }
        row("at", &server.address.clone().with(Protocol::P2p(server.peer)));
    }
    if let Some(error) = &result.error {
        row("error", &format!("{error}. {}", error.help()));
    }
    *body = format!("<table>{body}</table>\n");
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

type Plot = Result<Option<String>, Box<dyn Error>>;

/// The name of a line, its colour and its points.
type Line<'a> = (&'a str, RGBColor, Vec<(f64, f64)>);

/// A chart with the page's fonts and both axes named.
fn chart<X, Y>(
    svg: &mut String,
    x: X,
    y: Y,
    names: (&str, &str),
    x_label: &dyn Fn(&f64) -> String,
    lines: &[Line<'_>],
) -> Result<(), Box<dyn Error>>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64> + Ranged<ValueType = f64>,
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: ValueFormatter<f64> + Ranged<ValueType = f64>,
{
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .margin_right(40)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(0x80, 0x80, 0x80))
        .axis_style(BLACK)
        .label_style(("sans-serif", 13))
        .x_desc(names.0)
        .y_desc(names.1)
        .x_label_formatter(x_label)
        .y_label_formatter(&|ms| digits(*ms))
        .draw()?;
    for (name, colour, points) in lines {
        let series = LineSeries::new(points.iter().copied(), colour.stroke_width(2));
        let colour = *colour;
        chart
            .draw_series(series)?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    if lines.len() > 1 {
        chart
            .configure_series_labels()
            .label_font(("sans-serif", 13))
            .position(SeriesLabelPosition::UpperRight)
            .draw()?;
    }
    area.present()?;
    Ok(())
}

fn over_time(result: &SessionResult) -> Plot {
    let intervals: Vec<_> = result.figures.series.intervals().collect();
    let (Some((end, _)), Some(summary)) = (intervals.last(), result.figures.rtt.summary()) else { return Ok(None) };
    let line = |figure: fn(&Interval) -> Duration| {
        intervals.iter().map(|(at, interval)| (at.as_secs_f64(), ms(figure(interval)))).collect::<Vec<_>>()
    };
    let lines = [("highest", ORANGE, line(|interval| interval.max)), ("mean", BLUE, line(|interval| interval.mean()))];
    let mut svg = String::new();
    chart(
        &mut svg,
        0.0..end.as_secs_f64().max(1e-6),
        0.0..ms(summary.max) * 1.05,
        ("seconds since the first ping", "ms"),
        &|seconds| digits(*seconds),
        &lines,
    )?;
    Ok(Some(svg))
}

/// The axis of HdrHistogram's plots: each decade closer to 100 % takes as much room as the one before.
fn by_percentile(result: &SessionResult) -> Plot {
    let times = &result.figures.rtt;
    let Some(summary) = times.summary() else { return Ok(None) };
    let decades = (times.count() as f64).log10().ceil().max(1.0);
    let points = (0..=200).map(|step| {
        let place = decades * f64::from(step) / 200.0;
        (place, ms(times.percentile(100.0 - 100.0 / 10_f64.powf(place))))
    });
    let mut svg = String::new();
    chart(
        &mut svg,
        0.0..decades,
        0.0..ms(summary.max) * 1.05,
        ("percentile", "ms"),
        &|place| format!("{:.*} %", (place - 2.0).max(0.0).ceil() as usize, 100.0 - 100.0 / 10_f64.powf(*place)),
        &[("latency", BLUE, points.collect())],
    )?;
    Ok(Some(svg))
}

fn steps(result: &SessionResult) -> Plot {
    let phases = &result.phases;
    let Some(total) = phases.total_to_first_pong else { return Ok(None) };
    let steps = [
        ("found", phases.find),
        ("connected", phases.connect),
        ("looked up", phases.lookup),
        ("first pong", phases.first_pong),
    ];
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (SIZE.0, 200)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .margin_left(28)
            .margin_right(40)
            .x_label_area_size(42)
            .build_cartesian_2d(0.0..ms(total) * 1.12, 0.0..4.0)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(0x80, 0x80, 0x80))
            .axis_style(BLACK)
            .label_style(("sans-serif", 13))
            .x_desc("ms since the start")
            .x_label_formatter(&|ms| digits(*ms))
            .draw()?;
        let mut from = 0.0;
        for (row, (name, took)) in (0..).zip(steps) {
            let Some(took) = took.map(ms) else { continue };
            let bottom = 3.0 - f64::from(row);
            let bar = Rectangle::new([(from, bottom + 0.1), (from + took, bottom + 0.9)], BLUE.mix(0.5).filled());
            let label = format!("{name} {} ms", digits(took));
            let label = Text::new(label, (from, bottom + 0.65), ("sans-serif", 14));
            chart.draw_series([bar])?;
            chart.draw_series([label])?;
            from += took;
        }
        area.present()?;
    }
    Ok(Some(svg))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_peer_cannot_become_markup() {
        assert_eq!(escape("<b a=\"1\">&"), "&lt;b a=&quot;1&quot;&gt;&amp;");
    }
}
