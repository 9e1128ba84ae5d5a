//! `ping-client matrix`: who reaches whom in a cluster, and how fast, as each member itself measures it.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use clap::{Args as ClapArgs, value_parser};
use futures::{StreamExt, stream};
use libp2p::PeerId;
use ping_core::{
    Node, PeerText, ServerAddress, address,
    cluster::{MemberInfo, State, list, paths},
    protocol::DEFAULT_NAME,
};
use serde::Serialize;
use tracing::info;

use super::{MemberArgs, with_member};
use crate::{
    error::Error,
    find::Finder,
    output::{escape, table_of_numbers},
    units::digits,
};

/// How many members are asked at a time.
const WIDTH: usize = 8;

/// How long a member may take to be reached.
const REACH_TIMEOUT: Duration = Duration::from_secs(5);

/// The arguments of `matrix`.
#[derive(Debug, ClapArgs)]
pub(crate) struct MatrixArgs {
    #[command(flatten)]
    member: MemberArgs,

    /// Name of the actors (1 to 255 bytes)
    #[arg(long, default_value = DEFAULT_NAME, value_parser = address::parse_name)]
    name: String,

    /// How many round trips to measure on each path (1 to 20)
    #[arg(short, long, value_name = "COUNT", default_value_t = 5, value_parser = value_parser!(u8).range(1..=20))]
    count: u8,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Write a heat map as a web page into this file, which must not exist
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
}

/// What one member found out about another one.
#[derive(Clone, Debug, Serialize)]
struct Cell {
    from: String,
    to: String,
    from_node: PeerText,
    to_node: PeerText,
    rtt_ms: Option<Rtt>,
    error: Option<PeerText>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Rtt {
    min: f64,
    p50: f64,
    max: f64,
}

/// Asks every member to reach every other one. The exit code is 0 if all do, and 1 if not.
pub(crate) fn matrix(args: &MatrixArgs) -> Result<ExitCode> {
    let mut all_reached = true;
    let code = with_member(&args.member, async |node, connection| {
        let peer = connection.peer;
        let listing = list(node, peer, Some(&args.name)).await.map_err(|error| Error::NoDirectory { peer, error })?;
        let members: Vec<_> = listing.members.into_iter().filter(|member| member.state == State::Alive).collect();
        if members.is_empty() {
            return Err(Error::NoMemberHosts { name: args.name.clone() });
        }
        info!("Asking {} members to reach each other", members.len());
        let rows = members.iter().map(|member| row(node, args, peer, member, &members));
        let cells: Vec<Cell> = stream::iter(rows).buffered(WIDTH).collect::<Vec<_>>().await.concat();
        all_reached = cells.iter().all(|cell| cell.rtt_ms.is_some());
        print(args, &members, &cells).map_err(|error| Error::output(&error))
    })?;
    Ok(if all_reached { code } else { code_of_unreached(code) })
}

/// A cluster in which not all reach each other is a failure, unless there is a worse one.
fn code_of_unreached(code: ExitCode) -> ExitCode {
    if code == ExitCode::SUCCESS { ExitCode::FAILURE } else { code }
}

/// What one member says.
async fn row(node: &Node, args: &MatrixArgs, asked: PeerId, member: &MemberInfo, all: &[MemberInfo]) -> Vec<Cell> {
    let found = ask(node, args, asked, member).await;
    let others = all.iter().filter(|other| other.peer != member.peer);
    let cell = |other: &MemberInfo| {
        let (rtt_ms, error) = match &found {
            Ok(found) => found.get(&other.peer).cloned().unwrap_or((None, Some("it was not tried".into()))),
            Err(error) => (None, Some(PeerText::new(format_args!("the member cannot be asked: {error}")))),
        };
        let (from, to) = (member.peer.to_string(), other.peer.to_string());
        Cell { from, to, from_node: member.node.clone(), to_node: other.node.clone(), rtt_ms, error }
    };
    others.map(cell).collect()
}

/// What a member found out about each other one.
type Found = HashMap<PeerId, (Option<Rtt>, Option<PeerText>)>;

async fn ask(node: &Node, args: &MatrixArgs, asked: PeerId, member: &MemberInfo) -> Result<Found, Error> {
    let peer = member.peer;
    if peer != asked {
        let server = ServerAddress::of_peer(peer, &member.addresses);
        let server = server.ok_or_else(|| Error::Lost { reason: "it names no address".into() })?;
        let finder = Finder::new(node, &args.name, REACH_TIMEOUT);
        finder.within_limit(finder.reach(&server), || Error::no_answer(&server)).await?;
    }
    let found = paths(node, peer, &args.name, args.count).await;
    let found = found.map_err(|error| Error::NoDirectory { peer, error })?;
    let of = |path: ping_core::cluster::messages::Path| {
        let mut times = path.nanoseconds;
        times.sort_unstable();
        let ms = |nanoseconds: u64| nanoseconds as f64 / 1e6;
        let rtt = times.first().zip(times.last()).filter(|_| path.error.is_none());
        let rtt = rtt.map(|(min, max)| Rtt { min: ms(*min), p50: ms(times[times.len() / 2]), max: ms(*max) });
        (path.peer, (rtt, path.error.map(PeerText::new)))
    };
    Ok(found.into_iter().map(of).collect())
}

/// The result in JSON.
#[derive(Serialize)]
struct Object<'a> {
    members: Vec<Named<'a>>,
    paths: &'a [Cell],
}

