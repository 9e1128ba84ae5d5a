//! A cluster of nodes: who is there, and which actors they host.
//!
//! Each member is the only writer of one signed record of itself ([`record`]). All members keep all records, and agree
//! on who is gone, in a [`directory`]. Statements spread by gossipsub (`gossip`); what was missed is found by comparing
//! directories ([`messages`]); members dial each other at the addresses in their records.
//!
//! `member` is the behaviour that does all this. Programs hold a [`Cluster`]. A node that nobody joins only has the
//! protocols; nothing runs before the first member is heard of.

mod ask;
pub mod directory;
mod gossip;
pub mod join;
mod late;
mod measure;
mod member;
pub mod messages;
pub mod record;

use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use libp2p::{Multiaddr, PeerId, request_response::ResponseChannel};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{PeerText, transport::endpoint};
use directory::{Directory, Member};
use messages::{Path, Response};
use record::{Guest, HostedActor};

pub(crate) use ask::Asked;
pub use ask::{AskError, Listing, list, next_digest, own, paths};
pub(crate) use member::Behaviour;

/// How a node takes part in a cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name of the node for people: at most [`MAX_NODE_NAME`](record::MAX_NODE_NAME) bytes.
    pub node: String,
}

/// Whether a member is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is there.
    Alive,
    /// It left in order.
    Left,
    /// Its witnesses lost it, or nobody can reach it.
    Died,
    /// It is there, and no member: a node that speaks only Kameo's own protocols, and that a member speaks for.
    Guest,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Alive => "alive",
            Self::Left => "left",
            Self::Died => "died",
            Self::Guest => "guest",
        })
    }
}

/// A member, or a guest, for programs and people.
#[derive(Clone, Debug)]
pub struct MemberInfo {
    /// Its identity.
    pub peer: PeerId,
    /// Its name for people. Nothing keeps two members from having the same. A guest has none but its identity.
    pub node: PeerText,
    /// Where it can be reached.
    pub addresses: Vec<Multiaddr>,
    /// The actors that it hosts.
    pub actors: Vec<HostedActor>,
    /// When its process started, in milliseconds since 1970, as it says; 0 for a guest.
    pub since: u64,
    /// Whether it is there.
    pub state: State,
}

impl MemberInfo {
    fn new(peer: PeerId, record: &record::Record, is_gone: bool) -> Self {
        let record::Record { stamp, node, addresses, actors, is_leaving, .. } = record.clone();
        let state = match (is_gone, is_leaving) {
            (false, _) => State::Alive,
            (true, true) => State::Left,
            (true, false) => State::Died,
        };
        Self { peer, node: PeerText::new(node), addresses, actors, since: stamp.epoch, state }
    }

    fn guest(Guest { peer, addresses, actors }: Guest) -> Self {
        let id = peer.to_string();
        // The beginning of an identity only says of what kind its key is.
        let node = PeerText::new(format_args!("guest-{}", &id[id.len().saturating_sub(6)..]));
        Self { peer, node, addresses, actors, since: 0, state: State::Guest }
    }

    /// Whether it is there, as far as is known.
    pub fn is_there(&self) -> bool {
        matches!(self.state, State::Alive | State::Guest)
    }

    /// Its actor of this name.
    pub fn actor(&self, name: &str) -> Option<&HostedActor> {
        self.actors.iter().find(|actor| actor.name == name)
    }

    /// The names of its actors.
    pub fn actor_names(&self) -> Vec<PeerText> {
        self.actors.iter().map(|actor| PeerText::new(&*actor.name)).collect()
    }
}

/// These members and those that they speak for, each once, in the order of peer ids. A member is nobody's guest.
fn with_guests<'a>(members: impl Iterator<Item = (&'a PeerId, &'a record::Record, bool)>) -> Vec<MemberInfo> {
    let (mut all, mut guests) = (Vec::new(), Vec::new());
    for (peer, record, is_gone) in members {
        all.push(MemberInfo::new(*peer, record, is_gone));
        guests.extend(record.guests.iter().filter(|_| !is_gone).cloned().map(MemberInfo::guest));
    }
    all.extend(guests);
    // Sorting keeps members before guests.
    all.sort_by_key(|member| member.peer);
    all.dedup_by_key(|member| member.peer);
    all
}

/// What happens in a cluster.
#[derive(Clone, Debug)]
pub enum Event {
    /// A member is there that was not known.
    Joined(MemberInfo),
    /// A member left in order.
    Left(MemberInfo),
    /// A member died: its witnesses lost it, or this node could not reach it.
    Died(MemberInfo),
    /// A member that had left or died is there.
    Revived(MemberInfo),
    /// A member hosts an actor under this name that it did not host before.
    ActorCame(MemberInfo, PeerText),
    /// A member no longer hosts an actor under this name, or is gone.
    ActorGone(MemberInfo, PeerText),
}

