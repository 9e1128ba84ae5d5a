//! What has been counted of each client's run, so that a ping which is sent again is counted once.
//!
//! A run numbers its pings and says below which number it will send none again. What is at or above it is remembered,
//! one bit a ping. This is how RIFL makes remote calls happen exactly once ("Implementing Linearizability at Large Scale and
//! Low Latency", Lee and others, 2015).
//!
//! The memory is bounded: [`MAX_RUNS`] runs with a window of [`WINDOW`] pings each, 64 MiB in all at the very most. Whoever keeps them in a
//! file copies those that have changed for as long as that takes, 16 KiB each. A run's memory is released when its client ends it, or
//! when a new one begins and it was idle for [`FORGOTTEN_AFTER`], or for longest of all while room is wanted.
//! Pings of a run that is not remembered are never counted; its client is told so.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    mem,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// How many runs are remembered at most: as many as a server takes connections unless it is told otherwise.
pub const MAX_RUNS: usize = 2048;

/// How many pings of a run can be at or above the lowest that its client may send again: more than any client has in
/// flight. One bit each, that is 16 KiB, and as much again while the memory for it grows.
pub const WINDOW: u64 = 128 * 1024;

/// How long an idle run is remembered: the longest time from one ping to the next, and then the longest until it is given up.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(2 * 60 * 60);

/// The name of a run: 128 random bits that its client chose.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct RunId(pub u64, pub u64);

/// What a ping is to a run's memory.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Verdict {
    /// It came for the first time, and is counted.
    Fresh,
    /// It has been counted before.
    Again,
    /// Its number is below those that the client may still send. It is not counted, and nobody waits for its answer.
    Settled,
    /// Its number is too far above those that may still be settled. It is not counted.
    Outside,
    /// Nothing is known of its run. It is not counted.
    UnknownRun,
}

/// What has been counted of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    counted: u64,
    /// No ping below this number will be sent again.
    floor: u64,
    /// One bit for each ping that was counted, from the multiple of 64 at or below `floor` on.
    words: VecDeque<u64>,
}

impl Run {
    /// A run of which so many pings were counted, those of `words` among them; what [`parts`](Self::parts) gave.
    pub fn from_parts(counted: u64, floor: u64, mut words: Vec<u64>) -> Self {
        words.truncate(WINDOW as usize / 64 + 1);
        Self { counted, floor, words: words.into() }
    }

    /// How many pings were counted, the lowest number that may still be sent, and one bit for each ping that was counted from
    /// the multiple of 64 at or below that number on.
    pub fn parts(&self) -> (u64, u64, Vec<u64>) {
        (self.counted, self.floor, self.words.iter().copied().collect())
    }

    /// How many of its pings were counted.
    pub fn counted(&self) -> u64 {
        self.counted
    }

    /// Takes note that no ping below this number will be sent again.
    pub fn settle_below(&mut self, floor: u64) {
        let before = self.floor / 64;
        self.floor = self.floor.max(floor);
        let over = usize::try_from(self.floor / 64 - before).unwrap_or(usize::MAX);
        self.words.drain(..over.min(self.words.len()));
    }

