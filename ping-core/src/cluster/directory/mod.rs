//! Who is there, and which actors they host, as one member knows it. It does no I/O, and time comes in from outside.
//!
//! - **Records.** The later one of a member replaces the earlier. Only the member itself can write one.
//! - **Deaths.** A member that lost its connection to another signs an obituary of that one's last record. Two of the
//!   witnesses that the record names are believed. Fewer, or others, only raise a suspicion: unless the accused writes
//!   a later record, this node must try for itself ([`Change::Check`]), and bury only whom it cannot reach.
//! - **Wrong accusers.** One that was refuted three times is not heard for ten minutes, so that no liar can keep the
//!   others busy.
//! - **Reconciliation.** What two directories differ in is found by comparing digests of the live members in 256
//!   buckets, and then the members of those buckets that differ. One that is gone is forgotten after a day.
//!
//! Equal statements make equal directories, in whatever order they are heard, once the suspicions are settled.

mod member;
mod reconcile;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use libp2p::PeerId;

use super::record::{Guest, Obituary, Record, Stamp, Statement, Unsound, Witness};
use reconcile::{bucket, mark};

pub use member::Member;
pub use reconcile::{Difference, Line};

/// How many members a directory keeps, those that are gone included.
pub const MAX_MEMBERS: usize = 20_000;

/// How many bytes of statements it keeps.
pub const MAX_BYTES: usize = 16 * 1024 * 1024;

/// How many buckets the members are compared in.
pub const BUCKETS: usize = 256;

/// How long an accused member has time to write a later record before others try whether it is there.
const SUSPICION: Duration = Duration::from_millis(1500);

/// Within this time after it has joined, a member is linked to others and says so; and after it has lost a link.
const LINKING_TIME: Duration = Duration::from_secs(10);

/// How many named witnesses are believed.
const QUORUM: usize = 2;

/// How many obituaries of one member are kept.
const MAX_OBITUARIES: usize = 16;

/// How often a member may accuse wrongly before it is not heard, and for how long it is not.
const MAX_STRIKES: u32 = 3;
const STRIKES_LAST: Duration = Duration::from_secs(10 * 60);

/// How long a member that is gone is remembered, so that nobody who missed its death brings it back.
const GONE_LASTS: Duration = Duration::from_secs(24 * 60 * 60);

/// How many records of one member are taken at once, and after how long another one is.
const MAX_BURST: u32 = 20;
const RECORD_INTERVAL: Duration = Duration::from_secs(1);

/// A signed statement as it is passed on.
pub type Signed = Arc<[u8]>;

/// What has changed, in the order in which it did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// A member is there that was not known.
    Joined(PeerId),
    /// A member wrote a later record.
    Updated(PeerId),
    /// A member said that it leaves.
    Left(PeerId),
    /// A member is agreed to be gone.
    Died(PeerId),
    /// A member that was agreed to be gone is there.
    Revived(PeerId),
    /// A live member hosts an actor under this name that it did not host before.
    ActorCame(PeerId, String),
    /// A member no longer hosts an actor under this name, or is gone.
    ActorGone(PeerId, String),
    /// This node must try whether this member is there, and then call [`Directory::found`] or [`Directory::missed`].
    Check(PeerId),
    /// This node must write a record that is later than this: a member takes it for gone, or has a later one of it.
    Refute(Stamp),
}

/// What a statement is to a directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It says something new, and should be passed on.
    News,
    /// It says nothing new, or nothing that is believed.
    Ignored,
}

/// What one member knows of all.
#[derive(Debug)]
pub struct Directory {
    me: PeerId,
    members: HashMap<PeerId, Member>,
    /// How many bytes of statements they take.
    bytes: usize,
    /// What the digests of the members in each bucket add up to.
    buckets: Box<[u64; BUCKETS]>,
    /// How often each member was refuted, and when last.
    strikes: HashMap<PeerId, (u32, Instant)>,
    /// Whom this node is connected to: it believes nobody who says that they are gone.
    connected: HashSet<PeerId>,
    changes: Vec<Change>,
}

