//! What the ping server and the ping client share: the contract on the wire, the actor, and the libp2p node under them.
//!
//! In the order of a ping, from the wire up:
//! - [`protocol`]: every message, name and limit on the wire.
//! - [`transport`]: how two nodes connect, and [`address`], how people write where.
//! - [`hardening`]: what keeps a node alive and bounded, whatever its peers send.
//! - [`registry`]: what other nodes ask of Kameo's registry, and get as an answer.
//! - [`stream`]: many pings on one long-lived stream, where Kameo opens one for each.
//! - [`actor`]: the [`PingActor`] that counts them, its count and its supervisor.
//! - [`node`]: one swarm in a task of its own, which runs all of these, and the handle that programs hold.
//!
//! And for the programs around it:
//! - [`cluster`]: who is in a cluster, and which actors they host.
//! - [`PeerText`]: words of a peer, safe to print.
//! - [`nat`]: relays, and tickets that say where a server is.
//! - [`keys`]: the files of a node's identity and of a private network's secret.
//! - [`traces`]: what both sides do for one ping.
//! - [`program`]: logging, output that never blocks, and stop signals.
//!
//! `examples/hello.rs` shows the least of distributed Kameo: two nodes, one actor, one ask.

pub mod actor;
pub mod address;
pub mod cluster;
pub mod hardening;
pub mod keys;
mod lock;
pub mod nat;
pub mod node;
mod peer_text;
pub mod program;
pub mod protocol;
pub mod registry;
pub mod stream;
pub mod traces;
pub mod transport;
mod wire;

pub use actor::PingActor;
pub use address::ServerAddress;
pub use node::{Connection, DialError, Event, Node, Options};
pub use peer_text::PeerText;
pub use transport::Transport;
