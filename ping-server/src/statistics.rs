//! What a server says of itself at SIGUSR1.

use std::time::{Duration, Instant};

use humantime::format_duration;
use kameo::actor::ActorRef;
use ping_core::{
    PingActor,
    actor::{Count, Tally, waiting},
    cluster::Cluster,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

/// Logs what has been counted, and the directory of the cluster, at each SIGUSR1. Never ends.
pub(crate) async fn log_on_request(count: Count, tally: Tally, actor: ActorRef<PingActor>, cluster: Option<Cluster>) {
    let started = Instant::now();
    let Ok(mut requests) = signal(SignalKind::user_defined1()) else { return };
    while requests.recv().await.is_some() {
        let up = format_duration(Duration::from_secs(started.elapsed().as_secs()));
        let carried = tally.carried().map(|(mode, pings)| format!("{pings} by {mode}")).join(", ");
        let total = *count.watch().borrow();
        info!("Pings counted: {total}. In the {up} since the start: {carried}");
        let waiting = waiting(actor.mailbox_sender());
        info!("Messages that wait for the actor: {waiting}. Runs remembered: {}", count.runs());
        let Some(cluster) = &cluster else { continue };
        let members = cluster.members();
        info!("Members known: {}", members.len());
        for member in members {
            let actors: Vec<_> = member.actor_names().iter().map(ToString::to_string).collect();
            let address = member.addresses.first().map_or_else(|| "no address".into(), ToString::to_string);
            let (node, peer, state) = (&member.node, member.peer, member.state);
            info!("  {node} ({peer}): {state}, {address}, hosts {}", actors.join(", "));
        }
    }
}
