//! How fast a member reaches the actors of all others: what `ping-client matrix` asks of each.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use tokio::time::timeout;

use super::{MemberInfo, messages::Path};
use crate::{PingActor, protocol::About};

/// How many members are asked at a time.
const WIDTH: usize = 16;

/// How long one answer may take. The whole must end before the one that asked gives up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// How many paths one message carries.
const MAX_PATHS: usize = 500;

/// How many round trips are measured at most on each path.
pub(super) const MAX_ROUND_TRIPS: u8 = 20;

/// Asks the actor of this name on each of these members about itself, so often, one after the other. That is not a
/// ping, and no actor counts it.
pub(super) async fn measure(members: Vec<MemberInfo>, name: &str, round_trips: u8) -> Vec<Path> {
    let round_trips = round_trips.clamp(1, MAX_ROUND_TRIPS);
    let paths = members.into_iter().take(MAX_PATHS).map(|member| path(member, name, round_trips));
    stream::iter(paths).buffer_unordered(WIDTH).collect().await
}

async fn path(member: MemberInfo, name: &str, round_trips: u8) -> Path {
    let peer = member.peer;
    let Some(actor) = member.actor(name).and_then(|actor| actor.remote_ref::<PingActor>(peer)) else {
        return Path { peer, nanoseconds: Vec::new(), error: Some("the actor is of another type".into()) };
    };
    let mut nanoseconds = Vec::new();
    // The first one may have to connect, and is not measured.
    for number in 0..=round_trips {
        let began = Instant::now();
        let error = match timeout(ANSWER_TIMEOUT, actor.ask(&About {}).send()).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())),
        };
        if error.is_some() {
            return Path { peer, nanoseconds, error };
        }
        if number > 0 {
            nanoseconds.push(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
    }
    Path { peer, nanoseconds, error: None }
}
