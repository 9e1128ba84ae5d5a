//! How the cost of a ping grows with the number of clients and with its size. Needs Linux.
//!
//! Each column ends with the line that fits it best, and by how much the worst of its figures differs from that.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a benchmark fails by panicking")]

#[cfg(target_os = "linux")]
fn main() {
    growth::print();
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("skipped: this system does not tell what a process takes");
}

#[cfg(target_os = "linux")]
mod growth {
    use std::{process::Command, thread, time::Duration};

    use ping_lab::{Process, Server, client, cpu_time, memory, program};

    const TRANSPORTS: [&str; 2] = ["tcp", "quic-v1"];

    /// How many clients there are, each with a ping a second by a stream.
    const CLIENTS: [u32; 5] = [1, 10, 100, 1000, 2000];

    /// For how long they are watched.
    const WATCHED: Duration = Duration::from_secs(10);

    /// How large the payloads are, in bytes, and how many of each are sent, one at a time.
    const SIZES: [u32; 7] = [0, 1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20];
    const PINGS: u32 = 200;

    pub(super) fn print() {
        println!("A server with clients that ping once a second each, by a stream, for {} s:", WATCHED.as_secs());
        for transport in TRANSPORTS {
            let (mut cpu_times, mut memories) = (Vec::new(), Vec::new());
            println!("{transport:8} clients      CPU ms/s     memory KiB");
            for clients in CLIENTS {
                let [cpu, memory] = with_clients(transport, clients);
                println!("{:8} {clients:7} {cpu:13.2} {memory:14.0}", "");
                cpu_times.push((f64::from(clients), cpu));
                memories.push((f64::from(clients), memory));
            }
            print_fit(&cpu_times, "CPU ms/s");
            print_fit(&memories, "memory KiB");
        }
        println!("\nMedian round trip of {PINGS} pings, one at a time, in ms, by the KiB of the payload:");
        for transport in TRANSPORTS {
            for mode in ["ask", "stream"] {
                let mut medians = Vec::new();
                let server = Server::start();
                println!("{transport:8} {mode:6} KiB           ms");
                for size in SIZES {
                    let (kib, median) = (f64::from(size) / 1024.0, p50(server.address(transport), mode, size));
                    println!("{:8} {kib:10} {median:12.4}", "");
                    medians.push((kib, median));
                }
                print_fit(&medians, "ms");
            }
        }
    }

    /// The CPU time that the server takes, in ms a second, and its memory in KiB.
    fn with_clients(transport: &str, clients: u32) -> [f64; 2] {
        let server = Server::with(&["--max-connections", "4000"]);
        let count = clients.to_string();
        let crowd = Process::start(Command::new(program("hostile")).args(["crowd", server.address(transport), &count]));
        crowd.line().expect("the clients have come");
        let id = server.process.id();
        let before = cpu_time(id);
        thread::sleep(WATCHED);
        let cpu = (cpu_time(id) - before).as_secs_f64() * 1e3 / WATCHED.as_secs_f64();
        [cpu, memory(id) as f64 / 1024.0]
    }

    fn p50(address: &str, mode: &str, size: u32) -> f64 {
        let (size, count) = (size.to_string(), PINGS.to_string());
        let run = client(&["--json", "--server", address, "--mode", mode, "--size", &size, "-c", &count, "-i", "0"]);
        assert_eq!(run.code, Some(0), "{run}");
        run.json()["rtt_ms"]["p50"].as_f64().unwrap()
    }

    /// The line with the smallest sum of squares of relative differences.
    fn print_fit(points: &[(f64, f64)], unit: &str) {
        let sum = |term: fn(f64, f64) -> f64| points.iter().map(|&(x, y)| term(x, y) / (y * y)).sum::<f64>();
        let (n, x, y) = (sum(|_, _| 1.0), sum(|x, _| x), sum(|_, y| y));
        let (xx, xy) = (sum(|x, _| x * x), sum(|x, y| x * y));
        let slope = (n * xy - x * y) / (n * xx - x * x);
        let start = (y - slope * x) / n;
        let worst = points.iter().map(|(x, y)| ((start + slope * x) / y - 1.0).abs()).fold(0.0, f64::max);
        println!("{:8} {unit} = {start:.4} + {slope:.5} a piece, within {:.0} %", "", worst * 100.0);
    }
}
