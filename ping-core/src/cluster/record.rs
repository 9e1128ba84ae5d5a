//! What members say, signed: of themselves, and of members that they have lost.
//!
//! A statement is one of libp2p's signed envelopes around MessagePack. Nobody can make one in another's name, and one
//! can be passed on by anybody.

use kameo::{
    Actor,
    actor::{ActorId, ActorRef, RemoteActorRef},
    remote::RemoteActor,
};
use libp2p::{
    Multiaddr, PeerId,
    core::{SignedEnvelope, signed_envelope},
    identity::{Keypair, SigningError},
};
use serde::{Deserialize, Serialize};

use crate::protocol::MAX_NAME_LEN;

/// Keeps these signatures apart from all others that a key makes.
const DOMAIN: &str = "kameo-ping/member/1";

/// The types of statements.
const RECORD: &[u8] = b"record";
const OBITUARY: &[u8] = b"obituary";

/// The longest statement, in bytes. A record with one actor takes some 300.
pub const MAX_STATEMENT: usize = 4096;

/// The longest name of a node, in bytes: that of a label in DNS (RFC 1035, section 2.3.4).
pub const MAX_NODE_NAME: usize = 63;

/// How many addresses a record names at most.
pub const MAX_ADDRESSES: usize = 8;

/// How many actors a record names at most.
pub const MAX_ACTORS: usize = 16;

/// How many witnesses a record names at most.
pub const MAX_WITNESSES: usize = 8;

/// How many guests a record names at most.
pub const MAX_GUESTS: usize = 8;

/// The longest id of an actor's type, and the longest address, in bytes.
pub(crate) const MAX_TYPE_LEN: usize = 255;
pub(crate) const MAX_ADDRESS_LEN: usize = 128;

/// When a record was written. The later one replaces the earlier.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Stamp {
    /// When its node started, in milliseconds since 1970; more if others know a later one.
    pub epoch: u64,
    /// Counts the records since then.
    pub version: u64,
}

impl Stamp {
    /// The one after this. A stamp that was heard may have any version.
    pub(crate) fn next(self) -> Self {
        match self.version.checked_add(1) {
            Some(version) => Self { version, ..self },
            None => Self { epoch: self.epoch.saturating_add(1), version: 0 },
        }
    }
}

/// A peer id shortened to what tells the witnesses of one member apart.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Witness([u8; 8]);

impl From<&PeerId> for Witness {
    fn from(peer: &PeerId) -> Self {
        // The last bytes of an Ed25519 peer id are those of its public key.
        let bytes = peer.to_bytes();
        let mut last = [0; 8];
        let length = last.len().min(bytes.len());
        last[..length].copy_from_slice(&bytes[bytes.len() - length..]);
        Self(last)
    }
}

/// An actor that a member hosts.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct HostedActor {
    /// The name that it is registered under.
    pub name: String,
    /// Its number on its node.
    pub sequence: u64,
    /// The id of its type, as Kameo has it.
    pub remote_id: String,
}

impl HostedActor {
    /// The entry of an actor of this process, under this name.
    pub fn new<A: Actor + RemoteActor>(name: &str, actor: &ActorRef<A>) -> Self {
        Self { name: name.into(), sequence: actor.id().sequence_id(), remote_id: A::REMOTE_ID.into() }
    }

    /// Its id, on this node.
    pub fn id(&self, node: PeerId) -> ActorId {
        ActorId::new_with_peer_id(self.sequence, node)
    }

    /// A reference to it, on this node; `None` if it is an actor of another type.
    pub fn remote_ref<A: Actor + RemoteActor>(&self, node: PeerId) -> Option<RemoteActorRef<A>> {
        /// What Kameo reads a reference from.
        #[derive(Serialize)]
        struct Reference {
            id: ActorId,
        }
        let reference = rmp_serde::to_vec_named(&Reference { id: self.id(node) }).ok()?;
        rmp_serde::from_slice(&reference).ok().filter(|_| self.remote_id == A::REMOTE_ID)
    }
}

/// A node that speaks only Kameo's own protocols, and has registered its actors with the member that speaks for it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Guest {
    /// Its identity.
    pub peer: PeerId,
    /// Where it says that it can be reached.
    pub addresses: Vec<Multiaddr>,
    /// The actors that it has registered.
    pub actors: Vec<HostedActor>,
}

impl Guest {
    /// A guest of which only the identity is known.
    pub(super) fn unknown(peer: PeerId) -> Self {
        Self { peer, addresses: Vec::new(), actors: Vec::new() }
    }
}