impl Directory {
    /// The directory of a member that knows nobody.
    pub fn new(me: PeerId) -> Self {
        Self {
            me,
            members: HashMap::new(),
            bytes: 0,
            buckets: Box::new([0; BUCKETS]),
            strikes: HashMap::new(),
            connected: HashSet::new(),
            changes: Vec::new(),
        }
    }

    /// Takes a statement.
    ///
    /// # Errors
    ///
    /// When it is not one. A member that passes it on has not checked it, or is hostile.
    pub fn hear(&mut self, bytes: &[u8], now: Instant) -> Result<Verdict, Unsound> {
        let (signer, statement) = Statement::read(bytes)?;
        Ok(match statement {
            Statement::Record(record) => self.on_record(signer, record, bytes, now),
            Statement::Obituary(obituary) => self.on_obituary(signer, &obituary, bytes, now),
        })
    }

    /// What has changed since the last call.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// Everyone that was ever heard of.
    pub fn members(&self) -> impl Iterator<Item = (&PeerId, &Member)> {
        self.members.iter()
    }

    /// A member that was heard of.
    pub fn get(&self, peer: &PeerId) -> Option<&Member> {
        self.members.get(peer)
    }

    /// Who hosts an actor under this name.
    pub fn hosts<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a PeerId, &'a Member)> {
        let hosts = move |member: &Member| member.record.actors.iter().any(|actor| actor.name == name);
        self.members().filter(move |(_, member)| !member.is_gone && hosts(member))
    }

    /// A node that is no member, and that a live member speaks for.
    pub fn guest(&self, peer: &PeerId) -> Option<&Guest> {
        let live = self.members.values().filter(|member| !member.is_gone);
        let mut guests = live.flat_map(|member| &member.record.guests);
        guests.find(|guest| guest.peer == *peer).filter(|_| !self.members.contains_key(peer))
    }

    /// The live members that have had time to be linked to others, and whose records do not show it: they name nobody
    /// as a witness, or this node, which is not linked to them. Each with whether it names this node. Anyone can make
    /// up members; such a one is gone, or was never there.
    pub fn unwitnessed(&self, now: Instant) -> Vec<(PeerId, bool)> {
        let me = Witness::from(&self.me);
        let live = self.members.iter().filter(|(peer, member)| {
            !member.is_gone
                && **peer != self.me
                && !self.connected.contains(*peer)
                && now.saturating_duration_since(member.heard) >= LINKING_TIME
        });
        let named = live.filter_map(|(peer, member)| {
            let witnesses = &member.record.witnesses;
            (witnesses.is_empty() || witnesses.contains(&me)).then(|| (*peer, witnesses.contains(&me)))
        });
        named.collect()
    }

    /// This node is connected to a peer.
    pub fn connected(&mut self, peer: PeerId) {
        self.connected.insert(peer);
    }

    /// This node is no longer connected to a peer.
    pub fn disconnected(&mut self, peer: &PeerId) {
        self.connected.remove(peer);
    }

    /// This node has reached a member, so those who say that it is gone are wrong.
    pub fn found(&mut self, peer: &PeerId, now: Instant) {
        let Some(member) = self.members.get_mut(peer).filter(|member| !member.is_gone) else { return };
        member.suspected = None;
        let accusers = std::mem::take(&mut member.accusers);
        self.bytes -= accusers.values().map(|obituary| obituary.len()).sum::<usize>();
        accusers.into_keys().for_each(|accuser| self.strike(accuser, now));
    }

    /// This node could not reach a member.
    pub fn missed(&mut self, peer: &PeerId, now: Instant) {
        if self.members.get(peer).is_some_and(|member| !member.is_gone) {
            self.bury(*peer, now);
        }
    }

    /// Looks for members whose time to refute has passed. To be called some times a second.
    pub fn tick(&mut self, now: Instant) {
        for (peer, member) in &mut self.members {
            let is_due = |since: Instant| now.saturating_duration_since(since) >= SUSPICION;
            if !member.is_gone && member.suspected.is_some_and(is_due) {
                // Again after as long, unless the node hears or finds out more.
                member.suspected = Some(now);
                self.changes.push(Change::Check(*peer));
            }
        }
        let is_old = |since: Instant| now.saturating_duration_since(since) >= GONE_LASTS;
        let gone = self.members.iter().filter(|(peer, member)| **peer != self.me && member.is_gone);
        let old = gone.filter(|(_, member)| member.suspected.is_some_and(is_old)).map(|(peer, _)| *peer);
        old.collect::<Vec<_>>().iter().for_each(|peer| self.forget(peer));
        self.strikes.retain(|_, (_, last)| now.saturating_duration_since(*last) < STRIKES_LAST);
    }

    fn on_record(&mut self, peer: PeerId, record: Record, bytes: &[u8], now: Instant) -> Verdict {
        let kept = self.members.get(&peer).map(|known| known.signed.len());
        let more = bytes.len().saturating_sub(kept.unwrap_or(0));
        if peer != self.me && !self.has_room(kept.is_none().into(), more) {
            return Verdict::Ignored;
        }
        let known = self.members.get(&peer);
        let (burst, counted) = match known {
            Some(known) if record.stamp <= known.record.stamp => {
                // Two processes with one identity write different records at one time.
                if peer == self.me && *known.signed != *bytes && record.stamp == known.record.stamp {
                    self.changes.push(Change::Refute(record.stamp));
                }
                return Verdict::Ignored;
            }
            // Only this node writes its own record, so this one was written before it started.
            Some(known) if peer == self.me && record.instance != known.record.instance => {
                self.changes.push(Change::Refute(record.stamp));
                return Verdict::Ignored;
            }
            Some(known) => match known.allowance(now) {
                (0, _) if peer != self.me => return Verdict::Ignored,
                (burst, counted) => (burst.saturating_sub(1), counted),
            },
            None => (MAX_BURST, now),
        };
        let change = match known.map(|known| known.is_gone) {
            None if record.is_leaving => None,
            None => Some(Change::Joined(peer)),
            Some(false) if record.is_leaving => Some(Change::Left(peer)),
            Some(false) => Some(Change::Updated(peer)),
            Some(true) if record.is_leaving => None,
            Some(true) => Some(Change::Revived(peer)),
        };
        self.changes.extend(change);
        let (is_gone, accusers) = (record.is_leaving, HashMap::new());
        let (signed, suspected) = (bytes.into(), is_gone.then_some(now));
        let member = Member { record, is_gone, signed, heard: now, accusers, suspected, burst, counted };
        let instance = member.record.instance;
        let (now_here, mark) = (member.actors(peer), mark(&peer, &member));
        self.bytes += member.bytes();
        let before = self.members.insert(peer, member);
        self.bytes -= before.as_ref().map_or(0, Member::bytes);
        self.replace(&peer, before.as_ref().map_or(0, |before| self::mark(&peer, before)), mark);
        let were_here = before.as_ref().map(|before| before.actors(peer)).unwrap_or_default();
        self.report_actors(peer, &were_here, &now_here);
        // A later record of the same process refutes those who accused the earlier one. Enough of them to be believed
        // were not lying: they could not reach it for a while.
        if let Some(before) = before
            && !is_gone
            && !before.is_gone
            && instance == before.record.instance
        {
            before.accusers.into_keys().for_each(|accuser| self.strike(accuser, now));
        }
        Verdict::News
    }

    fn on_obituary(&mut self, accuser: PeerId, obituary: &Obituary, bytes: &[u8], now: Instant) -> Verdict {
        let subject = obituary.subject;
        let has_struck_out = self.strikes.get(&accuser).is_some_and(|(strikes, _)| *strikes >= MAX_STRIKES);
        let (is_member, is_connected) = (self.members.contains_key(&accuser), self.connected.contains(&subject));
        let Some(member) = self.members.get_mut(&subject) else { return Verdict::Ignored };
        // One of a record that has not come yet comes again with it, when the directories are compared.
        if has_struck_out || !is_member || member.is_gone || obituary.stamp != member.record.stamp {
            return Verdict::Ignored;
        }
        if subject == self.me {
            self.changes.push(Change::Refute(obituary.stamp));
            return Verdict::News;
        }
        if member.accusers.len() >= MAX_OBITUARIES || member.accusers.contains_key(&accuser) {
            return Verdict::Ignored;
        }
        member.accusers.insert(accuser, bytes.into());
        self.bytes += bytes.len();
        member.suspected.get_or_insert(now);
        let witnesses = &member.record.witnesses;
        let named = member.accusers.keys().filter(|accuser| witnesses.contains(&Witness::from(*accuser))).count();
        if named >= witnesses.len().clamp(1, QUORUM) && !is_connected {
            self.bury(subject, now);
        }
        Verdict::News
    }

    /// Makes room for more members and more bytes by forgetting those that have been gone for longest. Returns whether
    /// there is.
    fn has_room(&mut self, members: usize, bytes: usize) -> bool {
        while self.members.len() + members > MAX_MEMBERS || (bytes > 0 && self.bytes + bytes > MAX_BYTES) {
            let gone = self.members.iter().filter(|(peer, member)| **peer != self.me && member.is_gone);
            let Some(oldest) = gone.min_by_key(|(_, member)| member.suspected).map(|(peer, _)| *peer) else {
                return false;
            };
            self.forget(&oldest);
        }
        true
    }

    fn forget(&mut self, peer: &PeerId) {
        if let Some(member) = self.members.remove(peer) {
            self.bytes -= member.bytes();
        }
    }

    fn bury(&mut self, peer: PeerId, now: Instant) {
        let Some(member) = self.members.get_mut(&peer) else { return };
        let (before, actors) = (mark(&peer, member), member.actors(peer));
        member.is_gone = true;
        member.suspected = Some(now);
        self.replace(&peer, before, 0);
        self.changes.push(Change::Died(peer));
        self.report_actors(peer, &actors, &[]);
    }

    /// Replaces what a member adds to the digest of its bucket.
    fn replace(&mut self, peer: &PeerId, before: u64, after: u64) {
        let digest = &mut self.buckets[usize::from(bucket(peer))];
        *digest = digest.wrapping_sub(before).wrapping_add(after);
    }

    /// Reports the actors that came and went with what a member says. A guest's may be known by another member, too.
    fn report_actors(&mut self, speaker: PeerId, before: &[(PeerId, String)], after: &[(PeerId, String)]) {
        let is_known = |node: &PeerId, name: &str| {
            let others = self.members.iter().filter(|(peer, member)| **peer != speaker && !member.is_gone);
            let mut guests = others.flat_map(|(_, member)| &member.record.guests).filter(|guest| guest.peer == *node);
            guests.any(|guest| guest.actors.iter().any(|actor| actor.name == name))
        };
        let only_in = |these: &[(PeerId, String)], others: &[(PeerId, String)]| -> Vec<(PeerId, String)> {
            let these = these.iter().filter(|actor| !others.contains(actor));
            let is_own = |node: &PeerId, name: &str| {
                *node == speaker || (!self.members.contains_key(node) && !is_known(node, name))
            };
            these.filter(|(node, name)| is_own(node, name)).cloned().collect()
        };
        let (gone, came) = (only_in(before, after), only_in(after, before));
        self.changes.extend(gone.into_iter().map(|(node, name)| Change::ActorGone(node, name)));
        self.changes.extend(came.into_iter().map(|(node, name)| Change::ActorCame(node, name)));
    }

    fn strike(&mut self, accuser: PeerId, now: Instant) {
        let (strikes, last) = self.strikes.entry(accuser).or_insert((0, now));
        (*strikes, *last) = (*strikes + 1, now);
    }
}

