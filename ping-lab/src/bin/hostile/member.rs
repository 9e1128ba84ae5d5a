//! Hostile members of a cluster, which sign what they say and tell lies.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder,
    core::SignedEnvelope,
    identity::Keypair,
    noise,
    request_response::{self, Event, Message, ProtocolSupport, cbor},
    swarm::SwarmEvent,
    tcp, yamux,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::swarm::{end_of_input, server_of};

const DIRECTORY: StreamProtocol = StreamProtocol::new("/kameo-ping/directory/1");

const DOMAIN: &str = "kameo-ping/member/1";

/// How many statements go into one request.
const BATCH: usize = 200;

#[derive(Debug, Serialize, Deserialize)]
enum Request {
    Push { statements: Vec<ByteBuf> },
    List { name: Option<String>, after: Option<PeerId> },
}

#[derive(Debug, Serialize, Deserialize)]
enum Response {
    Done,
    Members { digest: u64, members: Vec<Listed>, has_more: bool },
}

#[derive(Debug, Serialize, Deserialize)]
struct Listed {
    record: ByteBuf,
    is_gone: bool,
}

type Stamp = (u64, u64);

/// Name, sequence number, type.
type HostedActor = (String, u64, String);

/// Identity, addresses, actors.
type Guest = (PeerId, Vec<Multiaddr>, Vec<HostedActor>);

/// Stamp, instance, name, addresses, actors, witnesses, guests, leaving.
type Record = (Stamp, u64, String, Vec<Multiaddr>, Vec<HostedActor>, Vec<[u8; 8]>, Vec<Guest>, bool);

type Obituary = (PeerId, Stamp);

/// A member that is connected to a server.
struct Member {
    swarm: Swarm<cbor::Behaviour<Request, Response>>,
    server: PeerId,
    key: Keypair,
    epoch: u64,
}

/// Joins and does harm of this kind, `count` times.
pub(crate) async fn harm(address: Multiaddr, kind: &str, count: u64) -> Result<()> {
    let mut member = Member::join(address).await?;
    match kind {
        // Many records of its own.
        "flood" => {
            let records: Vec<_> = (2..count + 2).map(|version| member.record(version)).collect::<Result<_>>()?;
            member.push(records).await?;
        }
        // Records of members that do not exist.
        "made-up" => {
            let records =
                (0..count).map(|_| record(&Keypair::generate_ed25519(), (member.epoch, 1), "nobody", &[], vec![]));
            let records = records.collect::<Result<_>>()?;
            member.push(records).await?;
        }
        // The deaths of all others, again and again.
        "accuse" => {
            for _ in 0..count {
                let lies = member.list().await?.iter().map(|record| member.obituary(record)).collect::<Result<_>>()?;
                member.push(lies).await?;
            }
        }
        // What was true before its standard input ended.
        "replay" => {
            let records = member.list().await?;
            println!("captured");
            end_of_input().await?;
            for _ in 0..count {
                member.push(records.clone()).await?;
            }
        }
        // An actor that it does not host, and that the other members are its guests elsewhere.
        "lie" => {
            let actor = ("ping_actor".to_owned(), 7, "ping_pong_app::PingActor".to_owned());
            let (elsewhere, actors): (Vec<Multiaddr>, _) = (vec!["/ip4/127.0.0.1/tcp/1".parse()?], vec![actor]);
            let records = member.list().await?;
            let others = records.iter().map(|record| Ok((author(record)?.0, elsewhere.clone(), actors.clone())));
            let guests = others.chain([Ok((PeerId::random(), vec![], actors.clone()))]).collect::<Result<_>>()?;
            let lie = record(&member.key, (member.epoch, 2), "liar", &actors, guests)?;
            member.push(vec![lie]).await?;
            println!("told");
            end_of_input().await?;
        }
        _ => bail!("there is no such kind of member: {kind}"),
    }
    println!("done");
    Ok(())
}

impl Member {
    async fn join(address: Multiaddr) -> Result<Self> {
        let (server, key) = (server_of(&address)?, Keypair::generate_ed25519());
        let config = request_response::Config::default();
        let mut swarm = SwarmBuilder::with_existing_identity(key.clone())
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)?
            .with_quic()
            .with_behaviour(|_| cbor::Behaviour::new([(DIRECTORY, ProtocolSupport::Outbound)], config))?
            .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(3600)))
            .build();
        swarm.dial(address)?;
        while !matches!(swarm.select_next_some().await, SwarmEvent::ConnectionEstablished { .. }) {}
        let epoch = u64::try_from(SystemTime::UNIX_EPOCH.elapsed()?.as_millis())?;
        let mut member = Self { swarm, server, key, epoch };
        let own = member.record(1)?;
        member.push(vec![own]).await?;
        Ok(member)
    }

    fn record(&self, version: u64) -> Result<Vec<u8>> {
        record(&self.key, (self.epoch, version), "hostile", &[], vec![])
    }

    /// Says that the member that wrote this record is gone.
    fn obituary(&self, record: &[u8]) -> Result<Vec<u8>> {
        let obituary: Obituary = author(record)?;
        sign(&self.key, b"obituary", &obituary)
    }

    async fn push(&mut self, statements: Vec<Vec<u8>>) -> Result<()> {
        for batch in statements.chunks(BATCH) {
            let statements = batch.iter().cloned().map(ByteBuf::from).collect();
            self.ask(Request::Push { statements }).await?;
        }
        Ok(())
    }

    async fn list(&mut self) -> Result<Vec<Vec<u8>>> {
        match self.ask(Request::List { name: None, after: None }).await? {
            Response::Members { members, .. } => Ok(members.into_iter().map(|it| it.record.into_vec()).collect()),
            Response::Done => bail!("no list"),
        }
    }

    async fn ask(&mut self, request: Request) -> Result<Response> {
        self.swarm.behaviour_mut().send_request(&self.server, request);
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::Behaviour(Event::Message { message: Message::Response { response, .. }, .. }) => {
                    return Ok(response);
                }
                SwarmEvent::Behaviour(Event::OutboundFailure { error, .. }) => return Err(error).context("no answer"),
                _ => {}
            }
        }
    }
}

/// Who wrote this record, and when.
fn author(record: &[u8]) -> Result<(PeerId, Stamp)> {
    let envelope = SignedEnvelope::from_protobuf_encoding(record)?;
    let (payload, key) = envelope.payload_and_signing_key(DOMAIN.into(), b"record")?;
    let (stamp, ..): Record = rmp_serde::from_slice(payload)?;
    Ok((key.to_peer_id(), stamp))
}

fn record(key: &Keypair, stamp: Stamp, node: &str, actors: &[HostedActor], guests: Vec<Guest>) -> Result<Vec<u8>> {
    let record: Record = (stamp, 1, node.into(), vec![], actors.to_vec(), vec![], guests, false);
    sign(key, b"record", &record)
}

fn sign(key: &Keypair, kind: &[u8], statement: &impl Serialize) -> Result<Vec<u8>> {
    let payload = rmp_serde::to_vec(statement)?;
    Ok(SignedEnvelope::new(key, DOMAIN.into(), kind.into(), payload)?.into_protobuf_encoding())
}
