//! One client beside a thousand others, and beside a hostile peer: how long its pings take, against how long they take
//! alone, and how much memory the others cost the server, where the system tells.
//!
//! The others are one process, so that a small machine is busy with the server and not with starting programs.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::process::Command;

use ping_lab::{Process, Server, client, program};

/// What keeps the server busy.
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
            let (mut alone, mut beside, mut cost) = (Vec::new(), Vec::new(), None);
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
                let after = memory(server.process.id());
                cost = cost.max(after.zip(before).map(|(after, before)| after.saturating_sub(before)));
            }
            let (alone, beside) = (median(alone), median(beside));
            let times = beside / alone;
            print!("{transport:8} {name:36} alone {alone:.3} ms, beside {beside:.3} ms: × {times:.2}");
            match cost {
                Some(cost) => println!("; the server's memory + {:.0} MB", cost as f64 / 1e6),
                None => println!(),
            }
        }
    }
}

/// The memory that a process occupies, in bytes.
#[cfg(target_os = "linux")]
fn memory(process: u32) -> Option<u64> {
    Some(ping_lab::memory(process))
}

/// The system does not tell it.
#[cfg(not(target_os = "linux"))]
fn memory(_: u32) -> Option<u64> {
    None
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
