//! Start to first pong, and sequential pings, against a stock Kameo program in the same run.
//!
//! Server and client are processes of their own, on loopback. Each round measures every contender once, in turn, so that
//! a machine that changes its speed does so for all of them; the table shows medians over the rounds.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a benchmark fails by panicking")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::process::Command;

use serde_json::Value;
use support::{Server, ping, program, stock};

/// How often each figure is taken. Odd, so that the median is one of them.
const ROUNDS: usize = 21;

/// How many pings make one sequential figure.
const SEQUENTIAL: &str = "1000";

/// The figures of one contender, in milliseconds, one of each for every round.
struct Contender<'a> {
    name: &'a str,
    measure: Box<dyn Fn() -> [f64; 3] + 'a>,
    rounds: Vec<[f64; 3]>,
}

fn main() {
    let server = Server::start();
    let (_stock, stock_address) = stock("server");
    let ours = |address: &str| {
        let first = ping(address, &["-c", "1"]).json();
        let many = ping(address, &["-c", SEQUENTIAL]).json();
        [&first["phases_ms"]["total_to_first_pong"], &many["rtt_ms"]["p50"], &many["rtt_ms"]["p99"]].map(number)
    };
    let stock = |address: &str| {
        let run = |count| -> Value {
            let output = Command::new(program("stock")).args(["client", address, count]).output().unwrap();
            serde_json::from_slice(&output.stdout).unwrap()
        };
        let (first, many) = (run("1"), run(SEQUENTIAL));
        [&first["first_pong_ms"], &many["p50_ms"], &many["p99_ms"]].map(number)
    };
    let contender = |name, measure| Contender { name, measure, rounds: Vec::new() };
    let mut contenders = [
        contender("stock Kameo, TCP", Box::new(|| stock(&stock_address)) as Box<dyn Fn() -> [f64; 3]>),
        contender("kameo-ping, TCP", Box::new(|| ours(server.address("tcp")))),
        contender("kameo-ping, QUIC", Box::new(|| ours(server.address("quic-v1")))),
    ];
    for _ in 0..ROUNDS {
        for contender in &mut contenders {
            let figures = (contender.measure)();
            contender.rounds.push(figures);
        }
    }

    println!("medians of {ROUNDS} rounds, in ms; in brackets the ratio to stock Kameo");
    println!("{:18} {:>20} {:>20} {:>20}", "", "start to first pong", "sequential p50", "sequential p99");
    let baseline = contenders[0].medians();
    for contender in &contenders {
        let figures = contender.medians();
        let columns: Vec<_> =
            (0..3).map(|i| format!("{:>20}", format!("{:.3} ({:.2})", figures[i], figures[i] / baseline[i]))).collect();
        println!("{:18} {}", contender.name, columns.join(" "));
    }
}

impl Contender<'_> {
    fn medians(&self) -> [f64; 3] {
        std::array::from_fn(|figure| {
            let mut values: Vec<f64> = self.rounds.iter().map(|round| round[figure]).collect();
            values.sort_unstable_by(f64::total_cmp);
            values[values.len() / 2]
        })
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}
