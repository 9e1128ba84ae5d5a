//! What a member hears and passes on, and how it compares its directory with those of others.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use libp2p::{
    PeerId,
    gossipsub::{MessageAcceptance, MessageId},
    request_response::{InboundRequestId, OutboundRequestId, ResponseChannel},
};
use serde_bytes::ByteBuf;
use tracing::debug;

use super::{Behaviour, Task};
use crate::{
    PeerText,
    cluster::{
        Event, MemberInfo,
        directory::{BUCKETS, Change, Line, Member, Verdict},
        messages::{Listed, MAX_LINES, MAX_STATEMENTS, Request, Response, WATCH_TIME, batch},
        record::Guest,
    },
};

/// How many statements that a comparison brought are spread one by one. More are found faster by comparing on.
const MAX_SPREAD: usize = 4;

/// How long more news is gathered before directories are compared again.
const GATHER: Duration = Duration::from_millis(100);

/// How many clients may watch the directory at once.
const MAX_WATCHERS: usize = 1000;

/// The clients that wait for a change.
#[derive(Default)]
pub(super) struct Watchers(HashMap<InboundRequestId, Watcher>);

struct Watcher {
    digest: u64,
    until: Instant,
    channel: ResponseChannel<Response>,
}

impl Watchers {
    pub(super) fn add(&mut self, id: InboundRequestId, digest: u64, channel: ResponseChannel<Response>) {
        // One more than there may be gets no answer.
        if self.0.len() < MAX_WATCHERS {
            self.0.insert(id, Watcher { digest, until: Instant::now() + WATCH_TIME, channel });
        }
    }

    pub(super) fn forget(&mut self, id: InboundRequestId) {
        self.0.remove(&id);
    }
}

impl Behaviour {
    /// A peer spread a statement.
    pub(super) fn on_heard(&mut self, from: PeerId, id: &MessageId, bytes: &[u8]) {
        let verdict = self.shared.directory().hear(bytes, Instant::now());
        let acceptance = match verdict {
            Ok(Verdict::News) => MessageAcceptance::Accept,
            Ok(Verdict::Ignored) => MessageAcceptance::Ignore,
            Err(reason) => {
                debug!(%from, %reason, "a statement is unsound");
                MessageAcceptance::Reject
            }
        };
        self.protocols.gossip.judge(id, &from, acceptance);
        self.react();
    }

    /// Takes statements that a comparison brought, and passes on what is news.
    pub(super) fn take(&mut self, from: PeerId, statements: &[ByteBuf]) {
        let now = Instant::now();
        let mut news = Vec::new();
        for statement in statements {
            match self.shared.directory().hear(statement, now) {
                Ok(Verdict::News) => news.push(statement),
                Ok(Verdict::Ignored) => {}
                Err(reason) => debug!(%from, %reason, "a statement is unsound"),
            }
        }
        if news.len() <= MAX_SPREAD {
            news.iter().for_each(|statement| self.protocols.gossip.publish(statement));
        } else if !self.tasks.iter().any(|(_, task)| matches!(task, Task::Compare)) {
            self.plan(now + GATHER, Task::Compare);
        }
        self.react();
    }

    pub(super) fn on_beat(&mut self, peer: PeerId, digest: u64) -> Response {
        self.on_sign_of_life(peer);
        let directory = self.shared.directory();
        if directory.digest() == digest { Response::Done } else { Response::Digests(directory.digests().to_vec()) }
    }

    pub(super) fn on_compare(&mut self, buckets: &[u8], lines: &[Line]) -> Response {
        let now = Instant::now();
        let difference = {
            let mut directory = self.shared.directory();
            lines.iter().filter(|line| line.is_gone).for_each(|line| directory.doubt(line.peer, line.stamp, now));
            directory.compare(buckets, lines)
        };
        self.react();
        let (mut wanted, mut gone) = (difference.wanted, difference.gone);
        wanted.truncate(MAX_LINES);
        gone.truncate(MAX_LINES);
        Response::Difference { statements: batch(difference.news.iter()), wanted, gone }
    }

