//! Minutes of random faults, under load, and whether every ping was counted once.
//!
//! `chaos [MINUTES [SEED]]` (2 and 1) joins two network namespaces by a cable and runs a server that keeps its state in
//! one of them, and clients with `--retry` in the other. It kills the server, cuts the cable, drops packets and starts
//! hostile peers, one after the other, in an order that follows from the seed. The clients send for a certain time, and
//! then wait for the pongs to all that they sent; so in the end every ping that was sent is answered, and the server's
//! total is their sum. It exits with 1 if not. Needs Linux, root, iproute2 and nft.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "it ends by panicking if it cannot go on")]

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("skipped: this needs Linux and its network namespaces");
}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        collections::BTreeMap,
        env,
        io::{BufRead, BufReader, Write},
        process::{Child, Command, ExitCode, Stdio},
        sync::{Arc, Mutex},
        thread,
        time::{Duration, Instant},
    };

    use serde_json::Value;

    use ping_lab::{DEADLINE, Process, Server, file, finish_child, lan::Lan};

    const ADDRESSES: [(&str, &str); 2] =
        [("TCP", "/ip4/10.98.0.1/tcp/36341"), ("QUIC", "/ip4/10.98.0.1/udp/36341/quic-v1")];

    /// What keeps the server busy. No ping is given up: each waits for its pong as long as it takes.
    const LOAD: [(&str, &[&str]); 5] = [
        ("ask, 8 in flight", &["-P", "8"]),
        ("ask, 300 a second", &["--rate", "300"]),
        ("ask, 2 KiB, 4 in flight", &["-P", "4", "--size", "2KiB"]),
        ("stream, 16 in flight", &["-P", "16", "--mode", "stream"]),
        ("stream-tell, 500 a second", &["--rate", "500", "--mode", "stream-tell"]),
    ];

    /// What may happen.
    #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
    enum Fault {
        Kill,
        Cut,
        Loss,
        Hostile(&'static str),
    }

    const FAULTS: [Fault; 10] = [
        Fault::Kill,
        Fault::Kill,
        Fault::Cut,
        Fault::Cut,
        Fault::Loss,
        Fault::Hostile("records"),
        Fault::Hostile("signals"),
        Fault::Hostile("panics"),
        Fault::Hostile("hoard"),
        Fault::Hostile("flood"),
    ];

    impl Fault {
        fn name(self) -> String {
            match self {
                Self::Kill => "server killed (SIGKILL) and started again".into(),
                Self::Cut => "cable cut".into(),
                Self::Loss => "5 % loss both ways".into(),
                Self::Hostile(what) => format!("hostile peer: {what}"),
            }
        }
    }

    /// Steele and others, "Fast Splittable Pseudorandom Number Generators" (2014): SplitMix64.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) % bound
        }

        fn time(&mut self, from: u64, to: u64) -> Duration {
            Duration::from_millis(from + self.below(to - from))
        }
    }

    /// A running client.
    struct Client {
        name: String,
        child: Child,
        /// When the last pong came, of one that says so.
        pong: Arc<Mutex<Instant>>,
        errors: thread::JoinHandle<String>,
    }

    impl Client {
        fn start(lan: &Lan, name: String, address: &str, arguments: &[&str], time: &str) -> Self {
            let mut command = lan.command(1, "ping-client");
            command.args(["--json", "--retry", "--timeout", "10m", "--server", address, "--duration", time]);
            let mut child =
                command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a client starts");
            let pong = Arc::new(Mutex::new(Instant::now()));
            let lines = BufReader::new(child.stderr.take().unwrap()).lines();
            let errors = thread::spawn({
                let pong = pong.clone();
                move || {
                    let mut errors = String::new();
                    for line in lines.map_while(Result::ok) {
                        if line.contains("Received PONG") {
                            *pong.lock().unwrap() = Instant::now();
                        } else if line.contains(" ERROR ") || line.contains("panicked") {
                            errors += &line;
                        }
                    }
                    errors
                }
            });
            Self { name, child, pong, errors }
        }

        /// Waits for a pong after this moment; returns how long after.
        fn gap(&self, since: Instant) -> Duration {
            loop {
                let pong = *self.pong.lock().unwrap();
                if pong > since {
                    return pong - since;
                }
                assert!(since.elapsed() < DEADLINE, "{}: no pong within {DEADLINE:?} of the fault's end", self.name);
                thread::sleep(Duration::from_millis(1));
            }
        }

        fn result(self) -> (String, Value) {
            let run = finish_child(self.child);
            let errors = self.errors.join().unwrap();
            assert!(errors.is_empty(), "{}: {errors}", self.name);
            (self.name, run.json())
        }
    }

    /// Lets packets through to both hosts, or drops them by this rule.
    fn filter(lan: &Lan, rule: &str) {
        for host in &lan.hosts {
            let mut nft = Command::new("ip");
            nft.args(["netns", "exec", host, "nft", "-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
            let mut nft = nft.spawn().expect("iproute2 is installed");
            // Replaced in one go.
            let table = format!(
                "table inet chaos {{}}\ndelete table inet chaos\n\
                 table inet chaos {{ chain in {{ type filter hook input priority 0; {rule}\n}}\n}}\n"
            );
            nft.stdin.take().unwrap().write_all(table.as_bytes()).unwrap();
            let run = finish_child(nft);
            assert_eq!(run.code, Some(0), "nft refused {rule:?}: {run}");
        }
    }

    fn start_server(lan: &Lan, folder: &str) -> Server {
        let mut command = lan.command(0, "ping-server");
        let [key, state] = ["key", "state"].map(|name| format!("{folder}/{name}"));
        command.args(["--json", "--identity", &key, "--state", &state]);
        command.args(ADDRESSES.iter().flat_map(|(_, address)| ["--listen", address]));
        Server::from(Process::start(&mut command))
    }

    /// Starts the load by each transport, and before it a client that logs every pong, for the gaps.
    fn start_clients(lan: &Lan, server: &Server, time: Duration) -> Vec<Client> {
        let time = format!("{}ms", time.as_millis());
        let mut clients = Vec::new();
        for (transport, address) in ADDRESSES {
            let address = format!("{address}/p2p/{}", server.peer);
            let probe = ("ask, 10 a second", &["-i", "100ms"][..]);
            clients.extend([probe].iter().chain(&LOAD).map(|(name, arguments)| {
                Client::start(lan, format!("{transport}, {name}"), &address, arguments, &time)
            }));
        }
        clients
    }

    /// Makes a fault happen, and ends it.
    fn strike(fault: Fault, dice: &mut Dice, lan: &Lan, folder: &str, server: &mut Option<Server>) {
        match fault {
            Fault::Kill => {
                *server = None;
                thread::sleep(dice.time(0, 2000));
                *server = Some(start_server(lan, folder));
            }
            Fault::Cut => {
                filter(lan, "drop");
                thread::sleep(dice.time(500, 8000));
                filter(lan, "");
            }
            Fault::Loss => {
                filter(lan, "numgen random mod 100 < 5 drop");
                thread::sleep(dice.time(2000, 5000));
                filter(lan, "");
            }
            Fault::Hostile(what) => {
                let peer = &server.as_ref().unwrap().peer;
                let address = format!("{}/p2p/{peer}", ADDRESSES[dice.below(2) as usize].1);
                let mut hostile = lan.command(1, "hostile");
                hostile.args([what, &address]).args(match what {
                    "records" => Some("100"),
                    "hoard" => Some("4"),
                    _ => None,
                });
                let _hostile = Process::start(&mut hostile);
                thread::sleep(dice.time(1000, 3000));
            }
        }
    }

    pub(super) fn main() -> ExitCode {
        let mut arguments = env::args().skip(1);
        let minutes: f64 = arguments.next().map_or(2.0, |text| text.parse().expect("MINUTES is a number"));
        let seed: u64 = arguments.next().map_or(1, |text| text.parse().expect("SEED is a number"));
        let time = Duration::from_secs_f64(minutes * 60.0);
        let mut dice = Dice(seed);
        let lan = Lan::new();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let mut server = Some(start_server(&lan, path));
        let clients = start_clients(&lan, server.as_ref().unwrap(), time);
        let probes = [0, clients.len() / 2];
        let started = Instant::now();
        for probe in probes {
            clients[probe].gap(started);
        }

        let mut faults: BTreeMap<Fault, (u32, [Duration; 2])> = BTreeMap::new();
        // The last fault ends, and the clients recover from it, while they still send.
        while started.elapsed() + Duration::from_secs(12) < time {
            thread::sleep(dice.time(500, 2000));
            let fault = FAULTS[dice.below(FAULTS.len() as u64) as usize];
            eprintln!("{:6.1} s  {}", started.elapsed().as_secs_f64(), fault.name());
            strike(fault, &mut dice, &lan, path, &mut server);
            let healed = Instant::now();
            let (count, longest) = faults.entry(fault).or_default();
            *count += 1;
            for (longest, probe) in longest.iter_mut().zip(probes) {
                *longest = (*longest).max(clients[probe].gap(healed));
            }
        }

        let results: Vec<_> = clients.into_iter().map(Client::result).collect();
        let server = server.unwrap();
        server.process.signal("TERM");
        let total = server.process.event("stopped")["total"].as_u64().unwrap();
        let (double, wrong) = report(seed, &faults, &results, total);
        let log = file(folder.path(), "state");
        println!("the server's state: {} bytes", std::fs::metadata(log).map_or(0, |state| state.len()));
        if double + wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// Prints the tables; returns how many pings were counted more than once, and how many otherwise wrongly.
    fn report(
        seed: u64,
        faults: &BTreeMap<Fault, (u32, [Duration; 2])>,
        results: &[(String, Value)],
        total: u64,
    ) -> (u64, u64) {
        println!("seed {seed}");
        println!("{:46} {:>5}  longest gap after it, TCP and QUIC", "fault", "times");
        for (fault, (count, [tcp, quic])) in faults {
            println!("{:46} {count:5}  {:.3} s  {:.3} s", fault.name(), tcp.as_secs_f64(), quic.as_secs_f64());
        }
        let columns = ["sent", "received", "lost", "resent", "counted"];
        println!("{:34} {}", "pings", columns.map(|column| format!("{column:>9}")).concat());
        let (mut sum, mut double, mut wrong) = (0, 0, 0);
        for (name, result) in results {
            let figure = |column: &str| result["pings"][column].as_u64();
            let shown =
                columns.map(|column| figure(column).map_or("      ?  ".into(), |figure| format!("{figure:>9}")));
            println!("{name:34} {}", shown.concat());
            for error in result["errors"].as_array().into_iter().flatten() {
                println!("    {} lost: {}", error["count"], error["message"]);
            }
            let (sent, counted) = (figure("sent").unwrap(), figure("counted").unwrap_or(0));
            sum += counted;
            double += counted.saturating_sub(sent);
            // Each ping has waited for its pong.
            wrong += figure("received").unwrap().abs_diff(counted);
        }
        double += total.saturating_sub(sum);
        wrong += sum.saturating_sub(total);
        println!("the server's total {total}, the sum of what the clients were told {sum}");
        println!("double-counted {double}, miscounted {wrong}");
        (double, wrong)
    }
}
