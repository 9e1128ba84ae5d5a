//! What the actor has counted of each client's run, so that a ping which is sent again is counted once.
//!
//! A client numbers the pings of its run, and says below which number it will not send any again. The actor remembers
//! one bit for each ping at or above that number. This is how RIFL makes remote calls happen exactly once
//! ("Implementing Linearizability at Large Scale and Low Latency", Lee et al., 2015).
//!
//! Memory is bounded: [`MAX_RUNS`] runs with a window of [`WINDOW`] pings each, [`MEMORY`] in all. A run is released
//! when its client ends it, or when another begins and this one has been idle for [`FORGET_AFTER`], or longest of all
//! while there is no room. The largest is released when all together are too large. Pings of a run that was released
//! are never counted, and the client is told.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    mem,
    time::{Duration, Instant},
};

use crate::protocol::{RunId, Verdict};

/// How many runs the actor remembers: as many as a server has connections by default.
pub const MAX_RUNS: usize = 2048;

/// How many pings of a run, from the lowest that its client may send again, the actor distinguishes: more than a client
/// has in flight. One bit each is 16 KiB, and twice that while the memory grows.
pub const WINDOW: u64 = 128 * 1024;

/// How much memory all runs take at most, in bytes. A run of a client that gets its answers takes less than 100.
pub const MEMORY: usize = 8 * 1024 * 1024;

/// The same in words of memory; the half, because a deque that grows doubles its room.
const MAX_WORDS: usize = MEMORY / 2 / size_of::<u64>();

/// How much room an empty run keeps, in words: enough for the pings that a client has in flight by default, which come
/// and go all the time.
const KEPT_WORDS: usize = 8;

/// How long an idle run is remembered: the longest interval between two pings, plus the longest timeout.
pub const FORGET_AFTER: Duration = Duration::from_secs(2 * 60 * 60);

/// What the actor has counted of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    counted: u64,
    /// No ping below this number will be sent again.
    floor: u64,
    /// One bit for each counted ping, starting at the multiple of 64 at or below `floor`.
    words: VecDeque<u64>,
}

impl Run {
    /// Restores a run from what [`parts`](Self::parts) returned.
    pub fn from_parts(counted: u64, floor: u64, mut words: Vec<u64>) -> Self {
        words.truncate(WINDOW as usize / 64 + 1);
        Self { counted, floor, words: words.into() }
    }

    /// The count, the lowest number that may still be sent, and one bit for each counted ping, starting at the multiple
    /// of 64 at or below that number.
    pub fn parts(&self) -> (u64, u64, Vec<u64>) {
        (self.counted, self.floor, self.words.iter().copied().collect())
    }

    /// How many of its pings are counted.
    pub fn counted(&self) -> u64 {
        self.counted
    }

    /// Forgets the pings below this number, which will not be sent again.
    pub fn settle_below(&mut self, floor: u64) {
        let before = self.floor / 64;
        self.floor = self.floor.max(floor);
        let over = usize::try_from(self.floor / 64 - before).unwrap_or(usize::MAX);
        self.words.drain(..over.min(self.words.len()));
        // One that grows at most doubles, so that its room is never much more than twice what it needs.
        if self.words.capacity() > 2 * self.words.len() + KEPT_WORDS {
            self.words.shrink_to(self.words.len() + KEPT_WORDS);
        }
    }

