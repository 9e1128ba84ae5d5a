//! Spreads pings over several pingers: of two lanes at random, each ping takes the one with fewer in flight.
//!
//! That is nearly as even as the best choice of all, without looking at all of them (Mitzenmacher, "The Power of Two
//! Choices in Randomized Load Balancing", 2001). A ping stays on its lane, so that no two servers count it.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    rc::Rc,
    task::{Context, Poll},
};

use ping_core::PeerText;
use tokio::sync::mpsc;
use tracing::Span;

use super::{Counters, Outcome, Pinger, Progress};
use crate::error::{Error, PingError};

/// Which lane each ping takes whose outcome is not known.
pub(crate) type LaneOf = Rc<RefCell<HashMap<u64, usize>>>;

/// A pinger to spread pings over.
pub(crate) struct Lane<'a> {
    pub(crate) pinger: Box<dyn Pinger + 'a>,
    /// What it logs belongs to this.
    pub(crate) span: Span,
}

/// A lane, and the pings on it.
struct Used<'a> {
    /// Gone when it can no longer be used.
    pinger: Option<Box<dyn Pinger + 'a>>,
    span: Span,
    in_flight: HashSet<u64>,
}

/// Spreads pings over lanes. More can be added.
pub(crate) struct Spread<'a> {
    lanes: Vec<Used<'a>>,
    new: mpsc::UnboundedReceiver<Lane<'a>>,
    lane_of: LaneOf,
}

impl<'a> Spread<'a> {
    /// Spreads pings over the lanes that come, numbered from 0, and notes in `lane_of` which takes which.
    pub(crate) fn new(new: mpsc::UnboundedReceiver<Lane<'a>>, lane_of: LaneOf) -> Self {
        Self { lanes: Vec::new(), new, lane_of }
    }

    /// The pingers, in the order in which they came, as far as they can be used.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = Option<&(dyn Pinger + 'a)>> {
        self.lanes.iter().map(|lane| lane.pinger.as_deref())
    }

    /// The lane for the next ping: one that has room and a connection, or at least room.
    fn choose(&self) -> Option<usize> {
        let with_room = |needs_connection: bool| -> Vec<usize> {
            let has_room = |lane: &Used<'_>| {
                let pinger = lane.pinger.as_ref();
                pinger.is_some_and(|pinger| pinger.has_room() && (pinger.is_connected() || !needs_connection))
            };
            (0..self.lanes.len()).filter(|&lane| has_room(&self.lanes[lane])).collect()
        };
        let mut candidates = with_room(true);
        if candidates.is_empty() {
            candidates = with_room(false);
        }
        let random = |below: usize| getrandom::u32().map_or(0, |number| number as usize % below);
        let one = *candidates.get(random(candidates.len().max(1)))?;
        let other = candidates[random(candidates.len())];
        Some(if self.lanes[other].in_flight.len() < self.lanes[one].in_flight.len() { other } else { one })
    }

    fn on_lane(&mut self, sequence: u64) -> Option<&mut Used<'a>> {
        let lane = self.lane_of.borrow().get(&sequence).copied()?;
        self.lanes.get_mut(lane)
    }

    /// Polls one lane. What it loses with its connection has failed; the other lanes go on.
    fn poll_lane(&mut self, lane: usize, context: &mut Context<'_>, resolved: &mut Vec<(u64, Outcome)>) -> bool {
        let Used { pinger, span, in_flight } = &mut self.lanes[lane];
        let _entered = span.enter();
        let Some(pinger_up) = pinger else { return false };
        // A pinger may take some of what it resolved back, but only what is its own.
        let mut own = Vec::new();
        let polled = pinger_up.poll(context, &mut own);
        for (sequence, _) in &own {
            in_flight.remove(sequence);
        }
        let is_progress = !own.is_empty();
        resolved.append(&mut own);
        match polled {
            Poll::Pending => return is_progress,
            Poll::Ready(Ok(Progress::Lost)) => {}
            Poll::Ready(Ok(_)) => return true,
            Poll::Ready(Err(_)) => *pinger = None,
        }
        resolved.extend(in_flight.drain().map(|sequence| (sequence, Err(PingError::ConnectionLost))));
        true
    }
}

