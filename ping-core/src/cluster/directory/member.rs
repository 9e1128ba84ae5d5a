//! One member, as a directory knows it.

use std::{collections::HashMap, time::Instant};

use libp2p::PeerId;

use super::Signed;
use crate::cluster::record::Record;

/// What is known of one member.
#[derive(Debug)]
pub struct Member {
    /// Its last record.
    pub record: Record,
    /// Whether it left or died.
    pub is_gone: bool,
    pub(super) signed: Signed,
    /// When that came.
    pub(super) heard: Instant,
    /// Who says that it died, with the signed words.
    pub(super) accusers: HashMap<PeerId, Signed>,
    /// Since when it is suspected to be gone, or known to be.
    pub(super) suspected: Option<Instant>,
    /// How many more records of it are taken now, and since when that is counted.
    pub(super) burst: u32,
    pub(super) counted: Instant,
}

impl Member {
    /// Whether it died, and may come back.
    pub fn is_lost(&self) -> bool {
        self.is_gone && !self.record.is_leaving
    }

    /// Whether somebody says that it is gone, and it has not refuted that.
    pub fn is_suspected(&self) -> bool {
        !self.is_gone && self.suspected.is_some()
    }

    /// Its last record, as it is passed on.
    pub fn signed(&self) -> &Signed {
        &self.signed
    }

    /// How many bytes of statements are kept of it.
    pub(super) fn bytes(&self) -> usize {
        self.signed.len() + self.accusers.values().map(|obituary| obituary.len()).sum::<usize>()
    }

    /// The actors that can be reached there, or on a guest, each by its node and its name.
    pub(super) fn actors(&self, peer: PeerId) -> Vec<(PeerId, String)> {
        let nodes = self.record.guests.iter().map(|guest| (guest.peer, &guest.actors));
        let nodes = nodes.chain([(peer, &self.record.actors)]).filter(|_| !self.is_gone);
        nodes.flat_map(|(node, actors)| actors.iter().map(move |actor| (node, actor.name.clone()))).collect()
    }
}
