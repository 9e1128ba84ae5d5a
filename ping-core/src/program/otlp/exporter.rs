//! What sends spans to a collector, and says when that fails.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use tracing::{info, warn};

use crate::program::flush_log;

/// How long the collector has to take spans.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long a program waits for that when it ends.
const LAST_TIMEOUT: Duration = Duration::from_secs(2);

/// What sends spans, in a thread of its own. When it is dropped, it sends those that are left, for 2 s at most.
pub struct Exporter(SdkTracerProvider);

impl Exporter {
    /// Sends the spans of this program to an [endpoint](super::otlp_endpoint) from now on.
    ///
    /// # Errors
    ///
    /// When the exporter cannot be made.
    pub fn start(endpoint: &str, program: &'static str) -> Result<Self, String> {
        let exporter = Otlp::builder().with_http().with_endpoint(endpoint).with_timeout(TIMEOUT).build();
        let exporter = exporter.map_err(|error| format!("cannot send traces to {endpoint}: {error}"))?;
        let exporter = Telling { exporter, endpoint: endpoint.into(), fails: AtomicBool::new(false) };
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder().with_service_name(program).with_attribute(version).build();
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        global::set_tracer_provider(provider.clone());
        Ok(Self(provider))
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(LAST_TIMEOUT) {
            warn!("The last spans may be lost: {error}");
        }
        flush_log();
    }
}

/// An exporter that says once when it begins to fail, and once when it works again.
#[derive(Debug)]
struct Telling {
    exporter: Otlp,
    endpoint: String,
    fails: AtomicBool,
}

impl SpanExporter for Telling {
    async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
        let count = spans.len();
        let outcome = self.exporter.export(spans).await;
        match (&outcome, self.fails.swap(outcome.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => warn!("{count} spans are lost: {} does not take them: {error}", self.endpoint),
            (Ok(()), true) => info!("{} takes spans again", self.endpoint),
            _ => {}
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
