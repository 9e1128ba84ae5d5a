//! The limit of open files and sockets: each TCP connection is one.

use ping_core::hardening::MAX_PENDING;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

/// What the process needs besides connections: those in their handshake, listeners, the identity and the state.
const OTHER_FILES: u64 = MAX_PENDING as u64 + 100;

/// Raises the limit so that this many connections fit. Warns if the system's hard limit is lower.
pub(crate) fn raise_limit(connections: u32) {
    let wanted = u64::from(connections) + OTHER_FILES;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let possible = maximum.map_or(wanted, |maximum| maximum.min(wanted));
    if current.is_none_or(|current| current >= wanted) {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(possible), maximum }) {
        Ok(()) => debug!(possible, "raised the limit of open files"),
        Err(error) => debug!(%error, "could not raise the limit of open files"),
    }
    if possible < wanted {
        warn!(
            "The system allows this process {possible} open files, too few for {connections} connections; raise the \
             limit (ulimit -Hn), or lower --max-connections"
        );
    }
}

/// The limit in force.
pub(crate) fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}
