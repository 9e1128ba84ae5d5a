//! Clusters: who is there, who is told, and clients that ping everyone.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, fs, process::Command};

use ping_lab::{Port, Process, Server, client, file, program, until};
use serde_json::Value;

const TCP: [&str; 3] = ["--ephemeral", "--listen", "/ip4/127.0.0.1/tcp/0"];

/// A member that joins those at these addresses.
#[track_caller]
fn member(name: &str, seeds: &[&str], more: &[&str]) -> Server {
    let joins = seeds.iter().flat_map(|seed| ["--join", seed]);
    let arguments: Vec<_> = ["--node", name].into_iter().chain(joins).chain(more.iter().copied()).collect();
    Server::exactly(&arguments)
}

/// Waits until a server reports this of as many members as there are names, and returns their names.
#[track_caller]
fn reported<const N: usize>(server: &Server, event: &str, names: [&str; N]) {
    let heard: BTreeSet<_> = (0..N).map(|_| server.process.event(event)["node"].as_str().unwrap().to_owned()).collect();
    assert_eq!(heard, names.map(String::from).into());
}

/// The members that a server knows, with their states.
#[track_caller]
fn listed(of: &Server) -> Vec<(String, String)> {
    let run = client(&["members", &of.addresses[0], "--json", "--find-timeout", "10m"]);
    assert_eq!(run.code, Some(0), "{run}");
    let list: Value = serde_json::from_str(&run.stdout).unwrap();
    let field = |member: &Value, name: &str| member[name].as_str().unwrap().to_owned();
    let members = list["members"].as_array().unwrap().iter();
    let mut members: Vec<_> = members.map(|member| (field(member, "node"), field(member, "state"))).collect();
    members.sort();
    members
}

fn states(states: &[(&str, &str)]) -> Vec<(String, String)> {
    states.iter().map(|(node, state)| ((*node).into(), (*state).into())).collect()
}

#[test]
fn everyone_knows_who_comes_and_goes() {
    let alpha = member("alpha", &[], &TCP);
    let beta = member("beta", &[&alpha.addresses[0]], &TCP);
    reported(&alpha, "member_joined", ["beta"]);
    // Any member will do, and the first one is told by another.
    let gamma = member("gamma", &[&beta.addresses[0]], &TCP);
    reported(&alpha, "member_joined", ["gamma"]);
    assert_eq!(alpha.process.event("actor_came")["name"], "ping_actor");
    reported(&gamma, "member_joined", ["alpha", "beta"]);
    for server in [&alpha, &beta, &gamma] {
        assert_eq!(listed(server), states(&[("alpha", "alive"), ("beta", "alive"), ("gamma", "alive")]));
    }
    // One that is killed says nothing; the others agree.
    drop(beta);
    for server in [&alpha, &gamma] {
        reported(server, "member_died", ["beta"]);
        reported(server, "actor_gone", ["beta"]);
    }
    assert_eq!(listed(&gamma), states(&[("alpha", "alive"), ("beta", "died"), ("gamma", "alive")]));
}

#[cfg(unix)]
#[test]
fn a_member_leaves_in_order_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let key = file(folder.path(), "beta.key");
    let alpha = member("alpha", &[], &TCP);
    let start = || member("beta", &[&alpha.addresses[0]], &["--identity", &key, "--listen", "/ip4/127.0.0.1/tcp/0"]);
    let mut beta = start();
    reported(&alpha, "member_joined", ["beta"]);
    beta.process.signal("TERM");
    reported(&alpha, "member_left", ["beta"]);
    assert_eq!(beta.process.exit_code(), Some(0));
    assert_eq!(listed(&alpha), states(&[("alpha", "alive"), ("beta", "left")]));
    let _beta = start();
    reported(&alpha, "member_revived", ["beta"]);
    assert_eq!(listed(&alpha), states(&[("alpha", "alive"), ("beta", "alive")]));
}

