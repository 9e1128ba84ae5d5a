//! Whom a member dials, why, and how often at most.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    swarm::{
        CloseConnection, ConnectionId, DialError, ToSwarm,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::sync::oneshot;
use tracing::debug;

use super::{Behaviour, Task, links::SILENCE};
use crate::{PeerText, cluster::JoinError};

/// How many members each member dials and stays linked to. Those that dial it come on top, so some twelve in all,
/// however many members there are.
const LINKS: usize = 6;

/// How long a dial may take that finds out whether a member is there.
const DIAL_TIMEOUT: Duration = Duration::from_millis(1500);

/// How long another dial may take: as long as the transports' handshakes.
const LINK_TIMEOUT: Duration = Duration::from_secs(10);

/// How many dials one member makes at once, and how many a second.
const MAX_DIALS: u32 = 40;
const DIAL_INTERVAL: Duration = Duration::from_millis(50);

/// How often a lost member is tried, and how often a random one that this node is not linked to.
const LOST_INTERVAL: Duration = Duration::from_secs(2);
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// Among how many members everyone tries a suspect; among more, only those near it do.
const MAX_ALL_CHECK: usize = 64;
const MAX_CHECKERS: usize = 8;

/// Why a member is dialed.
enum Purpose {
    /// The program named its address.
    Join(oneshot::Sender<Result<PeerId, JoinError>>),
    /// To be linked to it.
    Link,
    /// Its link was lost.
    Redial,
    /// Others say that it is gone.
    Check,
    /// It was lost a while ago.
    Retry,
    /// At random.
    Probe,
}

struct Dial {
    peer: Option<PeerId>,
    purpose: Purpose,
    until: Instant,
}

/// The dials in progress.
pub(super) struct Dials {
    dials: HashMap<ConnectionId, Dial>,
    /// How many more are made now, and since when that is counted.
    allowance: (u32, Instant),
    lost_tried: Instant,
    probed: Instant,
}

impl Default for Dials {
    fn default() -> Self {
        let now = Instant::now();
        Self { dials: HashMap::new(), allowance: (MAX_DIALS, now), lost_tried: now, probed: now }
    }
}

impl Dials {
    pub(super) fn is_empty(&self) -> bool {
        self.dials.is_empty()
    }

    fn is_dialing(&self, peer: &PeerId) -> bool {
        self.dials.values().any(|dial| dial.peer.as_ref() == Some(peer))
    }

    /// Takes one of the dials that may be made, if there is one.
    fn take(&mut self, now: Instant) -> bool {
        let (left, counted) = self.allowance;
        let more = now.saturating_duration_since(counted).as_millis() / DIAL_INTERVAL.as_millis();
        let left = left.saturating_add(u32::try_from(more).unwrap_or(MAX_DIALS)).min(MAX_DIALS);
        let counted = if more > 0 { now } else { counted };
        self.allowance = (left.saturating_sub(1), counted);
        left > 0
    }
}

impl Behaviour {
    /// Dials the address of a member that the program names.
    pub(super) fn join(
        &mut self,
        address: Multiaddr,
        expected: Option<PeerId>,
        reply: oneshot::Sender<Result<PeerId, JoinError>>,
    ) {
        if expected == Some(self.shared.me) {
            let _ = reply.send(Err(JoinError::Own));
            return;
        }
        let options = match expected {
            Some(peer) => options(peer, vec![address]),
            None => DialOpts::unknown_peer_id().address(address).allocate_new_port().build(),
        };
        self.start(options, expected, Purpose::Join(reply), LINK_TIMEOUT);
    }

    fn start(&mut self, opts: DialOpts, peer: Option<PeerId>, purpose: Purpose, limit: Duration) {
        let until = Instant::now() + self.links.patience(limit, peer.as_ref());
        self.dials.dials.insert(opts.connection_id(), Dial { peer, purpose, until });
        self.actions.push_back(ToSwarm::Dial { opts });
    }

    /// Dials a member, unless that is going on, or it names no address that this node may dial. Returns whether it
    /// does.
    fn dial(&mut self, peer: PeerId, purpose: Purpose, limit: Duration) -> bool {
        if let Purpose::Check = purpose
            && let Some(dial) = self.dials.dials.values_mut().find(|dial| dial.peer == Some(peer))
        {
            // If that one fails, it is gone.
            dial.purpose = Purpose::Check;
            return true;
        }
        let addresses = self.shared.addresses(&peer);
        if addresses.is_empty() || self.dials.is_dialing(&peer) || !self.dials.take(Instant::now()) {
            return false;
        }
        self.start(options(peer, addresses), Some(peer), purpose, limit);
        true
    }

    pub(super) fn redial(&mut self, peer: PeerId, now: Instant) {
        let is_wanted = !self.links.has(&peer) && self.shared.directory().get(&peer).is_some_and(|it| !it.is_gone);
        if !is_wanted || self.dials.is_dialing(&peer) {
            return;
        }
        if self.shared.addresses(&peer).is_empty() {
            // Nobody can dial it, so that its link is lost says as much.
            self.plan_to_accuse(peer);
        } else if !self.dial(peer, Purpose::Redial, DIAL_TIMEOUT) {
            self.plan(now + DIAL_INTERVAL, Task::Redial(peer));
        }
    }

    /// Tries whether a member is there that others say is gone.
    pub(super) fn check(&mut self, peer: PeerId, now: Instant) {
        if self.links.has(&peer) {
            self.shared.directory().found(&peer, now);
        } else if self.is_checker(&peer) {
            self.dial(peer, Purpose::Check, DIAL_TIMEOUT);
        }
    }

