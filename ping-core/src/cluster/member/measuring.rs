//! Measurements that clients ask for: one at a time, because each dials every member.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use libp2p::{PeerId, request_response::ResponseChannel};
use tokio::sync::mpsc;

use super::{Behaviour, Task};
use crate::cluster::{
    Command, info,
    measure::measure,
    messages::{Path, Response},
};

/// The shortest time from one measurement to the next.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long the connections live that were made for a measurement.
const LINGER: Duration = Duration::from_secs(20);

/// The measurement that runs, if one does.
pub(super) struct Measuring {
    /// Brings its result back.
    done: mpsc::UnboundedSender<Command>,
    is_running: bool,
    /// When the last one began.
    began: Option<Instant>,
    /// The peers that are connected now.
    pub(super) connected: HashSet<PeerId>,
    /// Those that were so before it began.
    before: HashSet<PeerId>,
}

impl Measuring {
    pub(super) fn new(done: mpsc::UnboundedSender<Command>) -> Self {
        let (connected, before) = (HashSet::new(), HashSet::new());
        Self { done, is_running: false, began: None, connected, before }
    }
}

impl Behaviour {
    pub(super) fn measure(&mut self, name: String, round_trips: u8, channel: ResponseChannel<Response>) {
        let now = Instant::now();
        let is_soon = self.measuring.began.is_some_and(|began| now.saturating_duration_since(began) < INTERVAL);
        if self.measuring.is_running || is_soon {
            let _ = self.protocols.exchange.send_response(channel, Response::Busy);
            return;
        }
        (self.measuring.is_running, self.measuring.began) = (true, Some(now));
        self.measuring.before = self.measuring.connected.clone();
        let directory = self.shared.directory();
        let others = directory.hosts(&name).filter(|(peer, _)| **peer != self.shared.me).map(info).collect();
        drop(directory);
        let done = self.measuring.done.clone();
        tokio::spawn(async move {
            let paths = measure(others, &name, round_trips).await;
            let _ = done.send(Command::Measured(channel, paths));
        });
    }

    pub(super) fn on_measured(&mut self, channel: ResponseChannel<Response>, paths: Vec<Path>) {
        self.measuring.is_running = false;
        // Others that measure at the same time may use the connections that were made for it.
        let before = std::mem::take(&mut self.measuring.before);
        let new = paths.iter().map(|path| path.peer).filter(|peer| !before.contains(peer));
        self.plan(Instant::now() + LINGER, Task::Close(new.collect()));
        // Who asked may have gone in the meantime.
        let _ = self.protocols.exchange.send_response(channel, Response::Paths(paths));
    }

    /// Closes connections that are of no more use.
    pub(super) fn close_unlinked(&mut self, peers: &[PeerId]) {
        let unused = peers.iter().filter(|peer| self.measuring.connected.contains(peer) && !self.links.has(peer));
        unused.copied().collect::<Vec<_>>().into_iter().for_each(|peer| self.close(peer));
    }
}
