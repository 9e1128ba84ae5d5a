//! `--otlp`: sends the spans of traced pings to an OpenTelemetry collector. Only programs that are built with the
//! feature `otlp` can.

#[cfg(feature = "otlp")]
mod exporter;

use hyper::Uri;

#[cfg(feature = "otlp")]
pub use exporter::Exporter;

/// Whether this program can send spans.
pub const IS_BUILT: bool = cfg!(feature = "otlp");

const NOT_BUILT: &str = "this program is built without traces; build it with --features otlp";

/// An exporter, which there is not in this build.
#[cfg(not(feature = "otlp"))]
pub enum Exporter {}

#[cfg(not(feature = "otlp"))]
impl Exporter {
    /// Fails.
    ///
    /// # Errors
    ///
    /// Always.
    pub fn start(_: &str, _: &'static str) -> Result<Self, String> {
        Err(NOT_BUILT.into())
    }
}

/// Reads where a collector takes OTLP over HTTP, such as `http://localhost:4318`. Returns where it takes spans.
///
/// # Errors
///
/// When that is no such address, or this program cannot send spans.
pub fn otlp_endpoint(text: &str) -> Result<String, String> {
    if IS_BUILT { endpoint(text) } else { Err(NOT_BUILT.into()) }
}

/// The paths are those of the specification
/// (<https://opentelemetry.io/docs/specs/otel/protocol/exporter/#endpoint-urls-for-otlphttp>).
fn endpoint(text: &str) -> Result<String, String> {
    let uri: Option<Uri> = text.parse().ok();
    match uri.filter(|uri| {
        uri.scheme_str() == Some("http") && uri.host().is_some() && uri.query().is_none() && !text.contains('#')
    }) {
        Some(_) => Ok(format!("{}/v1/traces", text.trim_end_matches('/'))),
        None => Err("write where a collector takes OTLP over HTTP without TLS, such as http://localhost:4318".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::endpoint;

    #[test]
    fn an_endpoint_is_the_base_of_a_url_without_tls() {
        for text in ["http://localhost:4318", "http://localhost:4318/"] {
            assert_eq!(endpoint(text).unwrap(), "http://localhost:4318/v1/traces");
        }
        assert_eq!(endpoint("http://[::1]:4318/tenant").unwrap(), "http://[::1]:4318/tenant/v1/traces");
        for wrong in [
            "",
            "localhost:4318",
            "https://localhost:4318",
            "http://",
            "/v1/traces",
            "http://host?a=b",
            "http://host#a",
        ] {
            assert!(endpoint(wrong).is_err(), "{wrong}");
        }
    }
}