    /// Whether this member is among those that try a suspect: the nearest to it, by their ids.
    fn is_checker(&self, suspect: &PeerId) -> bool {
        let directory = self.shared.directory();
        let distance = |peer: &PeerId| {
            let bytes = peer.to_bytes().into_iter().zip(suspect.to_bytes()).map(|(left, right)| left ^ right);
            bytes.collect::<Vec<u8>>()
        };
        let live = || directory.members().filter(|(_, member)| !member.is_gone).map(|(peer, _)| peer);
        let ours = distance(&self.shared.me);
        live().count() <= MAX_ALL_CHECK
            || live().filter(|peer| *peer != suspect && distance(peer) < ours).count() < MAX_CHECKERS
    }

    pub(super) fn on_connected(&mut self, peer: PeerId, id: ConnectionId) {
        let Some(dial) = self.dials.dials.remove(&id) else { return };
        let now = Instant::now();
        self.shared.directory().found(&peer, now);
        match dial.purpose {
            Purpose::Join(reply) => {
                self.links.join(peer, reply);
                self.link(peer, now);
                self.links.joined(&peer, now);
            }
            // One that was lost is to learn that it is, and the rest of the news.
            Purpose::Link | Purpose::Redial | Purpose::Retry => self.link(peer, now),
            Purpose::Check | Purpose::Probe if self.links.has(&peer) => {}
            Purpose::Check | Purpose::Probe => {
                let connection = CloseConnection::One(id);
                self.actions.push_back(ToSwarm::CloseConnection { peer_id: peer, connection });
            }
        }
        self.react();
    }

    pub(super) fn on_dial_failed(&mut self, id: ConnectionId, error: &DialError) {
        let Some(dial) = self.dials.dials.remove(&id) else { return };
        debug!(peer = ?dial.peer, %error, "cannot reach a member");
        if let Purpose::Join(reply) = dial.purpose {
            let _ = reply.send(Err(match error {
                DialError::LocalPeerId { .. } => JoinError::Own,
                DialError::WrongPeerId { obtained, .. } if *obtained == self.shared.me => JoinError::Own,
                error => JoinError::Unreachable(reason(error)),
            }));
        } else if let Some(peer) = dial.peer {
            self.on_missed(peer, &dial.purpose);
        }
    }

    fn on_missed(&mut self, peer: PeerId, purpose: &Purpose) {
        match purpose {
            // It is gone for this node. A link that one of them makes in the meantime wins.
            Purpose::Check if !self.links.has(&peer) => self.shared.directory().missed(&peer, Instant::now()),
            Purpose::Redial | Purpose::Probe | Purpose::Link if !self.links.has(&peer) => self.plan_to_accuse(peer),
            _ => {}
        }
        self.react();
    }

    /// Gives up dials that take too long, and dials whom it is time for.
    pub(super) fn dial_who_is_due(&mut self, now: Instant) {
        let late: Vec<_> = self.dials.dials.extract_if(|_, dial| dial.until <= now).map(|(_, dial)| dial).collect();
        for dial in late {
            match (dial.purpose, dial.peer) {
                (Purpose::Join(reply), _) => drop(reply.send(Err(JoinError::Unreachable("no answer".into())))),
                (purpose, Some(peer)) => self.on_missed(peer, &purpose),
                (_, None) => {}
            }
        }
        if now.saturating_duration_since(self.dials.lost_tried) >= LOST_INTERVAL {
            self.dials.lost_tried = now;
            if let Some(peer) = self.pick(|_, is_lost| is_lost) {
                self.dial(peer, Purpose::Retry, DIAL_TIMEOUT);
            }
        }
        if now.saturating_duration_since(self.dials.probed) >= PROBE_INTERVAL {
            self.dials.probed = now;
            if let Some(peer) = self.pick(|is_linked, is_lost| !is_linked && !is_lost) {
                self.dial(peer, Purpose::Probe, DIAL_TIMEOUT + SILENCE);
            }
        }
        let wanted = LINKS.saturating_sub(self.links.dialed() + self.dials.dials.len());
        for _ in 0..wanted {
            let Some(peer) = self.pick(|is_linked, is_lost| !is_linked && !is_lost) else { break };
            self.dial(peer, Purpose::Link, LINK_TIMEOUT);
        }
        if self.links.dialed() > LINKS {
            self.let_one_go();
        } else if self.links.dialed() == LINKS
            && let Some(peer) = self.links.joined_before(now)
        {
            self.say_goodbye(peer);
        }
    }

    /// A random other member that left no word that it leaves, by whether this node is linked to it and has lost it.
    /// Not one that is suspected: whether it is there is being found out.
    fn pick(&self, wanted: impl Fn(bool, bool) -> bool) -> Option<PeerId> {
        let directory = self.shared.directory();
        let others = directory.members().filter(|(peer, member)| {
            **peer != self.shared.me
                && (!member.is_gone || member.is_lost())
                && !member.is_suspected()
                && !self.is_to_accuse(peer)
                && !self.dials.is_dialing(peer)
                && wanted(self.links.has(peer), member.is_lost())
        });
        fastrand::choice(others.map(|(peer, _)| *peer).collect::<Vec<_>>())
    }
}

fn options(peer: PeerId, addresses: Vec<Multiaddr>) -> DialOpts {
    let options = DialOpts::peer_id(peer).addresses(addresses).condition(PeerCondition::Always);
    options.allocate_new_port().build()
}

/// The reason of the system, if it gave one.
fn reason(error: &DialError) -> PeerText {
    let DialError::Transport(failures) = error else { return PeerText::new(error.to_string()) };
    let mut source: &dyn std::error::Error = match failures.first() {
        Some((_, failure)) => failure,
        None => return "it has no address".into(),
    };
    while let Some(deeper) = source.source() {
        source = deeper;
    }
    PeerText::new(source.to_string())
}