    /// Counts a ping, unless it was counted before or cannot be.
    pub fn count(&mut self, number: u64) -> Verdict {
        if number < self.floor {
            return Verdict::Settled;
        }
        if number - self.floor >= WINDOW {
            return Verdict::Outside;
        }
        // Within the window, and so small.
        let (word, bit) = ((number / 64 - self.floor / 64) as usize, 1 << (number % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        if self.words[word] & bit != 0 {
            return Verdict::Again;
        }
        self.words[word] |= bit;
        self.counted += 1;
        Verdict::Fresh
    }
}

/// What is remembered of all runs.
#[derive(Debug, Default)]
pub struct Runs {
    runs: HashMap<RunId, (Run, Instant)>,
    /// Which runs have changed, if anybody wants to know.
    changed: Option<HashSet<RunId>>,
}

impl Runs {
    /// Takes note from now on of which runs change.
    pub fn watch_changes(&mut self) {
        self.changed.get_or_insert_default();
    }

    /// The runs that have changed since this was last asked; nothing is left of those that ended or were forgotten.
    pub fn take_changed(&mut self) -> Vec<(RunId, Option<Run>)> {
        let changed = self.changed.as_mut().map(mem::take).unwrap_or_default();
        changed.into_iter().map(|id| (id, self.runs.get(&id).map(|(run, _)| run.clone()))).collect()
    }

    fn note(&mut self, id: RunId) {
        if let Some(changed) = &mut self.changed {
            changed.insert(id);
        }
    }

    /// Begins a run; does nothing if it has begun before. Returns the runs that are forgotten for it.
    pub fn begin(&mut self, id: RunId, now: Instant) -> Vec<RunId> {
        let mut forgotten = Vec::new();
        if !self.runs.contains_key(&id) {
            let idle = |used: &Instant| now.saturating_duration_since(*used);
            forgotten.extend(self.runs.iter().filter(|(_, (_, used))| idle(used) > FORGOTTEN_AFTER).map(|(id, _)| *id));
            if self.runs.len() - forgotten.len() >= MAX_RUNS {
                forgotten.extend(self.runs.iter().max_by_key(|(_, (_, used))| idle(used)).map(|(id, _)| *id));
            }
            for id in &forgotten {
                self.runs.remove(id);
                self.note(*id);
            }
            self.note(id);
        }
        self.runs.entry(id).or_insert_with(|| (Run::default(), now));
        forgotten
    }

    /// A run that has begun, to change it.
    pub fn get(&mut self, id: RunId, now: Instant) -> Option<&mut Run> {
        if self.runs.contains_key(&id) {
            self.note(id);
        }
        let (run, used) = self.runs.get_mut(&id)?;
        *used = now;
        Some(run)
    }

    /// Ends a run, and forgets it.
    pub fn end(&mut self, id: RunId) -> Option<Run> {
        let (run, _) = self.runs.remove(&id)?;
        self.note(id);
        Some(run)
    }

    /// Remembers a run of an earlier life, if there is room.
    pub fn restore(&mut self, id: RunId, run: Run, now: Instant) {
        if self.runs.len() < MAX_RUNS {
            self.runs.insert(id, (run, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ping_is_counted_once_however_often_it_comes() {
        let mut run = Run::default();
        for number in [1, 2, 64, 63, 200] {
            assert_eq!((run.count(number), run.count(number)), (Verdict::Fresh, Verdict::Again), "{number}");
        }
        run.settle_below(64);
        for (number, verdict) in
            [(63, Verdict::Settled), (64, Verdict::Again), (65, Verdict::Fresh), (200, Verdict::Again)]
        {
            assert_eq!(run.count(number), verdict, "{number}");
        }
        assert_eq!(run.counted(), 6);
    }

    #[test]
    fn a_window_is_as_wide_as_it_says_and_its_memory_bounded() {
        let mut run = Run::default();
        run.settle_below(100);
        assert_eq!(run.count(100 + WINDOW), Verdict::Outside);
        assert_eq!(run.count(99 + WINDOW), Verdict::Fresh);
        assert!(run.words.len() as u64 <= WINDOW / 64 + 1);
        for floor in [u64::MAX - 5, 3, u64::MAX] {
            run.settle_below(floor);
            assert!(run.words.is_empty());
        }
        assert_eq!((run.count(u64::MAX - 1), run.count(u64::MAX)), (Verdict::Settled, Verdict::Fresh));
    }

    #[test]
    fn numbers_far_apart_are_as_exact_as_neighbours() {
        let (mut run, mut floor) = (Run::default(), 0);
        // A multiplicative generator as in Knuth, volume 2, section 3.3.4, line 26.
        let mut random = 1_u64;
        let mut seen = std::collections::HashSet::new();
        for _ in 0..10_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let number = floor + (random >> 40) % WINDOW;
            assert_eq!(run.count(number) == Verdict::Fresh, seen.insert(number));
            if random >> 60 == 0 {
                floor += (random >> 50) % 1000;
                run.settle_below(floor);
            }
        }
        assert_eq!(run.counted(), seen.len() as u64);
    }

    #[test]
    fn what_is_idle_for_longest_makes_room() {
        let start = Instant::now();
        let mut runs = Runs::default();
        for number in 0..MAX_RUNS as u64 {
            assert!(runs.begin(RunId(0, number), start + Duration::from_millis(number)).is_empty());
        }
        let later = start + Duration::from_secs(10);
        assert!(runs.get(RunId(0, 0), later).is_some_and(|run| run.count(1) == Verdict::Fresh));
        assert!(runs.begin(RunId(0, 0), later).is_empty(), "it has begun before");
        assert_eq!(runs.begin(RunId(1, 0), later), [RunId(0, 1)]);
        assert!(runs.get(RunId(0, 1), later).is_none());
        assert_eq!(runs.end(RunId(0, 0)).map(|run| run.counted()), Some(1));
        assert_eq!(runs.begin(RunId(2, 0), later + 2 * FORGOTTEN_AFTER).len(), MAX_RUNS - 1);
    }
}
