//! The lab: starts the real programs as processes and reads what they print, for end-to-end tests and benchmarks.
//!
//! Every wait is for an event, with a deadline that only a failure reaches.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

#[cfg(target_os = "linux")]
pub mod lan;

use std::{
    env,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
#[cfg(unix)]
use tempfile::TempDir;

/// How long any one event may take, on a machine as busy as they come.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The folder that cargo puts binaries into, for the profile of this test.
fn target_folder() -> PathBuf {
    let program = env::current_exe().unwrap();
    let folder = program.parent().unwrap();
    // Tests and benchmarks are in a folder below that of the programs.
    if folder.ends_with("deps") { folder.parent().unwrap().to_owned() } else { folder.to_owned() }
}

/// The path of one of the programs. All are built first, since cargo builds only those of the package under test.
pub fn program(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--workspace", "--bins"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        // What cargo tells a test of its package would make build scripts believe that theirs has changed.
        for (name, _) in
            env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
        {
            cargo.env_remove(name);
        }
        if target_folder().ends_with("release") {
            cargo.arg("--release");
        }
        cargo.arg("--target-dir").arg(target_folder().parent().unwrap());
        assert!(cargo.status().unwrap().success(), "the programs do not build");
    });
    target_folder().join(format!("{name}{}", env::consts::EXE_SUFFIX))
}

/// A process that is killed when it goes out of scope.
pub struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
    /// Its standard input, which ends when this is dropped.
    pub stdin: Option<ChildStdin>,
}

