//! What the server reports: log lines for people, or JSON lines for programs.

use std::{
    fmt,
    future::pending,
    io,
    time::{Duration, SystemTime},
};

use anyhow::{Result, anyhow};
use humantime::format_rfc3339_millis;
use libp2p::{Multiaddr, PeerId};
use ping_core::{
    PeerText,
    cluster::MemberInfo,
    cluster::is_global,
    node::Ending,
    program::{LineQueue, RESULT, STEP, datable},
    transport::endpoint,
};
use serde::Serialize;
use tokio::sync::oneshot;
use tracing::{debug, info, warn};

/// How long the last lines may take when the server stops. A reader that does not read must not delay it.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// Something that happened, as `--json` prints it.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum ServerEvent<'a> {
    Listening {
        address: &'a Multiaddr,
        connection_address: &'a Multiaddr,
    },
    StoppedListening {
        address: &'a Multiaddr,
    },
    Ready {
        peer_id: PeerId,
        name: &'a str,
        node: &'a str,
        members: Vec<MemberReport<'a>>,
    },
    ClientConnected {
        peer_id: PeerId,
        address: &'a Multiaddr,
    },
    ClientDisconnected {
        peer_id: PeerId,
        address: &'a Multiaddr,
        connected_s: f64,
        pings: u64,
        ending: &'static str,
    },
    ClientRefused {
        address: &'a Multiaddr,
        reason: &'a str,
        count: u64,
    },
    MoreClients {
        connected: u64,
        disconnected: u64,
    },
    MemberJoined(MemberReport<'a>),
    MemberLeft(MemberReport<'a>),
    MemberDied(MemberReport<'a>),
    MemberRevived(MemberReport<'a>),
    ActorCame {
        node: &'a PeerText,
        peer_id: PeerId,
        name: &'a PeerText,
    },
    ActorGone {
        node: &'a PeerText,
        peer_id: PeerId,
        name: &'a PeerText,
    },
    RallyHit {
        actor: &'static str,
        hit: u64,
        after_ms: Option<f64>,
    },
    RallyDone {
        rounds: u64,
        members: usize,
        duration_s: f64,
        rate_per_s: f64,
    },
    Pings {
        count: u64,
        total: u64,
        clients: Vec<ClientPings>,
    },
    /// The server got a place on a relay, or lost it.
    RelayHeld {
        relay: PeerId,
    },
    RelayLost {
        relay: PeerId,
        reason: &'a str,
    },
    /// The router forwards a port to the server, no longer does, or does not.
    PortMapped {
        address: Multiaddr,
        by: &'static str,
    },
    PortUnmapped {
        address: Multiaddr,
        reason: &'a str,
    },
    PortNotMapped {
        transport: String,
        reason: &'a str,
    },
    /// Whether others reach the server where a relay sees it, as the relay has tried.
    Reachable {
        address: &'a Multiaddr,
        relay: PeerId,
    },
    NotReachable {
        address: &'a Multiaddr,
        relay: PeerId,
    },
    Ticket {
        ticket: &'a str,
    },
    #[serde(rename = "ready")]
    RelayReady {
        peer_id: PeerId,
    },
    Reserved {
        peer_id: PeerId,
        renewed: bool,
    },
    Unreserved {
        peer_id: PeerId,
    },
    ReservationDenied {
        peer_id: PeerId,
        count: u64,
    },
    CircuitOpened {
        client: PeerId,
        server: PeerId,
    },
    CircuitClosed {
        client: PeerId,
        server: PeerId,
    },
    LinesLost {
        count: u64,
    },
    Stopped {
        total: u64,
    },
    #[serde(rename = "stopped")]
    RelayStopped {
        circuits: usize,
    },
}

/// How many pings a client sent since the last such line.
#[derive(Debug, Serialize)]
pub(crate) struct ClientPings {
    pub(crate) peer_id: PeerId,
    pub(crate) count: u64,
}

/// An event and when it is reported.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    event: &'a ServerEvent<'a>,
    time: String,
}

/// A member of the cluster.
#[derive(Debug, Serialize)]
pub(crate) struct MemberReport<'a> {
    node: &'a PeerText,
    peer_id: PeerId,
    addresses: &'a [Multiaddr],
    actors: Vec<PeerText>,
}

impl<'a> From<&'a MemberInfo> for MemberReport<'a> {
    fn from(member: &'a MemberInfo) -> Self {
        Self { node: &member.node, peer_id: member.peer, addresses: &member.addresses, actors: member.actor_names() }
    }
}

