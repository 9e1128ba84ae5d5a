//! Traces of single pings over both programs: a span of the client, and one of the server within it.
//!
//! A ping that is traced travels as a [`Traced`](crate::protocol::Traced), which says to which span it belongs. Without
//! an exporter ([`program::otlp`](crate::program::otlp)) nothing is recorded.

use std::{borrow::Cow, fmt::Display};

use libp2p::PeerId;
use opentelemetry::{
    Context, KeyValue,
    global::{self, BoxedSpan},
    trace::{
        Span, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
        Tracer,
    },
};

/// What one program does for one ping, until it is dropped.
pub struct PingSpan(BoxedSpan);

impl PingSpan {
    /// A client sends a ping to a peer. A trace begins.
    pub fn of_client(sequence: u64, peer: &PeerId) -> Self {
        let peer = KeyValue::new("kameo_ping.peer_id", peer.to_string());
        Self::new(SpanKind::Client, &Context::new(), vec![number(sequence), peer])
    }

    /// A server got a ping with this `traceparent`. One that is not valid begins a trace of its own.
    pub(crate) fn of_server(sequence: u64, context: &str) -> Self {
        let parent = Context::new().with_remote_span_context(parse(context).unwrap_or(SpanContext::NONE));
        Self::new(SpanKind::Server, &parent, vec![number(sequence)])
    }

    fn new(kind: SpanKind, parent: &Context, attributes: Vec<KeyValue>) -> Self {
        let builder = SpanBuilder::from_name("ping").with_kind(kind).with_attributes(attributes);
        Self(global::tracer("kameo-ping").build_with_context(builder, parent))
    }

    /// The span, for the other side: a `traceparent` (<https://www.w3.org/TR/trace-context/#traceparent-header>).
    pub fn context(&self) -> String {
        let context = self.0.span_context();
        format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags())
    }

    /// The ping failed: the short name of the cause, and a sentence.
    pub fn fail(&mut self, cause: &'static str, error: &dyn Display) {
        self.0.set_attribute(KeyValue::new("error.type", cause));
        self.0.set_status(Status::Error { description: Cow::Owned(error.to_string()) });
    }
}

fn number(sequence: u64) -> KeyValue {
    KeyValue::new("kameo_ping.sequence", i64::try_from(sequence).unwrap_or(i64::MAX))
}

/// Reads a `traceparent` of version 0. A peer sends it, so it may be anything.
fn parse(context: &str) -> Option<SpanContext> {
    let mut parts = context.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let are_as_long = [version, trace, span, flags].map(str::len) == [2, 32, 16, 2];
    if version != "00" || !are_as_long || parts.next().is_some() {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    Some(SpanContext::new(trace, span, flags, true, TraceState::NONE)).filter(SpanContext::is_valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_standard_allows_is_a_context() {
        // The example of the standard.
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = parse(text).unwrap();
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.span_id().to_string(), "00f067aa0ba902b7");
        for wrong in [
            "",
            "-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-1",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47é-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-zz",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
