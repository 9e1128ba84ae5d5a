//! The events of one node, for several sessions side by side.

use std::{cell::RefCell, convert::Infallible, future::pending};

use ping_core::Event;
use tokio::sync::mpsc;

/// The sessions that get the events.
#[derive(Default)]
pub(crate) struct Events(RefCell<Vec<mpsc::UnboundedSender<Event>>>);

impl Events {
    /// The events from now on, for one session.
    pub(crate) fn subscribe(&self) -> mpsc::UnboundedReceiver<Event> {
        let (session, events) = mpsc::unbounded_channel();
        let mut sessions = self.0.borrow_mut();
        // Those that have ended since the last event.
        sessions.retain(|session| !session.is_closed());
        sessions.push(session);
        events
    }

    /// Passes the node's events on to all sessions. Never ends.
    pub(crate) async fn pass_on(&self, mut events: mpsc::UnboundedReceiver<Event>) -> Infallible {
        while let Some(event) = events.recv().await {
            self.0.borrow_mut().retain(|session| session.send(event.clone()).is_ok());
        }
        // The node has failed, which the others notice.
        pending().await
    }
}
