//! Minutes at full rate beside hostile peers, and then thousands of clients that come and go: whether memory or open
//! files grow.
//!
//! `soak [MINUTES [CLIENTS]]` (10 and 10,000) runs a server and two clients, one by TCP and a stream and one by QUIC
//! and asks, on loopback, while one hostile peer after another attacks the server. After the first minute, or a tenth
//! of the time if that is shorter, each has attacked once, and filled what is kept for reuse: it notes what the server
//! and the clients hold then, and what they hold at the end, when the hostile peers have gone. Then CLIENTS clients
//! connect and disconnect, half of them by QUIC. It exits with 1 if anything has grown by more than 5 %. The memory of
//! a client may grow by 5 MB more: it depends on the worst moment of its run, because its allocator returns less to the
//! system. Needs Linux.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "it ends by panicking if it cannot go on")]

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("skipped: this needs Linux, which tells what a process holds");
}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        env,
        process::{Command, ExitCode},
        thread,
        time::Duration,
    };

    use ping_lab::{Process, Server, memory, open_files, program};

    /// By how much something may grow.
    const ALLOWED: f64 = 1.05;

    /// By how many megabytes the memory of a client may grow besides.
    const CLIENT_SLACK: f64 = 5.0;

    /// The hostile peers: what each does, by which transport.
    const ATTACKS: [(&[&str], &str); 15] = [
        (&["flood"], "tcp"),
        (&["look-ups"], "quic-v1"),
        (&["keep-alives"], "tcp"),
        (&["frames", "reset"], "tcp"),
        (&["frames", "open-and-reset"], "tcp"),
        (&["resets"], "quic-v1"),
        (&["frames", "ping"], "tcp"),
        (&["frames", "long"], "tcp"),
        (&["unread", "12", "65536"], "tcp"),
        (&["unread", "40", "65536"], "quic-v1"),
        (&["hoard", "10"], "tcp"),
        (&["mute", "20"], "tcp"),
        (&["connects", "500"], "tcp"),
        (&["garbage"], "tcp"),
        (&["initials"], "quic-v1"),
    ];

    /// How long the server may take to give back what an attack has made it take. A connection that it does not read,
    /// because too much of it is unread, is given up when the keep-alive has found it silent.
    const REST: Duration = Duration::from_secs(60);

    /// What a process holds.
    #[derive(Clone, Copy)]
    struct Holding {
        memory: u64,
        files: usize,
    }

    impl Holding {
        fn of(process: u32) -> Self {
            Self { memory: memory(process), files: open_files(process) }
        }
    }

    /// Prints what a process held before and after; returns whether it has not grown. A client may by `slack`
    /// megabytes.
    fn compare(name: &str, before: Holding, after: Holding, slack: f64) -> bool {
        let megabytes = |holding: Holding| holding.memory as f64 / 1e6;
        println!(
            "{name:38} memory {:6.1} → {:6.1} MB, open files {} → {}",
            megabytes(before),
            megabytes(after),
            before.files,
            after.files
        );
        megabytes(after) <= megabytes(before) * ALLOWED + slack && after.files as f64 <= before.files as f64 * ALLOWED
    }

    pub(super) fn main() -> ExitCode {
        let mut arguments = env::args().skip(1);
        let minutes: f64 = arguments.next().map_or(10.0, |text| text.parse().expect("MINUTES is a number"));
        let clients: u32 = arguments.next().map_or(10_000, |text| text.parse().expect("CLIENTS is a number"));
        let time = Duration::from_secs_f64(minutes * 60.0);
        let first = Duration::from_secs(60).min(time / 10);
        let server = Server::start();

        let load = [("tcp", &["-P", "256", "--mode", "stream"]), ("quic-v1", &["-P", "64", "--mode", "ask"])];
        let pinging = load.map(|(transport, arguments)| {
            let mut client = Command::new(program("ping-client"));
            client.args(["--json", "--server", server.address(transport), "-c", "0"]).args(arguments);
            (format!("client by {transport}, {}", arguments[3]), Process::start(&mut client))
        });
        let all = || -> Vec<Holding> {
            let clients = pinging.iter().map(|(_, client)| client.id());
            [server.process.id()].into_iter().chain(clients).map(Holding::of).collect()
        };
        let attack = |time: Duration| {
            for (attack, transport) in ATTACKS {
                let [what, more @ ..] = attack else { continue };
                let mut hostile = Command::new(program("hostile"));
                hostile.args([what, server.address(transport)]).args(more);
                let attacker = Process::start(&mut hostile);
                // The time is what is measured here.
                thread::sleep(time / ATTACKS.len() as u32);
                drop(attacker);
            }
            thread::sleep(REST);
            all()
        };
        let before = attack(first);
        let after = attack(time - first);
        let names = ["server"].into_iter().chain(pinging.iter().map(|(name, _)| name.as_str()));
        let mut steady = true;
        println!("at full rate, after {} s and after {} s of attacks:", first.as_secs(), time.as_secs());
        for ((name, before), after) in names.zip(before).zip(after) {
            let slack = if name == "server" { 0.0 } else { CLIENT_SLACK };
            steady &= compare(name, before, after, slack);
        }
        for (name, client) in pinging {
            client.signal("INT");
            let result = client.result();
            let (pings, reconnects) = (&result["pings"]["sent"], &result["reconnects"]["count"]);
            println!("{name}: {pings} pings, the connection lost {reconnects} times");
        }

        let churn = |count: u32| {
            for transport in ["tcp", "quic-v1"] {
                let mut churn = Command::new(program("hostile"));
                churn.args(["churn", server.address(transport), &count.to_string()]);
                Process::start(&mut churn).line_with("done");
            }
        };
        // The first ones fill what is kept for reuse.
        churn(clients / 20);
        let before = Holding::of(server.process.id());
        churn(clients / 2);
        println!("before and after {clients} clients that came and went:");
        steady &= compare("server", before, Holding::of(server.process.id()), 0.0);
        if steady { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
