//! Lines on their way to a file, a pipe or a terminal whose reader may pause.
//!
//! A thread writes them, so that a paused reader stops only that thread. The queue is bounded: lines that find no room
//! are counted, and their number is written as soon as there is room again.
//!
//! On a terminal, a status may stand below the lines. It is text that does not end with a newline, which each change
//! replaces.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// How many bytes of lines wait: some thousand lines.
const MAX_QUEUED: usize = 1024 * 1024;

/// A queue of lines. Clones share it.
#[derive(Clone, Debug)]
pub struct LineQueue {
    shared: Arc<Shared>,
    /// Makes the line that says how many lines were lost.
    lost_line: fn(u64) -> Vec<u8>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// How many lines found no room since the last one that did.
    lost: u64,
    is_writing: bool,
    has_failed: bool,
    status: Option<String>,
    /// Whether the status has still to be written.
    is_status_new: bool,
}

impl State {
    fn add(&mut self, line: Vec<u8>) {
        self.bytes += line.len();
        self.lines.push_back(line);
    }

    fn is_idle(&self) -> bool {
        self.lines.is_empty() && self.lost == 0 && !self.is_writing && !self.is_status_new
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between the steps of a change can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LineQueue {
    /// Starts the thread that writes to `out`. `lost_line` makes the line that says how many lines were lost;
    /// `on_error` is called when `out` fails, after which lines are dropped.
    ///
    /// # Errors
    ///
    /// When the system does not start the thread.
    pub fn new(
        out: impl Write + Send + 'static,
        lost_line: fn(u64) -> Vec<u8>,
        on_error: impl FnOnce(io::Error) + Send + 'static,
    ) -> io::Result<Self> {
        let queue = Self { shared: Arc::default(), lost_line };
        let writer = queue.clone();
        thread::Builder::new().name("lines".into()).spawn(move || {
            let error = writer.write_all(out);
            let mut state = writer.shared.lock();
            *state = State { has_failed: true, ..State::default() };
            drop(state);
            writer.shared.changed.notify_all();
            on_error(error);
        })?;
        Ok(queue)
    }

    /// Queues a line, which ends with a newline; never blocks.
    pub fn push(&self, line: Vec<u8>) {
        let mut state = self.shared.lock();
        if state.has_failed {
            return;
        }
        if state.bytes + line.len() > MAX_QUEUED {
            state.lost += 1;
            return;
        }
        if state.lost > 0 {
            let lost = (self.lost_line)(state.lost);
            state.lost = 0;
            state.add(lost);
        }
        state.add(line);
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Replaces the status below the lines; never blocks. For a terminal only.
    pub fn set_status(&self, status: Option<String>) {
        let mut state = self.shared.lock();
        if !state.has_failed && state.status != status {
            (state.status, state.is_status_new) = (status, true);
            drop(state);
            self.shared.changed.notify_all();
        }
    }

    /// Waits until everything is written, but no longer than `timeout`: a reader that has stopped must not delay the
    /// end of the program.
    pub fn flush(&self, timeout: Duration) {
        let state = self.shared.lock();
        let done = self.shared.changed.wait_timeout_while(state, timeout, |state| !state.is_idle());
        drop(done);
    }

    /// Writes lines until that fails; returns the error.
    fn write_all(&self, mut out: impl Write) -> io::Error {
        let mut shown: Option<String> = None;
        loop {
            let (line, status) = self.next();
            let mut text = shown.as_deref().map(erase).unwrap_or_default().into_bytes();
            text.extend(line);
            text.extend(status.iter().flat_map(|status| status.as_bytes()));
            shown = status;
            if let Err(error) = out.write_all(&text).and_then(|()| out.flush()) {
                return error;
            }
            self.shared.lock().is_writing = false;
            self.shared.changed.notify_all();
        }
    }

    /// Waits for the next line, or for another status. Returns the line and the status below it.
    fn next(&self) -> (Vec<u8>, Option<String>) {
        let state = self.shared.lock();
        let has_nothing = |state: &mut State| state.lines.is_empty() && state.lost == 0 && !state.is_status_new;
        let state = self.shared.changed.wait_while(state, has_nothing);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.is_writing = true;
        state.is_status_new = false;
        let status = state.status.clone();
        let line = match state.lines.pop_front() {
            Some(line) => {
                state.bytes -= line.len();
                line
            }
            None if state.lost > 0 => (self.lost_line)(std::mem::take(&mut state.lost)),
            None => Vec::new(),
        };
        (line, status)
    }
}

/// Goes to the start of a status and erases it (ECMA-48: CR, CUU, ED).
fn erase(status: &str) -> String {
    match status.matches('\n').count() {
        0 => "\r\x1b[J".into(),
        above => format!("\r\x1b[{above}A\x1b[J"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// A reader that takes a write whenever it is told to.
    struct Paused {
        resume: mpsc::Receiver<()>,
        written: mpsc::Sender<String>,
    }

    impl Write for Paused {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.resume.recv().map_err(io::Error::other)?;
            self.written.send(String::from_utf8_lossy(bytes).into_owned()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_paused_reader_blocks_nobody_and_learns_how_much_it_missed() {
        let (resume, paused) = mpsc::channel();
        let (written, lines) = mpsc::channel();
        let (failed, failure) = mpsc::channel();
        let queue = LineQueue::new(
            Paused { resume: paused, written },
            |lost| format!("lost {lost}\n").into(),
            move |error| failed.send(error).unwrap(),
        );
        let queue = queue.unwrap();
        let line = vec![b'x'; 1024];
        // One line more than fits may be in the hands of the thread.
        let most = MAX_QUEUED / line.len() + 1;
        for _ in 0..most + 500 {
            queue.push(line.clone());
        }
        queue.flush(Duration::from_millis(1));
        for _ in 0..most + 2 {
            resume.send(()).unwrap();
        }
        let all = lines.iter().take_while(|line| !line.starts_with("lost")).count();
        let lost = most + 500 - all;
        assert!((500..=501).contains(&lost), "{lost}");
        drop(resume);
        // Two lines may still be taken.
        (0..3).for_each(|_| queue.push(line.clone()));
        assert!(failure.recv().is_ok());
        queue.push(line);
        queue.flush(Duration::from_secs(60));
    }

    #[test]
    fn lines_pass_above_the_status() {
        let (written, lines) = mpsc::channel();
        let (resume, paused) = mpsc::channel();
        (0..100).for_each(|_| resume.send(()).unwrap());
        let queue = LineQueue::new(Paused { resume: paused, written }, |_| Vec::new(), |_| {}).unwrap();
        let flush = || queue.flush(Duration::from_secs(60));
        queue.set_status(Some("1 %".into()));
        flush();
        queue.push("line\n".into());
        flush();
        queue.set_status(Some("2 %\n3 %".into()));
        flush();
        queue.set_status(None);
        flush();
        queue.push("end\n".into());
        flush();
        let text: String = lines.try_iter().collect();
        assert_eq!(text, "1 %\r\x1b[Jline\n1 %\r\x1b[J2 %\n3 %\r\x1b[1A\x1b[Jend\n");
    }

    #[test]
    fn everything_is_written_in_order_before_the_flush_ends() {
        let (written, lines) = mpsc::channel();
        let (resume, paused) = mpsc::channel();
        (0..100).for_each(|_| resume.send(()).unwrap());
        let queue = LineQueue::new(Paused { resume: paused, written }, |_| Vec::new(), |_| {}).unwrap();
        (0..100).for_each(|n| queue.push(format!("{n}\n").into()));
        queue.flush(Duration::from_secs(60));
        assert!(lines.try_iter().eq((0..100).map(|n| format!("{n}\n"))));
    }
}
