//! Nodes built without this project's code, to measure against and to test against.
//!
//! `stock server` and `stock client ADDRESS COUNT [WIDTH]` are a plain Kameo program on both sides: the swarm as Kameo's own
//! examples build it, the same contract on the wire. The client does not sleep, and retries its look-up in
//! milliseconds. `stock other-type` hosts an actor of another type under the usual name, and `stock plain` is a libp2p
//! peer without Kameo. Servers print the address they can be reached at; the client prints its figures as JSON.

use std::{
    env,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt, stream};
use kameo::{
    Actor, RemoteActor, Reply,
    actor::{ActorRef, RemoteActorRef, Spawn},
    message::{Context, Message},
    remote, remote_message,
};
use libp2p::{
    Multiaddr, Swarm, SwarmBuilder, noise, ping,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, tls, yamux,
};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

#[derive(Deserialize, Serialize)]
struct Ping {
    message: String,
    sequence: u64,
}

#[derive(Deserialize, Reply, Serialize)]
struct Pong {
    message: String,
    sequence: u64,
    total_pings: u64,
}

#[derive(Actor, RemoteActor)]
#[remote_actor(id = "ping_pong_app::PingActor")]
struct PingActor {
    total: u64,
}

#[remote_message("a1b2c3d4-e5f6-7890-abcd-ef1234567890")]
impl Message<Ping> for PingActor {
    type Reply = Pong;

    async fn handle(&mut self, ping: Ping, _: &mut Context<Self, Self::Reply>) -> Pong {
        self.total += 1;
        Pong { message: "PONG".into(), sequence: ping.sequence, total_pings: self.total }
    }
}

#[derive(Actor, RemoteActor)]
#[remote_actor(id = "another_app::AnotherActor")]
struct AnotherActor;

#[derive(NetworkBehaviour)]
struct KameoBehaviour {
    kameo: remote::Behaviour,
}

#[tokio::main]
async fn main() -> Result<()> {
    let started = Instant::now();
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["server"] => server(PingActor::spawn(PingActor { total: 0 })).await,
        ["other-type"] => server(AnotherActor::spawn(AnotherActor)).await,
        ["plain"] => plain().await,
        ["client", address, count] => client(kameo_swarm()?, address.parse()?, count.parse()?, 1, started).await,
        ["client", address, count, width] => {
            client(kameo_swarm()?, address.parse()?, count.parse()?, width.parse()?, started).await
        }
        ["client-tls", address, count] => client(tls_swarm()?, address.parse()?, count.parse()?, 1, started).await,
        _ => {
            bail!("usage: stock server | other-type | plain | client ADDRESS COUNT [WIDTH] | client-tls ADDRESS COUNT")
        }
    }
}

fn kameo_swarm() -> Result<Swarm<KameoBehaviour>> {
    let swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)?
        .with_quic()
        .with_behaviour(|key| KameoBehaviour {
            kameo: remote::Behaviour::new(key.public().to_peer_id(), remote::messaging::Config::default()),
        })?
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(300)))
        .build();
    swarm.behaviour().kameo.try_init_global()?;
    Ok(swarm)
}

/// The same by TLS instead of Noise.
fn tls_swarm() -> Result<Swarm<KameoBehaviour>> {
    let swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), tls::Config::new, yamux::Config::default)?
        .with_behaviour(|key| KameoBehaviour {
            kameo: remote::Behaviour::new(key.public().to_peer_id(), remote::messaging::Config::default()),
        })?
        .build();
    swarm.behaviour().kameo.try_init_global()?;
    Ok(swarm)
}

async fn server<A: Actor + remote::RemoteActor>(actor: ActorRef<A>) -> Result<()> {
    let mut swarm = kameo_swarm()?;
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
    let register = tokio::spawn(async move { actor.register("ping_actor").await });
    let mut register = Some(register);
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            let peer = *swarm.local_peer_id();
            if let Some(register) = register.take() {
                // The registration needs the swarm to run; it answers within a few of its turns.
                tokio::select! {
                    registered = register => registered??,
                    () = async { loop { swarm.select_next_some().await; } } => {}
                }
            }
            println!("{address}/p2p/{peer}");
        }
    }
}

async fn plain() -> Result<()> {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)?
        .with_behaviour(|_| ping::Behaviour::default())?
        .build();
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            println!("{address}/p2p/{}", swarm.local_peer_id());
        }
    }
}

async fn client(
    mut swarm: Swarm<KameoBehaviour>,
    address: Multiaddr,
    count: u64,
    width: usize,
    started: Instant,
) -> Result<()> {
    swarm.dial(address)?;
    let (connected, connection) = oneshot::channel();
    tokio::spawn(async move {
        let mut connected = Some(connected);
        loop {
            if let SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } = swarm.select_next_some().await {
                swarm.add_peer_address(peer_id, endpoint.get_remote_address().clone());
                connected.take().map(|connected| connected.send(()));
            }
        }
    });
    connection.await.context("not connected")?;
    let actor = loop {
        match RemoteActorRef::<PingActor>::lookup("ping_actor").await? {
            Some(actor) => break actor,
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let mut first_pong = None;
    let mut round_trips = Vec::new();
    let mut total = 0;
    let actor = &actor;
    let running = Instant::now();
    let mut pongs = stream::iter(1..=count)
        .map(|sequence| async move {
            let sent = Instant::now();
            let pong = actor.ask(&Ping { message: "PING".into(), sequence }).await?;
            if pong.sequence != sequence {
                bail!("ping #{sequence} was answered as #{}", pong.sequence);
            }
            Ok((sent.elapsed(), pong.total_pings))
        })
        .buffer_unordered(width);
    while let Some(pong) = pongs.next().await {
        let (round_trip, so_far) = pong?;
        round_trips.push(round_trip);
        first_pong.get_or_insert_with(|| started.elapsed());
        total = total.max(so_far);
    }
    let rate = count as f64 / running.elapsed().as_secs_f64();
    round_trips.sort_unstable();
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let percentile = |p: usize| round_trips.get(round_trips.len() * p / 100).copied().map(ms);
    let result = serde_json::json!({
        "first_pong_ms": first_pong.map(ms),
        "p50_ms": percentile(50),
        "p99_ms": percentile(99),
        "rate_per_s": rate,
        "total": total,
    });
    println!("{result}");
    Ok(())
}