impl Process {
    /// Starts a command and reads its standard output, line by line.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        Self::read(child, stdout)
    }

    fn read(mut child: Child, output: impl Read + Send + 'static) -> Self {
        let stdin = child.stdin.take();
        let (sender, lines) = mpsc::channel();
        let output = BufReader::new(output);
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines, stdin }
    }

    /// The number of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Starts a command and reads what it logs to standard error instead.
    pub fn logging(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        Self::read(child, stderr)
    }

    /// Waits for the next line, or `None` at the end of the output.
    pub fn line(&self) -> Option<String> {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => Some(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("no line within {DEADLINE:?}"),
        }
    }

    /// Waits for a line that contains `text`, and returns it.
    pub fn line_with(&self, text: &str) -> String {
        loop {
            let line = self.line().unwrap_or_else(|| panic!("no line with {text:?} before the end"));
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Waits for the next JSON line in which the field `event` is `name`.
    pub fn event(&self, name: &str) -> Value {
        loop {
            let line = self.line().unwrap_or_else(|| panic!("no event {name} before the end"));
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["event"] == name {
                return event;
            }
        }
    }

    /// Waits until a server has counted two pings. A client that sends the next ping when the pong is in has then got one.
    pub fn two_pings(&self) {
        while self.event("pings")["total"].as_u64().unwrap() < 2 {}
    }

    /// Sends a signal, as `INT` or `KILL`.
    #[cfg(unix)]
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end of the process and returns its exit code.
    pub fn exit_code(&mut self) -> Option<i32> {
        let started = Instant::now();
        // The output ends when the process does.
        while self.line().is_some() {}
        let code = self.child.wait().unwrap().code();
        assert!(started.elapsed() < DEADLINE);
        code
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running ping-server.
pub struct Server {
    /// Its process, whose lines are its events.
    pub process: Process,
    /// Its peer ID.
    pub peer: String,
    /// Its connection addresses, in its order.
    pub addresses: Vec<String>,
}

impl Server {
    /// A server on loopback, by TCP and QUIC, with an identity of its own.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// The same, with more arguments.
    pub fn with(arguments: &[&str]) -> Self {
        let listen = ["--ephemeral", "--listen", "/ip4/127.0.0.1/tcp/0", "--listen", "/ip4/127.0.0.1/udp/0/quic-v1"];
        Self::exactly(&[&listen, arguments].concat())
    }

    /// A server with these arguments and `--json`.
    pub fn exactly(arguments: &[&str]) -> Self {
        Self::from(Process::start(Command::new(program("ping-server")).arg("--json").args(arguments)))
    }

    /// Waits until a server just started is ready.
    pub fn from(process: Process) -> Self {
        let mut addresses = Vec::new();
        loop {
            let line = process.line().expect("the server ends before it is ready");
            let event: Value = serde_json::from_str(&line).unwrap();
            match event["event"].as_str().unwrap() {
                "listening" => addresses.push(event["connection_address"].as_str().unwrap().to_owned()),
                "ready" => {
                    let peer = event["peer_id"].as_str().unwrap().to_owned();
                    return Self { process, peer, addresses };
                }
                _ => {}
            }
        }
    }

    /// The connection address for one transport, `tcp` or `quic-v1`.
    pub fn address(&self, transport: &str) -> &str {
        let wanted = format!("/{transport}");
        self.addresses.iter().find(|address| address.contains(&wanted)).unwrap()
    }

    /// The port of one transport, `tcp` or `udp`.
    pub fn port(&self, transport: &str) -> u16 {
        let address = self.addresses.iter().find(|address| address.contains(&format!("/{transport}/"))).unwrap();
        let mut parts = address.split('/').skip_while(|part| *part != transport);
        parts.nth(1).unwrap().parse().unwrap()
    }
}

/// A server that can be killed and started again with the same identity and address.
#[cfg(unix)]
pub struct Lasting {
    folder: TempDir,
    /// The address that it listens on, each time that it starts.
    pub listen: String,
    server: Option<Server>,
    arguments: &'static [&'static str],
}

#[cfg(unix)]
impl Lasting {
    /// Starts a server on loopback, by `tcp` or by QUIC.
    pub fn start(transport: &str) -> Self {
        Self::with(transport, &[])
    }

    /// The same with more arguments, in which FOLDER stands for a folder of its own.
    pub fn with(transport: &str, arguments: &'static [&'static str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listen = if transport == "tcp" { "/ip4/127.0.0.1/tcp/0" } else { "/ip4/127.0.0.1/udp/0/quic-v1" };
        let mut lasting = Self { folder, listen: listen.into(), server: None, arguments };
        lasting.start_again();
        lasting.listen = lasting.server().addresses[0].split("/p2p/").next().unwrap().to_owned();
        lasting
    }

    /// The server that runs now.
    pub fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// Kills the server.
    pub fn kill(&mut self) {
        self.server().process.signal("KILL");
        self.server = None;
    }

    /// Starts the server again, with the same identity and address.
    pub fn start_again(&mut self) {
        let key = file(self.folder.path(), "key");
        let folder = self.folder.path().to_str().unwrap();
        let more: Vec<_> = self.arguments.iter().map(|argument| argument.replace("FOLDER", folder)).collect();
        let mut arguments = vec!["--identity", &key, "--listen", &self.listen];
        arguments.extend(more.iter().map(String::as_str));
        self.server = Some(Server::exactly(&arguments));
    }
}

/// Starts a ping-client with `--json` against a server, by the first of its addresses.
pub fn start_client(server: &Server, arguments: &[&str]) -> Process {
    let address = server.addresses[0].as_str();
    Process::start(Command::new(program("ping-client")).args(["--json", "--server", address]).args(arguments))
}

/// Interrupts a client that pings without end, and returns its result.
#[cfg(unix)]
pub fn result_of(mut client: Process) -> Value {
    client.signal("INT");
    let result = serde_json::from_str(&client.line().unwrap()).unwrap();
    assert_eq!(client.exit_code(), Some(0), "{result}");
    result
}

/// How many pings were lost for this cause.
pub fn lost(result: &Value, cause: &str) -> u64 {
    let errors = result["errors"].as_array().unwrap();
    errors.iter().filter(|error| error["cause"] == cause).map(|error| error["count"].as_u64().unwrap()).sum()
}

/// A node that is built without this project's code; returns it with its address.
pub fn stock(kind: &str) -> (Process, String) {
    let process = Process::start(Command::new(program("stock")).arg(kind));
    let address = process.line().expect("it names no address");
    (process, address)
}

/// What a client that ran to its end left behind.
pub struct Run {
    /// Its exit code, or `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Run {
    /// The one JSON object on standard output.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// The cause of the first error in the JSON object.
    pub fn cause(&self) -> String {
        self.json()["errors"][0]["cause"].as_str().unwrap_or_else(|| panic!("no error: {self}")).to_owned()
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit code {:?}\nstdout: {}\nstderr: {}", self.code, self.stdout, self.stderr)
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// Runs a ping-client to its end.
pub fn client(arguments: &[&str]) -> Run {
    Command::new(program("ping-client")).args(arguments).stdin(Stdio::null()).output().unwrap().into()
}

/// Runs a ping-client with `--json` against an address, without pauses, to its end.
pub fn ping(address: &str, arguments: &[&str]) -> Run {
    client(&[&["--json", "-i", "0", "--server", address], arguments].concat())
}

/// Whether a process with this number runs.
#[cfg(unix)]
pub fn runs(id: u32) -> bool {
    Command::new("kill").args(["-0", &id.to_string()]).stderr(Stdio::null()).status().unwrap().success()
}

/// The memory that a process occupies, in bytes.
#[cfg(target_os = "linux")]
pub fn memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// How many files and sockets a process has open.
#[cfg(target_os = "linux")]
pub fn open_files(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

/// A file below a folder of the test's own.
pub fn file(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().to_owned()
}

/// Carries one TCP connection to a port of this machine, until word comes to swallow what follows.
pub fn relay(listener: &std::net::TcpListener, port: u16, stopped: &mpsc::Receiver<()>) {
    use std::{
        io::Write,
        net::TcpStream,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
    };
    let swallow = Arc::new(AtomicBool::new(false));
    let (near, _) = listener.accept().unwrap();
    let far = TcpStream::connect(("127.0.0.1", port)).unwrap();
    for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
        let swallow = Arc::clone(&swallow);
        from.set_nodelay(true).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                if !swallow.load(Ordering::SeqCst) && to.write_all(&buffer[..length]).is_err() {
                    return;
                }
            }
        });
    }
    let _ = stopped.recv();
    swallow.store(true, Ordering::SeqCst);
}