#[derive(Serialize)]
struct Named<'a> {
    node: &'a PeerText,
    peer_id: String,
}

fn print(args: &MatrixArgs, members: &[MemberInfo], cells: &[Cell]) -> io::Result<()> {
    if let Some(path) = &args.report {
        write_report(path, &heat_map(members, cells))?;
    }
    let mut out = io::stdout();
    if args.json {
        let members = members.iter().map(|it| Named { node: &it.node, peer_id: it.peer.to_string() }).collect();
        serde_json::to_writer(&mut out, &Object { members, paths: cells })?;
        writeln!(out)?;
    } else {
        out.write_all(text(members, cells).as_bytes())?;
    }
    out.flush()
}

fn write_report(path: &Path, page: &str) -> io::Result<()> {
    let file = fs::OpenOptions::new().write(true).create_new(true).open(path);
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    file.and_then(|mut file| file.write_all(page.as_bytes())).map_err(named)
}

/// What each member found out about all, in their order; `None` about itself. The cells come in that order.
fn by_member<'a>(
    members: &'a [MemberInfo],
    cells: &'a [Cell],
) -> impl Iterator<Item = (&'a MemberInfo, Vec<Option<&'a Cell>>)> {
    let mut cells = cells.iter();
    members.iter().map(move |from| {
        let to = members.iter().map(|to| if to.peer == from.peer { None } else { cells.next() });
        (from, to.collect())
    })
}

/// A table of medians, and a line for each path that fails.
fn text(members: &[MemberInfo], cells: &[Cell]) -> String {
    let mut table = vec![vec!["FROM \\ TO".to_owned()]];
    table[0].extend(members.iter().map(|member| member.node.to_string()));
    for (from, to) in by_member(members, cells) {
        let mut row = vec![from.node.to_string()];
        row.extend(to.into_iter().map(|cell| match cell.map(|cell| cell.rtt_ms) {
            None => "·".into(),
            Some(Some(rtt)) => digits(rtt.p50),
            Some(None) => "fails".into(),
        }));
        table.push(row);
    }
    let mut text = table_of_numbers(&table);
    let failed = cells.iter().filter(|cell| cell.rtt_ms.is_none());
    for Cell { from_node, to_node, error, .. } in failed.clone() {
        let reason = error.as_ref().map_or_else(String::new, ToString::to_string);
        let _ = writeln!(text, "{from_node} does not reach {to_node}: {reason}");
    }
    let reached = cells.len() - failed.count();
    let _ =
        writeln!(text, "{reached} of {} paths work; medians in ms, measured by the members on the left", cells.len());
    text
}