    /// Counts a ping, unless it was counted before or cannot be.
    pub fn count(&mut self, sequence: u64) -> Verdict {
        if sequence < self.floor {
            return Verdict::Settled;
        }
        if sequence - self.floor >= WINDOW {
            return Verdict::Outside;
        }
        // The window is small, so the difference fits in a usize.
        let (word, bit) = ((sequence / 64 - self.floor / 64) as usize, 1 << (sequence % 64));
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

/// All runs that the actor remembers.
#[derive(Debug, Default)]
pub struct Runs {
    runs: HashMap<RunId, (Run, Instant)>,
    /// How many words of memory they take together.
    words: usize,
    /// The runs that have changed since they were last taken, if changes are tracked.
    changed: Option<HashSet<RunId>>,
}

impl Runs {
    /// Tracks from now on which runs change.
    pub(super) fn track_changes(&mut self) {
        self.changed.get_or_insert_default();
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    /// Takes the runs that have changed since the last call; `None` stands for a run that ended or was forgotten.
    pub(super) fn take_changed(&mut self) -> Vec<(RunId, Option<Run>)> {
        let changed = self.changed.as_mut().map(mem::take).unwrap_or_default();
        changed.into_iter().map(|id| (id, self.runs.get(&id).map(|(run, _)| run.clone()))).collect()
    }

    fn mark_changed(&mut self, id: RunId) {
        if let Some(changed) = &mut self.changed {
            changed.insert(id);
        }
    }

    /// Begins a run, unless it has begun. Returns the runs that are forgotten to make room for it.
    pub fn begin(&mut self, id: RunId, now: Instant) -> Vec<RunId> {
        let mut forgotten = Vec::new();
        if !self.runs.contains_key(&id) {
            let idle = |used: &Instant| now.saturating_duration_since(*used);
            forgotten.extend(self.runs.iter().filter(|(_, (_, used))| idle(used) > FORGET_AFTER).map(|(id, _)| *id));
            if self.runs.len() - forgotten.len() >= MAX_RUNS {
                forgotten.extend(self.runs.iter().max_by_key(|(_, (_, used))| idle(used)).map(|(id, _)| *id));
            }
            for id in &forgotten {
                self.end(*id);
            }
            self.mark_changed(id);
        }
        self.runs.entry(id).or_insert_with(|| (Run::default(), now));
        forgotten
    }

    /// Changes a run that has begun; `None` if there is no such run.
    pub fn change<T>(&mut self, id: RunId, now: Instant, change: impl FnOnce(&mut Run) -> T) -> Option<T> {
        let (run, used) = self.runs.get_mut(&id)?;
        *used = now;
        self.words -= run.words.len();
        let changed = change(run);
        self.words += run.words.len();
        self.mark_changed(id);
        self.make_room();
        Some(changed)
    }

    /// Forgets the largest runs while all are too large.
    fn make_room(&mut self) {
        while self.words > MAX_WORDS
            && let Some((&largest, _)) = self.runs.iter().max_by_key(|(_, (run, _))| run.words.len())
        {
            self.end(largest);
        }
    }

    /// Ends a run, and forgets it.
    pub fn end(&mut self, id: RunId) -> Option<Run> {
        let (run, _) = self.runs.remove(&id)?;
        self.words -= run.words.len();
        self.mark_changed(id);
        Some(run)
    }

    /// Adds a run that an earlier process counted, if there is room.
    pub fn restore(&mut self, id: RunId, run: Run, now: Instant) {
        if self.runs.len() < MAX_RUNS && self.words + run.words.len() <= MAX_WORDS {
            self.words += run.words.len();
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
    fn a_run_keeps_little_more_than_twice_what_it_needs() {
        let mut run = Run::default();
        for number in 1..=3 * WINDOW / 64 {
            run.count(64 * number + WINDOW / 2);
            if number % 300 == 0 {
                run.settle_below(64 * number);
            }
            let room = 2 * run.words.len() + KEPT_WORDS;
            assert!(run.words.capacity() <= room, "{} of {room}", run.words.capacity());
        }
        run.settle_below(u64::MAX);
        let kept = run.words.capacity();
        run.settle_below(u64::MAX);
        assert!(kept > 0 && run.words.capacity() == kept, "an empty run keeps its room");
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
    fn the_run_that_is_idle_longest_makes_room() {
        let start = Instant::now();
        let mut runs = Runs::default();
        for number in 0..MAX_RUNS as u64 {
            assert!(runs.begin(RunId(0, number), start + Duration::from_millis(number)).is_empty());
        }
        let later = start + Duration::from_secs(10);
        assert_eq!(runs.change(RunId(0, 0), later, |run| run.count(1)), Some(Verdict::Fresh));
        assert!(runs.begin(RunId(0, 0), later).is_empty(), "it began before");
        assert_eq!(runs.begin(RunId(1, 0), later), [RunId(0, 1)]);
        assert!(runs.change(RunId(0, 1), later, |_| ()).is_none());
        assert_eq!(runs.end(RunId(0, 0)).map(|run| run.counted()), Some(1));
        assert_eq!(runs.begin(RunId(2, 0), later + 2 * FORGET_AFTER).len(), MAX_RUNS - 1);
    }

    #[test]
    fn the_largest_runs_make_room_and_the_small_ones_stay() {
        let (now, mut runs) = (Instant::now(), Runs::default());
        let small = RunId(0, 0);
        runs.begin(small, now);
        assert_eq!(runs.change(small, now, |run| run.count(1)), Some(Verdict::Fresh));
        for number in 1..MAX_RUNS as u64 {
            runs.begin(RunId(1, number), now);
            runs.change(RunId(1, number), now, |run| run.count(WINDOW - 1));
            assert!(runs.words <= MAX_WORDS);
            assert_eq!(runs.words, runs.runs.values().map(|(run, _)| run.words.len()).sum::<usize>());
        }
        assert_eq!(runs.change(small, now, |run| run.count(1)), Some(Verdict::Again));
        assert!(runs.runs.len() >= MAX_WORDS * 64 / WINDOW as usize);
        let ids: Vec<_> = runs.runs.keys().copied().collect();
        ids.into_iter().for_each(|id| drop(runs.end(id)));
        assert_eq!(runs.words, 0);
    }
}
