//! `--report`: a web page that needs nothing but itself.
//!
//! - `data`: what the charts draw.
//! - `over_time`: latency and throughput over the run.
//! - `shapes`: percentiles, histogram, and the steps to the first pong.
//! - `svg`: axes and shapes.

mod data;
mod over_time;
mod shapes;
mod svg;

use std::{
    fmt::{Display, Write as _},
    io::{self, Write},
};

use libp2p::multiaddr::Protocol;

use super::{Report, json};
use crate::{
    figures::{ServerVersion, SessionResult},
    units::{digits, loss, milliseconds},
};

pub(crate) use data::{Point, Run, outages, points, rates};
pub(crate) use over_time::over_time;
pub(crate) use shapes::by_percentile;

/// The style: the system's fonts, a column that fits a phone, and colours for light and dark.
const STYLE: &str = include_str!("report.css");

const SCRIPT: &str = include_str!("report.js");

/// One HTML page.
pub(super) struct Html;

impl Report for Html {
    fn shows_version(&self) -> bool {
        true
    }

    fn write(&self, result: &SessionResult, out: &mut dyn Write) -> io::Result<()> {
        let run = [Run::from(result)];
        let mut body = table(&facts(result));
        section(&mut body, "Summary", &(table(&summary(result)) + &notes(result)));
        let name = if run[0].is_from_due { "Latency over the run" } else { "Round-trip time over the run" };
        let key = "<p class=\"key\">The line is the median of each interval; the bands reach to p90, p99 and the \
                   highest. Pings stand where they were due.</p>";
        for (title, plot, words) in [
            (name, over_time(&run), key),
            ("Percentiles", by_percentile(&run), ""),
            ("Histogram", shapes::histogram(&result.figures.rtt), ""),
            ("Steps to the first pong", shapes::steps(&result.phases), ""),
        ] {
            if let Some(svg) = plot {
                section(&mut body, title, &format!("<div class=\"plot\">{svg}</div>{words}"));
            }
        }
        let json = serde_json::to_string(&json::Object::from(result))?;
        let title = format!("kameo-ping: {}", result.name);
        write_page(out, &title, &body, &[("result", json)])
    }
}

/// Writes a page with this title and body, from which these files can be saved.
pub(crate) fn write_page(out: &mut dyn Write, title: &str, body: &str, files: &[(&str, String)]) -> io::Result<()> {
    let title = escape(title);
    write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>{title}</title>\n<style>{STYLE}</style></head>\n\
         <body><h1>{title}</h1>\n{body}\n<p id=\"save\"></p><p id=\"read\" aria-live=\"polite\"></p>\n"
    )?;
    for (name, json) in files {
        // Inside a script, tags and comments have a meaning. In JSON, this is the same character.
        let json = json.replace('<', "\\u003c");
        writeln!(out, "<script type=\"application/json\" id=\"{}\">{json}</script>", escape(name))?;
    }
    writeln!(out, "<script>{SCRIPT}</script></body></html>")
}

/// Adds a part with a heading.
pub(crate) fn section(body: &mut String, title: &str, content: &str) {
    // Writing to a string cannot fail.
    let _ = write!(body, "<h2>{}</h2>\n{content}\n", escape(title));
}

type Rows = Vec<(&'static str, String)>;

fn table(rows: &[(&str, String)]) -> String {
    let row = |(name, value): &(&str, String)| {
        format!("<tr><th scope=\"row\">{}</th><td class=\"number\">{}</td></tr>\n", escape(name), escape(value))
    };
    format!("<table>{}</table>\n", rows.iter().map(row).collect::<String>())
}

/// What was run, where, when, and against what.
fn facts(result: &SessionResult) -> Rows {
    let mut rows: Rows = vec![
        ("Command", result.command.clone()),
        ("Started", result.origin.started_text()),
        (
            "Client",
            format!("{} ({}), ping-client {}", result.origin.host, result.origin.system, env!("CARGO_PKG_VERSION")),
        ),
    ];
    if let Some(server) = &result.server {
        let version = match &server.version {
            ServerVersion::Known(version) => format!("ping-server {version}"),
            ServerVersion::OtherProgram => "another program".into(),
            ServerVersion::Unknown => "unknown version".into(),
        };
        rows.push(("Server", format!("{version}, actor {}", result.name)));
        rows.push(("Address", server.address.clone().with(Protocol::P2p(server.peer)).to_string()));
        rows.extend(server.path().map(|path| ("Path", path)));
    }
    if let Some(error) = &result.error {
        rows.push(("Error", format!("{error}. {}", error.help())));
    }
    rows
}

/// The figures of the run.
fn summary(result: &SessionResult) -> Rows {
    let figures = &result.figures;
    let row = |value: &dyn Display| value.to_string();
    let mut rows: Rows = vec![(
        "Pings",
        format!("{} sent, {} answered, {}", figures.sent, figures.received, loss(figures.lost(), figures.sent)),
    )];
    rows.extend(figures.failures.values().map(|(cause, count)| ("Lost", format!("{count}: {cause}"))));
    if let Some(rate) = figures.rate() {
        rows.push((
            "Duration",
            format!("{} s, {} pongs a second", digits(figures.duration().as_secs_f64()), digits(rate)),
        ));
    }
    if let Some(times) = figures.rtt.summary() {
        let named = [
            ("Min", Some(times.min)),
            ("Mean", Some(times.mean)),
            ("p50", Some(times.p50)),
            ("p90", Some(times.p90)),
            ("p99", Some(times.p99)),
            ("p99.9", times.p99_9),
            ("Max", Some(times.max)),
        ];
        rows.extend(named.into_iter().filter_map(|(name, time)| Some((name, milliseconds(time?)))));
    }
    if let Some((network, actor, overhead)) = result.network_and_actor() {
        let overhead = if result.is_overhead_clamped() { "unknown".into() } else { milliseconds(overhead) };
        let [network, actor] = [network, actor].map(milliseconds);
        rows.push(("Medians", format!("network {network}, actor {actor}, overhead {overhead}")));
    }
    if result.counters.reconnects > 0 {
        let down = digits(result.counters.down.as_secs_f64());
        rows.push(("Reconnects", format!("{}, down for {down} s", result.counters.reconnects)));
    }
    rows.extend(result.counted.map(|counted| ("Counted", format!("{counted} by the server, each once"))));
    rows.extend(figures.server_total.map(|total| ("Server's total", row(&total))));
    rows
}

fn notes(result: &SessionResult) -> String {
    let gates = result.gates.iter().map(|gate| format!("<p class=\"note error\">{}</p>\n", escape(gate)));
    gates.chain(result.notes.iter().map(|note| format!("<p class=\"note\">Note: {}</p>\n", escape(note)))).collect()
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_peer_cannot_become_markup() {
        assert_eq!(escape("<b a=\"1\">&"), "&lt;b a=&quot;1&quot;&gt;&amp;");
        let mut page = Vec::new();
        write_page(&mut page, "<i>", "", &[("result", "{\"a\":\"</script><b>\"}".into())]).unwrap();
        let page = String::from_utf8(page).unwrap();
        assert!(page.contains("&lt;i&gt;") && !page.contains("</script><b>") && page.contains("\\u003c/script>"));
    }
}
