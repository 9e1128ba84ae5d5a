//! A cluster of nodes: who is there, and which actors they host.
//!
//! Each member is the only writer of one signed record of itself ([`record`]). All members keep all records, and agree
//! on who is gone, in a [`directory`].

pub mod directory;
pub mod record;
