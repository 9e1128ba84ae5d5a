//! This project's programs against a stock Kameo program, against nothing but TCP, and, where they are installed,
//! against NATS and Erlang, in the same run.
//!
//! Server and client are processes of their own, on loopback. Each round measures every contender once, in turn, so
//! that a machine that changes its speed does so for all of them; the table shows medians over the rounds, and is also
//! written to `tmp/against_stock.json` in the directory that Cargo builds in.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::{fs, path::Path, process::Command};

use ping_lab::{Port, Process, Server, client, finish, is_installed, program, stock};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How often each figure is taken. Odd, so that the median is one of them.
const ROUNDS: usize = 5;

/// One figure: its name, whether more of it is better, how many pings it takes, how many at a time, and how large.
struct Figure {
    name: &'static str,
    field: Field,
    count: u32,
    width: u32,
    size: u32,
}

#[derive(Clone, Copy, PartialEq)]
enum Field {
    FirstPong,
    P50,
    P99,
    Rate,
}

const FIGURES: [Figure; 8] = [
    Figure { name: "first pong ms", field: Field::FirstPong, count: 1, width: 1, size: 0 },
    Figure { name: "p50 ms", field: Field::P50, count: 3000, width: 1, size: 0 },
    Figure { name: "p99 ms", field: Field::P99, count: 3000, width: 1, size: 0 },
    Figure { name: "1 /s", field: Field::Rate, count: 5000, width: 1, size: 0 },
    Figure { name: "8 /s", field: Field::Rate, count: 20_000, width: 8, size: 0 },
    Figure { name: "64 /s", field: Field::Rate, count: 30_000, width: 64, size: 0 },
    Figure { name: "256 /s", field: Field::Rate, count: 30_000, width: 256, size: 0 },
    Figure { name: "64 KiB /s", field: Field::Rate, count: 1000, width: 8, size: 65_536 },
];

/// Takes one figure, or `None` if the program could not do what was asked of it.
type Run<'a> = Box<dyn Fn(&Figure) -> Option<f64> + 'a>;

/// A program to measure.
struct Contender<'a> {
    name: &'static str,
    /// How many times as many pings it gets as the others, so that what is very fast is measured for long enough.
    times: u32,
    run: Run<'a>,
}

/// How many times as many pings the fast ones get when there are many in flight.
const MANY: u32 = 50;

/// Whose figures are compared with whose.
const COMPARISONS: [(&str, &[&str]); 5] = [
    ("stock Kameo, TCP", &["ask, TCP", "ask, QUIC", "stream, TCP", "stream, QUIC"]),
    ("raw TCP", &["stream, TCP", "stream, QUIC"]),
    ("raw TCP, batched", &["stream, TCP", "stream, QUIC"]),
    ("NATS", &["stream, TCP", "stream, QUIC"]),
    ("Erlang", &["stream, TCP", "stream, QUIC"]),
];

fn main() {
    let server = Server::start();
    let (_kameo, kameo_address) = stock("server");
    let (_tcp, tcp_address) = stock("tcp-server");
    let nats = is_installed("nats-server").then(Nats::start);
    let erlang = is_installed("erlc").then(Erlang::start);
    let mut contenders = vec![
        contender("raw TCP", 1, |figure| run_stock("tcp-client", &tcp_address, figure)),
        contender("raw TCP, batched", MANY, |figure| match figure.size {
            0 => run_stock("tcp-batch-client", &tcp_address, figure),
            _ => None,
        }),
        contender("stock Kameo, TCP", 1, |figure| run_stock("client", &kameo_address, figure)),
        contender("ask, TCP", 1, |figure| run_ours("ask", server.address("tcp"), figure)),
        contender("ask, QUIC", 1, |figure| run_ours("ask", server.address("quic-v1"), figure)),
        contender("stream, TCP", MANY, |figure| run_ours("stream", server.address("tcp"), figure)),
        contender("stream, QUIC", MANY, |figure| run_ours("stream", server.address("quic-v1"), figure)),
    ];
    if let Some(nats) = &nats {
        contenders.push(contender("NATS", 1, |figure| run_stock("nats-client", &nats.address, figure)));
    }
    if let Some(erlang) = &erlang {
        contenders.push(contender("Erlang", 1, |figure| figure_of(&mut erlang.client(figure), figure)));
    }
    let mut taken = vec![vec![Vec::new(); FIGURES.len()]; contenders.len()];
    for _ in 0..ROUNDS {
        for (f, figure) in FIGURES.iter().enumerate() {
            for (c, contender) in contenders.iter().enumerate() {
                let times = match (figure.width, figure.size) {
                    (1, _) => 1,
                    (_, 0) => contender.times,
                    _ => contender.times.min(5),
                };
                taken[c][f].extend((contender.run)(&Figure { count: figure.count * times, ..*figure }));
            }
        }
    }
    let medians: Vec<Vec<_>> = taken.into_iter().map(|figures| figures.into_iter().map(median).collect()).collect();

    println!(
        "Medians of {ROUNDS} rounds on loopback. N /s: pings a second with N in flight; 64 KiB /s: with 8 in flight."
    );
    row("", FIGURES.iter().map(|figure| figure.name.to_owned()));
    for (contender, figures) in contenders.iter().zip(&medians) {
        row(contender.name, figures.iter().map(|figure| figure.map_or("fails".into(), digits)));
    }
    let figures_of = |name: &str| contenders.iter().position(|it| it.name == name).map(|place| &medians[place]);
    for (base_name, names) in COMPARISONS {
        let Some(base) = figures_of(base_name) else { continue };
        for name in names {
            let ratios = figures_of(name).into_iter().flatten().zip(base);
            let ratios = ratios.map(|(ours, base)| match (ours, base) {
                (Some(ours), Some(base)) => format!("× {}", digits(ours / base)),
                _ => "-".into(),
            });
            row(&format!("{name} to {base_name}"), ratios);
        }
    }
    let figures: Vec<_> = contenders
        .iter()
        .zip(&medians)
        .map(|(contender, figures)| {
            let figures = FIGURES.iter().zip(figures).map(|(figure, median)| (figure.name.to_owned(), json!(median)));
            json!({ "contender": contender.name, "medians": figures.collect::<serde_json::Map<_, _>>() })
        })
        .collect();
    let file = concat!(env!("CARGO_TARGET_TMPDIR"), "/against_stock.json");
    fs::write(file, json!({ "rounds": ROUNDS, "figures": figures }).to_string()).unwrap();
}

