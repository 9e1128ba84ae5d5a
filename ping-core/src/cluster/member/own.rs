//! The record that a member writes of itself.

use std::time::{Duration, Instant, SystemTime};

use libp2p::{Multiaddr, PeerId, identity::Keypair};
use tokio::sync::oneshot;
use tracing::error;

use super::{Behaviour, Task};
use crate::{
    cluster::{
        Scope,
        messages::{Request, batch},
        record::{Guest, MAX_ADDRESSES, MAX_STATEMENT, MAX_WITNESSES, Record, Stamp, Statement, Witness},
    },
    transport::{Transport, endpoint},
};

/// How long changes are gathered that nobody waits for: addresses and witnesses. A record a second is what others take.
const GATHER: Duration = Duration::from_secs(1);

/// What a member says of itself.
pub(super) struct Own {
    key: Keypair,
    pub(super) record: Record,
    /// Every address that it listens on.
    addresses: Vec<Multiaddr>,
    /// Those that the user says others reach it at.
    external: Vec<Multiaddr>,
    /// When guests were last named.
    spoke: Option<Instant>,
    /// Gets a word when the links know that it leaves, and how many of them are still to be told.
    leaving: Option<(usize, oneshot::Sender<()>)>,
}

impl Own {
    pub(super) fn new(key: Keypair, node: String) -> Self {
        let started = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let epoch = u64::try_from(started.as_millis()).unwrap_or(u64::MAX);
        let record =
            Record { stamp: Stamp { epoch, version: 0 }, instance: fastrand::u64(..), node, ..Record::default() };
        Self { key, record, addresses: Vec::new(), external: Vec::new(), spoke: None, leaving: None }
    }

    /// Adds an address that the node listens on. Returns whether that changes the record.
    pub(super) fn add_address(&mut self, address: &Multiaddr) -> bool {
        if !self.addresses.contains(address) {
            self.addresses.push(address.clone());
        }
        self.update_addresses()
    }

    /// Adds an address that others reach the node at. Returns whether that changes the record.
    pub(super) fn add_external(&mut self, address: &Multiaddr) -> bool {
        if !self.external.contains(address) {
            self.external.push(address.clone());
        }
        self.update_addresses()
    }

    /// Removes one. Returns whether that changes the record.
    pub(super) fn remove_address(&mut self, address: &Multiaddr) -> bool {
        self.addresses.retain(|known| known != address);
        self.update_addresses()
    }

    /// The addresses that others can use, best first: TCP, whose end is noticed at once, before QUIC. Loopback
    /// addresses are named only where there are no others.
    fn update_addresses(&mut self) -> bool {
        let scope = |address: &Multiaddr| endpoint(address).map(|(ip, ..)| Scope::of(ip));
        let usable = |address: &&Multiaddr| {
            scope(address).is_some_and(|scope| !matches!(scope, Scope::LinkLocal | Scope::Nobody))
        };
        let mut addresses: Vec<Multiaddr> = self.addresses.iter().filter(usable).cloned().collect();
        if addresses.iter().any(|address| scope(address) != Some(Scope::Loopback)) {
            addresses.retain(|address| scope(address) != Some(Scope::Loopback));
        }
        addresses.sort_by_key(|address| endpoint(address).map(|(_, _, transport)| transport != Transport::Tcp));
        // Those that the user names come first.
        addresses.splice(0..0, self.external.iter().filter(usable).cloned());
        addresses.truncate(MAX_ADDRESSES);
        let is_changed = addresses != self.record.addresses;
        self.record.addresses = addresses;
        is_changed
    }

    fn sign(&self, statement: &Statement) -> Option<Vec<u8>> {
        statement.sign(&self.key).inspect_err(|reason| error!(%reason, "cannot sign")).ok()
    }
}

impl Behaviour {
    /// Writes a later record of this member, and spreads it.
    pub(super) fn write(&mut self) {
        let witnesses = self.links.witnesses().take(MAX_WITNESSES);
        self.own.record.witnesses = witnesses.map(|peer| Witness::from(&peer)).collect();
        self.write_next();
    }

    /// Writes the record as it is, with the next version. Returns it.
    fn write_next(&mut self) -> Option<Vec<u8>> {
        self.own.record.stamp = self.own.record.stamp.next();
        let mut record = self.own.record.clone();
        let record = loop {
            let signed = self.sign(&Statement::Record(record.clone()))?;
            // Long names leave less room for guests.
            if signed.len() <= MAX_STATEMENT || record.guests.pop().is_none() {
                break signed;
            }
        };
        self.say(&record);
        Some(record)
    }

    /// Writes one soon, with all that changes until then.
    pub(super) fn write_soon(&mut self) {
        let is_planned = self.tasks.iter().any(|(_, task)| matches!(task, Task::Write));
        if !is_planned && !self.own.record.is_leaving {
            self.plan(Instant::now() + GATHER, Task::Write);
        }
    }

    /// Names these guests: at once, but not more often than others take records, whatever guests do.
    pub(super) fn speak_for(&mut self, guests: Vec<Guest>) {
        self.own.record.guests = guests;
        let now = Instant::now();
        if self.own.spoke.is_some_and(|spoke| now.saturating_duration_since(spoke) < GATHER) {
            self.write_soon();
        } else if !self.own.record.is_leaving {
            self.own.spoke = Some(now);
            self.write();
        }
    }

    /// Writes one that is later than this.
    pub(super) fn refute(&mut self, stamp: Stamp) {
        let own = &mut self.own.record.stamp;
        if stamp >= *own {
            *own = stamp;
        }
        self.write();
    }

    pub(super) fn sign(&self, statement: &Statement) -> Option<Vec<u8>> {
        self.own.sign(statement)
    }

    /// Says something that this member has signed.
    pub(super) fn say(&mut self, statement: &[u8]) {
        let heard = self.shared.directory().hear(statement, Instant::now());
        if let Err(reason) = heard {
            error!(%reason, "this node's own statement is unsound");
        }
        self.protocols.gossip.publish(statement);
        self.react();
    }

    /// Tells everyone that this member leaves. `reply` gets a word when all its links know.
    pub(super) fn leave(&mut self, reply: oneshot::Sender<()>) {
        self.own.record.is_leaving = true;
        let Some(record) = self.write_next() else { return };
        let links: Vec<PeerId> = self.links.peers().collect();
        for peer in &links {
            self.request(peer, Request::Push { statements: batch([&record].into_iter()) });
        }
        if !links.is_empty() {
            self.own.leaving = Some((links.len(), reply));
        }
    }

    /// A link knows that this member leaves, or never will.
    pub(super) fn on_told(&mut self) {
        if let Some((left, reply)) = self.own.leaving.take() {
            match left {
                0 | 1 => drop(reply.send(())),
                _ => self.own.leaving = Some((left - 1, reply)),
            }
        }
    }
}
