//! Traces of single pings over both programs: a span of the client, and one of the server within it.
//!
//! A ping that is traced travels as a [`Traced`](crate::protocol::Traced), which says to which span it belongs. Without
//! an exporter ([`program::otlp`](crate::program::otlp)) nothing is recorded.

use std::{
    borrow::Cow,
    fmt::Display,
    sync::Mutex,
    time::{Duration, Instant},
};

use libp2p::PeerId;
use opentelemetry::{
    Context, KeyValue,
    global::{self, BoxedSpan},
    trace::{
        Span, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
        Tracer,
    },
};

use crate::lock::lock;

/// How many spans of a server begin in a second at most, whatever its clients want.
const MAX_PER_SECOND: u32 = 200;

/// What one program does for one ping, until it is dropped.
pub struct PingSpan {
    span: BoxedSpan,
    /// Whether it is known how the ping ended.
    has_ended: bool,
}

impl PingSpan {
    /// A client sends a ping to a peer. A trace begins.
    pub fn of_client(sequence: u64, peer: &PeerId) -> Self {
        let peer = KeyValue::new("kameo_ping.peer_id", peer.to_string());
        let span = new(SpanKind::Client, &Context::new(), vec![number(sequence), peer]);
        Self { span, has_ended: false }
    }

    /// A server got a ping with this `traceparent`. `None` if that is not valid, or if too many pings are traced.
    pub(crate) fn of_server(sequence: u64, context: &str) -> Option<Self> {
        static BEGUN: Mutex<Option<(Instant, u32)>> = Mutex::new(None);
        let parent = parse(context).filter(|_| has_room(&mut lock(&BEGUN), Instant::now()))?;
        let parent = Context::new().with_remote_span_context(parent);
        Some(Self { span: new(SpanKind::Server, &parent, vec![number(sequence)]), has_ended: true })
    }

    /// The span, for the other side: a `traceparent` (<https://www.w3.org/TR/trace-context/#traceparent-header>).
    pub fn context(&self) -> String {
        let context = self.span.span_context();
        format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags())
    }

    /// The ping was answered.
    pub fn succeed(&mut self) {
        self.has_ended = true;
    }

    /// The ping failed: the short name of the cause, and a sentence.
    pub fn fail(&mut self, cause: &'static str, error: &dyn Display) {
        self.has_ended = true;
        self.span.set_attribute(KeyValue::new("error.type", cause));
        self.span.set_status(Status::Error { description: Cow::Owned(error.to_string()) });
    }
}

impl Drop for PingSpan {
    fn drop(&mut self) {
        if !self.has_ended {
            self.fail("abandoned", &"the connection was lost, or the run ended, before the answer came");
        }
    }
}

fn new(kind: SpanKind, parent: &Context, attributes: Vec<KeyValue>) -> BoxedSpan {
    let builder = SpanBuilder::from_name("ping").with_kind(kind).with_attributes(attributes);
    global::tracer("kameo-ping").build_with_context(builder, parent)
}

/// Whether another span may begin, of those that began since a certain time.
fn has_room(begun: &mut Option<(Instant, u32)>, now: Instant) -> bool {
    let (since, count) = begun.get_or_insert((now, 0));
    if now.saturating_duration_since(*since) >= Duration::from_secs(1) {
        (*since, *count) = (now, 0);
    }
    *count += 1;
    *count <= MAX_PER_SECOND
}

fn number(sequence: u64) -> KeyValue {
    KeyValue::new("kameo_ping.sequence", i64::try_from(sequence).unwrap_or(i64::MAX))
}

/// Reads a `traceparent` of version 0. A peer sends it, so it may be anything.
fn parse(context: &str) -> Option<SpanContext> {
    let mut parts = context.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let are_as_long = [version, trace, span, flags].map(str::len) == [2, 32, 16, 2];
    let is_hexadecimal = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let are_hexadecimal = [trace, span, flags].into_iter().all(is_hexadecimal);
    if version != "00" || !are_as_long || !are_hexadecimal || parts.next().is_some() {
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
    fn a_peer_cannot_make_a_server_begin_spans_without_end() {
        let (mut begun, now) = (None, Instant::now());
        for second in 0..3 {
            let now = now + Duration::from_secs(second);
            let count = (0..10_000).filter(|_| has_room(&mut begun, now)).count();
            assert_eq!(count as u32, MAX_PER_SECOND);
        }
    }

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
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-+1",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
