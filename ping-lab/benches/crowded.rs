//! One client beside a thousand others, and beside a peer that means harm: how long its pings take, against how long they take
//! alone, and what the others cost the server.
//!
//! The others are one process, so that a small machine is busy with the server and not with starting programs.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::process::Command;

use ping_lab::{Process, Server, client, memory, program};

/// What keeps the server busy meanwhile.
const OTHERS: [(&str, &[&str]); 4] = [
    ("1,000 clients, a ping a second each", &["crowd", "ADDRESS", "1000"]),
    ("a flood of asks", &["flood", "ADDRESS"]),
    ("500 silent connections", &["connects", "ADDRESS", "500"]),
    ("large requests without an end", &["hoard", "ADDRESS", "10"]),
];

/// How often each figure is taken. Odd, so that the median is one of them.
const ROUNDS: usize = 3;

fn main() {
    println!("p99 of 500 pings, one each 10 ms; median of {ROUNDS} rounds.");
    for transport in ["tcp", "quic-v1"] {
        for (name, arguments) in OTHERS {
            // Plain connections are of TCP.
            let address_of = |server: &Server| match arguments[0] {
                "connects" => server.address("tcp").to_owned(),
                _ => server.address(transport).to_owned(),
            };
            let (mut alone, mut beside, mut cost) = (Vec::new(), Vec::new(), 0);
            for _ in 0..ROUNDS {
                let server = Server::start();
                alone.push(p99(server.address(transport)));
                let before = memory(server.process.id());
                let address = address_of(&server);
                let arguments =
                    arguments.iter().map(|&argument| if argument == "ADDRESS" { &address } else { argument });
                let others = Process::start(Command::new(program("hostile")).args(arguments));
                others.line().expect("the others have come");
                beside.push(p99(server.address(transport)));
                cost = cost.max(memory(server.process.id()).saturating_sub(before));
            }
            let (alone, beside) = (median(alone), median(beside));
            println!(
                "{transport:8} {name:36} alone {alone:.3} ms, beside {beside:.3} ms: × {:.2}; the server's memory + {:.0} MB",
                beside / alone,
                cost as f64 / 1e6,
            );
        }
    }
}

/// In milliseconds.
fn p99(address: &str) -> f64 {
    let run = client(&["--json", "--server", address, "-i", "10ms", "-c", "500"]);
    assert_eq!(run.code, Some(0), "{run}");
    run.json()["rtt_ms"]["p99"].as_f64().unwrap()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}
