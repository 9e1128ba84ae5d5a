//! What the ping server and the ping client share: the contract on the wire and the libp2p node under it.
//!
//! - [`protocol`]: the messages to the actor, and its name.
//! - [`actor`]: the [`PingActor`](actor::PingActor), which counts them, and its supervisor.
//! - [`runs`]: what it has counted of each client's run, so that a ping which is sent again is counted once.
//! - [`node`]: one libp2p swarm in a task of its own, and the handle that programs hold. Under it, `transport` makes
//!   connections, over transports that are built `on_demand` and `coalesce` small writes, `mux` carries many streams on one, `guard` keeps from
//!   Kameo what it would misunderstand, by the rules of `admission`, and what would make it panic, by `contain`, and `keep_alive` tells whether a peer is still there.
//! - [`stream`]: many pings on one long-lived stream, where Kameo would open one for each.
//! - [`behaviour`]: the protocols that a node runs, and their limits; `crowd` counts connections, `budget` what requests take up of memory.
//! - [`dial`]: why a connection could not be made.
//! - [`identity`]: the Ed25519 key file that gives a node the same peer id after every restart.
//! - [`secret`]: the file with the pre-shared key of a private network.
//! - [`address`]: server addresses as people write them.
//! - [`logging`]: `tracing` set up the same way for every program.
//! - [`signals`]: how a program is asked to stop.

pub mod actor;
pub mod address;
mod admission;
pub mod behaviour;
mod budget;
mod coalesce;
mod complaints;
mod contain;
mod crowd;
pub mod dial;
mod guard;
pub mod identity;
mod keep_alive;
pub mod logging;
mod mux;
pub mod node;
mod on_demand;
pub mod protocol;
pub mod runs;
pub mod secret;
pub mod signals;
pub mod stream;
mod transport;
