//! This project's programs against a stock Kameo program, and against nothing but TCP, in the same run.
//!
//! Server and client are processes of their own, on loopback. Each round measures every contender once, in turn, so that
//! a machine that changes its speed does so for all of them; the table shows medians over the rounds, and is also
//! written to `target/against_stock.json`.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a benchmark fails by panicking")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{fs, process::Command};

use serde_json::{Value, json};
use support::{Server, client, program, stock};

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
    run: Run<'a>,
}

fn main() {
    let server = Server::start();
    let (_kameo, kameo_address) = stock("server");
    let (_tcp, tcp_address) = stock("tcp-server");
    let contenders = [
        contender("raw TCP", |figure| run_stock("tcp-client", &tcp_address, figure)),
        contender("stock Kameo, TCP", |figure| run_stock("client", &kameo_address, figure)),
        contender("kameo-ping, TCP", |figure| run_ours(server.address("tcp"), figure)),
        contender("kameo-ping, QUIC", |figure| run_ours(server.address("quic-v1"), figure)),
    ];
    let mut taken = vec![vec![Vec::new(); FIGURES.len()]; contenders.len()];
    for _ in 0..ROUNDS {
        for (f, figure) in FIGURES.iter().enumerate() {
            for (c, contender) in contenders.iter().enumerate() {
                taken[c][f].extend((contender.run)(figure));
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
    for (base, name) in [(1, "stock Kameo"), (0, "raw TCP")] {
        for ours in [2, 3] {
            let ratios = medians[ours].iter().zip(&medians[base]);
            let ratios = ratios.map(|(ours, base)| match (ours, base) {
                (Some(ours), Some(base)) => format!("× {}", digits(ours / base)),
                _ => "-".into(),
            });
            row(&format!("{} to {name}", &contenders[ours].name[12..]), ratios);
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
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/against_stock.json");
    fs::write(file, json!({ "rounds": ROUNDS, "figures": figures }).to_string()).unwrap();
}

fn contender<'a>(name: &'static str, run: impl Fn(&Figure) -> Option<f64> + 'a) -> Contender<'a> {
    Contender { name, run: Box::new(run) }
}

fn run_ours(address: &str, figure: &Figure) -> Option<f64> {
    let [count, width, size] = [figure.count, figure.width, figure.size].map(|number| number.to_string());
    let run = client(&["--json", "--quiet", "--server", address, "-c", &count, "-n", &width, "--size", &size]);
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
    let numbers = [figure.count, figure.width, figure.size].map(|number| number.to_string());
    let output = Command::new(program("stock")).args([kind, address]).args(numbers).output().unwrap();
    let result: Value = serde_json::from_slice(&output.stdout).ok()?;
    let field = match figure.field {
        Field::FirstPong => "first_pong_ms",
        Field::P50 => "p50_ms",
        Field::P99 => "p99_ms",
        Field::Rate => "rate_per_s",
    };
    result[field].as_f64()
}

/// The median, if every round had a figure.
fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_unstable_by(f64::total_cmp);
    (figures.len() == ROUNDS).then(|| figures[ROUNDS / 2])
}

fn row(name: &str, columns: impl Iterator<Item = String>) {
    let columns: Vec<_> = columns.map(|column| format!("{column:>13}")).collect();
    println!("{name:20}{}", columns.join(" "));
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