impl fmt::Display for MemberReport<'_> {
    /// The name that people know, and the identity that nobody else has.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.node, self.peer_id)
    }
}

/// Where events are reported.
#[derive(Debug)]
pub(crate) enum Reporter {
    /// To the log.
    Log,
    /// To stdout, as JSON lines. A reader that pauses does not stop the server; the queue is bounded.
    Json { lines: LineQueue, failed: oneshot::Receiver<io::Error> },
}

impl Reporter {
    /// A reporter of JSON lines. Fails if the system does not start the thread that writes them.
    pub(crate) fn json() -> Result<Self> {
        let (failing, failed) = oneshot::channel();
        let lost_line = |count| json_line(&ServerEvent::LinesLost { count });
        let lines = LineQueue::new(io::stdout(), lost_line, |error| drop(failing.send(error)))?;
        Ok(Self::Json { lines, failed })
    }

    /// Reports an event; never blocks.
    pub(crate) fn report(&self, event: &ServerEvent<'_>) {
        match self {
            Self::Json { lines, .. } => lines.push(json_line(event)),
            Self::Log => log(event),
        }
    }

    /// Waits until an event could not be written, and says why.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        if let Self::Json { failed, .. } = self
            && !failed.is_terminated()
            && let Ok(error) = failed.await
        {
            let help = match error.kind() {
                io::ErrorKind::BrokenPipe => "Keep its reader open, or omit --json.",
                _ => "Make room, or omit --json.",
            };
            return anyhow!("cannot write to standard output: {error}. {help}");
        }
        pending().await
    }

    /// Waits until everything is written, but not for long.
    pub(crate) fn finish(self) {
        if let Self::Json { lines, .. } = self {
            lines.flush(FLUSH_TIMEOUT);
        }
    }
}

fn json_line(event: &ServerEvent<'_>) -> Vec<u8> {
    // Text and numbers always have a form in JSON.
    let time = format_rfc3339_millis(datable(SystemTime::now())).to_string();
    let mut line = serde_json::to_vec(&Line { event, time }).unwrap_or_default();
    line.push(b'\n');
    line
}

fn log(event: &ServerEvent<'_>) {
    match event {
        ServerEvent::Listening { address, connection_address } => {
            debug!(target: STEP, "Listening on {address}; with its identity {connection_address}");
        }
        ServerEvent::StoppedListening { address } => info!("No longer listening on {address}"),
        ServerEvent::Ready { name, .. } => {
            info!(target: RESULT, "PingActor registered and ready! (name: {name})");
        }
        ServerEvent::ClientConnected { peer_id, address } => info!("Client connected: {} from {address}", peer_id),
        ServerEvent::ClientDisconnected { peer_id, connected_s, pings, ending, .. } => {
            let pings = format!("{pings} ping{}", if *pings == 1 { "" } else { "s" });
            let ending = if *ending == Ending::Left.name() { String::new() } else { format!(" ({ending})") };
            info!("Client disconnected: {} after {connected_s:.1} s, {pings}{ending}", peer_id);
        }
        ServerEvent::ClientRefused { address, reason, count } => {
            warn!("Rejected a connection from {address}: {reason} ({count} so far)");
        }
        ServerEvent::MoreClients { connected, disconnected } => {
            info!("Without a line each: {connected} connections and {disconnected} disconnections");
        }
        ServerEvent::MemberJoined(member) => match member.addresses.first() {
            Some(address) => info!("Member joined: {member} at {address}"),
            None => info!("Member joined: {member}"),
        },
        ServerEvent::MemberLeft(member) => info!("Member left: {member}"),
        ServerEvent::MemberDied(member) => warn!("Member died: {member}"),
        ServerEvent::MemberRevived(member) => info!("Member is back: {member}"),
        ServerEvent::ActorCame { node, name, .. } => info!("Actor came: {name} on {node}"),
        ServerEvent::ActorGone { node, name, .. } => info!("Actor gone: {name} on {node}"),
        ServerEvent::RallyHit { actor, hit, after_ms: Some(ms) } => {
            info!("{actor}: hit {hit}, {ms:.3} ms after the last")
        }
        ServerEvent::RallyHit { actor, hit, after_ms: None } => info!("{actor}: hit {hit}"),
        ServerEvent::RallyDone { rounds, members, duration_s, rate_per_s } => {
            let how = format!("in {duration_s:.3} s, {rate_per_s:.0} a second");
            info!(target: RESULT, "done: {rounds} rounds over {members} members {how}");
        }
        ServerEvent::Pings { count: 1, total, .. } => info!("Received PING (total: {total})"),
        ServerEvent::Pings { count, total, .. } => info!("Received {count} PINGs (total: {total})"),
        // The log counts its own.
        ServerEvent::LinesLost { .. } => {}
        ServerEvent::Stopped { total } => info!(target: RESULT, "Stopped. Total pings: {total}"),
        way @ (ServerEvent::RelayHeld { .. }
        | ServerEvent::RelayLost { .. }
        | ServerEvent::PortMapped { .. }
        | ServerEvent::PortUnmapped { .. }
        | ServerEvent::PortNotMapped { .. }
        | ServerEvent::Reachable { .. }
        | ServerEvent::NotReachable { .. }
        | ServerEvent::Ticket { .. }
        | ServerEvent::RelayReady { .. }
        | ServerEvent::Reserved { .. }
        | ServerEvent::Unreserved { .. }
        | ServerEvent::ReservationDenied { .. }
        | ServerEvent::CircuitOpened { .. }
        | ServerEvent::CircuitClosed { .. }
        | ServerEvent::RelayStopped { .. }) => log_way(way),
    }
}

