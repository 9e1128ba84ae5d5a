//! The programs as services: what they tell their manager, where they keep what must last, and how they log.

#![cfg(unix)]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::{fs::MetadataExt, net::UnixDatagram},
    process::{Command, Stdio},
    time::Duration,
};

use ping_lab::{Process, client, finish, program};

const LISTEN: [&str; 2] = ["--listen", "/ip4/127.0.0.1/tcp/0"];

#[test]
fn a_service_manager_is_told_when_a_server_is_ready_works_and_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    for kind in [&[][..], &["relay"]] {
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut command = Command::new(program("ping-server"));
        command.args(kind).args(LISTEN).args(["--ephemeral", "--json", "--stop-on-eof"]);
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
        let server = Process::start(&mut command);
        let heard = || {
            let mut bytes = [0; 256];
            let length = socket.recv(&mut bytes).expect("nothing is told");
            String::from_utf8_lossy(&bytes[..length]).trim().to_owned()
        };
        let told: Vec<_> = (0..3).map(|_| heard()).collect();
        assert!(told.contains(&"READY=1".into()) && told.contains(&"WATCHDOG=1".into()), "{kind:?}: {told:?}");
        server.signal("TERM");
        while heard() != "STOPPING=1" {}
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn the_directory_that_a_service_manager_made_holds_what_must_last() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(program("ping-server"));
    command.args(LISTEN).args(["--json", "--stop-on-eof"]);
    // Nothing else tells where: no home, no user's directories.
    command.env_clear().env("STATE_DIRECTORY", folder.path());
    let first = Process::start(&mut command).event("ready")["peer_id"].clone();
    assert!(folder.path().join("identity.key").exists());
    assert_eq!(Process::start(&mut command).event("ready")["peer_id"], first);
}

#[test]
fn the_journal_gets_levels_and_no_times() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let lines = |is_journal: bool| {
        let file = fs::File::create(&log).unwrap();
        let stream = file.metadata().map(|file| format!("{}:{}", file.dev(), file.ino())).unwrap();
        let mut command = Command::new(program("ping-server"));
        command.args(LISTEN).args(["--ephemeral", "--stop-on-eof"]).stdin(Stdio::null()).stderr(file);
        if is_journal {
            command.env("JOURNAL_STREAM", stream);
        }
        assert!(command.status().unwrap().success());
        fs::read_to_string(&log).unwrap()
    };
    let journal = lines(true);
    assert!(journal.lines().all(|line| line.starts_with("<6>") || line.starts_with("<4>")), "{journal}");
    assert!(journal.contains("<6>PingActor registered"), "{journal}");
    let plain = lines(false);
    assert!(plain.contains(" INFO PingActor registered") && !plain.contains("<6>"), "{plain}");
}

#[test]
fn shells_complete_the_options_and_the_manual_has_a_page_for_each_command() {
    for shell in ["bash", "zsh", "fish"] {
        let run = client(&["completions", shell]);
        assert!(run.code == Some(0) && run.stdout.contains("find-timeout"), "{run}");
        let run = finish(Command::new(program("ping-server")).args(["completions", shell]));
        assert!(run.code == Some(0) && run.stdout.contains("relay-via"), "{run}");
    }
    let folder = tempfile::tempdir().unwrap();
    for (name, pages) in [("ping-client", ["", "-doctor"]), ("ping-server", ["", "-relay"])] {
        let run = finish(Command::new(program(name)).arg("manual").arg(folder.path()));
        assert_eq!(run.code, Some(0), "{run}");
        for page in pages {
            let page = folder.path().join(format!("{name}{page}.1"));
            assert!(page.exists(), "{}", page.display());
            if finish(Command::new("sh").args(["-c", "command -v man"])).code == Some(0) {
                let run = finish(Command::new("man").args(["--warnings", "-l"]).arg(&page).env("MANPAGER", "cat"));
                assert!(run.code == Some(0) && run.stderr.is_empty(), "{run}");
            }
        }
    }
}

#[test]
fn a_server_says_what_it_has_counted_when_it_is_asked() {
    let server = ping_lab::Server::start();
    assert_eq!(ping_lab::ping(server.address("tcp"), &["-c", "3"]).code, Some(0));
    server.process.pings(3);
    server.process.signal("USR1");
    let line = server.process.log_with("Pings counted: 3.");
    assert!(line.contains("3 by ask, 0 by tell, 0 by stream"), "{line}");
    server.process.log_with("Members known: 1");
}

/// What a container allows: the program is process 1, of a user without rights, on a file system that cannot be written
/// but for one folder, without home, environment, terminal and `/proc`.
#[cfg(target_os = "linux")]
#[test]
#[ignore = "needs root: just test-net"]
fn a_container_needs_no_more_than_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let script = format!(
        "set -e; mount -t tmpfs -o uid=65532,gid=65532 state {path}; cp {} {path}/server; umount -l /proc; \
         mount -o remount,bind,ro /; cd /; exec setpriv --reuid 65532 --regid 65532 --clear-groups --no-new-privs \
         env -i STATE_DIRECTORY={path} {path}/server --json --state {path}/count --listen /ip4/127.0.0.1/tcp/0",
        program("ping-server").display()
    );
    let mut server = Process::start(Command::new("unshare").args(["-fpm", "--mount-proc", "sh", "-c", &script]));
    let address = server.event("listening")["connection_address"].as_str().unwrap().to_owned();
    server.event("ready");
    // As its health check does.
    let run = client(&["-q", "-c", "1", "-w", "60s", &address]);
    assert_eq!(run.code, Some(0), "{run}");
    assert_eq!(server.event("pings")["total"], 1);
    let number = server.id();
    let first = fs::read_to_string(format!("/proc/{number}/task/{number}/children")).unwrap();
    assert_eq!(finish(Command::new("kill").arg(first.trim())).code, Some(0));
    assert_eq!(server.event("stopped")["total"], 1);
    assert_eq!(server.exit_code(), Some(0));
}
