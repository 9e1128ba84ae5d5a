//! How many files and sockets the process may have open: each TCP connection is one.

use ping_core::behaviour::PENDING;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

/// What the process needs besides connections: those on their way in, listeners, the identity and the state.
const OTHERS: u64 = PENDING as u64 + 100;

/// Makes room for so many connections. Where the system's own limit is lower, says so.
pub(crate) fn make_room(connections: u32) {
    let wanted = u64::from(connections) + OTHERS;
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
            "The system lets this process have {possible} files open, too few for {connections} connections; raise that limit \
             (ulimit -Hn), or lower --max-connections"
        );
    }
}
