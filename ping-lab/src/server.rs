//! Servers: ping-server, and nodes that are built without this project's code.

use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::{Port, Process, file, program};

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
    #[track_caller]
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// The same, with more arguments.
    #[track_caller]
    pub fn with(arguments: &[&str]) -> Self {
        let listen = ["--ephemeral", "--listen", "/ip4/127.0.0.1/tcp/0", "--listen", "/ip4/127.0.0.1/udp/0/quic-v1"];
        Self::exactly(&[&listen, arguments].concat())
    }

    /// A server with these arguments and `--json`.
    #[track_caller]
    pub fn exactly(arguments: &[&str]) -> Self {
        Self::from(Process::start(Command::new(program("ping-server")).arg("--json").args(arguments)))
    }

    /// Waits until a server that was just started is ready.
    #[track_caller]
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
pub struct Lasting {
    folder: TempDir,
    /// Held, so that no other server gets it between two starts.
    _port: Port,
    /// The address that it listens on, each time that it starts.
    pub listen: String,
    server: Option<Server>,
    arguments: &'static [&'static str],
}

impl Lasting {
    /// Starts a server on loopback, by `tcp` or by QUIC.
    #[track_caller]
    pub fn start(transport: &str) -> Self {
        Self::with(transport, &[])
    }

    /// The same with more arguments, in which FOLDER stands for a folder of its own.
    #[track_caller]
    pub fn with(transport: &str, arguments: &'static [&'static str]) -> Self {
        let mut port = Port::claim();
        let listen = match transport {
            "tcp" => {
                port.free_tcp();
                format!("/ip4/127.0.0.1/tcp/{}", port.number)
            }
            _ => {
                port.free_udp();
                format!("/ip4/127.0.0.1/udp/{}/quic-v1", port.number)
            }
        };
        let folder = tempfile::tempdir().unwrap();
        let mut lasting = Self { folder, _port: port, listen, server: None, arguments };
        lasting.start_again();
        lasting
    }

    /// The server that runs now.
    pub fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// Kills the server.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// Starts the server again, with the same identity and address.
    #[track_caller]
    pub fn start_again(&mut self) {
        let key = file(self.folder.path(), "key");
        let folder = self.folder.path().to_str().unwrap();
        let more: Vec<_> = self.arguments.iter().map(|argument| argument.replace("FOLDER", folder)).collect();
        let mut arguments = vec!["--identity", &key, "--listen", &self.listen];
        arguments.extend(more.iter().map(String::as_str));
        self.server = Some(Server::exactly(&arguments));
    }
}

/// A node that is built without this project's code; returns it with its address.
#[track_caller]
pub fn stock(kind: &str) -> (Process, String) {
    let process = Process::start(Command::new(program("stock")).arg(kind));
    let address = process.line().expect("it names no address");
    (process, address)
}
