//! What a program is made of.

use std::fmt::Write;

use crate::{cluster::messages::DIRECTORY_PROTOCOL, protocol::STREAM_PROTOCOL};

/// The version of a program, the commit that it is built from, its libraries, and what it speaks on the wire besides
/// Kameo's own protocols.
pub fn long_version() -> String {
    let mut text = env!("CARGO_PKG_VERSION").to_owned();
    // Writing to a string cannot fail.
    if let Some(commit) = option_env!("PING_COMMIT") {
        let _ = write!(text, " ({commit})");
    }
    if let (Some(kameo), Some(libp2p)) = (option_env!("KAMEO_VERSION"), option_env!("LIBP2P_VERSION")) {
        let _ = write!(text, "\nkameo {kameo}, libp2p {libp2p}");
    }
    let _ = write!(text, "\nspeaks ping_pong_app::PingActor, {STREAM_PROTOCOL}, {DIRECTORY_PROTOCOL}");
    text
}
