//! `--metrics`: what Prometheus learns of the server.

use std::{convert::Infallible, future::pending, net::SocketAddr, sync::atomic::Ordering};

use anyhow::Result;
use kameo::actor::ActorRef;
use libp2p::Multiaddr;
use ping_core::{
    Event, Node, PingActor,
    actor::{Count, Tally, waiting},
    cluster::State,
    program::metrics::{Reading, Readings, bind_metrics, histogram, process_metrics, serve_metrics},
    transport::endpoint,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tokio::{net::TcpListener, sync::watch};

/// The upper end of the first bucket of the handlers' times, in seconds, and how many buckets there are, each four
/// times as long as the one before: to 1 s.
const FIRST_BUCKET: f64 = 250e-9;
const BUCKETS: u16 = 12;

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct By {
    transport: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Ended {
    transport: String,
    ending: String,
}

impl By {
    fn of(address: &Multiaddr) -> Self {
        // A client behind a relay has the relay's address.
        let transport = endpoint(address).map_or("relay".into(), |(.., by)| by.to_string().to_lowercase());
        Self { transport }
    }
}

/// What is counted while it happens. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    peers: Family<By, Gauge>,
    connected: Family<By, Counter>,
    disconnected: Family<Ended, Counter>,
    relays: Gauge,
}

impl Metrics {
    pub(crate) fn on_event(&self, event: &Event) {
        match event {
            Event::PeerConnected { address, .. } => {
                let by = By::of(address);
                self.connected.get_or_create(&by).inc();
                self.peers.get_or_create(&by).inc();
            }
            Event::PeerDisconnected { address, ending, .. } => {
                let by = By::of(address);
                self.peers.get_or_create(&by).dec();
                self.disconnected.get_or_create(&Ended { transport: by.transport, ending: ending.name().into() }).inc();
            }
            _ => {}
        }
    }

    pub(crate) fn on_relay(&self, is_held: bool) {
        if is_held {
            self.relays.inc()
        } else {
            self.relays.dec()
        };
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("kameo_ping_peers", "Connected peers: clients, members and relays", self.peers.clone());
        registry.register("kameo_ping_peers_connected", "Peers that connected", self.connected.clone());
        registry.register("kameo_ping_peers_disconnected", "Peers that disconnected", self.disconnected.clone());
        registry.register("kameo_ping_relays", "Relays that hold a place for the server", self.relays.clone());
    }
}

/// The figures of a server, and where they are served.
#[derive(Debug)]
pub(crate) struct Exporter(Option<(TcpListener, Registry)>);

impl Exporter {
    /// Binds the address, if there is one. Fails if the system refuses.
    pub(crate) fn bind(address: Option<SocketAddr>) -> Result<Self> {
        let Some(address) = address else { return Ok(Self(None)) };
        Ok(Self(Some((bind_metrics(address)?, process_metrics()))))
    }

    /// Adds how long the handlers of an actor take that is not hosted yet, if anybody asks.
    pub(crate) fn time_handlers(&mut self, count: &mut Count) {
        let Self(Some((_, registry))) = self else { return };
        let times = histogram(FIRST_BUCKET, 4.0, BUCKETS);
        let help = "How long the actor took for a ping, or for the pings that one read from a stream brought";
        registry.register("kameo_ping_handler_seconds", help, times.clone());
        count.time_handlers(times);
    }

    /// Adds how long the file of the count took to write, if there is one.
    pub(crate) fn time_state(&mut self, times: &Histogram) {
        let Self(Some((_, registry))) = self else { return };
        registry.register("kameo_ping_state_write_seconds", "How long it took to store the count", times.clone());
    }

    /// Adds the figures of the actor.
    pub(crate) fn observe_actor(&mut self, count: &Count, actor: &ActorRef<PingActor>, tally: &Tally) {
        let Self(Some((_, registry))) = self else { return };
        let (count, mailbox, tally) = (count.clone(), actor.mailbox_sender().clone(), tally.clone());
        registry.register_collector(Box::new(Readings {
            name: "kameo_ping_pings_received",
            help: "Pings that arrived, resent ones and those that found the actor busy included",
            label: "mode",
            read: move || tally.carried(),
        }));
        registry.register_collector(Box::new(Reading {
            name: "kameo_ping_runs",
            help: "Runs whose pings are counted once",
            is_counter: false,
            read: move || count.runs() as f64,
        }));
        registry.register_collector(Box::new(Reading {
            name: "kameo_ping_mailbox_messages",
            help: "Messages that wait for the actor",
            is_counter: false,
            read: move || waiting(&mailbox) as f64,
        }));
    }

    /// Adds the figures of the server: its count, its cluster, and what is counted from now on, if anybody asks.
    pub(crate) fn observe(&mut self, total: watch::Receiver<u64>, node: &Node) -> Option<Metrics> {
        let Self(Some((_, registry))) = self else { return None };
        registry.register_collector(Box::new(Reading {
            name: "kameo_ping_pings",
            help: "Pings that the actor has counted, those before a restart included if they are stored",
            is_counter: true,
            read: move || *total.borrow() as f64,
        }));
        let (refused, failed) = (node.incidents().clone(), node.incidents().clone());
        registry.register_collector(Box::new(Readings {
            name: "kameo_ping_connections_refused",
            help: "Connections above a limit, or of peers that may not connect",
            label: "limit",
            read: move || refused.refused().collect::<Vec<_>>(),
        }));
        let (received, sent) = (node.traffic(), node.traffic());
        registry.register_collector(Box::new(Readings {
            name: "kameo_ping_received_bytes",
            help: "Bytes received over TCP, WebSocket included, and by QUIC's streams",
            label: "transport",
            read: move || received.received(),
        }));
        registry.register_collector(Box::new(Readings {
            name: "kameo_ping_sent_bytes",
            help: "Bytes sent over TCP, WebSocket included, and by QUIC's streams",
            label: "transport",
            read: move || sent.sent(),
        }));
        registry.register_collector(Box::new(Reading {
            name: "kameo_ping_accept_failures",
            help: "Connections that the system could not accept",
            is_counter: true,
            read: move || failed.accept_failures.load(Ordering::Relaxed) as f64,
        }));
        if let Some(cluster) = node.cluster().cloned() {
            let hosts = cluster.clone();
            registry.register_collector(Box::new(Reading {
                name: "kameo_ping_registrations",
                help: "Actors that nodes outside the cluster have registered",
                is_counter: false,
                read: move || {
                    let members = hosts.members();
                    let guests = members.iter().filter(|member| member.state == State::Guest);
                    guests.map(|guest| guest.actors.len()).sum::<usize>() as f64
                },
            }));
            registry.register_collector(Box::new(Reading {
                name: "kameo_ping_members",
                help: "Members of the cluster that are there, this one included",
                is_counter: false,
                read: move || cluster.members().iter().filter(|member| member.state == State::Alive).count() as f64,
            }));
        }
        let metrics = Metrics::default();
        metrics.register(registry);
        Some(metrics)
    }

    /// Serves them. Never ends.
    pub(crate) async fn serve(&mut self) -> Infallible {
        match self.0.take() {
            // The server is ready when it begins to serve.
            Some((listener, registry)) => serve_metrics(listener, registry, || true).await,
            None => pending().await,
        }
    }
}
