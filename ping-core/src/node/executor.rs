//! Where connections run: on the node's thread, until one takes long turns.
//!
//! A connection decodes in one turn what its peer sent, and a request of a megabyte takes ten milliseconds of it. On
//! the node's thread, every other connection would wait for that. So a connection that has taken a long turn moves to
//! a second thread, of lower priority, for the rest of its life. Small pings stay where they are, and never pay for a
//! change of thread.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use libp2p::swarm::Executor;
use tokio::{
    runtime::{self, Handle},
    sync::oneshot,
};
use tracing::debug;

/// The longest turn that a connection may take on the node's thread. A request of the size of a network packet takes
/// some ten microseconds, one of 64 KiB half a millisecond.
const LONG_TURN: Duration = Duration::from_millis(2);

/// How much less of a busy processor the second thread gets than the node's, as a `nice` value: about a tenth.
#[cfg(unix)]
const NICENESS: i32 = 10;

type Connection = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs connections.
#[derive(Clone, Default)]
pub(crate) struct FairExecutor {
    /// The second thread, while connections run there.
    second: Arc<Mutex<Option<Second>>>,
}

/// The second thread. It ends, and with it goes the memory that it used, when this is dropped.
struct Second {
    runtime: Handle,
    connections: usize,
    _stop: oneshot::Sender<()>,
}

impl Executor for FairExecutor {
    fn exec(&self, connection: Connection) {
        tokio::spawn(Turns { connection: Some(connection), is_suspect: false, executor: self.clone() });
    }
}

impl FairExecutor {
    fn second(&self) -> MutexGuard<'_, Option<Second>> {
        // Nothing between the steps of a change can panic.
        self.second.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a connection on the second thread. Gives it back if the system does not start one.
    fn move_over(&self, connection: Connection) -> Result<(), Connection> {
        let mut second = self.second();
        if second.is_none() {
            *second = Second::start().ok();
        }
        let Some(second) = second.as_mut() else { return Err(connection) };
        second.connections += 1;
        let place = Place(self.clone());
        second.runtime.spawn(async move {
            connection.await;
            drop(place);
        });
        Ok(())
    }
}

impl Second {
    fn start() -> io::Result<Self> {
        let thread_runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let runtime = thread_runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            // Not being nicer is no reason not to run.
            #[cfg(unix)]
            let _ = rustix::process::setpriority_process(None, NICENESS);
            let _ = thread_runtime.block_on(stopped);
        };
        thread::Builder::new().name("long turns".into()).spawn(run)?;
        Ok(Self { runtime, connections: 0, _stop: stop })
    }
}

/// The place of a connection on the second thread.
struct Place(FairExecutor);

impl Drop for Place {
    fn drop(&mut self) {
        let mut second = self.0.second();
        if let Some(running) = second.as_mut() {
            running.connections -= 1;
            if running.connections == 0 {
                *second = None;
            }
        }
    }
}

/// A connection on the node's thread, and how long its turns are.
struct Turns {
    /// Gone when it has moved.
    connection: Option<Connection>,
    /// Whether its last turn lasted long, maybe because the system ran something else in between.
    is_suspect: bool,
    executor: FairExecutor,
}

impl Future for Turns {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(connection) = &mut this.connection else { return Poll::Ready(()) };
        let (began, worked) = (Instant::now(), if this.is_suspect { processor_time() } else { None });
        if connection.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let is_long = began.elapsed() >= LONG_TURN;
        let took = worked.and_then(|before| processor_time()?.checked_sub(before));
        if took.is_some_and(|took| took >= LONG_TURN)
            && let Some(connection) = this.connection.take()
        {
            debug!(?took, "a connection that takes long turns moves to the second thread");
            this.connection = this.executor.move_over(connection).err();
            if this.connection.is_none() {
                return Poll::Ready(());
            }
        }
        this.is_suspect = is_long;
        Poll::Pending
    }
}

/// How much processor time this thread has used.
#[cfg(unix)]
fn processor_time() -> Option<Duration> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Some(Duration::new(time.tv_sec.try_into().ok()?, time.tv_nsec.try_into().ok()?))
}

/// Where the system does not say, the time that has passed stands for it.
#[cfg(not(unix))]
fn processor_time() -> Option<Duration> {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    Some(START.get_or_init(Instant::now).elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::channel::mpsc;
    use std::{future::poll_fn, thread::ThreadId};

    /// Keeps the processor busy this long.
    fn work(time: Duration) {
        let before = processor_time().unwrap();
        while processor_time().unwrap() - before < time {}
    }

    /// The threads that the turns of a connection run on.
    async fn threads(turn: Duration) -> Vec<ThreadId> {
        let (sender, receiver) = mpsc::unbounded();
        let mut turns = 0;
        let connection = poll_fn(move |context| {
            work(turn);
            let _ = sender.unbounded_send(thread::current().id());
            turns += 1;
            context.waker().wake_by_ref();
            if turns < 6 { Poll::Pending } else { Poll::Ready(()) }
        });
        let executor = FairExecutor::default();
        executor.exec(Box::pin(connection));
        let threads = futures::StreamExt::collect(receiver).await;
        // The thread ends with its last connection.
        while executor.second().is_some() {
            tokio::task::yield_now().await;
        }
        threads
    }

    #[tokio::test]
    async fn a_connection_with_long_turns_leaves_the_thread_of_the_others() {
        let here = thread::current().id();
        let long = threads(LONG_TURN * 2).await;
        assert_eq!(long.len(), 6);
        assert!(long[0] == here && long[5] != here, "{long:?}");
        let short = threads(Duration::ZERO).await;
        assert!(short.iter().all(|thread| *thread == here), "{short:?}");
    }
}
