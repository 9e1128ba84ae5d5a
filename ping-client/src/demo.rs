//! `--demo`: a server of the client's own on this machine, which ends with the client.

use std::{
    env,
    path::PathBuf,
    process::{ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use ping_core::{
    ServerAddress,
    program::{StopSignals, last_words},
};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};
use tracing::{info, warn};

use crate::error::Error;

/// How long the server has to start, and to stop. It takes milliseconds.
const SERVER_TIMEOUT: Duration = Duration::from_secs(10);

/// How far apart a signal to a group of processes may reach two of them.
const SAME_SIGNAL: Duration = Duration::from_millis(100);

/// Starts a server, runs a session with it, and stops it.
pub(crate) async fn run(
    ready_timeout: Duration,
    signals: &mut StopSignals,
    session: impl AsyncFnOnce(&ServerAddress, &mut StopSignals) -> Result<ExitCode>,
) -> Result<ExitCode> {
    let mut demo = Demo::start()?;
    let ready = tokio::select! {
        biased;
        () = signals.next() => None,
        ready = demo.ready(ready_timeout) => Some(ready),
    };
    // A Ctrl-C may have ended the server a moment before it reached this program.
    let mut is_interrupted = async || timeout(SAME_SIGNAL, signals.next()).await.is_ok();
    let outcome = match ready {
        Some(Ok(address)) => session(&address, signals).await,
        Some(Err(error)) if !is_interrupted().await => Err(error),
        _ => {
            let interrupted = Error::Interrupted { last: None };
            last_words("ping-client", &format_args!("{interrupted}. {}", interrupted.help()));
            Ok(ExitCode::from(1))
        }
    };
    let stopped = tokio::select! {
        stopped = demo.stop() => stopped,
        // The server is then killed.
        () = signals.next() => Ok(()),
    };
    if let (Ok(_), Err(error)) = (&outcome, stopped) {
        warn!("{error:#}");
    }
    outcome
}

/// The server's process. It stops when its standard input ends, at the latest with this process, however that ends.
#[derive(Debug)]
struct Demo {
    program: PathBuf,
    server: Child,
    events: Option<Lines<BufReader<ChildStdout>>>,
}

/// An event that the server reports, as far as it matters here.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum ServerEvent {
    Listening {
        connection_address: String,
    },
    Ready,
    #[serde(other)]
    Other,
}

impl Demo {
    /// Starts the `ping-server` beside this program, on a port that the system chooses. Fails if there is none, or the
    /// system does not let it start.
    fn start() -> Result<Self> {
        let program = server_program()?;
        let mut command = Command::new(&program);
        command
            .args(["--ephemeral", "--json", "--stop-on-eof", "--listen", "/ip4/127.0.0.1/tcp/0"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .env("RUST_LOG", "error")
            .kill_on_drop(true);
        // A Ctrl-C at the terminal is for the client, which then stops the server.
        #[cfg(unix)]
        command.process_group(0);
        let mut server = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let stdout = server.stdout.take().ok_or_else(|| anyhow!("the demo's server has no standard output"))?;
        Ok(Self { program, server, events: Some(BufReader::new(stdout).lines()) })
    }

    /// Waits until the server is ready, and returns the first address that it named. Fails if it ends, or reports
    /// something else than a server does, or takes too long.
    async fn ready(&mut self, time_limit: Duration) -> Result<ServerAddress> {
        let time_limit = time_limit.min(SERVER_TIMEOUT);
        let mut events = self.events.take().ok_or_else(|| anyhow!("the demo's server is ready already"))?;
        let address = timeout(time_limit, ready(&mut events))
            .await
            .map_err(|_| anyhow!("{} is not ready after {time_limit:?}", self.program.display()))??;
        // Its other events are read, so that a full pipe does not stop it.
        tokio::spawn(async move { while matches!(events.next_line().await, Ok(Some(_))) {} });
        info!("Started {} on {address} for this demo", self.program.display());
        Ok(address)
    }

    /// Stops the server and waits until it has ended. Fails if it had to be killed, or ended with an error.
    async fn stop(mut self) -> Result<()> {
        drop(self.server.stdin.take());
        match timeout(SERVER_TIMEOUT, self.server.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => bail!("the demo's server ended with {status}"),
            Ok(Err(error)) => Err(error).context("cannot wait for the demo's server"),
            Err(_) => {
                self.server.kill().await?;
                bail!("the demo's server did not stop within {SERVER_TIMEOUT:?} and was killed")
            }
        }
    }
}

/// Reads the server's events until it is ready, and returns the first address that it named.
async fn ready(events: &mut Lines<BufReader<ChildStdout>>) -> Result<ServerAddress> {
    let mut address = None;
    while let Some(line) = events.next_line().await? {
        match serde_json::from_str(&line)
            .map_err(|_| anyhow!("the demo's server is not a ping-server: it reported {line:?}"))?
        {
            ServerEvent::Listening { connection_address } => {
                address.get_or_insert(connection_address);
            }
            ServerEvent::Ready => {
                let address = address.ok_or_else(|| anyhow!("the demo's server named no address"))?;
                return Ok(address.parse()?);
            }
            ServerEvent::Other => {}
        }
    }
    bail!("the demo's server ended before it was ready")
}

fn server_program() -> Result<PathBuf> {
    // Linux tells it by /proc, which a container or a bare root folder may lack.
    let named = || env::args_os().next().map(PathBuf::from).filter(|path| path.components().count() > 1);
    let this = env::current_exe().or_else(|error| named().ok_or(error)).context("cannot tell where this program is")?;
    let program = this.with_file_name(format!("ping-server{}", env::consts::EXE_SUFFIX));
    if !program.is_file() {
        bail!("there is no {} to start. Build it first: cargo build --release", program.display());
    }
    Ok(program)
}
