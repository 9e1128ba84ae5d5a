//! `--metrics`: figures for Prometheus over HTTP.
//!
//! - `/metrics`: the figures, as OpenMetrics text, or as protobuf for a reader that prefers it: only that form holds
//!   native histograms. They are read when they are asked for, and cost nothing before.
//! - `/healthz`: 200, for as long as the program's thread works.
//! - `/readyz`: 200 when the program does what it is there for, else 503.

use std::{
    convert::Infallible,
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, prometheus_protobuf, text},
    metrics::{
        MetricType,
        counter::ConstCounter,
        gauge::ConstGauge,
        histogram::{Histogram, NativeHistogramConfig, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tracing::{debug, info};

/// How many connections are served at a time. A Prometheus has one.
const MAX_CONNECTIONS: usize = 16;

/// How long the head of a request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may last, which is for one request.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait after a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// How many buckets a native histogram has at most: 20 doublings of a time, at the eight to a doubling that the
/// library begins with. It merges them in pairs when there would be more.
const MAX_NATIVE_BUCKETS: usize = 160;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROTOBUF: &str = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
const TEXT: &str = "text/plain; charset=utf-8";

/// Reads where metrics are served: an IP address and a port, or a port alone, of loopback.
///
/// # Errors
///
/// When it is neither.
pub fn metrics_address(text: &str) -> Result<SocketAddr, String> {
    let port = text.parse().map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    port.or_else(|_| text.parse())
        .map_err(|_| "write a port, or an IP address (no name) and a port, such as 0.0.0.0:9464".into())
}

/// Serves the figures of a registry. Never ends.
pub async fn serve_metrics(
    listener: TcpListener,
    registry: Registry,
    is_ready: impl Fn() -> bool + Clone + Send + Sync + 'static,
) -> Infallible {
    if let Ok(address) = listener.local_addr() {
        info!("Metrics at http://{address}/metrics");
    }
    let registry = Arc::new(registry);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let place = places.clone().acquire_owned().await.ok();
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "cannot accept a connection for metrics");
                sleep(PAUSE).await;
                continue;
            }
        };
        let (registry, is_ready) = (registry.clone(), is_ready.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let response = respond(&request, &registry, &is_ready);
            async move { Ok::<_, Infallible>(response) }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).keep_alive(false);
        let connection = timeout(CONNECTION_TIMEOUT, http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            match connection.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, "a connection for metrics"),
                Err(_) => debug!("a reader of metrics took too long"),
            }
            drop(place);
        });
    }
}

fn respond<B>(request: &Request<B>, registry: &Registry, is_ready: impl Fn() -> bool) -> Response<Full<Bytes>> {
    let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match encode(registry, prefers_protobuf(accept)) {
            Some((kind, figures)) => (StatusCode::OK, kind, figures),
            None => (StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the figures have no form\n".into()),
        },
        (&Method::GET, "/healthz") => (StatusCode::OK, TEXT, "ok\n".into()),
        (&Method::GET, "/readyz") if is_ready() => (StatusCode::OK, TEXT, "ready\n".into()),
        (&Method::GET, "/readyz") => (StatusCode::SERVICE_UNAVAILABLE, TEXT, "not ready\n".into()),
        (&Method::GET, _) => (StatusCode::NOT_FOUND, TEXT, "there are /metrics, /healthz and /readyz\n".into()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, TEXT, "use GET\n".into()),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// The figures and their form.
fn encode(registry: &Registry, as_protobuf: bool) -> Option<(&'static str, Bytes)> {
    if as_protobuf {
        return Some((PROTOBUF, prometheus_protobuf::encode_to_vec(registry).ok()?.into()));
    }
    let mut figures = String::new();
    text::encode(&mut figures, registry).ok()?;
    Some((OPEN_METRICS, figures.into()))
}

/// Whether an `Accept` header gives protobuf more weight than any text, as RFC 9110, section 12.5.1, weighs them.
fn prefers_protobuf(accept: &str) -> bool {
    let weight = |is_kind: fn(&str) -> bool| {
        let kinds = accept.split(',').map(|kind| kind.split(';').map(str::trim));
        let kinds = kinds.filter_map(|mut parts| is_kind(parts.next()?).then_some(parts));
        let weights =
            kinds.map(|mut parts| parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0));
        weights.fold(0.0, f64::max)
    };
    weight(|kind| kind == "application/vnd.google.protobuf")
        > weight(|kind| matches!(kind, "application/openmetrics-text" | "text/plain"))
}

/// A histogram of times in seconds, in both forms. The first bucket of the classic one ends at `first`, and each next
/// one is `factor` times as long.
pub fn histogram(first: f64, factor: f64, buckets: u16) -> Histogram {
    let native = NativeHistogramConfig::default().max_buckets(MAX_NATIVE_BUCKETS);
    Histogram::new_classic_and_native(exponential_buckets(first, factor, buckets), native)
}

/// A figure that is read when it is asked for.
pub struct Reading<F> {
    /// Its name; the figures of this program begin with `kameo_ping_`.
    pub name: &'static str,
    /// What it is, without the full stop.
    pub help: &'static str,
    /// Whether it only grows.
    pub is_counter: bool,
    /// Reads it.
    pub read: F,
}

impl<F> fmt::Debug for Reading<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl<F: Fn() -> f64 + Send + Sync + 'static> Collector for Reading<F> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let kind = if self.is_counter { MetricType::Counter } else { MetricType::Gauge };
        let figure = encoder.encode_descriptor(self.name, self.help, None::<&Unit>, kind)?;
        match self.is_counter {
            true => ConstCounter::new((self.read)()).encode(figure),
            false => ConstGauge::new((self.read)()).encode(figure),
        }
    }
}

