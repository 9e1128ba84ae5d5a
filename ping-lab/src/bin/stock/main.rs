//! Peers built without this project's code, to measure against and to test against.
//!
//! - `stock server` and `stock client ADDRESS COUNT [WIDTH [SIZE]]` are a plain Kameo program on both sides: the swarm
//!   as Kameo's own examples build it, the same contract on the wire. The client keeps WIDTH pings in flight, with SIZE
//!   bytes of payload; it does not sleep, and retries its look-up in milliseconds. `client-tls` secures TCP by TLS.
//! - `stock tcp-server` and `stock tcp-client ADDRESS COUNT [WIDTH [SIZE]]` do the same with nothing but a TCP
//!   connection and frames of a fixed size: what the machine can do. `tcp-batch-client` sends together what answers
//!   that came together make room for.
//! - `stock nats-responder ADDRESS` and `stock nats-client ADDRESS COUNT [WIDTH [SIZE]]` do the same by requests over
//!   the NATS server there.
//! - `stock other-type` hosts an actor of another type under the usual name, and `stock plain` is a libp2p peer without
//!   Kameo. `stock busy-server` hosts one that is slow and takes only one message beside the one that it handles;
//!   `stock stuck-server` hosts one that never finishes the first.
//! - `stock rival ADDRESS` registers an actor of its own with the node there, and prints its identity.
//! - `stock find ADDRESS` asks the node there for the usual name, connects to everyone who is named, and pings the node
//!   itself. It prints the peers that it found by Kameo, and those that it could connect to.
//!
//! Servers print the address they can be reached at; clients print their figures as JSON.

mod nats;
mod raw_tcp;

use std::{
    collections::BTreeSet,
    env,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt, future::OptionFuture, stream};
use kameo::{
    Actor, RemoteActor, Reply,
    actor::{ActorRef, RemoteActorRef, Spawn},
    mailbox,
    message::{Context, Message},
    remote, remote_message,
};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, kad, noise, ping,
    swarm::{
        NetworkBehaviour, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
    tcp, tls, yamux,
};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

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
    /// How long it rests after each ping.
    rest: Duration,
}

#[remote_message("a1b2c3d4-e5f6-7890-abcd-ef1234567890")]
impl Message<Ping> for PingActor {
    type Reply = Pong;

    async fn handle(&mut self, ping: Ping, _: &mut Context<Self, Self::Reply>) -> Pong {
        self.total += 1;
        if !self.rest.is_zero() {
            sleep(self.rest).await;
        }
        Pong { message: "PONG".into(), sequence: ping.sequence, total_pings: self.total }
    }
}

#[derive(Deserialize, Reply, Serialize)]
struct Blob {
    #[serde(with = "serde_bytes")]
    payload: Vec<u8>,
}

#[remote_message("blob")]
impl Message<Blob> for PingActor {
    type Reply = Blob;

    async fn handle(&mut self, blob: Blob, _: &mut Context<Self, Self::Reply>) -> Blob {
        self.total += 1;
        blob
    }
}

#[derive(Actor, RemoteActor)]
#[remote_actor(id = "another_app::AnotherActor")]
struct AnotherActor;

#[derive(NetworkBehaviour)]
struct KameoBehaviour {
    kameo: remote::Behaviour,
}

