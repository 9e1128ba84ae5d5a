//! `ping-server relay`: a relay for servers and clients that cannot reach each other directly.

use std::{collections::HashSet, path::PathBuf, pin::pin, time::Duration};

use anyhow::{Context, Result};
use clap::{Args as ClapArgs, value_parser};
use futures::FutureExt;
use libp2p::{Multiaddr, PeerId, identity::Keypair};
use ping_core::{
    ServerAddress, Transport,
    hardening::Limits,
    nat::{Relay, RelayEvent, RelayOptions},
    program::{RESULT, StopSignals, duration, size},
    protocol::DEFAULT_PORT,
};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::{
    allow::{Allow, allowed},
    args::multiaddr,
    events::{Reporter, ServerEvent},
    greeting, identity,
    listen::{self, Plan},
    memory, service_manager,
    stop_on_eof::end_of_input,
    tls::TlsArgs,
};

/// The arguments of `relay`.
#[derive(Debug, ClapArgs)]
pub(crate) struct RelayArgs {
    /// Port to listen on, for TCP and QUIC, IPv4 and IPv6 (0 to 65535; 0 lets the system choose)
    #[arg(short, long, value_name = "PORT", default_value_t = DEFAULT_PORT)]
    port: u16,

    /// Listen on this address instead, such as /ip4/127.0.0.1/tcp/36341 (repeatable)
    #[arg(long, value_name = "MULTIADDR", conflicts_with = "port", value_parser = multiaddr)]
    listen: Vec<Multiaddr>,

    #[command(flatten)]
    tls: TlsArgs,

    /// An address that others reach this relay at, if they do not reach it at its own (repeatable)
    #[arg(long, value_name = "ADDRESS")]
    external_address: Vec<ServerAddress>,

    /// Give a place only to this server: its identity, or a file with one per line (repeatable) [default: to anyone]
    #[arg(long, value_name = "PEER_ID|FILE")]
    relay_for: Vec<Allow>,

    /// How many servers may have a place (1 to 100000)
    #[arg(long, value_name = "COUNT", default_value_t = 128, value_parser = value_parser!(u32).range(1..=100_000))]
    reservations: u32,

    /// How many clients may be connected through the relay at a time (1 to 100000)
    #[arg(long, value_name = "COUNT", default_value_t = 256, value_parser = value_parser!(u32).range(1..=100_000))]
    circuits: u32,

    /// How much one of them may send and receive in all (1K to 1T)
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = circuit_bytes)]
    circuit_bytes: u64,

    /// How long one of them may stay (1s to 30d)
    #[arg(long, value_name = "TIME", default_value = "1h",
        value_parser = duration(Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 60 * 60)))]
    circuit_time: Duration,

    /// File with this relay's Ed25519 key, created on first use [default: kameo-ping/relay.key in the user's state
    /// directory]
    #[arg(long, value_name = "FILE", conflicts_with = "ephemeral")]
    identity: Option<PathBuf>,

    /// Use a new identity that is not stored
    #[arg(long)]
    ephemeral: bool,

    /// Maximum number of connections (1 to 1000000)
    #[arg(long, value_name = "COUNT", default_value_t = Limits::DEFAULT_CONNECTIONS,
        value_parser = value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,

    /// Print one line of JSON on stdout for every event
    #[arg(long)]
    json: bool,

    /// Stop when standard input ends
    #[arg(long)]
    stop_on_eof: bool,
}

fn circuit_bytes(text: &str) -> Result<u64, String> {
    match size(text)? {
        size @ 1024..=0x100_0000_0000 => Ok(size),
        _ => Err("the size must be from 1K to 1T".into()),
    }
}