#[test]
fn it_does_not_matter_who_starts_first() {
    let mut port = Port::claim();
    port.free_tcp();
    let (listen, seed) = (format!("/ip4/127.0.0.1/tcp/{}", port.number), format!("127.0.0.1:{}", port.number));
    let early = member("early", &[&seed], &TCP);
    early.process.log_with("Cannot join");
    let late = member("late", &[], &["--ephemeral", "--listen", &listen]);
    reported(&early, "member_joined", ["late"]);
    reported(&late, "member_joined", ["early"]);
}

#[test]
fn members_find_each_other_after_a_restart_without_the_seed() {
    let folder = tempfile::tempdir().unwrap();
    let [mut one, mut two] = [Port::claim(), Port::claim()];
    one.free_tcp();
    two.free_tcp();
    let seed = member("seed", &[], &TCP);
    let address = seed.addresses[0].clone();
    let start = |name: &str, port: &Port| {
        let (key, listen) =
            (file(folder.path(), &format!("{name}.key")), format!("/ip4/127.0.0.1/tcp/{}", port.number));
        member(name, &[&address], &["--identity", &key, "--listen", &listen])
    };
    let (first, second) = (start("one", &one), start("two", &two));
    reported(&first, "member_joined", ["seed", "two"]);
    reported(&second, "member_joined", ["one", "seed"]);
    for name in ["one.members", "two.members"] {
        let stored = folder.path().join(name);
        until("the members are stored", || fs::read_to_string(&stored).is_ok_and(|text| text.lines().count() == 2));
    }
    // The seed is no more, and nobody else's address is given.
    drop((seed, first, second));
    let (first, second) = (start("one", &one), start("two", &two));
    reported(&first, "member_joined", ["two"]);
    reported(&second, "member_joined", ["one"]);
}