impl Pinger for Spread<'_> {
    fn has_room(&self) -> bool {
        self.lanes.iter().any(|lane| lane.pinger.as_ref().is_some_and(|pinger| pinger.has_room()))
    }

    fn send(&mut self, sequence: u64) {
        // It is asked only if there is room.
        let lane = self.choose().unwrap_or(0);
        self.lane_of.borrow_mut().insert(sequence, lane);
        if let Some(Used { pinger: Some(pinger), in_flight, .. }) = self.lanes.get_mut(lane) {
            in_flight.insert(sequence);
            pinger.send(sequence);
        }
    }

    fn poll(&mut self, context: &mut Context<'_>, resolved: &mut Vec<(u64, Outcome)>) -> Poll<Result<Progress, Error>> {
        let mut is_progress = false;
        while let Poll::Ready(Some(Lane { pinger, span })) = self.new.poll_recv(context) {
            self.lanes.push(Used { pinger: Some(pinger), span, in_flight: HashSet::new() });
            is_progress = true;
        }
        for lane in 0..self.lanes.len() {
            is_progress |= self.poll_lane(lane, context, resolved);
        }
        if !self.lanes.is_empty() && self.lanes.iter().all(|lane| lane.pinger.is_none()) {
            return Poll::Ready(Err(Error::Lost { reason: PeerText::from("every member is lost") }));
        }
        if is_progress { Poll::Ready(Ok(Progress::Resolved)) } else { Poll::Pending }
    }

    fn is_connected(&self) -> bool {
        self.lanes.iter().any(|lane| lane.pinger.as_ref().is_some_and(|pinger| pinger.is_connected()))
    }

    fn waiting(&self) -> usize {
        let is_connected = |lane: &&Used<'_>| lane.pinger.as_ref().is_some_and(|pinger| pinger.is_connected());
        match self.is_connected() {
            true => self.lanes.iter().filter(|lane| !is_connected(lane)).map(|lane| lane.in_flight.len()).sum(),
            false => 0,
        }
    }

    fn give_up(&mut self, sequence: u64) {
        if let Some(Used { pinger, in_flight, .. }) = self.on_lane(sequence) {
            in_flight.remove(&sequence);
            pinger.iter_mut().for_each(|pinger| pinger.give_up(sequence));
        }
    }

    fn forget(&mut self, sequence: u64) {
        if let Some(Used { pinger: Some(pinger), .. }) = self.on_lane(sequence) {
            pinger.forget(sequence);
        }
        self.lane_of.borrow_mut().remove(&sequence);
    }

    fn counters(&self) -> Counters {
        let counters = self.lanes().flatten().map(|pinger| pinger.counters());
        counters.fold(Counters::default(), |sum, it| Counters {
            reconnects: sum.reconnects + it.reconnects,
            down: sum.down + it.down,
            busy: sum.busy + it.busy,
            resent: sum.resent + it.resent,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pinger::Answer;
    use std::task::Waker;

    /// Takes pings, and answers or fails as it is told.
    #[derive(Default)]
    struct Scripted {
        state: Rc<RefCell<Script>>,
    }

    #[derive(Default)]
    struct Script {
        sent: Vec<u64>,
        answers: usize,
        is_down: bool,
        is_lost: bool,
    }

    impl Pinger for Scripted {
        fn has_room(&self) -> bool {
            !self.state.borrow().is_down
        }

        fn send(&mut self, sequence: u64) {
            self.state.borrow_mut().sent.push(sequence);
        }

        fn poll(&mut self, _: &mut Context<'_>, resolved: &mut Vec<(u64, Outcome)>) -> Poll<Result<Progress, Error>> {
            let mut state = self.state.borrow_mut();
            if std::mem::take(&mut state.is_lost) {
                state.is_down = true;
                return Poll::Ready(Ok(Progress::Lost));
            }
            let answers = std::mem::take(&mut state.answers).min(state.sent.len());
            resolved.extend(state.sent.drain(..answers).map(|sequence| (sequence, Ok(Answer { total: None }))));
            if answers > 0 { Poll::Ready(Ok(Progress::Resolved)) } else { Poll::Pending }
        }

        fn is_connected(&self) -> bool {
            !self.state.borrow().is_down
        }
    }

    /// Takes back all that was resolved, as one does that resends it.
    struct TakesBack;

    impl Pinger for TakesBack {
        fn has_room(&self) -> bool {
            true
        }

        fn send(&mut self, _: u64) {}

        fn poll(&mut self, _: &mut Context<'_>, resolved: &mut Vec<(u64, Outcome)>) -> Poll<Result<Progress, Error>> {
            resolved.clear();
            Poll::Pending
        }

        fn is_connected(&self) -> bool {
            true
        }
    }

    #[test]
    fn no_lane_takes_what_another_one_resolved() {
        let (sender, new) = mpsc::unbounded_channel();
        let mut spread = Spread::new(new, LaneOf::default());
        let script = Rc::<RefCell<Script>>::default();
        let lanes: [Box<dyn Pinger>; 2] = [Box::new(Scripted { state: script.clone() }), Box::new(TakesBack)];
        lanes.into_iter().for_each(|pinger| drop(sender.send(Lane { pinger, span: Span::none() })));
        let mut context = Context::from_waker(Waker::noop());
        let mut resolved = Vec::new();
        assert!(spread.poll(&mut context, &mut resolved).is_ready());
        (1..=100).for_each(|sequence| spread.send(sequence));
        let sent = script.borrow().sent.len();
        script.borrow_mut().answers = sent;
        assert!(spread.poll(&mut context, &mut resolved).is_ready());
        assert!(sent > 0 && resolved.len() == sent, "{sent}: {resolved:?}");
    }

    #[test]
    fn pings_are_spread_evenly_and_fail_over() {
        let (sender, new) = mpsc::unbounded_channel();
        let scripts: Vec<Rc<RefCell<Script>>> = (0..4).map(|_| Rc::default()).collect();
        let lane_of = LaneOf::default();
        let mut spread = Spread::new(new, lane_of.clone());
        for script in &scripts {
            let pinger = Box::new(Scripted { state: script.clone() });
            let _ = sender.send(Lane { pinger, span: Span::none() });
        }
        let mut context = Context::from_waker(Waker::noop());
        let mut resolved = Vec::new();
        assert!(!spread.has_room());
        assert!(spread.poll(&mut context, &mut resolved).is_ready());
        (1..=1000).for_each(|sequence| spread.send(sequence));
        for script in &scripts {
            let sent = script.borrow().sent.len();
            assert!((240..=260).contains(&sent), "{sent}");
        }
        // One lane is lost: its pings fail, and the others get all that come.
        scripts[1].borrow_mut().is_lost = true;
        scripts[2].borrow_mut().answers = 10;
        let lost = scripts[1].borrow().sent.len();
        assert!(spread.poll(&mut context, &mut resolved).is_ready());
        let failed = resolved.iter().filter(|(_, outcome)| *outcome == Err(PingError::ConnectionLost)).count();
        assert_eq!((failed, resolved.len()), (lost, lost + 10));
        (1001..=1100).for_each(|sequence| spread.send(sequence));
        assert_eq!((scripts[1].borrow().sent.len(), spread.waiting()), (lost, 0));
        scripts[2].borrow_mut().is_down = true;
        assert_eq!(spread.waiting(), scripts[2].borrow().sent.len(), "they wait for their member to be back");
        assert!((1001..=1100).all(|sequence| lane_of.borrow()[&sequence] != 1));
    }
}
