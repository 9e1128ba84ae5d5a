//! Small pings beside a large payload on the same stream: how long they take, against how long they take alone.
//!
//! Rounds with and without the payload take turns, on one connection to one server on loopback.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a benchmark fails by panicking")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    future::poll_fn,
    time::{Duration, Instant},
};

use bytes::Bytes;
use libp2p::{Multiaddr, PeerId, identity::Keypair, multiaddr::Protocol};
use ping_core::{
    behaviour::{KEEP_ALIVE, Limits, Options, SILENCE},
    node::Node,
    stream::{Pipe, Settled},
};
use support::Server;

const ROUNDS: usize = 11;
const PINGS: usize = 5000;
const LARGE: usize = 16 * 1024 * 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let server = Server::start();
    let options = Options {
        listens: false,
        mdns: false,
        limits: Limits::DIALER,
        keep_alive: KEEP_ALIVE,
        silence: SILENCE,
        request_timeout: Duration::from_secs(10),
        allowed: None,
        secret: None,
        streams: None,
    };
    let (node, _events) = Node::start(&Keypair::generate_ed25519(), options).unwrap();
    for transport in ["tcp", "quic-v1"] {
        let address: Multiaddr = server.address(transport).parse().unwrap();
        let expected = address.iter().find_map(|part| if let Protocol::P2p(peer) = part { Some(peer) } else { None });
        let expected: PeerId = expected.unwrap();
        let connection = node.dial(address.clone(), Some(expected)).await.unwrap();
        let (mut pipe, _) = Pipe::open(&node, connection.peer, None).await.unwrap();
        let mut pings = Pings { next: 0, large: 0, payload: vec![0xA5; LARGE].into() };
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        let (mut moved, mut took) = (0, Duration::ZERO);
        for _ in 0..ROUNDS {
            alone.push(p99(pings.round(&mut pipe, false).await.0));
            let started = Instant::now();
            let (times, large) = pings.round(&mut pipe, true).await;
            beside.push(p99(times));
            pings.finish(&mut pipe).await;
            moved += (large + 1) * LARGE;
            took += started.elapsed();
        }
        let (alone, beside) = (median(alone), median(beside));
        println!(
            "{transport:8} p99 of small pings alone {:.3} ms, beside 16 MiB payloads {:.3} ms: × {:.2}, payloads {:.0} MB/s each way",
            alone.as_secs_f64() * 1e3,
            beside.as_secs_f64() * 1e3,
            beside.as_secs_f64() / alone.as_secs_f64(),
            moved as f64 / took.as_secs_f64() / 1e6,
        );
        drop(pipe);
        node.disconnect(expected);
        connection.closed.await.unwrap();
    }
    node.stop().await;
}

/// Sends pings and tells the large from the small.
struct Pings {
    next: u64,
    /// The number of the large one under way, or 0.
    large: u64,
    payload: Bytes,
}

impl Pings {
    /// Sends small pings one after the other, and meanwhile, if so wanted, keeps a large one under way. Returns the round
    /// trips, and how many large ones came back.
    async fn round(&mut self, pipe: &mut Pipe, beside: bool) -> (Vec<Duration>, usize) {
        let (mut times, mut large) = (Vec::new(), 0);
        while times.len() < PINGS {
            if beside && self.large == 0 {
                self.next += 1;
                self.large = self.next;
                pipe.ask(self.large, self.payload.clone());
            }
            self.next += 1;
            let small = self.next;
            let sent = Instant::now();
            pipe.ask(small, Bytes::new());
            let mut answered = false;
            while !answered {
                for id in settled(pipe).await {
                    answered |= id == small;
                    if id == self.large {
                        self.large = 0;
                        large += 1;
                    }
                }
            }
            times.push(sent.elapsed());
        }
        (times, large)
    }

    /// Waits for the large one.
    async fn finish(&mut self, pipe: &mut Pipe) {
        while self.large != 0 {
            if settled(pipe).await.contains(&self.large) {
                self.large = 0;
            }
        }
    }
}

async fn settled(pipe: &mut Pipe) -> Vec<u64> {
    let mut settled = Vec::new();
    poll_fn(|context| pipe.poll(context, &mut settled)).await.unwrap();
    let id = |settled| match settled {
        Settled::Pong { id, .. } => id,
        other => panic!("{other:?}"),
    };
    settled.into_iter().map(id).collect()
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