fn contender<'a>(name: &'static str, times: u32, run: impl Fn(&Figure) -> Option<f64> + 'a) -> Contender<'a> {
    Contender { name, times, run: Box::new(run) }
}

fn run_ours(mode: &str, address: &str, figure: &Figure) -> Option<f64> {
    let [count, width, size] = [figure.count, figure.width, figure.size].map(|number| number.to_string());
    let load = ["-c", &count, "-P", &width, "--size", &size, "--mode", mode];
    let run = client(&[&["--json", "--quiet", "--server", address], &load[..]].concat());
    let result = run.json();
    if result["pings"]["lost"] != 0 {
        return None;
    }
    let field = match figure.field {
        Field::FirstPong => &result["phases_ms"]["total_to_first_pong"],
        Field::P50 => &result["rtt_ms"]["p50"],
        Field::P99 => &result["rtt_ms"]["p99"],
        Field::Rate => &result["rate_per_s"],
    };
    field.as_f64()
}

fn run_stock(kind: &str, address: &str, figure: &Figure) -> Option<f64> {
    figure_of(Command::new(program("stock")).args([kind, address]).args(numbers(figure)), figure)
}

fn numbers(figure: &Figure) -> [String; 3] {
    [figure.count, figure.width, figure.size].map(|number| number.to_string())
}

/// The figure that a client prints.
fn figure_of(command: &mut Command, figure: &Figure) -> Option<f64> {
    let run = finish(command);
    let result: Value = serde_json::from_str(&run.stdout).ok()?;
    let field = match figure.field {
        Field::FirstPong => "first_pong_ms",
        Field::P50 => "p50_ms",
        Field::P99 => "p99_ms",
        Field::Rate => "rate_per_s",
    };
    result[field].as_f64()
}

/// A NATS server, and a client of it that answers.
struct Nats {
    address: String,
    _server: Process,
    _responder: Process,
}

impl Nats {
    fn start() -> Self {
        let mut port = Port::claim();
        port.free_tcp();
        let number = port.number.to_string();
        let server = Process::start(Command::new("nats-server").args(["-a", "127.0.0.1", "-p", &number]));
        server.log_with("Server is ready");
        let address = format!("127.0.0.1:{number}");
        let responder = Process::start(Command::new(program("stock")).args(["nats-responder", &address]));
        responder.line_with("ready");
        Self { address, _server: server, _responder: responder }
    }
}

/// An Erlang node that answers.
struct Erlang {
    folder: TempDir,
    port: Port,
    _server: Process,
}

impl Erlang {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/ping_peer.erl");
        let compiled = finish(Command::new("erlc").arg("-o").arg(folder.path()).arg(source));
        assert_eq!(compiled.code, Some(0), "{compiled}");
        let mut port = Port::claim();
        port.free_tcp();
        let mut server = Self::node("server", folder.path(), &port);
        let server = Process::start(server.args(["-s", "ping_peer", "server"]));
        server.line_with("ready");
        Self { folder, port, _server: server }
    }

    /// A node on loopback, without the daemon that usually knows the ports of nodes.
    fn node(name: &str, folder: &Path, port: &Port) -> Command {
        let mut command = Command::new("erl");
        command.current_dir(folder).args(["-noshell", "-setcookie", "ping", "-start_epmd", "false"]);
        command.args(["-name", &format!("{name}@127.0.0.1"), "-erl_epmd_port", &port.number.to_string()]);
        command.args(["-kernel", "inet_dist_use_interface", "{127,0,0,1}"]);
        command
    }

    fn client(&self, figure: &Figure) -> Command {
        let mut command = Self::node("client", self.folder.path(), &self.port);
        command.args(["-dist_listen", "false", "-s", "ping_peer", "client", "server@127.0.0.1"]);
        command.args(numbers(figure));
        command
    }
}

/// The median, if every round had a figure.
fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_unstable_by(f64::total_cmp);
    (figures.len() == ROUNDS).then(|| figures[ROUNDS / 2])
}

fn row(name: &str, columns: impl Iterator<Item = String>) {
    let columns: Vec<_> = columns.map(|column| format!("{column:>13}")).collect();
    println!("{name:32}{}", columns.join(" "));
}

/// Three significant digits, and no more than three decimals.
fn digits(number: f64) -> String {
    let decimals = match number {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{number:.decimals$}")
}