#[test]
fn nobody_joins_without_the_secret() {
    let folder = tempfile::tempdir().unwrap();
    let [ours, theirs] = ["ours", "theirs"].map(|name| file(folder.path(), name));
    for (path, digit) in [(&ours, "a"), (&theirs, "b")] {
        fs::write(path, format!("/key/swarm/psk/1.0.0/\n/base16/\n{}\n", digit.repeat(64))).unwrap();
        #[cfg(unix)]
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    let alpha = member("alpha", &[], &[&TCP[..], &["--secret", &ours]].concat());
    let stranger = member("stranger", &[&alpha.addresses[0]], &[&TCP[..], &["--secret", &theirs]].concat());
    stranger.process.log_with("Cannot join");
    let beta = member("beta", &[&alpha.addresses[0]], &[&TCP[..], &["--secret", &ours]].concat());
    reported(&alpha, "member_joined", ["beta"]);
    reported(&beta, "member_joined", ["alpha"]);
}

#[test]
fn all_members_are_pinged_whichever_one_is_named() {
    let alpha = member("alpha", &[], &TCP);
    let beta = member("beta", &[&alpha.addresses[0]], &TCP);
    // One that hosts another actor is not among them.
    let other = member("other", &[&alpha.addresses[0]], &[&TCP[..], &["--name", "other"]].concat());
    reported(&alpha, "member_joined", ["beta", "other"]);
    reported(&beta, "member_joined", ["alpha", "other"]);
    reported(&other, "member_joined", ["alpha", "beta"]);
    for any in [&alpha, &beta, &other] {
        let run = client(&[&any.addresses[0], "--all", "--json", "-i", "0", "-c", "20", "-W", "10m"]);
        assert_eq!(run.code, Some(0), "{run}");
        let result: Value = serde_json::from_str(&run.stdout).unwrap();
        let servers = result["servers"].as_array().unwrap();
        let nodes: BTreeSet<_> = servers.iter().map(|server| server["node"].as_str().unwrap()).collect();
        assert_eq!(nodes, ["alpha", "beta"].into(), "{run}");
        assert!(servers.iter().all(|server| server["pings"]["received"] == 20), "{run}");
        assert_eq!(result["total"]["received"], 40, "{run}");
    }
    for server in [&alpha, &beta] {
        server.process.pings(60);
    }
    let run = client(&[&alpha.addresses[0], "--all", "--name", "nobody"]);
    assert_eq!(run.code, Some(2), "{run}");
    assert!(run.stderr.contains("no member of the cluster hosts an actor named 'nobody'"), "{run}");
}

#[test]
fn a_member_is_found_whatever_transport_answers_first() {
    let mut port = Port::claim();
    port.free_tcp();
    port.free_udp();
    let [tcp, quic] = ["tcp/PORT", "udp/PORT/quic-v1"].map(|it| it.replace("PORT", &port.number.to_string()));
    let listen = [tcp, quic].map(|it| format!("/ip4/127.0.0.1/{it}"));
    let alpha = member("alpha", &[], &["--ephemeral", "--listen", &listen[0], "--listen", &listen[1]]);
    let beta = member("beta", &[&alpha.addresses[0]], &TCP);
    reported(&alpha, "member_joined", ["beta"]);
    reported(&beta, "member_joined", ["alpha"]);
    let any = format!("127.0.0.1:{}", port.number);
    for mode in ["--all", "--spread"] {
        for _ in 0..3 {
            let run = client(&[&any, mode, "--json", "-P", "2", "-c", "20", "-W", "10m", "--find-timeout", "10m"]);
            let result: Value = serde_json::from_str(&run.stdout).unwrap();
            assert_eq!(result["total"]["lost"], 0, "{run}");
            let servers = result["servers"].as_array().unwrap();
            assert!(servers.iter().all(|server| server["errors"].as_array().unwrap().is_empty()), "{run}");
        }
    }
}

#[test]
fn members_that_come_join_the_run_and_those_that_go_are_shown() {
    let alpha = member("alpha", &[], &TCP);
    let beta = member("beta", &[&alpha.addresses[0]], &TCP);
    reported(&alpha, "member_joined", ["beta"]);
    reported(&beta, "member_joined", ["alpha"]);
    let mut all = Command::new(program("ping-client"));
    all.args([&*alpha.addresses[0], "--all", "--json", "-i", "20ms", "-c", "200", "-W", "10m"]);
    let mut all = Process::start(&mut all);
    beta.process.two_pings();
    drop(beta);
    all.log_with("Member gone: beta");
    let gamma = member("gamma", &[&alpha.addresses[0]], &TCP);
    gamma.process.two_pings();
    let result = all.result();
    assert_eq!(all.exit_code(), Some(0), "{result}");
    let servers = result["servers"].as_array().unwrap();
    let of = |node: &str| servers.iter().find(|server| server["node"] == node).unwrap();
    assert_eq!((&of("alpha")["gone"], &of("alpha")["pings"]["received"]), (&false.into(), &200.into()), "{result}");
    assert_eq!((&of("gamma")["gone"], &of("gamma")["pings"]["received"]), (&false.into(), &200.into()), "{result}");
    assert_eq!(of("beta")["gone"], true, "{result}");
}

#[test]
fn every_member_measures_how_fast_it_reaches_the_others() {
    let (alpha, beta) = two();
    let gamma = member("gamma", &[&alpha.addresses[0]], &TCP);
    reported(&beta, "member_joined", ["gamma"]);
    let folder = tempfile::tempdir().unwrap();
    let page = file(folder.path(), "matrix.html");
    let run = client(&["matrix", &beta.addresses[0], "--json", "--report", &page]);
    assert_eq!(run.code, Some(0), "{run}");
    let result: Value = serde_json::from_str(&run.stdout).unwrap();
    let paths = result["paths"].as_array().unwrap();
    assert_eq!((result["members"].as_array().unwrap().len(), paths.len()), (3, 6), "{run}");
    assert!(paths.iter().all(|path| path["rtt_ms"]["p50"].as_f64().is_some_and(|ms| ms > 0.0)), "{run}");
    assert_eq!(fs::read_to_string(&page).unwrap().matches(" ms\"").count(), 6);
    // Nobody was pinged for it.
    drop((beta, gamma));
    let run = ping_lab::ping(&alpha.addresses[0], &["-c", "1"]);
    assert_eq!(run.json()["server_total"], 1, "{run}");
}

/// Two members, and one of them as `ping-client members` shows it.
#[track_caller]
fn two() -> (Server, Server) {
    let alpha = member("alpha", &[], &TCP);
    let beta = member("beta", &[&alpha.addresses[0]], &TCP);
    reported(&alpha, "member_joined", ["beta"]);
    reported(&beta, "member_joined", ["alpha"]);
    (alpha, beta)
}

/// A hostile member that attacks a server.
fn hostile(server: &Server, kind: &str, count: &str) -> Process {
    Process::start(Command::new(program("hostile")).args(["member", &server.addresses[0], kind, count]))
}

/// Whether both members take both for alive.
#[track_caller]
fn are_both_alive(alpha: &Server, beta: &Server) {
    for server in [alpha, beta] {
        let members = listed(server);
        for member in states(&[("alpha", "alive"), ("beta", "alive")]) {
            assert!(members.contains(&member), "{members:?}");
        }
    }
}

#[test]
fn a_member_that_says_others_are_gone_is_refuted() {
    let (alpha, beta) = two();
    for _ in 0..2 {
        hostile(&alpha, "accuse", "50").line_with("done");
        hostile(&beta, "accuse", "50").line_with("done");
    }
    // The suspects have refuted it, and the others have tried for themselves, before the next one that dies.
    let gamma = member("gamma", &[&alpha.addresses[0]], &TCP);
    while beta.process.event("member_joined")["node"] != "gamma" {}
    drop(gamma);
    loop {
        match alpha.process.event("member_died")["node"].as_str() {
            Some("gamma") => break,
            died => assert_eq!(died, Some("hostile")),
        }
    }
    are_both_alive(&alpha, &beta);
}

#[test]
fn floods_of_records_and_made_up_members_do_no_harm() {
    let (alpha, beta) = two();
    hostile(&alpha, "flood", "10000").line_with("done");
    hostile(&alpha, "made-up", "10000").line_with("done");
    are_both_alive(&alpha, &beta);
    #[cfg(target_os = "linux")]
    for server in [&alpha, &beta] {
        let memory = ping_lab::most_memory(server.process.id());
        assert!(memory < 100_000_000, "{memory}");
    }
    for server in [&alpha, &beta] {
        let run = ping_lab::ping(&server.addresses[0], &["-c", "10"]);
        assert_eq!(run.json()["pings"]["lost"], 0, "{run}");
    }
}

#[test]
fn a_record_from_before_brings_nobody_back() {
    let (alpha, beta) = two();
    let mut replay = hostile(&alpha, "replay", "100");
    replay.line_with("captured");
    drop(beta);
    reported(&alpha, "member_died", ["beta"]);
    replay.stdin = None;
    replay.line_with("done");
    assert!(listed(&alpha).contains(&("beta".into(), "died".into())), "{:?}", listed(&alpha));
}

#[test]
fn an_actor_that_a_member_only_claims_costs_the_others_nothing() {
    let (alpha, beta) = two();
    let liar = hostile(&alpha, "lie", "1");
    liar.line_with("told");
    while beta.process.event("actor_came")["node"] != "liar" {}
    let run = client(&[&beta.addresses[0], "--all", "--json", "-i", "0", "-c", "10", "-W", "10m"]);
    let result: Value = serde_json::from_str(&run.stdout).unwrap();
    let servers = result["servers"].as_array().unwrap();
    let nodes: BTreeSet<_> = servers.iter().map(|server| server["node"].as_str().unwrap()).collect();
    assert_eq!(nodes, ["alpha", "beta"].into(), "{run}");
    assert_eq!(result["total"]["received"], 20, "{run}");
}

#[cfg(unix)]
#[test]
fn pings_that_are_spread_fail_over_and_are_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| file(folder.path(), name);
    let mut port = Port::claim();
    port.free_tcp();
    let listen = format!("/ip4/127.0.0.1/tcp/{}", port.number);
    let alpha = member("alpha", &[], &[&TCP[..], &["--state", &path("alpha.redb")]].concat());
    let start_beta = || {
        let (key, state) = (path("beta.key"), path("beta.redb"));
        member("beta", &[&alpha.addresses[0]], &["--identity", &key, "--listen", &listen, "--state", &state])
    };
    let first = start_beta();
    reported(&alpha, "member_joined", ["beta"]);
    reported(&first, "member_joined", ["alpha"]);
    let mut spread = Command::new(program("ping-client"));
    spread.args([&*alpha.addresses[0], "--spread", "--retry", "--json", "-P", "16", "-c", "0", "-W", "10m"]);
    let mut spread = Process::start(&mut spread);
    first.process.two_pings();
    drop(first);
    spread.log_with("Member gone: beta");
    // The other one is still pinged.
    alpha.process.two_pings();
    let second = start_beta();
    spread.log_with("Member is back: beta");
    second.process.two_pings();
    spread.signal("INT");
    let result = spread.result();
    assert_eq!(spread.exit_code(), Some(0), "{result}");
    // What was in flight at the end may have been counted. As many again may have waited for the member that was gone.
    let of = |field: &str| result["total"][field].as_u64().unwrap();
    let (sent, received, counted) = (of("sent"), of("received"), of("counted"));
    assert!(received <= counted && counted <= sent && sent - received <= 32, "{result}");
    assert_eq!(result["servers"].as_array().unwrap().len(), 2, "{result}");
    // What the servers have stored says the same.
    let stored = [alpha, second].map(|server| {
        server.process.signal("TERM");
        server.process.event("stopped")["total"].as_u64().unwrap()
    });
    assert_eq!(stored.iter().sum::<u64>(), counted, "{result}");
}

