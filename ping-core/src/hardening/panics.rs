//! Panic isolation: a connection handler that panics costs its own connection and nothing else.
//!
//! Handlers decode what a peer sends in a task of their connection. If that task panics, the swarm never hears that
//! the connection ended, and the peer stays connected in name. (Kameo 0.22 panics on an actor id of fewer than eight
//! bytes.) Here the panic is caught, the handler is never used again, and the connection is closed like any other.

use std::{
    cell::Cell,
    panic::{self, AssertUnwindSafe, catch_unwind},
    sync::{Mutex, Once, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use libp2p::swarm::{
    ConnectionHandler, ConnectionHandlerEvent, SubstreamProtocol,
    handler::{ConnectionEvent, UpgradeInfoSend},
};
use tracing::debug;

thread_local! {
    /// Whether this thread runs a handler whose panic is caught.
    static ISOLATED: Cell<bool> = const { Cell::new(false) };
}

/// How long a stream that a peer opened may take to name its protocol. libp2p gives it ten seconds, which pass on a
/// link that is full, or a machine that is busy. A connection has at most 128 such streams, and they harm it alone.
const NEGOTIATION_TIMEOUT: Duration = Duration::from_secs(60);

/// The library that the last panic came from.
static CULPRIT: Mutex<Option<String>> = Mutex::new(None);

/// Logs panics that are caught here instead of printing them, because a peer can cause them without end. All other
/// panics are printed as before, and their origin is remembered.
pub(crate) fn install_panic_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if ISOLATED.get() {
                debug!("isolated: {panic}");
                return;
            }
            let library = panic.location().and_then(|location| library(location.file()));
            *CULPRIT.lock().unwrap_or_else(PoisonError::into_inner) = library;
            print(panic);
        }));
    });
}

/// The library that the last panic of this process came from, with its version; `None` if it was no library's.
pub fn culprit() -> Option<String> {
    CULPRIT.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The name and version of the library that a source file belongs to: cargo keeps each in a folder of that name, below
/// one for the registry.
fn library(file: &str) -> Option<String> {
    let mut folders = file.split(['/', '\\']).skip_while(|folder| *folder != "registry");
    let folder = folders.nth(3)?;
    let (name, version) = folder
        .match_indices('-')
        .map(|(at, _)| folder.split_at(at))
        .find(|(_, version)| version.as_bytes().get(1).is_some_and(u8::is_ascii_digit))?;
    Some(format!("{name} {}", &version[1..]))
}

/// A handler that is never used again once it has panicked.
pub(crate) struct Isolated<H> {
    handler: H,
    state: State,
}

#[derive(PartialEq)]
enum State {
    Running,
    /// It has panicked, and the behaviour does not know yet.
    Panicked,
    Reported,
}

/// What an isolated handler tells its behaviour.
#[derive(Debug)]
pub(crate) enum FromHandler<T> {
    /// An event of the handler itself.
    Event(T),
    /// The handler has panicked; its connection should be closed.
    Panicked,
}

impl<H> Isolated<H> {
    pub(crate) fn new(handler: H) -> Self {
        Self { handler, state: State::Running }
    }

    /// Calls the handler; `None` if it has panicked, now or before.
    ///
    /// A panic may leave the handler in any state, which does not matter: it is only dropped after that.
    fn attempt<T>(&mut self, action: impl FnOnce(&mut H) -> T) -> Option<T> {
        if self.state != State::Running {
            return None;
        }
        ISOLATED.set(true);
        let done = catch_unwind(AssertUnwindSafe(|| action(&mut self.handler)));
        ISOLATED.set(false);
        done.map_err(|_| self.state = State::Panicked).ok()
    }
}

impl<H: ConnectionHandler> ConnectionHandler for Isolated<H>
where
    H::InboundProtocol: UpgradeInfoSend,
{
    type FromBehaviour = H::FromBehaviour;
    type ToBehaviour = FromHandler<H::ToBehaviour>;
    type InboundProtocol = H::InboundProtocol;
    type OutboundProtocol = H::OutboundProtocol;
    type InboundOpenInfo = H::InboundOpenInfo;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        self.handler.listen_protocol().with_timeout(NEGOTIATION_TIMEOUT)
    }

    fn connection_keep_alive(&self) -> bool {
        self.state == State::Running && self.handler.connection_keep_alive()
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        if let Some(polled) = self.attempt(|handler| handler.poll(context)) {
            return polled.map(|event| event.map_custom(FromHandler::Event));
        }
        if self.state == State::Panicked {
            self.state = State::Reported;
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(FromHandler::Panicked));
        }
        Poll::Pending
    }

    fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        let closed = self.attempt(|handler| handler.poll_close(context));
        closed.unwrap_or(Poll::Ready(None)).map(|event| event.map(FromHandler::Event))
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        self.attempt(|handler| handler.on_behaviour_event(event));
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        self.attempt(|handler| handler.on_connection_event(event));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_belongs_to_the_library_of_its_source_file() {
        let of = |file| library(file);
        let path = "/home/me/.cargo/registry/src/index.example-1949cf8c6b5b557f/kameo-0.22.2/src/request/ask.rs";
        assert_eq!(of(path).as_deref(), Some("kameo 0.22.2"));
        let path = r"C:\me\.cargo\registry\src\index.example-1949\libp2p-stream-0.4.0-alpha\src\lib.rs";
        assert_eq!(of(path).as_deref(), Some("libp2p-stream 0.4.0-alpha"));
        assert_eq!(of("ping-client/src/run/mod.rs"), None);
        assert_eq!(of("/rustc/0123/library/core/src/option.rs"), None);
    }
}
