//! Programs that run to their end.

use std::{
    fmt,
    io::Read,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::system::{DEADLINE, RUN_DEADLINE};

/// How long to wait before looking again whether a process has ended.
const PAUSE: Duration = Duration::from_millis(2);

/// What a program that ran to its end left behind.
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

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {:?}\nstdout: {}\nstderr: {}", self.code, self.stdout, self.stderr)
    }
}

/// Runs a command to its end, without any input. Kills it and panics if it has not ended by [`RUN_DEADLINE`].
#[track_caller]
pub fn finish(command: &mut Command) -> Run {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    finish_child(command.spawn().unwrap())
}

/// The same for a process that was started already. What it writes to a pipe is read.
#[track_caller]
pub fn finish_child(mut child: Child) -> Run {
    let stdout = child.stdout.take().map(read);
    let stderr = child.stderr.take().map(read);
    let status = wait(&mut child, RUN_DEADLINE);
    let text = |output: Option<mpsc::Receiver<Vec<u8>>>| {
        let bytes = output.map(|output| output.recv_timeout(DEADLINE).expect("the output ends with the process"));
        String::from_utf8(bytes.unwrap_or_default()).unwrap()
    };
    let run = Run { code: status.and_then(|status| status.code()), stdout: text(stdout), stderr: text(stderr) };
    assert!(status.is_some(), "it does not end within {RUN_DEADLINE:?}: {run}");
    run
}

/// Reads an output to its end.
fn read(mut output: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read until an error is worth having.
        let _ = output.read_to_end(&mut bytes);
        sender.send(bytes)
    });
    receiver
}

/// Waits for the end of a process; kills it at the deadline and returns `None`.
pub(crate) fn wait(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if started.elapsed() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        thread::sleep(PAUSE);
    }
}