/// Counters of one kind that are read when they are asked for, each with the value of a label.
pub struct Readings<F> {
    /// Their name, as that of a [`Reading`].
    pub name: &'static str,
    /// What they are, without the full stop.
    pub help: &'static str,
    /// What tells them apart.
    pub label: &'static str,
    /// Reads them.
    pub read: F,
}

impl<F> fmt::Debug for Readings<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl<F, R> Collector for Readings<F>
where
    F: Fn() -> R + Send + Sync + 'static,
    R: IntoIterator<Item = (&'static str, u64)>,
{
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut figures = encoder.encode_descriptor(self.name, self.help, None::<&Unit>, MetricType::Counter)?;
        (self.read)().into_iter().try_for_each(|(value, count)| {
            ConstCounter::new(count).encode(figures.encode_family(&[(self.label, value)])?)
        })
    }
}

/// A registry with the figures that every process has, as far as the system tells.
pub fn process_metrics() -> Registry {
    let mut registry = Registry::default();
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let mut gauge = |name, help, read: Box<dyn Fn() -> f64 + Send + Sync>| {
        registry.register_collector(Box::new(Reading { name, help, is_counter: false, read }));
    };
    gauge("process_start_time_seconds", "When the process started, since 1970", Box::new(move || started));
    #[cfg(target_os = "linux")]
    {
        gauge("process_resident_memory_bytes", "Resident memory", Box::new(linux::resident_memory));
        gauge("process_open_fds", "Open file descriptors", Box::new(linux::open_files));
    }
    registry
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs;

    /// Zero if the system does not tell.
    pub(super) fn resident_memory() -> f64 {
        let pages = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok()).unwrap_or(0.0);
        pages * rustix::param::page_size() as f64
    }

    pub(super) fn open_files() -> f64 {
        // The folder itself is open while it is read.
        fs::read_dir("/proc/self/fd").map_or(0, |files| files.count().saturating_sub(1)) as f64
    }
}

/// Binds the address that metrics are served at. Needs a Tokio runtime.
///
/// # Errors
///
/// When the system refuses.
pub fn bind_metrics(address: SocketAddr) -> io::Result<TcpListener> {
    std::net::TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .and_then(TcpListener::from_std)
        .map_err(|error| {
            io::Error::new(error.kind(), format!("cannot serve metrics at {address}: {error}. Choose another port."))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_one_of_loopback() {
        assert_eq!(metrics_address("9464"), Ok("127.0.0.1:9464".parse().unwrap()));
        assert_eq!(metrics_address("[::]:1"), Ok("[::]:1".parse().unwrap()));
        assert!(metrics_address("host:1").is_err() && metrics_address("99999").is_err());
    }

    #[test]
    fn paths_and_methods_are_told_apart() {
        let status = |method, path, is_ready| {
            let request = Request::builder().method(method).uri(path).body(()).unwrap();
            respond(&request, &process_metrics(), || is_ready).status().as_u16()
        };
        assert_eq!(status(Method::GET, "/metrics", false), 200);
        assert_eq!((status(Method::GET, "/readyz", true), status(Method::GET, "/readyz", false)), (200, 503));
        assert_eq!((status(Method::GET, "/", true), status(Method::POST, "/metrics", true)), (404, 405));
    }

    #[test]
    fn protobuf_is_for_those_who_prefer_it() {
        for (accept, prefers) in [
            ("application/vnd.google.protobuf;encoding=delimited,application/openmetrics-text;q=0.8,*/*;q=0.1", true),
            ("application/vnd.google.protobuf; q=0.5, application/openmetrics-text; version=1.0.0; q=0.6", false),
            ("application/openmetrics-text;q=0.5,text/plain;q=0.2", false),
            ("application/vnd.google.protobuf;q=0", false),
            ("*/*", false),
            ("", false),
        ] {
            assert_eq!(prefers_protobuf(accept), prefers, "{accept}");
        }
    }
}
