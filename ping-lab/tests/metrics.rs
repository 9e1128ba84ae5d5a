//! What Prometheus is told.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    time::Duration,
};

use ping_lab::{Process, Server, client_command, ping};

/// Where metrics are served, as a line of the log names it.
fn host(line: &str) -> &str {
    line.split("http://").nth(1).unwrap().split('/').next().unwrap()
}

/// The status and the body that a path has there.
fn get(line: &str, path: &str) -> (String, String) {
    let host = host(line);
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
}

/// The value of a metric with these labels, if it is there.
fn value(body: &str, metric: &str) -> Option<f64> {
    body.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn a_server_counts_its_pings_and_peers() {
    let server = Server::with(&["--metrics", "0"]);
    let line = server.process.log_with("Metrics at");
    assert_eq!(get(&line, "/healthz").0, "200");
    assert_eq!(get(&line, "/readyz").0, "200");
    assert_eq!(get(&line, "/other").0, "404");
    assert_eq!(ping(server.address("tcp"), &["-c", "7"]).code, Some(0));
    assert_eq!(ping(server.address("quic-v1"), &["-c", "5", "--mode", "stream"]).code, Some(0));
    server.process.event("client_disconnected");
    server.process.event("client_disconnected");
    let (status, body) = get(&line, "/metrics");
    assert_eq!(status, "200");
    for (metric, expected) in [
        ("kameo_ping_pings_total", 12.0),
        ("kameo_ping_pings_received_total{mode=\"ask\"}", 7.0),
        ("kameo_ping_pings_received_total{mode=\"tell\"}", 0.0),
        ("kameo_ping_pings_received_total{mode=\"stream\"}", 5.0),
        ("kameo_ping_mailbox_messages", 0.0),
        ("kameo_ping_runs", 0.0),
        ("kameo_ping_members", 1.0),
        ("kameo_ping_peers_connected_total{transport=\"tcp\"}", 1.0),
        ("kameo_ping_peers_disconnected_total{transport=\"quic\",ending=\"left\"}", 1.0),
        ("kameo_ping_peers{transport=\"tcp\"}", 0.0),
        ("kameo_ping_connections_refused_total{limit=\"per_address\"}", 0.0),
        ("kameo_ping_registrations", 0.0),
    ] {
        assert_eq!(value(&body, metric), Some(expected), "{metric}: {body}");
    }
    for transport in ["tcp", "quic"] {
        for way in ["received", "sent"] {
            let bytes = value(&body, &format!("kameo_ping_{way}_bytes_total{{transport=\"{transport}\"}}")).unwrap();
            // The names of the protocols alone take as much.
            assert!((100.0..100_000.0).contains(&bytes), "{way} {transport}: {body}");
        }
    }
    // Seven asks, and at least one read from the stream.
    let handled = value(&body, "kameo_ping_handler_seconds_count").unwrap();
    assert!((8.0..=12.0).contains(&handled), "{body}");
    assert!(body.ends_with("# EOF\n"), "{body}");
}

#[test]
fn a_client_says_how_its_pings_go_while_it_pings() {
    let server = Server::start();
    let mut command = client_command(server.address("tcp"), &["-c", "0", "-i", "10ms", "--metrics", "0"]);
    let client = Process::start(&mut command);
    let line = client.log_with("Metrics at");
    server.process.pings(10);
    let (_, body) = get(&line, "/metrics");
    assert_eq!(value(&body, "probe_success"), Some(1.0), "{body}");
    // The server has counted ten; the client may not have read all pongs yet.
    let answered = value(&body, "kameo_ping_answered_total").unwrap();
    assert!(answered >= 1.0, "{body}");
    assert_eq!(value(&body, "kameo_ping_round_trip_seconds_count"), Some(answered), "{body}");
    for phase in ["find", "connect", "lookup", "first_pong"] {
        assert!(value(&body, &format!("kameo_ping_phase_seconds{{phase=\"{phase}\"}}")).unwrap() > 0.0, "{body}");
    }
    assert_eq!(value(&body, "kameo_ping_path{kind=\"direct\",transport=\"tcp\"}"), Some(1.0), "{body}");
    assert_eq!(get(&line, "/readyz").0, "200");
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut command = Command::new(ping_lab::program("ping-server"));
    command.args(["--ephemeral", "--listen", "/ip4/127.0.0.1/tcp/0", "--metrics", &port]);
    let run = ping_lab::finish(&mut command);
    assert!(run.code == Some(2) && run.stderr.contains("cannot serve metrics at 127.0.0.1:"), "{run}");
}

/// A Prometheus that scrapes targets.
#[cfg(unix)]
struct Prometheus {
    port: u16,
    _process: Process,
    _folder: tempfile::TempDir,
}

#[cfg(unix)]
impl Prometheus {
    fn start(targets: &[String], options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let job = format!("{{job_name: ping, static_configs: [{{targets: {targets:?}}}]}}");
        let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/alerts.yml");
        let config = format!("{{global: {{scrape_interval: 1s}}, rule_files: [{rules:?}], scrape_configs: [{job}]}}");
        let [data, file] = ["data", "prometheus.yml"].map(|name| ping_lab::file(folder.path(), name));
        std::fs::write(&file, config).unwrap();
        let mut port = ping_lab::Port::claim();
        port.free_tcp();
        let mut command = Command::new("prometheus");
        command.args(options).args([
            format!("--config.file={file}"),
            format!("--storage.tsdb.path={data}"),
            format!("--web.listen-address=127.0.0.1:{}", port.number),
        ]);
        Self { port: port.number, _process: Process::start(&mut command), _folder: folder }
    }

    /// What it answers to a query now. Nothing while it starts.
    fn ask(&self, query: &str) -> Option<serde_json::Value> {
        let query: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.write_all(format!("GET /api/v1/query?query={query} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split("\r\n\r\n").nth(1)?).ok()
    }

    /// The figure that it answers with, once it has scraped what that is about.
    fn query(&self, query: &str) -> f64 {
        let mut figure = None;
        ping_lab::until(query, || {
            let answer = self.ask(query);
            figure = answer.and_then(|answer| answer["data"]["result"][0]["value"][1].as_str()?.parse().ok());
            figure.is_some()
        });
        figure.unwrap()
    }
}

/// What a dashboard asks for.
#[cfg(unix)]
fn expressions(value: &serde_json::Value) -> Vec<&str> {
    match value {
        serde_json::Value::Object(fields) => fields
            .iter()
            .flat_map(
                |(name, value)| if name == "expr" { value.as_str().into_iter().collect() } else { expressions(value) },
            )
            .collect(),
        serde_json::Value::Array(values) => values.iter().flat_map(expressions).collect(),
        _ => Vec::new(),
    }
}

#[cfg(unix)]
#[test]
fn a_prometheus_scrapes_both_programs() {
    if !ping_lab::is_installed("prometheus") {
        eprintln!("skipped: there is no prometheus on this machine");
        return;
    }
    let server = Server::with(&["--metrics", "0"]);
    let of_server = server.process.log_with("Metrics at");
    assert_eq!(ping(server.address("tcp"), &["-c", "42"]).code, Some(0));
    server.process.pings(42);
    let other = Server::start();
    let mut command = client_command(other.address("tcp"), &["-c", "0", "-i", "10ms", "--metrics", "0"]);
    let client = Process::start(&mut command);
    let of_client = client.log_with("Metrics at");
    let targets = [of_server, of_client].map(|line| host(&line).to_owned());
    let text = Prometheus::start(&targets, &[]);
    // It asks for protobuf, which has both forms of a histogram, and keeps the native one.
    let protobuf = Prometheus::start(&targets, &["--enable-feature=native-histograms"]);
    for prometheus in [&text, &protobuf] {
        assert!((prometheus.query("kameo_ping_pings_total") - 42.0).abs() < f64::EPSILON);
        assert!((prometheus.query("probe_success") - 1.0).abs() < f64::EPSILON);
        assert!(prometheus.query("kameo_ping_phase_seconds{phase=\"first_pong\"}") > 0.0);
    }
    assert!(text.query("histogram_quantile(0.5, kameo_ping_round_trip_seconds_bucket)") > 0.0);
    assert!(protobuf.query("histogram_quantile(0.5, kameo_ping_round_trip_seconds)") > 0.0);
    let dashboard = serde_json::from_str(include_str!("../../packaging/grafana.json")).unwrap();
    let expressions = expressions(&dashboard);
    assert!(expressions.len() >= 5, "{expressions:?}");
    for (prometheus, expression) in [&text, &protobuf].into_iter().flat_map(|p| expressions.iter().map(move |e| (p, e)))
    {
        let expression = expression.replace("$__rate_interval", "10s");
        let answer = prometheus.ask(&expression).unwrap();
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
        // The two rates need two scrapes.
        if expression.contains("round_trip") {
            assert!(prometheus.query(&expression) > 0.0);
        }
    }
}