/// What the behaviour and the handles share.
#[derive(Debug)]
struct Shared {
    me: PeerId,
    directory: Mutex<Directory>,
    /// The digest of the directory.
    digest: watch::Sender<u64>,
}

impl Shared {
    fn directory(&self) -> MutexGuard<'_, Directory> {
        // A panic can only cut a change of one member short, and the next record or comparison repairs that.
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The addresses of a member that this node may dial.
    fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let directory = self.directory();
        let ours = directory.get(&self.me).map_or(&[][..], |me| &me.record.addresses);
        let theirs = directory.get(peer).map(|member| &member.record.addresses);
        let theirs = theirs.or_else(|| directory.guest(peer).map(|guest| &guest.addresses));
        theirs.into_iter().flatten().filter(|address| may_dial(address, ours)).cloned().collect()
    }

    /// A member or guest.
    fn info(&self, peer: &PeerId) -> Option<MemberInfo> {
        let directory = self.directory();
        let member = directory.get(peer).map(|member| MemberInfo::new(*peer, &member.record, member.is_gone));
        member.or_else(|| directory.guest(peer).cloned().map(MemberInfo::guest))
    }
}

/// Whether a node with these addresses dials an address that another member names. A private address is dialed only by
/// a node that has one of the same block, and a loopback address only by one that has no other, so that no member can
/// make others knock at what is inside their networks.
fn may_dial(address: &Multiaddr, ours: &[Multiaddr]) -> bool {
    let Some((ip, ..)) = endpoint(address) else { return false };
    match Scope::of(ip) {
        Scope::Global => true,
        scope => ours.iter().filter_map(endpoint).any(|(ip, ..)| Scope::of(ip) == scope),
    }
}

/// Who can reach an address: everyone, or those in a private network of one block (RFC 1918, RFC 4193, RFC 6598), or
/// the machine itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Scope {
    Global,
    Private(u8),
    UniqueLocal,
    LinkLocal,
    Loopback,
    /// Nobody: unspecified, multicast and broadcast addresses.
    Nobody,
}

/// Whether everyone on the internet can reach an address, as far as the address tells.
pub fn is_global(ip: IpAddr) -> bool {
    Scope::of(ip) == Scope::Global
}

impl Scope {
    fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            ip if ip.is_loopback() => Self::Loopback,
            ip if ip.is_unspecified() || ip.is_multicast() => Self::Nobody,
            IpAddr::V4(ip) if ip.is_broadcast() => Self::Nobody,
            IpAddr::V4(ip) if ip.is_link_local() => Self::LinkLocal,
            IpAddr::V4(ip) if ip.is_private() => Self::Private(ip.octets()[0]),
            IpAddr::V4(ip) if ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64 => Self::Private(100),
            IpAddr::V6(ip) if ip.is_unicast_link_local() => Self::LinkLocal,
            IpAddr::V6(ip) if ip.is_unique_local() => Self::UniqueLocal,
            _ => Self::Global,
        }
    }
}

/// What a program asks of the behaviour.
#[derive(Debug)]
enum Command {
    Host(Vec<HostedActor>),
    SpeakFor(Vec<Guest>),
    Join {
        address: Multiaddr,
        expected: Option<PeerId>,
        reply: oneshot::Sender<Result<PeerId, JoinError>>,
    },
    Leave(oneshot::Sender<()>),
    /// The paths that one of the members asked for are measured.
    Measured(ResponseChannel<Response>, Vec<Path>),
}

/// Why one attempt to join failed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum JoinError {
    /// Nobody could be reached there.
    #[error("{0}")]
    Unreachable(PeerText),
    /// The node is this one.
    #[error("that is this node itself")]
    Own,
    /// The node does not take part in clusters.
    #[error("it is no member of a cluster")]
    NoMember,
    /// This node stops.
    #[error("this node stops")]
    Stopped,
}

/// The handle of a member.
#[derive(Clone, Debug)]
pub struct Cluster {
    shared: Arc<Shared>,
    commands: mpsc::UnboundedSender<Command>,
}

impl Cluster {
    /// This member's own identity.
    pub fn me(&self) -> PeerId {
        self.shared.me
    }

    /// Everyone that is known, in the order of peer ids: guests, and those that are gone for a day, too.
    pub fn members(&self) -> Vec<MemberInfo> {
        let directory = self.shared.directory();
        with_guests(directory.members().map(|(peer, member)| (peer, &member.record, member.is_gone)))
    }