/// Runs the relay until a signal stops it.
pub(crate) async fn run(args: RelayArgs) -> Result<()> {
    let mut signals = StopSignals::new().context("cannot handle signals")?;
    #[cfg(unix)]
    crate::open_files::raise_limit(args.max_connections);
    let identity = if args.ephemeral { None } else { Some(identity::load_relay(args.identity.clone())?) };
    let keypair = identity.as_ref().map_or_else(Keypair::generate_ed25519, |identity| identity.keypair.clone());
    let allowed = allowed("--relay-for", &args.relay_for)?;
    let plan = Plan::new(&args.listen, args.port, false)?;
    let mut expected = plan.expected()?;
    let mut relay = Relay::new(&keypair, options(&args, allowed)?).context("cannot start the relay")?;
    let mut reporter = if args.json { Reporter::json()? } else { Reporter::Log };
    let external: Vec<_> = args.external_address.iter().flat_map(greeting::multiaddrs).collect();
    let has_external = !external.is_empty();
    external.into_iter().for_each(|address| relay.add_external_address(address));

    for address in plan.into_addresses() {
        relay.listen(address.clone()).with_context(|| format!("cannot listen on {address}"))?;
    }
    let peer = keypair.public().to_peer_id();
    let mut listening = Vec::new();
    let mut is_ready = false;
    let mut ready = pin!(sleep(listen::REPORT_TIMEOUT).fuse());
    if args.relay_for.is_empty() {
        warn!("Anyone may use this relay; name the servers that may with --relay-for");
    }
    // One for the whole time: each takes a thread.
    let (mut input, mut watchdog) = (pin!(end_of_input(args.stop_on_eof)), pin!(service_manager::keep_watchdog()));
    let outcome = loop {
        let event = tokio::select! {
            event = relay.next() => Some(event),
            // What was not reported by then will not be.
            () = &mut ready => None,
            failure = reporter.failed() => break Err(failure),
            () = signals.next() => break Ok(()),
            ended = &mut input => break ended,
            never = &mut watchdog => match never {},
        };
        let is_over = event.is_none();
        if let Some(RelayEvent::Listening(address)) = &event {
            expected.remove(address);
            expected.retain(|open| !listen::is_chosen_port_of(address, open));
            if listen::is_usable(address) {
                if !has_external {
                    relay.add_external_address(address.clone());
                }
                listening.push(address.clone());
            }
        }
        event.iter().filter(|event| is_of_use(event)).for_each(|event| report(&reporter, peer, event));
        if !is_ready && (is_over || expected.is_empty()) {
            is_ready = true;
            be_ready(&reporter, peer, &mut listening);
        }
    };
    service_manager::stopping();
    reporter.report(&ServerEvent::RelayStopped { circuits: relay.circuits() });
    reporter.finish();
    outcome
}

/// Says that the relay is, and what to type at a server.
fn be_ready(reporter: &Reporter, peer: PeerId, listening: &mut [Multiaddr]) {
    service_manager::ready();
    reporter.report(&ServerEvent::RelayReady { peer_id: peer });
    if matches!(reporter, Reporter::Log) {
        greet(peer, listening);
    }
}

/// Whether anybody is interested in it: not in addresses that nobody can use.
fn is_of_use(event: &RelayEvent) -> bool {
    match event {
        RelayEvent::Listening(address) | RelayEvent::StoppedListening(address) => listen::is_usable(address),
        _ => true,
    }
}

fn options(args: &RelayArgs, allowed: Option<HashSet<PeerId>>) -> Result<RelayOptions> {
    Ok(RelayOptions {
        allowed,
        reservations: args.reservations as usize,
        circuits: args.circuits as usize,
        circuit_bytes: args.circuit_bytes,
        circuit_time: args.circuit_time,
        max_connections: args.max_connections,
        max_memory: memory::default_limit().try_into().unwrap_or(usize::MAX),
        certificate: args.tls.certificate()?,
    })
}

/// Prints what to type at a server.
fn greet(peer: PeerId, addresses: &mut [Multiaddr]) {
    listen::rank(addresses);
    if let Some(best) = addresses.first() {
        // For clients whose network lets nothing out but the web.
        let is_web = |address: &&Multiaddr| Transport::of(address).is_some_and(|by| !by.is_usual()) && *address != best;
        let named = [best].into_iter().chain(addresses.iter().find(is_web));
        let options: String =
            named.map(|address| format!(" --relay-via {}", listen::connection_address(address, peer))).collect();
        info!(target: RESULT, "At a server: ping-server{options}");
    }
}

fn report(reporter: &Reporter, ours: PeerId, event: &RelayEvent) {
    let report = |event: &ServerEvent<'_>| reporter.report(event);
    match event {
        RelayEvent::Listening(address) => {
            let connection_address = listen::connection_address(address, ours);
            report(&ServerEvent::Listening { address, connection_address: &connection_address });
        }
        RelayEvent::StoppedListening(address) => report(&ServerEvent::StoppedListening { address }),
        RelayEvent::Reserved { peer, renewed } => {
            report(&ServerEvent::Reserved { peer_id: *peer, renewed: *renewed });
        }
        RelayEvent::Unreserved(peer) => report(&ServerEvent::Unreserved { peer_id: *peer }),
        RelayEvent::Denied { peer, count } => {
            report(&ServerEvent::ReservationDenied { peer_id: *peer, count: *count });
        }
        RelayEvent::CircuitOpened { client, server } => {
            report(&ServerEvent::CircuitOpened { client: *client, server: *server });
        }
        RelayEvent::CircuitClosed { client, server } => {
            report(&ServerEvent::CircuitClosed { client: *client, server: *server });
        }
    }
}