/// Logs what concerns relays and routers, on a server or on a relay.
fn log_way(event: &ServerEvent<'_>) {
    match event {
        ServerEvent::RelayHeld { relay } => info!("Relay {} holds a place for this server", relay),
        ServerEvent::RelayLost { relay, reason } => {
            warn!("The place on relay {} is lost: {reason}; trying again", relay);
        }
        ServerEvent::PortMapped { address, by } if endpoint(address).is_some_and(|(ip, ..)| !is_global(ip)) => {
            warn!("The router forwards {address} to this server ({by}), but is itself behind another router");
        }
        ServerEvent::PortMapped { address, by } => info!("The router forwards {address} to this server ({by})"),
        ServerEvent::PortUnmapped { address, reason } => {
            warn!("The router no longer forwards {address}: {reason}; asking again");
        }
        ServerEvent::PortNotMapped { transport, reason } => {
            warn!("The router forwards no port for {} ({reason}); asking again", transport.to_uppercase());
        }
        ServerEvent::Reachable { address, relay } => {
            info!("Reachable from outside at {address}: relay {} got there", relay);
        }
        ServerEvent::NotReachable { address, relay } => info!(
            "Not reachable from outside by {}: relay {} does not get to {address}. Clients come through the relay, or \
             directly where both routers let them; for others, forward the port in the router (--map-port asks it to)",
            endpoint(address).map_or_else(String::new, |(.., transport)| transport.to_string()),
            relay
        ),
        ServerEvent::Ticket { ticket } => info!(target: RESULT, "Give clients: ping-client {ticket}"),
        ServerEvent::RelayReady { peer_id } => info!(target: RESULT, "Relay ready: {}", peer_id),
        ServerEvent::Reserved { renewed: true, .. } => {}
        ServerEvent::Reserved { peer_id, .. } => info!("Holding a place for {}", peer_id),
        ServerEvent::Unreserved { peer_id } => info!("No longer holding a place for {}", peer_id),
        ServerEvent::ReservationDenied { peer_id, count } => {
            warn!("Gave {} no place: it may have none, or all are taken ({count} so far)", peer_id);
        }
        ServerEvent::CircuitOpened { client, server } => info!("Connected {} to {}", client, server),
        ServerEvent::CircuitClosed { client, server } => info!("Disconnected {} from {}", client, server),
        ServerEvent::RelayStopped { circuits } => info!(target: RESULT, "Stopped. Circuits: {circuits}"),
        _ => {}
    }
}