#[test]
fn several_servers_are_pinged_side_by_side() {
    let [one, two] = [Server::start(), Server::start()];
    let run = client(&[&one.addresses[0], &two.addresses[1], "-i", "0", "-c", "10", "-W", "10m"]);
    assert_eq!(run.code, Some(0), "{run}");
    let lines: Vec<_> = run.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!((lines.len(), lines[0][0], lines[3][0], lines[3][1]), (4, "NODE", "total", "20"), "{run}");
}

#[test]
fn the_directory_is_followed() {
    let alpha = member("alpha", &[], &TCP);
    let mut watch = Command::new(program("ping-client"));
    let watch = Process::start(watch.args(["members", &alpha.addresses[0], "--watch", "--json"]));
    assert!(watch.line().unwrap().contains("\"node\":\"alpha\""));
    let beta = member("beta", &[&alpha.addresses[0]], &TCP);
    assert_eq!(watch.event("member_joined")["node"], "beta");
    assert_eq!(watch.event("actor_came")["name"], "ping_actor");
    drop(beta);
    assert_eq!(watch.event("member_died")["node"], "beta");
}

#[test]
fn two_actors_call_each_other_by_name() {
    let alpha = member("alpha", &[], &[&TCP[..], &["--rally", "--rounds", "3"]].concat());
    let beta = member("beta", &[&alpha.addresses[0]], &[&TCP[..], &["--rally"]].concat());
    let hits = |server: &Server, hits: [u64; 3], actor: &str| {
        for hit in hits {
            let event = server.process.event("rally_hit");
            assert_eq!((&event["hit"], &event["actor"]), (&hit.into(), &actor.into()), "{event}");
        }
    };
    hits(&alpha, [1, 3, 5], "ping");
    hits(&beta, [2, 4, 6], "pong");
    let done = alpha.process.event("rally_done");
    assert_eq!((&done["rounds"], &done["members"]), (&3.into(), &2.into()), "{done}");
    let mut alpha = alpha;
    assert_eq!(alpha.process.exit_code(), Some(0));
}

