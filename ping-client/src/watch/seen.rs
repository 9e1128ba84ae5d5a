//! What was seen of one server, ping by ping, and passed on as news.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    time::{Duration, Instant},
};

use super::{
    WatchArgs,
    lines::Lines,
    state::{Change, State, Tally},
};
use crate::{
    args::Target,
    error::{Error, PingError},
    figures::Figures,
    pinger::{Answer, Path},
    run::{Observer, Sample, Sending},
};

/// What was seen of a server.
pub(super) struct Seen {
    pub(super) target: String,
    state: State,
    /// Since the last summary.
    recent: Tally,
    pub(super) total: Tally,
    /// When each ping was sent whose outcome is not known.
    in_flight: BTreeMap<u64, Instant>,
    interval: Duration,
    /// When the next ping is due, while there is no connection to send it on.
    due: Option<Instant>,
    lines: Lines,
}

impl Seen {
    pub(super) fn new(target: &Target, args: &WatchArgs, lines: &Lines) -> Self {
        let now = Instant::now();
        Self {
            target: name(target),
            state: State::new(args.down_after, args.interval, args.slow, now),
            recent: Tally::new(now),
            total: Tally::new(now),
            in_flight: BTreeMap::new(),
            interval: args.interval,
            due: Some(now + args.interval),
            lines: lines.clone(),
        }
    }

    /// The connection was lost, or the server is not found.
    pub(super) fn on_error(&mut self, error: &Error) {
        let now = Instant::now();
        self.give_up();
        self.due.get_or_insert(now + self.interval);
        self.miss(now);
        let change = self.state.on_error(&error.to_string(), now);
        self.tell(change, now);
    }

    /// Reports what happened since the last summary.
    pub(super) fn summarize(&mut self) {
        let now = Instant::now();
        self.miss(now);
        let recent = std::mem::replace(&mut self.recent, Tally::new(now));
        self.lines.summary(&self.target, &recent, self.state.down_since(), now);
    }

    /// Reports all that happened.
    pub(super) fn end(&mut self) {
        let now = Instant::now();
        self.miss(now);
        self.give_up();
        self.lines.end(&self.target, &self.total, self.state.down_since(), now);
    }

    fn tell(&mut self, change: Option<Change>, now: Instant) {
        let Some(change) = change else { return };
        if let Change::Up { down_since: Some(since), .. } = change {
            self.recent.up_again(since, now);
            self.total.up_again(since, now);
        }
        self.lines.change(&self.target, &change, now);
    }

    /// Does this with the figures since the last summary, and with all.
    fn count(&mut self, mut count: impl FnMut(&mut Figures)) {
        [&mut self.recent.figures, &mut self.total.figures].into_iter().for_each(&mut count);
    }

    /// The outcome of what is in flight will not be known.
    fn give_up(&mut self) {
        for (sequence, now) in std::mem::take(&mut self.in_flight) {
            self.count(|figures| figures.sending(Sending { sequence, now, is_connected: true }));
        }
        self.count(Figures::cut_short);
    }

    /// Pings that were due without a connection are lost.
    fn miss(&mut self, now: Instant) {
        while let Some(due) = self.due.filter(|due| *due <= now) {
            self.due = Some(due + self.interval);
            let (sending, outcome) =
                (Sending { sequence: 0, now: due, is_connected: false }, Err(PingError::NotConnected));
            let sample = Sample { sequence: 0, due, sent: due, from: due, ended: now, outcome };
            self.count(|figures| {
                figures.sending(sending);
                figures.outcome(&sample);
            });
        }
    }
}

/// What a server is called: as the user did, or by its identity, which is shorter than its ticket.
fn name(target: &Target) -> String {
    match target {
        Target::Ticket(ticket) => ticket.peer.to_string(),
        target => target.to_string(),
    }
}

/// Sees the pings of one connection.
pub(super) struct Watching(pub(super) Rc<RefCell<Seen>>);

impl Observer for Watching {
    fn sending(&mut self, Sending { sequence, now, .. }: Sending) {
        let mut seen = self.0.borrow_mut();
        seen.miss(now);
        seen.due = None;
        seen.in_flight.insert(sequence, now);
    }

    fn outcome(&mut self, sample: &Sample) {
        let seen = &mut *self.0.borrow_mut();
        seen.in_flight.remove(&sample.sequence);
        // A ping counts when its outcome is known, so that each is in one summary.
        let sending = Sending { sequence: sample.sequence, now: sample.sent, is_connected: true };
        seen.count(|figures| {
            figures.sending(sending);
            figures.outcome(sample);
        });
        let change = match &sample.outcome {
            Ok(_) => seen.state.on_pong(sample.ended - sample.from, sample.ended),
            // The end of the connection, or of the watch, says more.
            Err(PingError::CutShort | PingError::ConnectionLost) => None,
            Err(error) => seen.state.on_loss(&error.summary()),
        };
        seen.tell(change, sample.ended);
    }

    fn late(&mut self, sequence: u64, answer: Answer) {
        self.0.borrow_mut().count(|figures| figures.late(sequence, answer));
    }

    fn path(&mut self, now: Instant, path: Path) {
        let seen = &mut *self.0.borrow_mut();
        let change = seen.state.on_path(path);
        seen.tell(change, now);
    }

    fn slept(&mut self, slept: Duration, missed: u64) {
        self.0.borrow_mut().count(|figures| figures.slept(slept, missed));
    }
}