/// A web page with the same table, coloured by time.
fn heat_map(members: &[MemberInfo], cells: &[Cell]) -> String {
    let times = || cells.iter().filter_map(|cell| cell.rtt_ms.map(|rtt| rtt.p50.max(1e-6).ln()));
    let (low, high) = (times().fold(f64::INFINITY, f64::min), times().fold(f64::NEG_INFINITY, f64::max));
    let mut page = String::from(PAGE_HEAD);
    let heads: String =
        members.iter().map(|member| format!("<th scope=col>{}</th>", escape(member.node.as_ref()))).collect();
    let _ = write!(page, "<table><tr><th>from \\ to</th>{heads}</tr>");
    for (from, to) in by_member(members, cells) {
        let _ = write!(page, "<tr><th scope=row>{}</th>", escape(from.node.as_ref()));
        for cell in to {
            let _ = match cell {
                None => write!(page, "<td></td>"),
                Some(Cell { rtt_ms: Some(rtt), .. }) => {
                    // From green to red on a logarithmic scale.
                    let share = (rtt.p50.max(1e-6).ln() - low) / (high - low).max(1e-9);
                    let (hue, title) = (120.0 * (1.0 - share), format!("{} to {}", digits(rtt.min), digits(rtt.max)));
                    let time = digits(rtt.p50);
                    write!(page, "<td style=\"background:hsl({hue:.0} 60% 75%)\" title=\"{title} ms\">{time}</td>")
                }
                Some(Cell { error, .. }) => {
                    let reason = error.as_ref().map(|error| escape(error.as_ref())).unwrap_or_default();
                    write!(page, "<td class=fails title=\"{reason}\">fails</td>")
                }
            };
        }
        page.push_str("</tr>");
    }
    page.push_str("</table>\n");
    page
}

const PAGE_HEAD: &str = "<!doctype html>
<html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">
<title>Who reaches whom</title>
<style>
body { font: 14px system-ui, sans-serif; margin: 2em; color-scheme: light dark }
table { border-collapse: collapse } th, td { padding: .4em .7em; text-align: right }
td { color: #111 } .fails { background: #444; color: #fff }
</style>
<h1>Who reaches whom</h1>
<p>Median round trip in milliseconds from the member on the left to the actor of the one above, as the former measured
it. The range is under the pointer.</p>
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_fail_are_named() {
        let member = |node: &str| MemberInfo {
            peer: PeerId::random(),
            node: node.into(),
            addresses: Vec::new(),
            actors: Vec::new(),
            since: 0,
            state: State::Alive,
        };
        let (one, two) = (member("one"), member("<two>"));
        let path = |from: &MemberInfo, to: &MemberInfo, p50: Option<f64>| Cell {
            from: from.peer.to_string(),
            to: to.peer.to_string(),
            from_node: from.node.clone(),
            to_node: to.node.clone(),
            rtt_ms: p50.map(|p50| Rtt { min: p50, p50, max: p50 }),
            error: p50.is_none().then(|| "it is asleep".into()),
        };
        let cells = [path(&one, &two, Some(1.5)), path(&two, &one, None)];
        let members = [one, two];
        let text = text(&members, &cells);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "FROM \\ TO    one  <two>");
        assert_eq!(lines[1], "one            ·   1.50");
        assert_eq!(lines[2], "<two>      fails      ·");
        assert_eq!(lines[3], "<two> does not reach one: it is asleep");
        assert!(lines[4].starts_with("1 of 2 paths work"));
        let page = heat_map(&members, &cells);
        assert!(page.contains("<th scope=row>&lt;two&gt;</th>") && page.contains(">1.50</td>"), "{page}");
    }
}