#[test]
fn a_rally_goes_on_when_a_member_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let key = file(folder.path(), "beta.key");
    let alpha = member("alpha", &[], &[&TCP[..], &["--rally", "--rounds", "1000000"]].concat());
    let beta = || {
        let listen = ["--rally", "--identity", &key, "--listen", "/ip4/127.0.0.1/tcp/0"];
        member("beta", &[&alpha.addresses[0]], &listen)
    };
    let first = beta();
    first.process.event("rally_hit");
    drop(first);
    reported(&alpha, "member_died", ["beta"]);
    beta().process.event("rally_hit");
}

#[test]
fn what_has_no_directory_is_named() {
    let (_stock, address) = ping_lab::stock("server");
    let run = client(&["members", &address]);
    assert_eq!(run.code, Some(2), "{run}");
    assert!(run.stderr.contains("does not list its cluster"), "{run}");
    let run = client(&["/ip4/127.0.0.1/tcp/1", "--all", "--find-timeout", "100ms"]);
    assert_eq!(run.code, Some(2), "{run}");
}

#[test]
fn a_stock_client_finds_the_actors_of_all_members_at_any_of_them() {
    let alpha = member("alpha", &[], &TCP);
    let beta = member("beta", &[&alpha.addresses[0]], &TCP);
    let gamma = member("gamma", &[&beta.addresses[0]], &TCP);
    reported(&alpha, "member_joined", ["beta", "gamma"]);
    reported(&gamma, "member_joined", ["alpha", "beta"]);
    let mut peers = [&alpha, &beta, &gamma].map(|server| server.peer.clone());
    peers.sort();
    for asked in [&alpha, &gamma] {
        let stock = Process::start(Command::new(program("stock")).args(["find", &asked.addresses[0]]));
        let found: Value = serde_json::from_str(&stock.line().unwrap()).unwrap();
        assert_eq!(found["found"], serde_json::json!(peers), "by Kameo");
        assert_eq!(found["reached"], serde_json::json!(peers), "by the addresses in the answer");
        assert_eq!(found["total"], 1);
    }
}

