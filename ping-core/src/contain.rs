//! A connection handler whose panic costs no more than its connection.
//!
//! What a peer sends is decoded in the handlers of its connection, in a task of the connection's own. If that task panics, the
//! swarm never hears of the connection's end: the peer stays connected for ever in name. (Kameo 0.22 panics on an
//! actor id of less than eight bytes.) Here the panic is caught, the handler is left alone from then on, and the connection is
//! closed as any other.

use std::{
    cell::Cell,
    panic::{self, AssertUnwindSafe, catch_unwind},
    sync::Once,
    task::{Context, Poll},
};

use libp2p::swarm::{
    ConnectionHandler, ConnectionHandlerEvent, SubstreamProtocol,
    handler::{ConnectionEvent, UpgradeInfoSend},
};
use tracing::debug;

thread_local! {
    /// Whether this thread is in a handler whose panic is caught.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Keeps panics that are caught here from being printed, for a peer can cause them without end. All others are, as before.
pub(crate) fn quieten() {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(
            move |panic| {
                if CONTAINED.get() { debug!("contained: {panic}") } else { print(panic) }
            },
        ));
    });
}

/// A handler that is never used again once it has panicked.
pub(crate) struct Contained<H> {
    handler: H,
    state: State,
}

#[derive(PartialEq)]
enum State {
    Sound,
    /// It has panicked, and the behaviour does not know yet.
    Panicked,
    Told,
}

/// What a contained handler tells its behaviour.
#[derive(Debug)]
pub(crate) enum FromHandler<T> {
    /// What the handler itself has to say.
    Event(T),
    /// The handler has panicked. The connection should be closed.
    Panicked,
}

impl<H> Contained<H> {
    pub(crate) fn new(handler: H) -> Self {
        Self { handler, state: State::Sound }
    }

    /// Lets the handler do something; `None` if it cannot any more.
    ///
    /// That the handler may be left in disorder is no matter: it is not used again, only dropped.
    fn attempt<T>(&mut self, action: impl FnOnce(&mut H) -> T) -> Option<T> {
        if self.state != State::Sound {
            return None;
        }
        CONTAINED.set(true);
        let done = catch_unwind(AssertUnwindSafe(|| action(&mut self.handler)));
        CONTAINED.set(false);
        done.map_err(|_| self.state = State::Panicked).ok()
    }
}

impl<H: ConnectionHandler> ConnectionHandler for Contained<H>
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
        self.handler.listen_protocol()
    }

    fn connection_keep_alive(&self) -> bool {
        self.state == State::Sound && self.handler.connection_keep_alive()
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        if let Some(polled) = self.attempt(|handler| handler.poll(context)) {
            return polled.map(|event| event.map_custom(FromHandler::Event));
        }
        if self.state == State::Panicked {
            self.state = State::Told;
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
