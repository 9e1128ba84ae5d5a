//! `--metrics`: what Prometheus learns of a run while it goes on, as from a blackbox exporter.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use ping_core::program::metrics::{bind_metrics, histogram, process_metrics, serve_metrics};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

use crate::{
    figures::Phases,
    pinger::{Answer, Path},
    run::{Observer, Sample, Sending},
};

/// The upper end of the first bucket of round trips, in seconds, and how many follow, each twice as long: from 32 µs to
/// 17 s.
const FIRST_BUCKET: f64 = 32e-6;
const BUCKETS: u16 = 20;

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Cause {
    cause: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Phase {
    phase: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Way {
    kind: String,
    transport: String,
}

/// The figures of the run.
pub(super) struct Exporter {
    is_answered: Arc<AtomicBool>,
    /// When the actor was found, until the first pong.
    found: Option<Instant>,
    success: Gauge,
    sent: Counter,
    answered: Counter,
    late: Counter,
    lost: Family<Cause, Counter>,
    round_trips: Histogram,
    outages: Counter,
    phases: Family<Phase, Gauge<f64, AtomicU64>>,
    path: Family<Way, Gauge>,
}

impl Exporter {
    /// Serves the figures at this address from now on. Needs a Tokio runtime. Fails if the system refuses.
    pub(super) fn serve(address: SocketAddr) -> Result<Self> {
        let listener = bind_metrics(address)?;
        let exporter = Self {
            is_answered: Arc::default(),
            found: None,
            success: Gauge::default(),
            sent: Counter::default(),
            answered: Counter::default(),
            late: Counter::default(),
            lost: Family::default(),
            round_trips: histogram(FIRST_BUCKET, 2.0, BUCKETS),
            outages: Counter::default(),
            phases: Family::default(),
            path: Family::default(),
        };
        let mut registry = process_metrics();
        registry.register("probe_success", "Whether the last ping was answered", exporter.success.clone());
        registry.register("kameo_ping_sent", "Pings sent", exporter.sent.clone());
        registry.register("kameo_ping_answered", "Pings answered in time", exporter.answered.clone());
        registry.register("kameo_ping_late", "Pings answered after they had timed out", exporter.late.clone());
        registry.register("kameo_ping_lost", "Pings lost", exporter.lost.clone());
        let help = "Time from the ping to its pong";
        registry.register("kameo_ping_round_trip_seconds", help, exporter.round_trips.clone());
        registry.register("kameo_ping_outages", "Times without a connection that are over", exporter.outages.clone());
        let help = "How long each step to the first pong took";
        registry.register("kameo_ping_phase_seconds", help, exporter.phases.clone());
        registry.register("kameo_ping_path", "1 for the way that pings take", exporter.path.clone());
        let is_answered = exporter.is_answered.clone();
        tokio::spawn(serve_metrics(listener, registry, move || is_answered.load(Ordering::Relaxed)));
        Ok(exporter)
    }

    fn phase(&self, phase: &'static str, took: Option<Duration>) {
        if let Some(took) = took {
            self.phases.get_or_create(&Phase { phase }).set(took.as_secs_f64());
        }
    }
}

impl Observer for Exporter {
    fn found(&mut self, now: Instant, phases: &Phases) {
        self.found = Some(now);
        self.phase("find", phases.find);
        self.phase("connect", phases.connect);
        self.phase("lookup", phases.lookup);
    }

    fn sending(&mut self, _: Sending) {
        self.sent.inc();
    }

    fn outcome(&mut self, sample: &Sample) {
        match &sample.outcome {
            Ok(_) => {
                self.answered.inc();
                let first_pong = self.found.take().map(|found| sample.ended - found);
                self.phase("first_pong", first_pong);
                self.round_trips.observe((sample.ended - sample.from).as_secs_f64());
            }
            Err(error) => drop(self.lost.get_or_create(&Cause { cause: error.cause() }).inc()),
        }
        self.success.set(sample.outcome.is_ok().into());
        self.is_answered.store(sample.outcome.is_ok(), Ordering::Relaxed);
    }

    fn late(&mut self, _: u64, _: Answer) {
        self.late.inc();
    }

    fn outage(&mut self, _: Instant, _: Instant) {
        self.outages.inc();
    }

    fn path(&mut self, _: Instant, path: Path) {
        self.path.clear();
        let kind = path.kind.json_name().into();
        let transport = path.transport_name().unwrap_or_default();
        self.path.get_or_create(&Way { kind, transport }).set(1);
    }
}