#[test]
fn a_stock_server_that_joins_is_found_by_all_until_it_goes() {
    let alpha = member("alpha", &[], &TCP);
    let beta = member("beta", &[&alpha.addresses[0]], &TCP);
    reported(&beta, "member_joined", ["alpha"]);
    let stock = Process::start(Command::new(program("stock")).args(["rival", &alpha.addresses[0]]));
    let guest = stock.line().unwrap();
    let event = loop {
        let event = beta.process.event("actor_came");
        if event["peer_id"] == guest.as_str() {
            break event;
        }
    };
    assert_eq!(event["name"], "ping_actor");
    let name = event["node"].as_str().unwrap();
    assert_eq!(listed(&beta), states(&[("alpha", "alive"), ("beta", "alive"), (name, "guest")]));
    // Stock programs find it at a member that it never connected to, and so does a client.
    let finder = Process::start(Command::new(program("stock")).args(["find", &beta.addresses[0]]));
    let found: Value = serde_json::from_str(&finder.line().unwrap()).unwrap();
    assert_eq!(found["found"].as_array().unwrap().len(), 3);
    assert!(found["reached"].as_array().unwrap().contains(&guest.as_str().into()), "{found}");
    let run = client(&[&beta.addresses[0], "--all", "-c", "5", "-i", "0", "--json", "--find-timeout", "10m"]);
    assert_eq!(run.code, Some(0), "{run}");
    let result: Value = serde_json::from_str(&run.stdout).unwrap();
    let rows = result["servers"].as_array().unwrap().iter();
    assert_eq!(rows.filter(|row| row["node"] == name && row["pings"]["received"] == 5).count(), 1, "{run}");
    drop(stock);
    let gone = loop {
        let event = beta.process.event("actor_gone");
        if event["peer_id"] == guest.as_str() {
            break event;
        }
    };
    assert_eq!(gone["node"], name);
    assert_eq!(listed(&beta), states(&[("alpha", "alive"), ("beta", "alive")]));
}
