//! A whole node with its actor, and peers that connect, write into streams and leave in any order: whatever they do,
//! an honest peer's pings are answered and counted.
#![no_main]

#[allow(dead_code, reason = "shared with the hostile peers")]
#[path = "../../ping-lab/src/bin/hostile/encode.rs"]
mod encode;

use std::{cell::RefCell, time::Duration};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, SwarmBuilder, identity::Keypair, noise, swarm::SwarmEvent, tcp, yamux,
};
use ping_core::{Event, Node, Options, actor, hardening::Limits, stream};
use tokio::{
    runtime::{self, Runtime},
    task::AbortHandle,
    time::timeout,
};

/// What a peer does. Numbers choose among the connections and streams that there are.
#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Connect,
    Disconnect(u8),
    Open(u8, Protocol),
    Write(u8, What<'a>),
    Close(u8),
    Reset(u8),
    Read(u8),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Protocol {
    Ping,
    Messages,
    Registry,
    KeepAlive,
    Unknown,
}

impl Protocol {
    fn name(self) -> StreamProtocol {
        StreamProtocol::new(match self {
            Self::Ping => "/kameo-ping/stream/1",
            Self::Messages => "/kameo/messaging/1.0.0",
            Self::Registry => "/kameo/registry/1.0.0",
            Self::KeepAlive => "/ipfs/ping/1.0.0",
            Self::Unknown => "/unknown",
        })
    }
}

#[derive(Arbitrary, Debug)]
enum What<'a> {
    Raw(&'a [u8]),
    Frame(u8, &'a [u8]),
    Kademlia(u8, &'a [u8]),
    Record { of: Who, value: &'a [u8] },
    Registration { of: Who, by: Who },
    Provider(Who),
    Request { kind: Kind, actor: Who, length: u8 },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Who {
    Sender,
    Server,
    Stranger,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Kind {
    Ask,
    Tell,
    Link,
    OutboundFailure,
}

/// A connection of its own identity.
struct Peer {
    id: PeerId,
    control: libp2p_stream::Control,
    swarm: AbortHandle,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.swarm.abort();
    }
}

/// The node, and an honest peer.
struct World {
    runtime: Runtime,
    _node: Node,
    address: Multiaddr,
    server: PeerId,
    honest: Stream,
    _honest_peer: Peer,
    count: u64,
}

thread_local! {
    static WORLD: RefCell<World> = RefCell::new(World::new());
}

/// The most connections and steps of one input.
const MAX_CONNECTIONS: usize = 4;
const MAX_STEPS: usize = 40;

/// How long an honest peer may wait.
const DEADLINE: Duration = Duration::from_secs(20);

/// How long a hostile one waits for what may never come.
const PATIENCE: Duration = Duration::from_millis(5);

async fn connect(address: Multiaddr) -> Peer {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .expect("a key")
        .with_behaviour(|_| libp2p_stream::Behaviour::new())
        .expect("a behaviour")
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(3600)))
        .build();
    let (id, control) = (*swarm.local_peer_id(), swarm.behaviour().new_control());
    swarm.dial(address).expect("an address");
    let connected = async {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { .. } => return,
                SwarmEvent::OutgoingConnectionError { error, .. } => panic!("an honest handshake fails: {error}"),
                _ => {}
            }
        }
    };
    timeout(DEADLINE, connected).await.expect("a connection in time");
    let swarm = tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    Peer { id, control, swarm: swarm.abort_handle() }
}

impl World {
    fn new() -> Self {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (node, address, honest, peer) = runtime.block_on(async {
            let (streams, opened) = tokio::sync::mpsc::unbounded_channel();
            let limits = Limits::listener(200);
            let tally = actor::Tally::default();
            let told = Some(tally.clone());
            let options = Options { listens: true, limits, streams: Some(streams), tally: told, ..Options::default() };
            let (node, mut events) = Node::start(&Keypair::generate_ed25519(), options).expect("a node");
            node.listen("/ip4/127.0.0.1/tcp/0".parse().expect("an address")).await.expect("a port");
            let hosted = actor::host(actor::Count::new(), Some("ping_actor")).await.expect("a new name");
            tokio::spawn(stream::accept(opened, hosted.actor.clone(), tally));
            let Some(Event::Listening(address)) = events.recv().await else { panic!("it does not listen") };
            tokio::spawn(async move {
                let _hosted = hosted;
                while events.recv().await.is_some() {}
            });
            let mut peer = connect(address.clone()).await;
            let mut honest = peer.control.open_stream(node.peer(), Protocol::Ping.name()).await.expect("a stream");
            honest.read_exact(&mut [0; 13]).await.expect("a welcome");
            (node, address, honest, peer)
        });
        let server = node.peer();
        Self { runtime, _node: node, address, server, honest, _honest_peer: peer, count: 0 }
    }

    fn run(&mut self, steps: &[Step<'_>]) {
        let Self { runtime, address, server, honest, count, .. } = self;
        runtime.block_on(async {
            let (mut peers, mut streams) = (Vec::new(), Vec::new());
            for step in steps {
                play(step, address, *server, &mut peers, &mut streams).await;
            }
            drop((streams, peers));
            timeout(DEADLINE, ping(honest, count)).await.expect("a pong in time");
        });
    }
}

/// An honest ping: its number comes back, and the total grows.
async fn ping(stream: &mut Stream, count: &mut u64) {
    *count += 1;
    stream.write_all(&[&[0, 0, 0, 9, 1][..], &count.to_be_bytes()].concat()).await.expect("it takes a ping");
    stream.flush().await.expect("it takes a ping");
    let mut pong = [0; 21];
    stream.read_exact(&mut pong).await.expect("it answers");
    assert_eq!(pong[5..13], count.to_be_bytes());
    let total = u64::from_be_bytes(pong[13..].try_into().expect("eight bytes"));
    assert!(total >= *count, "{total} pings are counted of {count} and more");
}

fn choose<T>(from: &mut [T], number: u8) -> Option<&mut T> {
    let count = from.len();
    (count > 0).then(|| &mut from[usize::from(number) % count])
}

fn take<T>(from: &mut Vec<T>, number: u8) -> Option<T> {
    (!from.is_empty()).then(|| from.swap_remove(usize::from(number) % from.len()))
}

async fn play(
    step: &Step<'_>,
    address: &Multiaddr,
    server: PeerId,
    peers: &mut Vec<Peer>,
    streams: &mut Vec<(PeerId, Stream)>,
) {
    match step {
        Step::Connect if peers.len() < MAX_CONNECTIONS => peers.push(connect(address.clone()).await),
        Step::Connect => {}
        Step::Disconnect(number) => drop(take(peers, *number)),
        Step::Open(number, protocol) => {
            let Some(peer) = choose(peers, *number) else { return };
            let open = peer.control.open_stream(server, protocol.name());
            if let Ok(Ok(stream)) = timeout(DEADLINE, open).await {
                streams.push((peer.id, stream));
            }
        }
        Step::Write(number, what) => {
            let Some((sender, stream)) = choose(streams, *number) else { return };
            let bytes = bytes_of(what, *sender, server);
            let write = async {
                stream.write_all(&bytes).await?;
                stream.flush().await
            };
            let _ = timeout(PATIENCE, write).await;
        }
        Step::Close(number) => {
            let Some((_, stream)) = choose(streams, *number) else { return };
            let _ = timeout(PATIENCE, stream.close()).await;
        }
        Step::Reset(number) => drop(take(streams, *number)),
        Step::Read(number) => {
            let Some((_, stream)) = choose(streams, *number) else { return };
            let _ = timeout(PATIENCE, stream.read(&mut [0; 4096])).await;
        }
    }
}

fn bytes_of(what: &What<'_>, sender: PeerId, server: PeerId) -> Vec<u8> {
    let stranger = PeerId::random();
    let peer = |who: Who| match who {
        Who::Sender => sender,
        Who::Server => server,
        Who::Stranger => stranger,
    };
    let key = |of: Who| format!("ping_actor:meta:{}", peer(of)).into_bytes();
    match *what {
        What::Raw(bytes) => bytes.into(),
        What::Frame(kind, rest) => [&(rest.len() as u32 + 1).to_be_bytes()[..], &[kind], rest].concat(),
        What::Kademlia(kind, fields) => encode::kademlia(kind % 6, &[fields.into()]),
        What::Record { of, value } => encode::put_value(&key(of), value),
        What::Registration { of, by } => {
            let owner = peer(by).to_bytes();
            let value = [&[owner.len() as u8][..], &7_u64.to_le_bytes(), &owner, b"ping_pong_app::PingActor"].concat();
            encode::put_value(&key(of), &value)
        }
        What::Provider(of) => encode::add_provider(b"ping_actor", &peer(of)),
        What::Request { kind, actor, length } => {
            let actor = [&0_u64.to_le_bytes()[..], &peer(actor).to_bytes()].concat();
            let kind = match kind {
                Kind::Ask => "Ask",
                Kind::Tell => "Tell",
                Kind::Link => "Link",
                Kind::OutboundFailure => "OutboundFailure",
            };
            let actor = &actor[..actor.len().min(length.into())];
            encode::text_map(&[(kind, encode::ask(actor))])
        }
    }
}

fuzz_target!(|steps: Vec<Step<'_>>| {
    WORLD.with_borrow_mut(|world| world.run(&steps[..steps.len().min(MAX_STEPS)]));
});
