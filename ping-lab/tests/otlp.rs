//! Traces of pings, as a collector gets them from both programs.

#![cfg(unix)]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::any_value::Value,
    trace::v1::{Span, span::SpanKind},
};
use ping_lab::{DEADLINE, Server, client, ping, stock};
use prost::Message;

/// A collector: its URL, and the spans that it gets, each with the name of its service.
struct Collector {
    url: String,
    spans: mpsc::Receiver<(String, Span)>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, spans) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let sender = sender.clone();
                thread::spawn(move || collect(BufReader::new(stream.unwrap()), &sender));
            }
        });
        Self { url, spans }
    }

    fn take(&self, count: usize) -> Vec<(String, Span)> {
        (0..count).map(|_| self.spans.recv_timeout(DEADLINE).expect("a span is missing")).collect()
    }
}

/// Answers the requests of one connection.
fn collect(mut stream: BufReader<TcpStream>, spans: &mpsc::Sender<(String, Span)>) {
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap()];
        stream.read_exact(&mut body).unwrap();
        for resource in ExportTraceServiceRequest::decode(&*body).unwrap().resource_spans {
            let attributes = resource.resource.unwrap().attributes;
            let name = attributes.into_iter().find(|attribute| attribute.key == "service.name").unwrap();
            let Some(Value::StringValue(name)) = name.value.unwrap().value else { panic!("the name is no text") };
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let _ = spans.send((name.clone(), span));
            }
        }
        stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    }
}

fn sequence(span: &Span) -> i64 {
    let sequence = span.attributes.iter().find(|attribute| attribute.key == "kameo_ping.sequence").unwrap();
    match sequence.value.as_ref().unwrap().value {
        Some(Value::IntValue(sequence)) => sequence,
        _ => panic!("{span:?}"),
    }
}

#[test]
fn a_traced_ping_is_one_trace_over_both_programs() {
    let collector = Collector::start();
    let server = Server::with(&["--otlp", &collector.url]);
    let run = ping(server.address("tcp"), &["--otlp", &collector.url, "-c", "3", "-i", "200ms"]);
    assert_eq!(run.json()["pings"]["received"], 3, "{run}");
    let client = collector.take(3);
    server.process.signal("TERM");
    assert_eq!(server.process.event("stopped")["total"], 3);
    let server = collector.take(3);
    for (number, (service, span)) in client.into_iter().enumerate() {
        assert_eq!((&*service, span.kind(), sequence(&span)), ("ping-client", SpanKind::Client, number as i64 + 1));
        assert!(span.parent_span_id.is_empty(), "{span:?}");
        let of_this = server.iter().filter(|(_, other)| other.trace_id == span.trace_id).collect::<Vec<_>>();
        let [(service, inner)] = &*of_this else { panic!("{of_this:?}") };
        assert_eq!((&**service, inner.kind(), sequence(inner)), ("ping-server", SpanKind::Server, number as i64 + 1));
        assert_eq!(inner.parent_span_id, span.span_id);
        // The server's may end a moment after the client has its pong.
        assert!((span.start_time_unix_nano..=span.end_time_unix_nano).contains(&inner.start_time_unix_nano));
        assert_eq!((span.status.unwrap_or_default().code, inner.status.clone().unwrap_or_default().code), (0, 0));
    }
}

#[test]
fn a_few_of_many_pings_are_traced_and_all_are_counted() {
    let collector = Collector::start();
    let server = Server::start();
    let run = ping(server.address("tcp"), &["--otlp", &collector.url, "-c", "500", "-P", "16", "--size", "1k"]);
    assert_eq!(run.json()["server_total"], 500, "{run}");
    let traced = collector.spans.try_iter().count();
    assert!((1..250).contains(&traced), "{traced}");
}

#[test]
fn a_collector_that_is_not_there_is_named_and_costs_no_ping() {
    let server = Server::start();
    // Nothing listens there.
    let run = ping(server.address("tcp"), &["--otlp", "http://127.0.0.1:1", "-c", "3"]);
    assert_eq!((run.code, &run.json()["pings"]["received"]), (Some(0), &3.into()), "{run}");
    let told: Vec<_> = run.stderr.lines().filter(|line| line.contains("does not take them")).collect();
    assert!(told.len() == 1 && told[0].contains("http://127.0.0.1:1/v1/traces"), "{run}");
}

#[test]
fn an_actor_of_another_program_is_pinged_without_traces() {
    let collector = Collector::start();
    let (_stock, address) = stock("server");
    let run = ping(&address, &["--otlp", &collector.url, "-c", "3"]);
    assert_eq!(run.json()["pings"]["received"], 3, "{run}");
    assert!(run.stderr.contains("none are traced"), "{run}");
    assert_eq!(collector.spans.try_iter().count(), 0);
}

#[test]
fn streams_are_not_traced() {
    for arguments in [["--mode", "stream"], ["--mode", "auto"], ["--mode", "stream-tell"]] {
        let run = client(&[&["127.0.0.1", "--otlp", "http://127.0.0.1:1"], &arguments[..]].concat());
        assert_eq!(run.code, Some(2), "{run}");
        assert!(run.stderr.contains("use --mode ask"), "{run}");
    }
}
