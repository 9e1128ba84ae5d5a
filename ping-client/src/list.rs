//! `ping-client list`: the servers on the local network.

use std::{
    io::{self, ErrorKind, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args as ClapArgs;
use libp2p::{PeerId, multiaddr::Protocol};
use ping_core::{
    Node, Options, PeerText,
    cluster::own,
    node::is_mdns_port_taken,
    program::{StopSignals, duration},
};
use serde::Serialize;
use tokio::time::timeout;
use tracing::warn;

use crate::{
    args::SearchArgs,
    find::{Finder, Found, Search},
    identity,
    output::table_of_words,
    pinger::{About, about},
    runtime::block_on,
    session::secret,
    units::{digits, ms},
};

/// How long a server may take to tell its version after the search.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The arguments of `list`.
#[derive(Debug, ClapArgs)]
pub(crate) struct ListArgs {
    /// How long to search (100ms to 1m)
    #[arg(long, value_name = "TIME", default_value = "1s",
        value_parser = duration(Duration::from_millis(100)..=Duration::from_secs(60)))]
    time: Duration,

    #[command(flatten)]
    search: SearchArgs,
}

/// A server that was found.
#[derive(Debug, Serialize)]
struct Entry {
    /// The name of the server's node for people, if it has one.
    node: Option<PeerText>,
    name: String,
    peer_id: String,
    addresses: Vec<String>,
    version: Option<PeerText>,
    rtt_ms: f64,
}

#[derive(Serialize)]
struct Object {
    servers: Vec<Entry>,
}

/// Lists the servers that mDNS finds. The exit code is 0 if there is one, and 1 if not.
pub(crate) fn list(args: &ListArgs) -> Result<ExitCode> {
    block_on(async {
        let mut signals = StopSignals::new().context("cannot handle signals")?;
        let own = identity::load(args.search.identity.as_deref())?;
        if is_mdns_port_taken() {
            warn!("Another program has UDP port 5353 for itself, so mDNS finds nothing");
        }
        let secret = secret(args.search.secret.as_deref())?;
        let options = Options { mdns: true, secret, asks_directories: true, ..Options::default() };
        let (node, events) = Node::start(&own.keypair, options).context("cannot start the node")?;
        let mut entries = Vec::new();
        {
            let finder = Finder::new(&node, &args.search.name, args.time);
            let mut search = Search::new(&finder, events);
            tokio::select! {
                _ = timeout(args.time, find(&node, &mut search, &args.search.name, &mut entries)) => {}
                () = signals.next() => {}
            }
        }
        node.stop().await;
        entries.sort_by(|one, other| one.addresses.cmp(&other.addresses));
        print(entries, args.search.json)
    })
}

/// Adds the servers that are found, each when it has told its version.
async fn find(node: &Node, search: &mut Search<'_>, name: &str, entries: &mut Vec<Entry>) {
    loop {
        let Found { actor, connection, .. } = search.next(&mut |_, _| {}).await;
        let asked = Instant::now();
        let Ok(Ok(told)) = timeout(ANSWER_TIMEOUT, about(&actor)).await else { continue };
        let rtt_ms = ms(asked.elapsed());
        let member = timeout(ANSWER_TIMEOUT, own(node, connection.peer)).await;
        entries.push(Entry {
            node: member.ok().and_then(Result::ok).map(|member| member.node),
            name: name.to_owned(),
            peer_id: connection.peer.to_string(),
            addresses: addresses(search, connection.peer),
            version: if let About::Card(card) = told { Some(card.version) } else { None },
            rtt_ms,
        });
    }
}

/// Where a server says that it is.
fn addresses(search: &Search<'_>, peer: PeerId) -> Vec<String> {
    let announced = search.announced(&peer);
    let announced = announced.borrow();
    announced.iter().map(|address| address.clone().with(Protocol::P2p(peer)).to_string()).collect()
}

fn print(entries: Vec<Entry>, is_json: bool) -> Result<ExitCode> {
    let is_empty = entries.is_empty();
    let text = match is_json {
        // Text and numbers always have a form in JSON.
        true => serde_json::to_string(&Object { servers: entries }).unwrap_or_default() + "\n",
        false if is_empty => "no server found by mDNS\n".into(),
        false => {
            let mut rows = vec![["NODE", "VERSION", "RTT", "ADDRESS"].map(String::from).into()];
            rows.extend(entries.into_iter().map(|entry| {
                let version = entry.version.map_or_else(|| "-".into(), |version| version.to_string());
                let address = entry.addresses.into_iter().next().unwrap_or_default();
                let node = entry.node.map_or_else(|| "-".into(), |node| node.to_string());
                vec![node, version, format!("{} ms", digits(entry.rtt_ms)), address]
            }));
            table_of_words(&rows)
        }
    };
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error).context("cannot write the list"),
        _ => {}
    }
    Ok(if is_empty { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
