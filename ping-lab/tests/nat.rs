//! Servers and clients behind routers of several kinds, made of network namespaces. Needs Linux, root, iproute2 and
//! nftables; `just test-net` runs it.

#![cfg(target_os = "linux")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use ping_lab::{
    Process, finish, lost,
    nat::{
        Nat, RELAY,
        Router::{self, Firewall, Open, Restricted, Symmetric},
    },
    result_of,
};

/// The kind and the transport of the direct path, if there is one.
type Direct = Option<(&'static str, &'static str)>;

/// A relay, and its address.
fn relay(nat: &Nat) -> (Process, String) {
    relay_on(nat, "36341")
}

fn relay_on(nat: &Nat, port: &str) -> (Process, String) {
    let arguments = ["relay", "--ephemeral", "--json", "--external-address", RELAY, "--port", port];
    let relay = nat.start(0, "ping-server", &arguments);
    let peer = relay.event("ready")["peer_id"].as_str().unwrap().to_owned();
    (relay, format!("/ip4/{RELAY}/tcp/{port}/p2p/{peer}"))
}

/// A relay, and a server that has a place there; returns them with the server's ticket.
fn relayed(nat: &Nat) -> (Process, Process, String) {
    let (relay, address) = relay(nat);
    let server = nat.start(1, "ping-server", &["--ephemeral", "--json", "--relay-via", &address]);
    let ticket = server.event("ticket")["ticket"].as_str().unwrap().to_owned();
    (relay, server, ticket)
}