    /// Another member that is there and has the same name as this one.
    pub fn namesake(&self, peer: &PeerId) -> Option<PeerId> {
        let directory = self.shared.directory();
        let name = &directory.get(peer)?.record.node;
        let mut others = directory.members().filter(|(other, member)| !member.is_gone && *other != peer);
        others.find(|(_, member)| member.record.node == *name).map(|(other, _)| *other)
    }

    /// Who hosts an actor under this name.
    pub fn hosts(&self, name: &str) -> Vec<MemberInfo> {
        self.some_hosts(name, usize::MAX)
    }

    /// As many of those that host an actor under this name, or speak for a guest that does, and these guests.
    pub(crate) fn some_hosts(&self, name: &str, limit: usize) -> Vec<MemberInfo> {
        let directory = self.shared.directory();
        let is_named = |actors: &[HostedActor]| actors.iter().any(|actor| actor.name == name);
        let hosts = |record: &record::Record| {
            is_named(&record.actors) || record.guests.iter().any(|guest| is_named(&guest.actors))
        };
        let found = directory.members().filter(|(_, member)| !member.is_gone && hosts(&member.record)).take(limit);
        let mut found = with_guests(found.map(|(peer, member)| (peer, &member.record, false)));
        found.retain(|host| {
            let is_member_too = host.state == State::Guest && directory.get(&host.peer).is_some();
            host.actor(name).is_some() && !is_member_too
        });
        found
    }

    /// The member, or guest, with this identity.
    pub fn get(&self, peer: &PeerId) -> Option<MemberInfo> {
        self.shared.info(peer)
    }

    /// Whether the peer was ever heard of as a member.
    pub fn knows(&self, peer: &PeerId) -> bool {
        self.shared.directory().get(peer).is_some()
    }

    /// Whether the peer is a member that is there.
    pub fn has(&self, peer: &PeerId) -> bool {
        self.shared.directory().get(peer).is_some_and(|member| !member.is_gone)
    }

    /// The digest of the directory, which changes with it.
    pub fn digest(&self) -> watch::Receiver<u64> {
        self.shared.digest.subscribe()
    }

    /// Tells all members which actors this one hosts.
    pub fn host(&self, actors: Vec<HostedActor>) {
        let _ = self.commands.send(Command::Host(actors));
    }

    /// Tells all members of nodes that speak only Kameo's own protocols, and are connected to this one: those that were
    /// named before, and are not named now, are gone.
    pub(crate) fn speak_for(&self, guests: Vec<Guest>) {
        let _ = self.commands.send(Command::SpeakFor(guests));
    }

    /// Links this node to the member at this address, to `expected` or any.
    ///
    /// # Errors
    ///
    /// Says why the one attempt failed; [`join`](join::join) repeats it.
    pub async fn dial(&self, address: Multiaddr, expected: Option<PeerId>) -> Result<PeerId, JoinError> {
        let (reply, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Join { address, expected, reply });
        answer.await.unwrap_or(Err(JoinError::Stopped))
    }

    /// Tells all members that this one leaves, and waits until its links know.
    pub async fn leave(&self) {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Leave(reply)).is_ok() {
            let _ = answer.await;
        }
    }
}

fn info((peer, member): (&PeerId, &Member)) -> MemberInfo {
    MemberInfo::new(*peer, &member.record, member.is_gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_member_makes_another_dial_into_its_private_networks() {
        let address = |text: &str| -> Multiaddr { text.parse().unwrap() };
        let home = [address("/ip4/192.168.1.5/tcp/1"), address("/ip4/203.0.113.5/tcp/1")];
        for (text, at_home, alone) in [
            ("/ip4/198.51.100.1/tcp/1", true, true),
            ("/ip6/2001:db8::1/udp/1/quic-v1", true, true),
            ("/ip4/192.168.7.7/tcp/1", true, false),
            ("/ip4/10.1.2.3/tcp/1", false, false),
            ("/ip4/172.16.0.1/tcp/1", false, false),
            ("/ip4/100.64.0.1/tcp/1", false, false),
            ("/ip4/169.254.169.254/tcp/80", false, false),
            ("/ip6/fd00::1/tcp/1", false, false),
            ("/ip6/::ffff:127.0.0.1/tcp/1", false, true),
            ("/ip4/127.0.0.1/tcp/1", false, true),
            ("/ip4/224.0.0.1/tcp/1", false, false),
            ("/ip4/0.0.0.0/tcp/1", false, false),
            ("/dns/localhost/tcp/1", false, false),
        ] {
            assert_eq!(may_dial(&address(text), &home), at_home, "{text}");
            assert_eq!(may_dial(&address(text), &[address("/ip4/127.0.0.1/tcp/1")]), alone, "{text}");
        }
    }
}