    pub(super) fn on_response(&mut self, peer: PeerId, id: OutboundRequestId, response: Response) {
        self.on_answered(peer, id);
        match response {
            Response::Digests(theirs) => self.compare(&peer, &theirs),
            Response::Difference { statements, wanted, gone } => {
                self.take(peer, &statements);
                let now = Instant::now();
                let statements = {
                    let mut directory = self.shared.directory();
                    gone.into_iter().for_each(|(peer, stamp)| directory.doubt(peer, stamp, now));
                    batch(directory.statements(&wanted))
                };
                if !statements.is_empty() {
                    self.request(&peer, Request::Push { statements });
                }
                self.react();
            }
            _ => {}
        }
    }

    /// Asks for what differs in the buckets whose digests differ, as far as one message carries it.
    fn compare(&mut self, peer: &PeerId, theirs: &[u64]) {
        let (mut buckets, mut lines) = (Vec::new(), Vec::new());
        {
            let directory = self.shared.directory();
            let pairs = (0..=u8::MAX).zip(directory.digests().iter().zip(theirs));
            for (bucket, _) in pairs.filter(|(_, (ours, theirs))| ours != theirs) {
                lines.extend(directory.summary(&[bucket]));
                buckets.push(bucket);
                if lines.len() >= MAX_LINES {
                    break;
                }
            }
        }
        lines.truncate(2 * MAX_LINES);
        if theirs.len() == BUCKETS && !buckets.is_empty() {
            self.request(peer, Request::Compare { buckets: buckets.into(), lines });
            self.beat_soon(peer);
        }
    }

    /// What this member says of itself.
    pub(super) fn own(&self) -> Response {
        let directory = self.shared.directory();
        let members = directory.get(&self.shared.me).map(listed).into_iter().collect();
        Response::Members { digest: directory.digest(), members, has_more: false }
    }

    /// Lists the members for a client, as many as one message carries.
    pub(super) fn list(&self, name: Option<&str>, after: Option<PeerId>) -> Response {
        let directory = self.shared.directory();
        let mut found: Vec<_> = match name {
            Some(name) => directory.hosts(name).collect(),
            None => directory.members().collect(),
        };
        found.retain(|(peer, _)| Some(**peer) > after);
        found.sort_by_key(|(peer, _)| **peer);
        let mut left = MAX_STATEMENTS;
        let fits = found.iter().take_while(|(_, member)| match left.checked_sub(member.signed().len()) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        });
        let members: Vec<Listed> = fits.map(|(_, member)| listed(member)).collect();
        let has_more = members.len() < found.len();
        Response::Members { digest: directory.digest(), members, has_more }
    }

    /// Does what follows from changes of the directory, and tells everyone who waits for them.
    pub(super) fn react(&mut self) {
        let changes = self.shared.directory().take_changes();
        for change in changes {
            let now = Instant::now();
            match change {
                Change::Check(peer) => self.check(peer, now),
                Change::Refute(stamp) => self.refute(stamp),
                Change::Joined(peer) => self.report(peer, Event::Joined),
                Change::Left(peer) => self.report(peer, Event::Left),
                Change::Died(peer) => self.report(peer, Event::Died),
                Change::Revived(peer) => self.report(peer, Event::Revived),
                Change::ActorCame(peer, name) => self.report(peer, |it| Event::ActorCame(it, PeerText::new(name))),
                Change::ActorGone(peer, name) => self.report(peer, |it| Event::ActorGone(it, PeerText::new(name))),
                Change::Updated(_) => {}
            }
        }
        let digest = self.shared.directory().digest();
        self.shared.digest.send_if_modified(|known| std::mem::replace(known, digest) != digest);
        let now = Instant::now();
        let done = self.watchers.0.extract_if(|_, watcher| watcher.digest != digest || watcher.until <= now);
        for (_, watcher) in done.collect::<Vec<_>>() {
            let _ = self.protocols.exchange.send_response(watcher.channel, Response::Digest(digest));
        }
    }

    /// Reports what happened to another member, or a guest.
    fn report(&mut self, peer: PeerId, event: impl FnOnce(MemberInfo) -> Event) {
        if peer == self.shared.me {
            return;
        }
        // A guest that nobody speaks for any more is forgotten.
        let info = self.shared.info(&peer).unwrap_or_else(|| MemberInfo::guest(Guest::unknown(peer)));
        self.actions.push_back(libp2p::swarm::ToSwarm::GenerateEvent(event(info)));
    }
}

fn listed(member: &Member) -> Listed {
    Listed { record: ByteBuf::from(&member.signed()[..]), is_gone: member.is_gone }
}