/// What a client is to send.
#[derive(Clone, Copy)]
struct Load {
    started: Instant,
    count: u64,
    width: usize,
    size: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let started = Instant::now();
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let load = || -> Result<Load> {
        let number = |place: usize, default: usize| arguments.get(place).map_or(Ok(default), |text| text.parse());
        Ok(Load { started, count: number(2, 1)? as u64, width: number(3, 1)?, size: number(4, 0)? })
    };
    match arguments[..] {
        ["server"] => server(PingActor::spawn(PingActor { total: 0, rest: Duration::ZERO })).await,
        ["busy-server"] => {
            let actor = PingActor { total: 0, rest: Duration::from_millis(50) };
            server(PingActor::spawn_with_mailbox(actor, mailbox::bounded(1))).await
        }
        ["stuck-server"] => {
            let actor = PingActor { total: 0, rest: Duration::MAX };
            server(PingActor::spawn_with_mailbox(actor, mailbox::bounded(1))).await
        }
        ["other-type"] => server(AnotherActor::spawn(AnotherActor)).await,
        ["rival", address] => rival(address.parse()?).await,
        ["find", address] => find(address.parse()?).await,
        ["plain"] => plain().await,
        ["tcp-server"] => raw_tcp::server().await,
        ["tcp-client", address, ..] => raw_tcp::client(address, load()?).await,
        ["tcp-batch-client", address, ..] => raw_tcp::batch_client(address, load()?).await,
        ["nats-responder", address] => nats::responder(address).await,
        ["nats-client", address, ..] => nats::client(address, load()?).await,
        ["client", address, ..] => client(kameo_swarm()?, address.parse()?, load()?).await,
        ["client-tls", address, ..] => client(tls_swarm()?, address.parse()?, load()?).await,
        _ => bail!("the arguments are described at the top of this program's source"),
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

/// Registers an actor with the node at this address, under the usual name.
async fn rival(address: Multiaddr) -> Result<()> {
    let mut swarm = kameo_swarm()?;
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
    let own = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    // The registry does not pass a provider on that says no address.
    swarm.add_external_address(own);
    connect(&mut swarm, address).await?;
    let actor = PingActor::spawn(PingActor { total: 0, rest: Duration::ZERO });
    let mut register = Some(tokio::spawn(async move { actor.register("ping_actor").await }));
    loop {
        tokio::select! {
            _ = swarm.select_next_some() => {}
            Some(registered) = OptionFuture::from(register.as_mut()) => {
                registered??;
                register = None;
                println!("{}", swarm.local_peer_id());
            }
        }
    }
}

/// The protocol of Kameo's registry, without Kameo.
#[derive(NetworkBehaviour)]
struct Kademlia {
    kad: kad::Behaviour<kad::store::MemoryStore>,
}

async fn find(address: Multiaddr) -> Result<()> {
    let reached = reach_providers(address.clone()).await?;
    let mut swarm = kameo_swarm()?;
    let dialed = connect(&mut swarm, address).await?;
    tokio::spawn(async move { while swarm.next().await.is_some() {} });
    let (mut found, mut pong) = (BTreeSet::new(), None);
    let mut actors = RemoteActorRef::<PingActor>::lookup_all("ping_actor");
    while let Some(actor) = actors.next().await {
        let actor = actor?;
        let peer = *actor.id().peer_id().context("an actor is on no node")?;
        if peer == dialed {
            pong = Some(actor.ask(&Ping { message: "PING".into(), sequence: 1 }).await?);
        }
        found.insert(peer.to_string());
    }
    let pong = pong.context("no actor on the node itself was found")?;
    println!("{}", serde_json::json!({ "found": found, "reached": reached, "total": pong.total_pings }));
    Ok(())
}

/// Connects to everyone who provides the usual name, as the node at this address knows, and returns whom that reached.
async fn reach_providers(address: Multiaddr) -> Result<BTreeSet<String>> {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)?
        .with_behaviour(|key| {
            let peer = key.public().to_peer_id();
            let config = kad::Config::new(StreamProtocol::new("/kameo/registry/1.0.0"));
            Kademlia { kad: kad::Behaviour::with_config(peer, kad::store::MemoryStore::new(peer), config) }
        })?
        .build();
    let asked = connect(&mut swarm, address.clone()).await?;
    swarm.behaviour_mut().kad.add_address(&asked, address);
    swarm.behaviour_mut().kad.get_providers(kad::RecordKey::new(&"ping_actor"));
    let (mut reached, mut dialing) = (BTreeSet::from([asked]), BTreeSet::new());
    let mut is_answered = false;
    while !is_answered || !dialing.is_empty() {
        match swarm.select_next_some().await {
            SwarmEvent::Behaviour(KademliaEvent::Kad(kad::Event::OutboundQueryProgressed { result, step, .. })) => {
                if let kad::QueryResult::GetProviders(Ok(kad::GetProvidersOk::FoundProviders { providers, .. })) =
                    result
                {
                    for peer in providers.into_iter().filter(|peer| !reached.contains(peer)) {
                        // The addresses are those of the answer. Kademlia may dial them, too.
                        if swarm.dial(DialOpts::peer_id(peer).condition(PeerCondition::Always).build()).is_ok() {
                            dialing.insert(peer);
                        }
                    }
                }
                is_answered |= step.last;
            }
            SwarmEvent::ConnectionEstablished { peer_id, .. } => {
                reached.insert(peer_id);
                dialing.remove(&peer_id);
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), .. } => _ = dialing.remove(&peer),
            _ => {}
        }
    }
    Ok(reached.iter().map(ToString::to_string).collect())
}

/// Connects to the node at this address, and names it to the registry. Returns its identity.
async fn connect<B: NetworkBehaviour>(swarm: &mut Swarm<B>, address: Multiaddr) -> Result<PeerId> {
    swarm.dial(address)?;
    loop {
        if let SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } = swarm.select_next_some().await {
            swarm.add_peer_address(peer_id, endpoint.get_remote_address().clone());
            return Ok(peer_id);
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

async fn client(mut swarm: Swarm<KameoBehaviour>, address: Multiaddr, load: Load) -> Result<()> {
    let Load { started, count, width, size } = load;
    connect(&mut swarm, address).await?;
    tokio::spawn(async move { while swarm.next().await.is_some() {} });
    let actor = loop {
        match RemoteActorRef::<PingActor>::lookup("ping_actor").await? {
            Some(actor) => break actor,
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let (mut first_pong, mut total) = (None, 0);
    let mut round_trips = Vec::new();
    let actor = &actor;
    let running = Instant::now();
    let mut pongs = stream::iter(1..=count)
        .map(|sequence| async move {
            let sent = Instant::now();
            if size > 0 {
                let blob = Blob { payload: vec![0xA5; size] };
                let back = actor.ask(&blob).await?;
                if back.payload != blob.payload {
                    bail!("payload #{sequence} came back changed");
                }
                return Ok((sent.elapsed(), 0));
            }
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
    print_figures(first_pong, round_trips, running.elapsed(), total);
    Ok(())
}

fn print_figures(first_pong: Option<Duration>, mut round_trips: Vec<Duration>, took: Duration, total: u64) {
    round_trips.sort_unstable();
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let percentile = |p: usize| round_trips.get(round_trips.len() * p / 100).copied().map(ms);
    let result = serde_json::json!({
        "first_pong_ms": first_pong.map(ms),
        "p50_ms": percentile(50),
        "p99_ms": percentile(99),
        "rate_per_s": round_trips.len() as f64 / took.as_secs_f64(),
        "total": total,
    });
    println!("{result}");
}
