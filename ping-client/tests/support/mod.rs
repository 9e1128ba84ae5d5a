//! The real programs, started as processes, for end-to-end tests.
//!
//! Every wait is for an event, with a deadline that only a failure reaches.

#![allow(dead_code, reason = "each test program uses a part of this")]

#[cfg(target_os = "linux")]
pub(crate) mod lan;

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
use tempfile::TempDir;

/// How long any one event may take, on a machine as busy as they come.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The folder that cargo puts binaries into, for the profile of this test.
fn target_folder() -> PathBuf {
    let test = env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().to_owned()
}

fn binary(name: &str) -> PathBuf {
    target_folder().join(format!("{name}{}", env::consts::EXE_SUFFIX))
}

/// The path of one of the programs. Both are built first, since cargo builds only those of the package under test.
pub(crate) fn program(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--workspace", "--bins", "--examples"]);
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
    match name {
        "stock" | "hostile" | "chaos" | "soak" => binary(&format!("examples/{name}")),
        name => binary(name),
    }
}

/// A process that is killed when it goes out of scope.
pub(crate) struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
    pub(crate) stdin: Option<ChildStdin>,
}

impl Process {
    /// Starts a command and reads its standard output, line by line.
    pub(crate) fn start(command: &mut Command) -> Self {
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

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Starts a command and reads what it logs to standard error instead.
    pub(crate) fn logging(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        Self::read(child, stderr)
    }

    /// Waits for the next line, or `None` at the end of the output.
    pub(crate) fn line(&self) -> Option<String> {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => Some(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("no line within {DEADLINE:?}"),
        }
    }

    /// Waits for a line that contains `text`, and returns it.
    pub(crate) fn line_with(&self, text: &str) -> String {
        loop {
            let line = self.line().unwrap_or_else(|| panic!("no line with {text:?} before the end"));
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Waits for the next JSON line in which the field `event` is `name`.
    pub(crate) fn event(&self, name: &str) -> Value {
        loop {
            let line = self.line().unwrap_or_else(|| panic!("no event {name} before the end"));
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["event"] == name {
                return event;
            }
        }
    }

    /// Waits until a server has counted two pings. A client that sends the next ping when the pong is in has then got one.
    pub(crate) fn two_pings(&self) {
        while self.event("pings")["total"].as_u64().unwrap() < 2 {}
    }

    /// Sends a signal, as `INT` or `KILL`.
    #[cfg(unix)]
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Waits for the end of the process and returns its exit code.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
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
pub(crate) struct Server {
    pub process: Process,
    pub(crate) peer: String,
    /// Its connection addresses, in its order.
    pub(crate) addresses: Vec<String>,
}

impl Server {
    /// A server on loopback, by TCP and QUIC, with an identity of its own.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// The same, with more arguments.
    pub(crate) fn with(arguments: &[&str]) -> Self {
        let listen = ["--ephemeral", "--listen", "/ip4/127.0.0.1/tcp/0", "--listen", "/ip4/127.0.0.1/udp/0/quic-v1"];
        Self::exactly(&[&listen, arguments].concat())
    }

    /// A server with these arguments and `--json`.
    pub(crate) fn exactly(arguments: &[&str]) -> Self {
        Self::from(Process::start(Command::new(program("ping-server")).arg("--json").args(arguments)))
    }

    /// Waits until a server just started is ready.
    pub(crate) fn from(process: Process) -> Self {
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
    pub(crate) fn address(&self, transport: &str) -> &str {
        let wanted = format!("/{transport}");
        self.addresses.iter().find(|address| address.contains(&wanted)).unwrap()
    }

    /// The port of one transport, `tcp` or `udp`.
    pub(crate) fn port(&self, transport: &str) -> u16 {
        let address = self.addresses.iter().find(|address| address.contains(&format!("/{transport}/"))).unwrap();
        let mut parts = address.split('/').skip_while(|part| *part != transport);
        parts.nth(1).unwrap().parse().unwrap()
    }
}

/// A server that can be killed and started again with the same identity and address.
pub(crate) struct Lasting {
    folder: TempDir,
    pub(crate) listen: String,
    server: Option<Server>,
    arguments: &'static [&'static str],
}

impl Lasting {
    pub(crate) fn start(transport: &str) -> Self {
        Self::with(transport, &[])
    }

    /// The same with more arguments, in which FOLDER stands for a folder of its own.
    pub(crate) fn with(transport: &str, arguments: &'static [&'static str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listen = if transport == "tcp" { "/ip4/127.0.0.1/tcp/0" } else { "/ip4/127.0.0.1/udp/0/quic-v1" };
        let mut lasting = Self { folder, listen: listen.into(), server: None, arguments };
        lasting.start_again();
        lasting.listen = lasting.server().addresses[0].split("/p2p/").next().unwrap().to_owned();
        lasting
    }

    pub(crate) fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    pub(crate) fn kill(&mut self) {
        self.server().process.signal("KILL");
        self.server = None;
    }

    pub(crate) fn start_again(&mut self) {
        let key = file(self.folder.path(), "key");
        let folder = self.folder.path().to_str().unwrap();
        let more: Vec<_> = self.arguments.iter().map(|argument| argument.replace("FOLDER", folder)).collect();
        let mut arguments = vec!["--identity", &key, "--listen", &self.listen];
        arguments.extend(more.iter().map(String::as_str));
        self.server = Some(Server::exactly(&arguments));
    }
}

pub(crate) fn start_client(server: &Server, arguments: &[&str]) -> Process {
    let address = server.addresses[0].as_str();
    Process::start(Command::new(program("ping-client")).args(["--json", "--server", address]).args(arguments))
}

/// Ends a client that pings without end, and returns its result.
pub(crate) fn result_of(mut client: Process) -> Value {
    client.signal("INT");
    let result = serde_json::from_str(&client.line().unwrap()).unwrap();
    assert_eq!(client.exit_code(), Some(0), "{result}");
    result
}

pub(crate) fn lost(result: &Value, cause: &str) -> u64 {
    let errors = result["errors"].as_array().unwrap();
    errors.iter().filter(|error| error["cause"] == cause).map(|error| error["count"].as_u64().unwrap()).sum()
}

/// A node that is built without this project's code; returns it with its address.
pub(crate) fn stock(kind: &str) -> (Process, String) {
    let process = Process::start(Command::new(program("stock")).arg(kind));
    let address = process.line().expect("it names no address");
    (process, address)
}

/// What a client that ran to its end left behind.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// The one JSON object on standard output.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// The cause of the first error in the JSON object.
    pub(crate) fn cause(&self) -> String {
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
pub(crate) fn client(arguments: &[&str]) -> Run {
    Command::new(program("ping-client")).args(arguments).stdin(Stdio::null()).output().unwrap().into()
}

/// Runs a ping-client with `--json` against an address, without pauses, to its end.
pub(crate) fn ping(address: &str, arguments: &[&str]) -> Run {
    client(&[&["--json", "-i", "0", "--server", address], arguments].concat())
}

/// Whether a process with this number runs.
#[cfg(unix)]
pub(crate) fn runs(id: u32) -> bool {
    Command::new("kill").args(["-0", &id.to_string()]).stderr(Stdio::null()).status().unwrap().success()
}

/// The memory that a process occupies, in bytes.
#[cfg(target_os = "linux")]
pub(crate) fn memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// How many files and sockets a process has open.
#[cfg(target_os = "linux")]
pub(crate) fn open_files(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

/// A file below a folder of the test's own.
pub(crate) fn file(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().to_owned()
}

/// Carries one TCP connection to a port of this machine, until word comes to swallow what follows.
pub(crate) fn relay(listener: &std::net::TcpListener, port: u16, stopped: &mpsc::Receiver<()>) {
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
