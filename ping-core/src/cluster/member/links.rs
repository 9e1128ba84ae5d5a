//! The links of a member to others: signs of life, loss, and what is said of the lost.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use libp2p::{
    PeerId,
    request_response::{OutboundFailure, OutboundRequestId},
    swarm::{CloseConnection, ToSwarm},
};
use tokio::sync::oneshot;
use tracing::debug;

use super::{Behaviour, TICK};
use crate::cluster::{JoinError, messages::Request};

/// How often the side that dialed a link asks for a sign of life.
const BEAT_INTERVAL: Duration = Duration::from_millis(1250);

/// After how long without one a link is lost.
pub(super) const SILENCE: Duration = Duration::from_secs(3);

/// How many times the worst recent delay is added to every limit. On a long link, or a busy machine, a member is not
/// gone because its answer takes a while.
const PATIENCE: u32 = 8;

/// What is left of that delay a tick later: half of it after 14 s.
const FORGETTING: f64 = 0.99;

/// A tick that is later than this is no sign of a busy machine: the process was stopped, or the machine slept. That is
/// over now, and says nothing of the next delay.
const STOPPED: Duration = Duration::from_secs(1);

/// The shortest delay of an answer that counts, and the longest.
const MIN_DELAY: Duration = Duration::from_millis(1);
const MAX_DELAY: Duration = Duration::from_secs(2);

/// How long a member keeps the link by which it has joined. It needs that until it has the whole directory, and knows
/// that its other links work.
const JOINING_TIME: Duration = Duration::from_secs(10);

/// A link to another member.
struct Link {
    /// Whether this node dialed it, and so asks for signs of life.
    is_dialed: bool,
    /// When this node joined by it, if it did. All may have joined by the same member.
    joined: Option<Instant>,
    /// When something of the other side was last heard.
    heard: Instant,
    beaten: Instant,
    /// Whether a question of this node is unanswered.
    is_asked: bool,
    /// Whether one side has said that it will close it.
    is_let_go: bool,
}

impl Link {
    fn new(is_dialed: bool, now: Instant) -> Self {
        Self { is_dialed, joined: None, heard: now, beaten: now, is_asked: false, is_let_go: false }
    }
}

/// All links, and what is asked over them.
#[derive(Default)]
pub(super) struct Links {
    links: HashMap<PeerId, Link>,
    /// Who waits for the first answer of a member that was joined.
    joins: HashMap<PeerId, Vec<oneshot::Sender<Result<PeerId, JoinError>>>>,
    asked: HashMap<OutboundRequestId, Asked>,
    ticked: Option<Instant>,
    /// When members were last looked for that nobody is linked to.
    pub(super) doubted: Option<Instant>,
    /// The worst recent delay of a tick of this node.
    delay: Duration,
    /// The worst recent delay of an answer of each peer, if it was noticeable.
    delays: HashMap<PeerId, Duration>,
}

/// What a request was for.
enum Asked {
    Beat,
    /// A comparison, or what follows from it.
    Other,
    /// The other side is to know that this one closes the link.
    LetGo,
    /// All are to know that this node leaves.
    Leave,
}

impl Links {
    pub(super) fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    pub(super) fn has(&self, peer: &PeerId) -> bool {
        self.links.contains_key(peer)
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = PeerId> {
        self.links.keys().copied()
    }

    /// Those that may say that this member is gone.
    pub(super) fn witnesses(&self) -> impl Iterator<Item = PeerId> {
        self.links.iter().filter(|(_, link)| !link.is_let_go).map(|(peer, _)| *peer)
    }

    /// How many links to random members this node dialed and keeps.
    pub(super) fn dialed(&self) -> usize {
        self.random().count()
    }

    fn random(&self) -> impl Iterator<Item = PeerId> {
        let is_random = |link: &Link| link.is_dialed && !link.is_let_go && link.joined.is_none();
        self.links.iter().filter(move |(_, link)| is_random(link)).map(|(peer, _)| *peer)
    }

    /// The other side is the one by which this node has joined.
    pub(super) fn joined(&mut self, peer: &PeerId, now: Instant) {
        if let Some(link) = self.links.get_mut(peer) {
            link.joined = Some(now);
        }
    }

    /// Whom this node joined by and needs no more, because it has as many other links as it wants.
    pub(super) fn joined_before(&self, now: Instant) -> Option<PeerId> {
        let is_old = |joined: Instant| now.saturating_duration_since(joined) >= JOINING_TIME;
        let mut old = self.links.iter().filter(|(_, link)| !link.is_let_go && link.joined.is_some_and(is_old));
        old.next().map(|(peer, _)| *peer)
    }

    /// The other side will close the link.
    pub(super) fn let_go(&mut self, peer: PeerId) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.is_let_go = true;
        }
    }

    /// Waits for the first answer of a member.
    pub(super) fn join(&mut self, peer: PeerId, reply: oneshot::Sender<Result<PeerId, JoinError>>) {
        self.joins.entry(peer).or_default().push(reply);
    }

    fn end_joins(&mut self, peer: PeerId, outcome: &Result<PeerId, JoinError>) {
        for reply in self.joins.remove(&peer).unwrap_or_default() {
            let _ = reply.send(outcome.clone());
        }
    }

    /// How long to wait for what a peer usually does within `limit`.
    pub(super) fn patience(&self, limit: Duration, peer: Option<&PeerId>) -> Duration {
        let of_peer = peer.and_then(|peer| self.delays.get(peer)).copied().unwrap_or_default();
        limit + PATIENCE * self.delay.max(of_peer)
    }

    /// Nothing was due until now.
    pub(super) fn wake(&mut self, now: Instant) {
        self.ticked.get_or_insert(now);
    }

    fn on_sign_of_life(&mut self, peer: &PeerId, now: Instant) {
        if let Some(link) = self.links.get_mut(peer) {
            link.heard = now;
        }
    }
}

