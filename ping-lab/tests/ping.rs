//! Pings that work: every transport, every way to name a server, and programs that were built without this one's code.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use ping_lab::{Port, Process, Server, client, client_command, has_ipv6, ping, program, stock};

#[test]
fn a_hundred_pings_by_tcp_are_all_answered() {
    let server = Server::start();
    let run = ping(server.address("tcp"), &[]);
    assert_eq!(run.code, Some(0), "{run}");
    let result = run.json();
    assert_eq!(result["schema"], 5);
    let counts = ["sent", "received", "lost"].map(|field| result["pings"][field].as_u64().unwrap());
    assert_eq!(counts, [100, 100, 0]);
    assert_eq!(result["server_total"], 100);
    assert_eq!(result["server"]["peer_id"], server.peer.as_str());
    assert_eq!(result["server"]["name"], "ping_actor");
    assert_eq!(result["errors"], serde_json::json!([]));
}

#[test]
fn a_hundred_pings_by_quic_are_all_answered() {
    let server = Server::start();
    let run = ping(server.address("quic-v1"), &[]);
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!(run.json()["pings"]["received"], 100);
    assert!(run.json()["server"]["address"].as_str().unwrap().contains("/quic-v1"));
}

#[test]
fn websocket_carries_pings_of_every_mode_and_size() {
    for (listen, name) in [("ws", "ws"), ("tls/ws", "wss"), ("wss", "wss")] {
        let server = Server::exactly(&["--ephemeral", "--listen", &format!("/ip4/127.0.0.1/tcp/0/{listen}")]);
        for mode in ["ask", "stream"] {
            for size in ["0", "1000000"] {
                let run = ping(&server.addresses[0], &["-c", "10", "--mode", mode, "-s", size]);
                assert_eq!(run.code, Some(0), "{listen}, {mode}, {size}: {run}");
                assert_eq!(run.json()["server"]["transport"], name, "{run}");
            }
        }
        let run = client(&["doctor", &server.addresses[0]]);
        assert!(run.code == Some(0) && run.stdout.contains("websocket"), "{run}");
        // Other bytes do no harm.
        let socket = server.addresses[0].split('/').nth(4).unwrap();
        let garbage = std::net::TcpStream::connect(format!("127.0.0.1:{socket}"));
        std::io::Write::write_all(&mut garbage.unwrap(), &[0xA5; 1000]).unwrap();
        assert_eq!(ping(&server.addresses[0], &[]).code, Some(0));
    }
}

#[test]
fn the_figures_are_in_order_and_the_phases_add_up() {
    let server = Server::start();
    let result = ping(server.address("tcp"), &["-c", "1000"]).json();
    let rtt = |figure: &str| result["rtt_ms"][figure].as_f64().unwrap();
    let figures = ["min", "p50", "p90", "p99", "max"].map(rtt);
    assert!(figures.is_sorted() && figures[0] > 0.0, "{figures:?}");
    assert!((rtt("min")..=rtt("max")).contains(&rtt("mean")));
    let phase = |phase: &str| result["phases_ms"][phase].as_f64().unwrap();
    let sum: f64 = ["find", "connect", "lookup", "first_pong"].map(phase).iter().sum();
    assert!((sum - phase("total_to_first_pong")).abs() < 0.001, "{result}");
    let seconds = result["duration_s"].as_f64().unwrap();
    // One ping at a time: the round trips cannot last longer than the run.
    assert!(rtt("mean") * 1000.0 / 1e3 <= seconds, "{result}");
    assert!((result["rate_per_s"].as_f64().unwrap() - 1000.0 / seconds).abs() < 1.0, "{result}");
}