/// What a member says of itself.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Record {
    /// When it was written.
    pub stamp: Stamp,
    /// A random number of the process. Two processes with one identity differ in it.
    pub instance: u64,
    /// A name for people.
    pub node: String,
    /// Where the node can be reached.
    pub addresses: Vec<Multiaddr>,
    /// The actors that it hosts.
    pub actors: Vec<HostedActor>,
    /// Members that are connected to it, and may say that it is gone.
    pub witnesses: Vec<Witness>,
    /// The nodes that it speaks for.
    pub guests: Vec<Guest>,
    /// Whether it leaves. It is the last record then.
    pub is_leaving: bool,
}

/// What a member says of one that it has lost.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Obituary {
    /// The member that is gone.
    pub subject: PeerId,
    /// Its last record that is known. A later one refutes this.
    pub stamp: Stamp,
}

/// A statement whose signature and limits are checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Statement {
    /// The record of the member that signed it.
    Record(Record),
    /// The obituary of another member.
    Obituary(Obituary),
}

/// Why bytes are no statement.
#[derive(Debug, thiserror::Error)]
pub enum Unsound {
    /// It is longer than any statement.
    #[error("a statement of {0} bytes, of at most {MAX_STATEMENT}")]
    TooLong(usize),
    /// It is no signed envelope.
    #[error("not a signed envelope: {0}")]
    NotSigned(#[from] signed_envelope::DecodingError),
    /// The signature is wrong, or was made for another purpose.
    #[error("not signed for a cluster: {0}")]
    WronglySigned(#[from] signed_envelope::ReadPayloadError),
    /// The signed bytes are not what their type says.
    #[error("not what its type says: {0}")]
    Malformed(#[from] rmp_serde::decode::Error),
    /// A part of it is larger, or there are more of it, than is allowed.
    #[error("it exceeds a limit")]
    TooLarge,
    /// A member says of itself that it is gone. It would write a record that it leaves.
    #[error("a member says of itself that it is gone")]
    OwnObituary,
}

impl Statement {
    /// Signs it.
    ///
    /// # Errors
    ///
    /// When the key cannot sign.
    pub fn sign(&self, key: &Keypair) -> Result<Vec<u8>, SigningError> {
        let (kind, payload) = match self {
            Self::Record(record) => (RECORD, rmp_serde::to_vec(record)),
            Self::Obituary(obituary) => (OBITUARY, rmp_serde::to_vec(obituary)),
        };
        // Neither type has a part that MessagePack cannot express, and a vector takes every byte.
        let payload = payload.unwrap_or_default();
        Ok(SignedEnvelope::new(key, DOMAIN.into(), kind.into(), payload)?.into_protobuf_encoding())
    }

    /// Reads a statement, and who signed it.
    ///
    /// # Errors
    ///
    /// When it is not one, or exceeds a limit.
    pub fn read(bytes: &[u8]) -> Result<(PeerId, Self), Unsound> {
        if bytes.len() > MAX_STATEMENT {
            return Err(Unsound::TooLong(bytes.len()));
        }
        let envelope = SignedEnvelope::from_protobuf_encoding(bytes)?;
        if let Ok((payload, key)) = envelope.payload_and_signing_key(DOMAIN.into(), RECORD) {
            let record: Record = rmp_serde::from_slice(payload)?;
            return if record.is_within_limits() {
                Ok((key.to_peer_id(), Self::Record(record)))
            } else {
                Err(Unsound::TooLarge)
            };
        }
        let (payload, key) = envelope.payload_and_signing_key(DOMAIN.into(), OBITUARY)?;
        let obituary: Obituary = rmp_serde::from_slice(payload)?;
        if obituary.subject == key.to_peer_id() {
            return Err(Unsound::OwnObituary);
        }
        Ok((key.to_peer_id(), Self::Obituary(obituary)))
    }
}

impl Record {
    fn is_within_limits(&self) -> bool {
        let are_addresses = |addresses: &[Multiaddr]| {
            addresses.len() <= MAX_ADDRESSES && addresses.iter().all(|address| address.len() <= MAX_ADDRESS_LEN)
        };
        let is_actor = |actor: &HostedActor| {
            (1..=MAX_NAME_LEN).contains(&actor.name.len()) && actor.remote_id.len() <= MAX_TYPE_LEN
        };
        let are_actors = |actors: &[HostedActor]| actors.len() <= MAX_ACTORS && actors.iter().all(is_actor);
        self.node.len() <= MAX_NODE_NAME
            && are_addresses(&self.addresses)
            && are_actors(&self.actors)
            && self.witnesses.len() <= MAX_WITNESSES
            && self.guests.len() <= MAX_GUESTS
            && self.guests.iter().all(|guest| are_addresses(&guest.addresses) && are_actors(&guest.actors))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            stamp: Stamp { epoch: 1_700_000_000_000, version: 3 },
            instance: 7,
            node: "alpha".into(),
            addresses: vec!["/ip4/192.0.2.1/tcp/36341".parse().unwrap()],
            actors: vec![HostedActor {
                name: "ping_actor".into(),
                sequence: 2,
                remote_id: "ping_pong_app::PingActor".into(),
            }],
            witnesses: vec![Witness::from(&PeerId::random())],
            guests: Vec::new(),
            is_leaving: false,
        }
    }

    fn guest() -> Guest {
        Guest { peer: PeerId::random(), addresses: record().addresses, actors: record().actors }
    }

    #[test]
    fn what_is_signed_is_read_as_its_signers() {
        let (key, subject) = (Keypair::generate_ed25519(), PeerId::random());
        for statement in [
            Statement::Record(record()),
            Statement::Record(Record::default()),
            Statement::Record(Record { guests: vec![guest()], ..Record::default() }),
            Statement::Obituary(Obituary { subject, stamp: Stamp { epoch: 5, version: u64::MAX } }),
        ] {
            let bytes = statement.sign(&key).unwrap();
            assert!(bytes.len() < 400, "{}", bytes.len());
            assert_eq!(Statement::read(&bytes).unwrap(), (key.public().to_peer_id(), statement));
        }
    }

    #[test]
    fn a_changed_byte_or_another_signature_is_unsound() {
        let key = Keypair::generate_ed25519();
        let bytes = Statement::Record(record()).sign(&key).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(Statement::read(&changed).is_err(), "byte {at}");
        }
        let payload = rmp_serde::to_vec(&record()).unwrap();
        let other = SignedEnvelope::new(&key, "another".into(), RECORD.into(), payload).unwrap();
        assert!(Statement::read(&other.into_protobuf_encoding()).is_err());
        let own = Obituary { subject: key.public().to_peer_id(), stamp: Stamp::default() };
        assert!(matches!(Statement::read(&Statement::Obituary(own).sign(&key).unwrap()), Err(Unsound::OwnObituary)));
    }

    #[test]
    fn nothing_exceeds_its_limit() {
        let key = Keypair::generate_ed25519();
        let largest = || {
            let address: Multiaddr = "/ip4/192.0.2.1/tcp/36341".parse().unwrap();
            Record {
                node: "n".repeat(MAX_NODE_NAME),
                addresses: vec![address; MAX_ADDRESSES],
                actors: vec![HostedActor { name: "a".repeat(100), ..record().actors[0].clone() }; MAX_ACTORS],
                witnesses: vec![Witness([1; 8]); MAX_WITNESSES],
                ..record()
            }
        };
        let reads = |record: Record| Statement::read(&Statement::Record(record).sign(&key).unwrap()).is_ok();
        assert!(reads(largest()));
        let changes: [fn(&mut Record); 10] = [
            |record| record.node.push('n'),
            |record| record.addresses.push(record.addresses[0].clone()),
            |record| record.actors.push(record.actors[0].clone()),
            |record| record.witnesses.push(record.witnesses[0]),
            |record| record.guests = vec![guest(); MAX_GUESTS + 1],
            |record| record.guests = vec![Guest { actors: vec![record.actors[0].clone(); MAX_ACTORS + 1], ..guest() }],
            |record| record.guests = vec![Guest { addresses: vec![Multiaddr::empty(); MAX_ADDRESSES + 1], ..guest() }],
            |record| record.actors[0].name.clear(),
            |record| record.actors[0].name = "a".repeat(MAX_NAME_LEN + 1),
            |record| record.addresses[0] = "/ip4/192.0.2.1/tcp/1".repeat(20).parse().unwrap(),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut record = largest();
            change(&mut record);
            assert!(!reads(record), "change {number}");
        }
        let mut long = largest();
        long.actors.iter_mut().for_each(|actor| actor.name = "a".repeat(MAX_NAME_LEN));
        assert!(!reads(long), "each part is within its limit, and the whole is not");
    }
}