impl Behaviour {
    /// A connection that this node dialed becomes a link.
    pub(super) fn link(&mut self, peer: PeerId, now: Instant) {
        self.add_link(peer, true, now);
        self.beat(&peer, now);
    }

    fn add_link(&mut self, peer: PeerId, is_dialed: bool, now: Instant) {
        if !is_dialed {
            self.protocols.gossip.link(peer, false);
        }
        self.shared.directory().connected(peer);
        match self.links.links.get_mut(&peer) {
            Some(link) => {
                link.is_dialed |= is_dialed;
                link.heard = now;
            }
            None => {
                self.links.links.insert(peer, Link::new(is_dialed, now));
                self.write_soon();
            }
        }
    }

    /// Another member gave a sign of life. That makes its connection a link.
    pub(super) fn on_sign_of_life(&mut self, peer: PeerId) {
        self.add_link(peer, false, Instant::now());
    }

    fn beat(&mut self, peer: &PeerId, now: Instant) {
        let digest = self.shared.directory().digest();
        if let Some(link) = self.links.links.get_mut(peer) {
            (link.beaten, link.is_asked) = (now, true);
            self.ask(peer, Request::Beat { digest }, Asked::Beat);
        }
    }

    /// Beats soon, because the directories still differ.
    pub(super) fn beat_soon(&mut self, peer: &PeerId) {
        if let Some(link) = self.links.links.get_mut(peer) {
            link.beaten = link.beaten.checked_sub(BEAT_INTERVAL).unwrap_or(link.beaten);
        }
    }

    /// Asks for the directories of two links, at random.
    pub(super) fn compare_with_two(&mut self) {
        let now = Instant::now();
        let mut peers: Vec<PeerId> = self.links.peers().collect();
        fastrand::shuffle(&mut peers);
        peers.iter().take(2).for_each(|peer| self.beat(peer, now));
    }

    fn ask(&mut self, peer: &PeerId, request: Request, asked: Asked) {
        let id = self.protocols.exchange.send_request(peer, request);
        self.links.asked.insert(id, asked);
    }

    /// Sends what follows from a comparison, or the last words of this node.
    pub(super) fn request(&mut self, peer: &PeerId, request: Request) {
        let asked = if self.own.record.is_leaving { Asked::Leave } else { Asked::Other };
        self.ask(peer, request, asked);
    }

    /// A request was answered.
    pub(super) fn on_answered(&mut self, peer: PeerId, id: OutboundRequestId) {
        self.links.on_sign_of_life(&peer, Instant::now());
        match self.links.asked.remove(&id) {
            Some(Asked::Beat) => {
                if let Some(link) = self.links.links.get_mut(&peer) {
                    link.is_asked = false;
                    let delay = link.beaten.elapsed().min(MAX_DELAY);
                    let worst = self.links.delays.entry(peer).or_default();
                    *worst = delay.max(*worst);
                }
                // The other side has woken its gossip at the beat.
                self.protocols.gossip.link(peer, true);
                self.links.end_joins(peer, &Ok(peer));
            }
            Some(Asked::LetGo) => self.close(peer),
            Some(Asked::Leave) => self.on_told(),
            Some(Asked::Other) | None => {}
        }
    }