#[test]
fn a_host_and_a_port_are_enough() {
    let mut port = Port::claim();
    port.free_tcp();
    port.free_udp();
    let (mut hosts, mut arguments) = (vec!["127.0.0.1", "localhost"], vec!["--ephemeral".to_owned()]);
    let mut ips = vec!["/ip4/127.0.0.1"];
    if has_ipv6() {
        hosts.push("[::1]");
        ips.push("/ip6/::1");
    }
    for ip in ips {
        let (tcp, quic) = (format!("{ip}/tcp/{}", port.number), format!("{ip}/udp/{}/quic-v1", port.number));
        arguments.extend(["--listen".into(), tcp, "--listen".into(), quic]);
    }
    let server = Server::exactly(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    for host in hosts {
        let run = ping(&format!("{host}:{}", port.number), &["-c", "3"]);
        assert_eq!(run.code, Some(0), "{host}: {run}");
        assert_eq!(run.json()["server"]["peer_id"], server.peer.as_str());
        // The user named no identity: the client says whose it took and how to have it checked.
        assert!(run.stderr.contains(&format!("/p2p/{}", server.peer)), "{run}");
    }
}

#[test]
fn the_total_goes_on_from_client_to_client() {
    let server = Server::start();
    for total in [10, 20, 30] {
        assert_eq!(ping(server.address("tcp"), &["-c", "10"]).json()["server_total"], total);
    }
    let mut counted = 0;
    while counted < 30 {
        let pings = server.process.event("pings");
        counted += pings["count"].as_u64().unwrap();
        assert_eq!(pings["total"], counted);
    }
}

#[test]
fn an_actor_is_found_by_its_name() {
    let server = Server::with(&["--name", "another name"]);
    let run = ping(server.address("tcp"), &["-c", "1", "--name", "another name"]);
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!(run.json()["server"]["name"], "another name");
}

#[test]
fn pings_at_an_interval_are_logged_one_by_one() {
    let server = Server::start();
    let run = client(&[server.address("tcp"), "-c", "3", "-i", "100ms"]);
    assert_eq!(run.code, Some(0), "{run}");
    for n in 1..=3 {
        assert!(run.stderr.contains(&format!("Sending PING #{n}\n")), "{run}");
        assert!(run.stderr.contains(&format!("Received PONG #{n} (total: {n})")), "{run}");
    }
    assert!(run.stdout.contains("3 pings sent, 3 answered, 0 lost"), "{run}");
    assert!(run.stdout.contains("round trip: min"), "{run}");
    assert!(run.stdout.contains("server's total: 3"), "{run}");
    // Two intervals lie between three pings.
    let duration: f64 = run.stdout.split(" %), in ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(duration >= 0.2, "{run}");
}

#[test]
fn a_client_started_before_its_server_finds_it_by_the_transport_it_was_told() {
    for transport in ["", "tcp", "quic-v1"] {
        let mut port = Port::claim();
        let tcp = format!("/ip4/127.0.0.1/tcp/{}", port.number);
        let quic = format!("/ip4/127.0.0.1/udp/{}/quic-v1", port.number);
        let address = match transport {
            "tcp" => tcp.clone(),
            "quic-v1" => quic.clone(),
            _ => format!("127.0.0.1:{}", port.number),
        };
        let mut waiting = Process::start(&mut client_command(&address, &["-c", "5"]));
        // QUIC does not hear that nothing listens; it notices the silence in some seconds.
        waiting.log_with("trying for another");
        port.free_tcp();
        port.free_udp();
        let server = Server::exactly(&["--ephemeral", "--listen", &tcp, "--listen", &quic]);
        let connected = waiting.log_with("Connected to");
        assert!(connected.contains(&server.peer) && connected.contains(transport), "{connected}");
        assert_eq!(waiting.exit_code(), Some(0));
    }
}

#[test]
fn a_client_built_without_this_code_pings_this_server() {
    let server = Server::start();
    // A client that secures TCP by TLS is served like one that does so by Noise.
    for (kind, transport) in [("client", "tcp"), ("client-tls", "tcp"), ("client", "quic-v1")] {
        let client = Process::start(Command::new(program("stock")).args([kind, server.address(transport), "10"]));
        let result = client.result();
        assert!(result["total"].as_u64().unwrap() >= 10, "{result}");
    }
}

#[test]
fn this_client_pings_a_server_built_without_this_code() {
    let (_server, address) = stock("server");
    let run = ping(&address, &["-c", "10"]);
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!(run.json()["server_total"], 10);
    // It does not speak the protocol that the client asks for signs of life by, twenty times in this run.
    let run = ping(&address, &["-i", "20ms", "-c", "20"]);
    assert_eq!(run.json()["pings"]["received"], 20, "{run}");
}