impl Member {
    /// How many more records of it are taken at this time, and since when that is counted.
    fn allowance(&self, now: Instant) -> (u32, Instant) {
        let more = now.saturating_duration_since(self.counted).as_secs() / RECORD_INTERVAL.as_secs();
        let more = u32::try_from(more).unwrap_or(MAX_BURST).min(MAX_BURST);
        let burst = (self.burst + more).min(MAX_BURST);
        (burst, if more > 0 { now } else { self.counted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::record::HostedActor;
    use libp2p::identity::Keypair;

    /// A member that writes records.
    struct Writer {
        key: Keypair,
        record: Record,
    }

    impl Writer {
        fn new() -> Self {
            let record = Record { stamp: Stamp { epoch: 1000, version: 0 }, ..Record::default() };
            Self { key: Keypair::generate_ed25519(), record }
        }

        fn peer(&self) -> PeerId {
            self.key.public().to_peer_id()
        }

        /// Its next record.
        fn write(&mut self) -> Vec<u8> {
            self.record.stamp.version += 1;
            Statement::Record(self.record.clone()).sign(&self.key).unwrap()
        }

        fn accuse(&self, other: &Writer) -> Vec<u8> {
            let obituary = Obituary { subject: other.peer(), stamp: other.record.stamp };
            Statement::Obituary(obituary).sign(&self.key).unwrap()
        }
    }

    /// A directory that knows these members, and when it was made.
    fn directory(writers: &mut [Writer]) -> (Directory, Instant) {
        let (mut directory, now) = (Directory::new(PeerId::random()), Instant::now());
        for writer in writers {
            assert_eq!(directory.hear(&writer.write(), now).unwrap(), Verdict::News);
        }
        directory.take_changes();
        (directory, now)
    }

    fn writers<const N: usize>() -> [Writer; N] {
        std::array::from_fn(|_| Writer::new())
    }

    #[test]
    fn the_latest_record_of_a_member_counts() {
        let mut writer = Writer::new();
        let (mut directory, now) = (Directory::new(PeerId::random()), Instant::now());
        let (first, second) = (writer.write(), writer.write());
        for (bytes, verdict) in [(&second, Verdict::News), (&first, Verdict::Ignored), (&second, Verdict::Ignored)] {
            assert_eq!(directory.hear(bytes, now).unwrap(), verdict);
        }
        writer.record.actors = vec![HostedActor { name: "ping_actor".into(), sequence: 1, remote_id: "ping".into() }];
        directory.hear(&writer.write(), now).unwrap();
        assert!(directory.hosts("ping_actor").map(|(peer, _)| *peer).eq([writer.peer()]));
        writer.record.is_leaving = true;
        directory.hear(&writer.write(), now).unwrap();
        assert_eq!(directory.hosts("ping_actor").count(), 0);
        // It is started again, with a later epoch.
        writer.record = Record { stamp: Stamp { epoch: 2000, version: 0 }, instance: 2, ..Record::default() };
        directory.hear(&writer.write(), now).unwrap();
        let peer = writer.peer();
        let actor = || "ping_actor".to_owned();
        let changes = [
            Change::Joined(peer),
            Change::Updated(peer),
            Change::ActorCame(peer, actor()),
            Change::Left(peer),
            Change::ActorGone(peer, actor()),
            Change::Revived(peer),
        ];
        assert_eq!(directory.take_changes(), changes);
        assert_eq!(directory.hear(&first, now).unwrap(), Verdict::Ignored, "an earlier epoch is replayed");
    }

    #[test]
    fn two_named_witnesses_bury_a_member_and_others_only_raise_a_suspicion() {
        let mut writers = writers::<5>();
        let named: Vec<_> = writers[1..3].iter().map(|writer| Witness::from(&writer.peer())).collect();
        writers[0].record.witnesses = named;
        let (mut directory, now) = directory(&mut writers);
        let [subject, one, two, three, four] = &writers;
        for stranger in [three, four] {
            directory.hear(&stranger.accuse(subject), now).unwrap();
        }
        assert_eq!(directory.hear(&Writer::new().accuse(subject), now).unwrap(), Verdict::Ignored, "no member");
        directory.hear(&one.accuse(subject), now).unwrap();
        assert_eq!(directory.take_changes(), []);
        directory.tick(now + SUSPICION);
        assert_eq!(directory.take_changes(), [Change::Check(subject.peer())]);
        directory.hear(&two.accuse(subject), now).unwrap();
        assert_eq!(directory.take_changes(), [Change::Died(subject.peer())]);
        assert!(directory.get(&subject.peer()).unwrap().is_lost());
    }

    #[test]
    fn whom_this_node_is_connected_to_nobody_else_buries() {
        let mut writers = writers::<3>();
        writers[0].record.witnesses = writers[1..].iter().map(|writer| Witness::from(&writer.peer())).collect();
        let (mut directory, now) = directory(&mut writers);
        let [subject, one, two] = &writers;
        directory.connected(subject.peer());
        for witness in [one, two] {
            directory.hear(&witness.accuse(subject), now).unwrap();
        }
        directory.found(&subject.peer(), now);
        directory.tick(now + SUSPICION);
        assert_eq!(directory.take_changes(), []);
    }

    #[test]
    fn the_accused_refutes_and_wrong_accusers_are_not_heard() {
        let mut writers = writers::<2>();
        let (mut directory, now) = directory(&mut writers);
        for _ in 0..MAX_STRIKES {
            let [subject, liar] = &mut writers;
            assert_eq!(directory.hear(&liar.accuse(subject), now).unwrap(), Verdict::News);
            directory.hear(&subject.write(), now).unwrap();
            directory.tick(now + SUSPICION);
            assert_eq!(directory.take_changes(), [Change::Updated(subject.peer())], "no check");
        }
        let [subject, liar] = &mut writers;
        assert_eq!(directory.hear(&liar.accuse(subject), now).unwrap(), Verdict::Ignored);
        directory.tick(now + STRIKES_LAST);
        assert_eq!(directory.hear(&liar.accuse(subject), now).unwrap(), Verdict::News);
    }

    #[test]
    fn a_node_refutes_what_is_said_of_itself() {
        let mut writers = writers::<2>();
        let (_, now) = directory(&mut writers);
        let [me, other] = &mut writers;
        let mut directory = Directory::new(me.peer());
        directory.hear(&me.write(), now).unwrap();
        directory.hear(&other.write(), now).unwrap();
        directory.take_changes();
        directory.hear(&other.accuse(me), now).unwrap();
        assert_eq!(directory.take_changes(), [Change::Refute(me.record.stamp)]);
        // A record that it wrote before a restart, at a later time.
        let later = Stamp { epoch: 9000, version: 1 };
        let before = Record { stamp: later, instance: 5, ..Record::default() };
        let verdict = directory.hear(&Statement::Record(before).sign(&me.key).unwrap(), now).unwrap();
        assert_eq!((verdict, directory.take_changes()), (Verdict::Ignored, vec![Change::Refute(later)]));
    }

    #[test]
    fn a_flood_of_records_is_cut_to_one_a_second() {
        let mut writer = Writer::new();
        let (mut directory, now) = (Directory::new(PeerId::random()), Instant::now());
        let mut taken = |records: u32, now| {
            (0..records).filter(|_| directory.hear(&writer.write(), now).unwrap() == Verdict::News).count() as u32
        };
        assert_eq!(taken(100, now), MAX_BURST + 1);
        assert_eq!(taken(100, now + 5 * RECORD_INTERVAL), 5);
        assert_eq!(taken(100, now + 1000 * RECORD_INTERVAL), MAX_BURST);
    }

    #[test]
    fn a_member_that_nobody_is_linked_to_stands_out() {
        let mut writers = writers::<4>();
        let mut me = Writer::new();
        let mut directory = Directory::new(me.peer());
        let now = Instant::now();
        directory.hear(&me.write(), now).unwrap();
        writers[1].record.witnesses = vec![Witness::from(&me.peer())];
        writers[2].record.witnesses = vec![Witness::from(&writers[1].peer())];
        for writer in &mut writers {
            directory.hear(&writer.write(), now).unwrap();
        }
        directory.connected(writers[3].peer());
        assert_eq!(directory.unwitnessed(now), []);
        let mut found = directory.unwitnessed(now + LINKING_TIME);
        found.sort_by_key(|(_, names_me)| *names_me);
        assert_eq!(found, [(writers[0].peer(), false), (writers[1].peer(), true)]);
    }

    #[test]
    fn made_up_members_fill_a_directory_only_so_far() {
        let mut writers = writers::<2>();
        let (mut directory, now) = directory(&mut writers);
        let actor = HostedActor { name: "a".repeat(220), sequence: 1, remote_id: "ping".into() };
        writers[0].record.actors = vec![actor; 16];
        directory.hear(&writers[0].write(), now).unwrap();
        let actors = writers[0].record.actors.clone();
        let made_up = || {
            let record = Record { actors: actors.clone(), ..Record::default() };
            Writer { record, ..Writer::new() }.write()
        };
        let size = made_up().len();
        let most = MAX_BYTES / size;
        let known = (0..most + 10).filter(|_| directory.hear(&made_up(), now).unwrap() == Verdict::News).count();
        assert!((most - 2..most).contains(&known), "{known} of {most}");
        assert!(directory.bytes <= MAX_BYTES);
        // The members that were there still write, and one that dies makes room.
        assert_eq!(directory.hear(&writers[0].write(), now).unwrap(), Verdict::News);
        assert_eq!(directory.hear(&made_up(), now).unwrap(), Verdict::Ignored);
        writers[1].record.actors = writers[0].record.actors.clone();
        assert_eq!(directory.hear(&writers[1].write(), now).unwrap(), Verdict::Ignored, "nor does it write more");
        directory.missed(&writers[0].peer(), now);
        assert_eq!(directory.hear(&made_up(), now).unwrap(), Verdict::News);
        assert!(directory.get(&writers[0].peer()).is_none() && directory.get(&writers[1].peer()).is_some());
        assert_eq!(directory.bytes, directory.members.values().map(Member::bytes).sum::<usize>());
    }

    #[test]
    fn what_is_reconciled_is_equal() {
        let mut writers = writers::<40>();
        writers[0].record.witnesses = vec![Witness::from(&writers[1].peer())];
        let (mut left, now) = directory(&mut writers);
        let mut right = Directory::new(PeerId::random());
        // The right one knows some, of which some wrote again; and one died.
        for writer in &mut writers[10..30] {
            right.hear(&writer.write(), now).unwrap();
        }
        right.hear(&Writer::new().write(), now).unwrap();
        left.hear(&writers[1].accuse(&writers[0]), now).unwrap();
        assert!(left.get(&writers[0].peer()).unwrap().is_gone);
        let differing = |left: &Directory, right: &Directory| -> Vec<u8> {
            let pairs = left.digests().iter().zip(right.digests()).enumerate();
            pairs.filter(|(_, (left, right))| left != right).map(|(number, _)| number as u8).collect()
        };
        // Twice, because an obituary is believed only of members, who may come after it.
        for _ in 0..2 {
            let buckets = differing(&left, &right);
            let difference = left.compare(&buckets, &right.summary(&buckets));
            let answers: Vec<_> = right.statements(&difference.wanted).collect();
            difference.news.iter().for_each(|bytes| drop(right.hear(bytes, now)));
            answers.iter().for_each(|bytes| drop(left.hear(bytes, now)));
        }
        // Who is gone need not be known to those who have never heard of it.
        assert_eq!((differing(&left, &right), right.members().count()), (vec![], 40));
    }
}