/// Two relays, and a server that has a place on both.
fn relayed_twice(nat: &Nat) -> ([(Process, String); 2], Process, String) {
    let relays = ["36341", "36342"].map(|port| relay_on(nat, port));
    let [(_, one), (_, other)] = &relays;
    let arguments = ["--ephemeral", "--json", "--relay-via", one, "--relay-via", other];
    let server = nat.start(1, "ping-server", &arguments);
    // The second names both relays.
    server.event("ticket");
    let ticket = server.event("ticket")["ticket"].as_str().unwrap().to_owned();
    (relays, server, ticket)
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn pings_leave_the_relay_where_routers_allow_it_and_none_is_lost_or_counted_twice() {
    // The server's router, the client's, whether that blocks UDP, and how the pings go in the end.
    let table: [(Router, Router, bool, Direct); 7] = [
        (Restricted, Restricted, false, Some(("punched", "quic"))),
        (Restricted, Restricted, true, Some(("punched", "tcp"))),
        (Firewall, Restricted, false, Some(("punched", "quic"))),
        (Restricted, Firewall, true, Some(("punched", "tcp"))),
        (Symmetric, Open, false, Some(("reversed", "quic"))),
        (Symmetric, Open, true, Some(("reversed", "tcp"))),
        (Symmetric, Symmetric, false, None),
    ];
    for (row, (server_router, client_router, blocks_udp, direct)) in table.into_iter().enumerate() {
        let nat = Nat::new(server_router, client_router, blocks_udp);
        let (relay, server, ticket) = relayed(&nat);
        let mut counted = 0;
        // The first two are of each transport; what carries the pings matters little to the others.
        let modes: &[&str] = if row < 2 { &["ask", "stream", "stream-tell"] } else { &["ask"] };
        for mode in modes {
            let what = format!("{server_router:?}, {client_router:?}, UDP blocked: {blocks_udp}, {mode}");
            let arguments = [&*ticket, "--json", "--retry", "-P", "8", "-c", "0", "--mode", mode];
            let client = nat.start(2, "ping-client", &arguments);
            client.log_with(if direct.is_some() { "Connected directly" } else { "No direct connection" });
            if direct.is_some() {
                // The place on the relay is free again as soon as everything is answered.
                relay.event("circuit_closed");
            }
            let result = result_of(client);
            let pings = &result["pings"];
            assert_eq!(pings["lost"], lost(&result, "cut_short"), "{what}: {result}");
            assert_eq!(result["reconnects"]["count"], 0, "{what}: {result}");
            counted += pings["counted"].as_u64().unwrap();
            let paths: Vec<_> = result["paths"]
                .as_array()
                .unwrap()
                .iter()
                .map(|it| (it["kind"].as_str().unwrap(), it["transport"].as_str().unwrap()))
                .collect();
            let relayed = ("relayed", if blocks_udp { "tcp" } else { "quic" });
            match direct {
                Some(direct) => assert_eq!(paths, [relayed, direct], "{what}: {result}"),
                None => assert_eq!(paths, [relayed], "{what}: {result}"),
            }
        }
        server.signal("TERM");
        assert_eq!(server.event("stopped")["total"], counted);
    }
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn two_relays_are_no_hindrance_to_a_direct_path() {
    for (blocks_udp, transport) in [(false, "quic"), (true, "tcp")] {
        let nat = Nat::new(Restricted, Restricted, blocks_udp);
        let (relays, _server, ticket) = relayed_twice(&nat);
        let client = nat.start(2, "ping-client", &[&*ticket, "--json", "-i", "10ms", "-c", "0"]);
        let line = client.log_with("Connected through a relay");
        client.log_with("Connected directly");
        // Its place on that relay is free as soon as new pings take the direct path.
        let is_used = |address: &str| line.contains(address.rsplit('/').next().unwrap());
        relays.iter().find(|(_, address)| is_used(address)).unwrap().0.event("circuit_closed");
        let result = result_of(client);
        let last = result["paths"].as_array().unwrap().last().unwrap();
        assert_eq!((&last["kind"], &last["transport"]), (&"punched".into(), &transport.into()), "{result}");
    }
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn two_relays_tell_which_router_uses_another_port_for_each_peer() {
    for (server_router, client_router, reason) in [
        (Symmetric, Symmetric, "both routers use another port for each peer"),
        (Symmetric, Restricted, "the server's router uses another port for each peer"),
        (Restricted, Symmetric, "this side's router uses another port for each peer"),
    ] {
        for transport in ["quic", "tcp"] {
            let nat = Nat::new(server_router, client_router, false);
            let (_relays, _server, ticket) = relayed_twice(&nat);
            let client = nat.start(2, "ping-client", &[&*ticket, "--json", "-c", "0", "--transport", transport]);
            client.log_with("No direct connection");
            let result = result_of(client);
            let note = format!("pings stayed on the relay: {reason}");
            assert!(result["warnings"].as_array().unwrap().contains(&note.into()), "{transport}: {result}");
            if transport == "tcp" {
                continue;
            }
            // The doctor walks one relay after the other, and each time the other tells it the same.
            let result = nat.start(2, "ping-client", &["doctor", &ticket, "--json"]).result();
            let steps = result["steps"].as_array().unwrap();
            assert!(steps.iter().all(|step| step["outcome"] != "failed"), "{result}");
            let told = steps.iter().filter(|step| step["detail"].as_str().unwrap().contains(reason));
            assert_eq!(told.count(), 2, "{result}");
        }
    }
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn the_doctor_does_not_take_its_own_ports_for_those_of_a_router() {
    // It dials each relay again soon after, and for TCP the ports of the first connection are still in use.
    let nat = Nat::new(Symmetric, Restricted, true);
    let (_relays, _server, ticket) = relayed_twice(&nat);
    let result = nat.start(2, "ping-client", &["doctor", &ticket, "--json"]).result();
    let steps = result["steps"].as_array().unwrap();
    let details: Vec<_> = steps.iter().map(|step| step["detail"].as_str().unwrap()).collect();
    let told = details.iter().filter(|detail| detail.contains("the server's router uses another port for each peer"));
    assert_eq!(told.count(), 2, "{result}");
    let is_false = |detail: &&str| detail.contains("both routers") || detail.contains("this side's router");
    assert!(!details.iter().any(is_false), "{result}");
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn a_server_learns_whether_others_reach_it() {
    for (router, verdict) in
        [(Open, "reachable"), (Firewall, "not_reachable"), (Restricted, "not_reachable"), (Symmetric, "not_reachable")]
    {
        let nat = Nat::new(router, Open, false);
        let (_relay, address) = relay(&nat);
        let server = nat.start(1, "ping-server", &["--ephemeral", "--json", "--relay-via", &address]);
        let mut addresses: Vec<_> =
            (0..2).map(|_| server.event(verdict)["address"].as_str().unwrap().to_owned()).collect();
        addresses.sort_unstable();
        assert!(addresses[0].contains("/tcp/") && addresses[1].contains("/quic-v1"), "{router:?}: {addresses:?}");
    }
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn a_server_whose_router_moves_is_found_again_and_every_ping_is_counted_once() {
    for router in [Restricted, Symmetric] {
        let nat = Nat::new(router, Restricted, false);
        let (_relay, server, ticket) = relayed(&nat);
        let arguments = [&*ticket, "--json", "--retry", "-i", "20ms", "-c", "0", "-W", "10m"];
        let client = nat.start(2, "ping-client", &arguments);
        if router == Restricted {
            client.log_with("Connected directly");
        }
        server.two_pings();
        nat.move_server();
        client.log_with("Connected again");
        server.two_pings();
        let result = result_of(client);
        assert_eq!(result["reconnects"]["count"], 1, "{router:?}: {result}");
        server.signal("TERM");
        assert_eq!(result["pings"]["counted"], server.event("stopped")["total"], "{router:?}: {result}");
    }
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn the_doctor_walks_the_ways_of_a_ticket() {
    for (router, blocks_udp, direct) in [(Restricted, false, "passed"), (Symmetric, true, "not_needed")] {
        let nat = Nat::new(router, router, blocks_udp);
        let (_relay, _server, ticket) = relayed(&nat);
        let doctor = nat.start(2, "ping-client", &["doctor", &ticket, "--json"]);
        let result = doctor.result();
        let outcome = |step: &str| {
            let steps = result["steps"].as_array().unwrap();
            let outcomes = steps.iter().filter(|it| it["step"] == step).map(|it| it["outcome"].as_str().unwrap());
            outcomes.collect::<Vec<_>>()
        };
        assert_eq!(result["works"], true, "{result}");
        let relay = if blocks_udp { ["not_needed", "passed"] } else { ["passed"; 2] };
        assert_eq!((outcome("relay"), outcome("circuit")), (relay.to_vec(), vec!["passed"]), "{result}");
        assert_eq!((outcome("direct path"), outcome("ping")), (vec![direct], vec!["passed"]), "{result}");
    }
}

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn a_user_decides_which_paths_are_taken() {
    let nat = Nat::new(Restricted, Restricted, false);
    let (_relay, _server, ticket) = relayed(&nat);
    for (path, kind) in [("direct", "direct"), ("relay", "relayed")] {
        let client = nat.start(2, "ping-client", &[&*ticket, "--json", "-i", "10ms", "-c", "200", "--path", path]);
        let result = client.result();
        let kinds: Vec<_> = result["paths"].as_array().unwrap().iter().map(|it| it["kind"].clone()).collect();
        assert_eq!((kinds, &result["pings"]["received"]), (vec![kind.into()], &200.into()), "{result}");
    }
}

/// A router's NAT-PMP (RFC 6886): knows no PCP, forwards what it is asked to, and says what that was.
const NAT_PMP: &str = r#"
import json, socket, struct, subprocess
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("192.168.1.17", 5351))
print(json.dumps({"event": "ready"}), flush=True)
while True:
    request, client = server.recvfrom(1100)
    if request[0] != 0:
        server.sendto(struct.pack(">BBHI", 0, 128 | request[1], 1, 1), client)
    elif request[1] == 0:
        server.sendto(struct.pack(">BBHI4s", 0, 128, 0, 1, socket.inet_aton("203.0.113.10")), client)
    else:
        own, external, lifetime = struct.unpack(">HHI", request[4:12])
        protocol = {1: "udp", 2: "tcp"}[request[1]]
        if lifetime:
            rule = f"add rule ip f pre iifname wan0 {protocol} dport {external} dnat to {client[0]}:{own}"
            subprocess.run(["nft", rule], check=True)
        server.sendto(struct.pack(">BBHIHHI", 0, 128 | request[1], 0, 1, own, external, lifetime), client)
        print(json.dumps({"event": "mapping", "protocol": protocol, "lifetime": lifetime}), flush=True)
"#;

#[test]
#[ignore = "needs root and network namespaces: just test-net"]
fn a_router_that_is_asked_to_forwards_the_ports_as_long_as_the_server_runs() {
    let nat = Nat::new(Restricted, Restricted, false);
    let forwards = "add chain ip f pre { type nat hook prerouting priority -100; }; \
                    insert rule ip f forward ct status dnat accept";
    assert_eq!(finish(nat.command(3).args(["nft", forwards])).code, Some(0));
    let router = Process::start(nat.command(3).args(["python3", "-c", NAT_PMP]));
    router.event("ready");
    let server = nat.start(1, "ping-server", &["--ephemeral", "--json", "--map-port"]);
    for address in ["/ip4/203.0.113.10/udp/36341/quic-v1", "/ip4/203.0.113.10/tcp/36341"] {
        let mapped = server.event("port_mapped");
        assert_eq!((&mapped["address"], &mapped["by"]), (&address.into(), &"NAT-PMP".into()));
        assert!(router.event("mapping")["lifetime"].as_u64() > Some(0));
    }
    let ticket = server.event("ticket")["ticket"].as_str().unwrap().to_owned();
    for transport in ["quic", "tcp"] {
        let client = nat.start(2, "ping-client", &[&*ticket, "--json", "-c", "3", "--transport", transport]);
        let result = client.result();
        assert_eq!(result["paths"][0]["kind"], "direct", "{result}");
        assert_eq!(result["pings"]["received"], 3, "{result}");
    }
    server.signal("TERM");
    for protocol in ["udp", "tcp"] {
        let removed = router.event("mapping");
        assert_eq!((&removed["protocol"], &removed["lifetime"]), (&protocol.into(), &0.into()));
    }
}
