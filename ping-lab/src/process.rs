//! Programs that run.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    thread,
};

use serde_json::Value;

use crate::{run::wait, system::DEADLINE};

/// A process that is killed when it goes out of scope.
pub struct Process {
    child: Child,
    stdout: Lines,
    stderr: Lines,
    /// Its standard input, which ends when this is dropped.
    pub stdin: Option<ChildStdin>,
}

impl Process {
    /// Starts a command and reads what it writes, line by line.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = Lines::of(child.stdout.take().unwrap());
        let stderr = Lines::of(child.stderr.take().unwrap());
        let stdin = child.stdin.take();
        Self { child, stdout, stderr, stdin }
    }

    /// The number of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the next line of standard output, or `None` at its end.
    #[track_caller]
    pub fn line(&self) -> Option<String> {
        self.stdout.next()
    }

    /// Waits for a line of standard output that contains `text`, and returns it.
    #[track_caller]
    pub fn line_with(&self, text: &str) -> String {
        self.stdout.next_with(text)
    }

    /// Waits for the next line of the log, which goes to standard error, or `None` at its end.
    #[track_caller]
    pub fn log(&self) -> Option<String> {
        self.stderr.next()
    }

    /// Waits for a line of the log that contains `text`, and returns it.
    #[track_caller]
    pub fn log_with(&self, text: &str) -> String {
        self.stderr.next_with(text)
    }

    /// Waits for the next JSON line in which the field `event` is `name`.
    #[track_caller]
    pub fn event(&self, name: &str) -> Value {
        loop {
            let line = self.line().unwrap_or_else(|| panic!("no event {name} before the end"));
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["event"] == name {
                return event;
            }
        }
    }

    /// Waits until a server has counted two pings. A client that sends the next ping when the pong is in has got one.
    #[track_caller]
    pub fn two_pings(&self) {
        self.pings(2);
    }

    /// Waits until a server has counted this many pings.
    #[track_caller]
    pub fn pings(&self, total: u64) {
        while self.event("pings")["total"].as_u64().unwrap() < total {}
    }

    /// Waits for the one line of standard output that is the result of a client.
    #[track_caller]
    pub fn result(&self) -> Value {
        let line = self.line().expect("no result");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// Sends a signal, as `INT` or `KILL`.
    #[cfg(unix)]
    #[track_caller]
    pub fn signal(&self, name: &str) {
        let run = crate::finish(Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()));
        assert_eq!(run.code, Some(0), "{run}");
    }

    /// Waits for the end of the process and returns its exit code.
    #[track_caller]
    pub fn exit_code(&mut self) -> Option<i32> {
        // A process that waits for someone to read what it writes would not end.
        while self.line().is_some() {}
        wait(&mut self.child, DEADLINE).unwrap_or_else(|| panic!("it does not end within {DEADLINE:?}")).code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            self.stderr.0.try_iter().for_each(|line| eprintln!("not yet read from process {}: {line}", self.id()));
        }
    }
}

/// The lines of an output, as they come. They are read at once, so that the process never waits for a reader.
struct Lines(mpsc::Receiver<String>);

impl Lines {
    fn of(output: impl Read + Send + 'static) -> Self {
        let (sender, lines) = mpsc::channel();
        let output = BufReader::new(output);
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self(lines)
    }

    /// Waits for the next line, or `None` at the end.
    #[track_caller]
    fn next(&self) -> Option<String> {
        match self.0.recv_timeout(DEADLINE) {
            Ok(line) => Some(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("no line within {DEADLINE:?}"),
        }
    }

    #[track_caller]
    fn next_with(&self, text: &str) -> String {
        let mut seen = Vec::new();
        loop {
            let line = self.next().unwrap_or_else(|| panic!("no line with {text:?} before the end, but {seen:#?}"));
            if line.contains(text) {
                return line;
            }
            seen.push(line);
        }
    }
}