    /// A request will not be answered.
    pub(super) fn on_unanswered(&mut self, peer: PeerId, id: OutboundRequestId, failure: &OutboundFailure) {
        debug!(%peer, %failure, "a member did not answer");
        match self.links.asked.remove(&id) {
            Some(Asked::Leave) => self.on_told(),
            Some(Asked::LetGo) => self.close(peer),
            _ => {}
        }
        if let Some(link) = self.links.links.get_mut(&peer) {
            link.is_asked = false;
        }
        if matches!(failure, OutboundFailure::UnsupportedProtocols) {
            self.links.end_joins(peer, &Err(JoinError::NoMember));
            self.forget_link(&peer);
            self.close(peer);
        }
    }

    /// The last connection to a peer is closed.
    pub(super) fn on_lost(&mut self, peer: PeerId) {
        self.links.end_joins(peer, &Err(JoinError::Unreachable("it closed the connection".into())));
        if let Some(link) = self.forget_link(&peer)
            && !link.is_let_go
            && !self.own.record.is_leaving
        {
            self.redial(peer, Instant::now());
        }
    }

    fn forget_link(&mut self, peer: &PeerId) -> Option<Link> {
        let link = self.links.links.remove(peer)?;
        self.shared.directory().disconnected(peer);
        self.write_soon();
        Some(link)
    }

    pub(super) fn close(&mut self, peer_id: PeerId) {
        self.actions.push_back(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::All });
    }

    /// Says goodbye to one of the links that this node dialed and has too many of.
    pub(super) fn let_one_go(&mut self) {
        // Which one makes no difference: all of them are random.
        if let Some(peer) = fastrand::choice(self.links.random().collect::<Vec<_>>()) {
            self.say_goodbye(peer);
        }
    }

    /// Tells a member that this node closes their link, and closes it then.
    pub(super) fn say_goodbye(&mut self, peer: PeerId) {
        self.links.let_go(peer);
        self.ask(&peer, Request::LetGo, Asked::LetGo);
    }

    /// Does what is due some times a second.
    pub(super) fn tick(&mut self, now: Instant) {
        let late = self.links.ticked.replace(now).map(|before| now.saturating_duration_since(before + TICK));
        let late = late.unwrap_or_default();
        let faded = self.links.delay.mul_f64(FORGETTING);
        if late < STOPPED {
            self.links.delay = faded.max(late);
        } else {
            // What others said meanwhile still waits to be read.
            debug!(?late, "this process stood still");
            self.links.links.values_mut().for_each(|link| link.heard = now);
            self.links.delay = faded;
        }
        self.links.delays.retain(|_, delay| {
            *delay = delay.mul_f64(FORGETTING);
            *delay >= MIN_DELAY
        });
        let due = |link: &Link| {
            link.is_dialed && !link.is_asked && now.saturating_duration_since(link.beaten) >= BEAT_INTERVAL
        };
        let (beats, silent): (Vec<_>, Vec<_>) = {
            let links = || self.links.links.iter();
            let silent = links().filter(|(peer, link)| {
                now.saturating_duration_since(link.heard) >= self.links.patience(SILENCE, Some(peer))
            });
            (links().filter(|(_, link)| due(link)).map(|(peer, _)| *peer).collect(), silent.map(|it| *it.0).collect())
        };
        for peer in silent {
            debug!(%peer, "a member is silent");
            let link = self.forget_link(&peer);
            self.close(peer);
            if link.is_some_and(|link| !link.is_let_go) {
                self.redial(peer, now);
            }
        }
        beats.iter().for_each(|peer| self.beat(peer, now));
        self.shared.directory().tick(now);
        self.doubt_unwitnessed(now);
        if !self.own.record.is_leaving {
            self.dial_who_is_due(now);
        }
        self.react();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_by_which_a_member_joined_is_no_random_one_and_ends_after_a_while() {
        let (mut links, now, [seed, other]) = (Links::default(), Instant::now(), [(); 2].map(|()| PeerId::random()));
        for peer in [seed, other] {
            links.links.insert(peer, Link::new(true, now));
        }
        assert_eq!((links.dialed(), links.joined_before(now + JOINING_TIME)), (2, None));
        links.joined(&seed, now);
        assert_eq!((links.dialed(), links.joined_before(now)), (1, None));
        assert_eq!(links.joined_before(now + JOINING_TIME), Some(seed));
        links.let_go(seed);
        assert_eq!(links.joined_before(now + JOINING_TIME), None);
        // Until the other side has closed it, nothing more is said of it.
        assert!(links.has(&seed) && !links.witnesses().any(|witness| witness == seed));
    }
}
