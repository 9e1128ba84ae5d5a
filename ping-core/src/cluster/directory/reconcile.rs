//! How two directories find out what they differ in, without sending all of it.

use std::{collections::HashMap, time::Instant};

use libp2p::PeerId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{BUCKETS, Change, Directory, Member, Signed, Stamp};

/// A member in a summary: enough to see who knows more of it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Line {
    /// The member.
    pub peer: PeerId,
    /// When its last record was written.
    pub stamp: Stamp,
    /// Whether it is gone.
    pub is_gone: bool,
}

/// How one directory differs from another one.
#[derive(Debug, Default)]
pub struct Difference {
    /// Statements that the other does not have.
    pub news: Vec<Signed>,
    /// The members of which the other knows more.
    pub wanted: Vec<PeerId>,
    /// The members that are gone here, as of these records, and not there.
    pub gone: Vec<(PeerId, Stamp)>,
}

impl Directory {
    /// What the digests add up to.
    pub fn digest(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, digest| sum.wrapping_add(*digest))
    }

    /// The digests of all buckets. Directories with equal ones have the same live members.
    pub fn digests(&self) -> &[u64; BUCKETS] {
        &self.buckets
    }

    /// The members in these buckets.
    pub fn summary(&self, buckets: &[u8]) -> Vec<Line> {
        let listed = self.members.iter().filter(|(peer, _)| buckets.contains(&bucket(peer)));
        listed.map(|(peer, member)| Line { peer: *peer, stamp: member.record.stamp, is_gone: member.is_gone }).collect()
    }

    /// How this directory differs from one that has these members in these buckets.
    pub fn compare(&self, buckets: &[u8], theirs: &[Line]) -> Difference {
        let lines: HashMap<PeerId, &Line> = theirs.iter().map(|line| (line.peer, line)).collect();
        let mut difference = Difference::default();
        for (peer, member) in self.members.iter().filter(|(peer, _)| buckets.contains(&bucket(peer))) {
            let (stamp, line) = (member.record.stamp, lines.get(peer));
            if line.map_or(!member.is_gone, |line| line.stamp < stamp) {
                difference.news.push(member.signed.clone());
            }
            if member.is_gone && line.is_some_and(|line| line.stamp <= stamp && !line.is_gone) {
                difference.news.extend(member.accusers.values().cloned());
                difference.gone.push((*peer, stamp));
            }
        }
        let knows_more = |line: &&Line| match self.members.get(&line.peer) {
            Some(member) => {
                let stamp = member.record.stamp;
                stamp < line.stamp || (stamp == line.stamp && line.is_gone && !member.is_gone)
            }
            None => !line.is_gone,
        };
        difference.wanted = theirs.iter().filter(knows_more).map(|line| line.peer).collect();
        difference
    }

    /// Takes note that another directory holds a member for gone whose last record has this stamp. That proves nothing,
    /// so this node refutes it if it is the member, and otherwise is to try for itself.
    pub fn doubt(&mut self, peer: PeerId, stamp: Stamp, now: Instant) {
        let Some(member) = self.members.get_mut(&peer) else { return };
        if member.is_gone || member.record.stamp != stamp {
            return;
        }
        if peer == self.me {
            self.changes.push(Change::Refute(stamp));
        } else {
            member.suspected.get_or_insert(now);
        }
    }

    /// Everything that is known of these members.
    pub fn statements<'a>(&'a self, of: &'a [PeerId]) -> impl Iterator<Item = Signed> + 'a {
        let known = of.iter().filter_map(|peer| self.members.get(peer));
        known.flat_map(|member| [&member.signed].into_iter().chain(member.accusers.values()).cloned())
    }
}

/// The bucket that a member belongs to: the last byte of its key, which is as good as random.
pub(super) fn bucket(peer: &PeerId) -> u8 {
    peer.to_bytes().last().copied().unwrap_or(0)
}

/// What a member adds to the digest of its bucket: nothing, if it is gone. SHA-256, because members could choose their
/// records such that those of a weak hash cancel each other out.
pub(super) fn mark(peer: &PeerId, member: &Member) -> u64 {
    if member.is_gone {
        return 0;
    }
    let Stamp { epoch, version } = member.record.stamp;
    let hash = Sha256::new()
        .chain_update(peer.to_bytes())
        .chain_update(epoch.to_be_bytes())
        .chain_update(version.to_be_bytes())
        .finalize();
    hash.iter().take(size_of::<u64>()).fold(0, |mark, &byte| mark << 8 | u64::from(byte))
}
