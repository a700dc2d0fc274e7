//! What the hand-off's lock protects.

use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::time::Instant;

use super::queue::{Entry, LEVELS, Limits};
use super::ticket::UNCOUNTED;
use crate::sync::ThreadId;

/// Who may run jobs on the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    Free,
    /// A caller runs its own job.
    Inline,
    /// The writer thread runs a group.
    Writer,
    /// An interactive transaction, until `until`.
    Turn {
        id: u64,
        owner: ThreadId,
        until: Instant,
    },
}

#[expect(clippy::struct_excessive_bools, reason = "independent facts under one lock")]
pub(crate) struct State<J, T> {
    pub(super) queue: VecDeque<Entry<J, T>>,
    pub(super) rows: usize,
    pub(super) bytes: usize,
    /// Jobs of each level of strictness.
    pub(super) strict: [usize; LEVELS],
    /// No submitter's time is up before this. Too early once that submitter is gone.
    soonest: Option<Instant>,
    pub(super) next_seq: u64,
    pub(super) lane: Lane,
    /// The last group had more than one job, or left some behind.
    pub(super) company: bool,
    /// Number of the last group that ended; 0 before the first.
    pub(super) group: u64,
    /// Callers of the last group that have not reported back.
    pub(super) returning: usize,
    /// The writer thread is parked and wants to hear of new work.
    pub(super) parked: bool,
    /// The writer thread waits for callers of the last group.
    pub(super) gathering: bool,
    /// The writer thread tells submitters that their time is up, whoever has the lane.
    pub(super) telling: bool,
    /// How often the database's lock has kept the writer thread from beginning what waits.
    pub(super) locked: u32,
    /// What the writer thread waits for outside the database has come.
    pub(super) turn_came: bool,
    /// The writer thread has upkeep to do (a checkpoint) once nobody waits.
    pub(super) upkeep: bool,
    pub(super) closing: bool,
    pub(super) closed: bool,
    /// Blocked callers in order of arrival, by number; only the first may enter the queue.
    pub(super) doorway: VecDeque<u64>,
    pub(super) space_calls: Vec<SpaceCall>,
}

pub(super) type SpaceCall = Box<dyn FnOnce() + Send>;

impl<J, T> State<J, T> {
    pub(super) fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            rows: 0,
            bytes: 0,
            strict: [0; LEVELS],
            turn_came: false,
            soonest: None,
            next_seq: 1,
            lane: Lane::Free,
            company: false,
            group: UNCOUNTED,
            returning: 0,
            parked: false,
            gathering: false,
            telling: false,
            locked: 0,
            upkeep: false,
            closing: false,
            closed: false,
            doorway: VecDeque::new(),
            space_calls: Vec::new(),
        }
    }

    pub(super) fn is_turn(&self, id: u64) -> bool {
        matches!(self.lane, Lane::Turn { id: held, .. } if held == id)
    }

    pub(super) fn may_run_inline(&self) -> bool {
        self.lane == Lane::Free
            && self.queue.is_empty()
            && self.doorway.is_empty()
            && !self.company
            && !self.upkeep
    }

    /// A job that would never fit is let into an empty queue; its size is checked on entry.
    pub(super) fn has_room(&self, limits: &Limits, (rows, bytes): (usize, usize)) -> bool {
        self.queue.is_empty()
            || self.rows + rows <= limits.max_rows && self.bytes + bytes <= limits.max_bytes
    }

    /// Rows and bytes in the queue.
    pub(crate) fn load(&self) -> (usize, usize) {
        (self.rows, self.bytes)
    }

    /// Whether a request may enter the queue now, behind nobody.
    pub(super) fn admits(&self, limits: &Limits, size: (usize, usize)) -> bool {
        self.doorway.is_empty() && self.has_room(limits, size)
    }

    pub(super) fn remove(&mut self, at: usize) -> Option<Entry<J, T>> {
        let entry = self.queue.remove(at)?;
        self.count_out(&entry);
        Some(entry)
    }

    fn count_out(&mut self, entry: &Entry<J, T>) {
        self.rows -= entry.request.rows;
        self.bytes -= entry.request.bytes;
        if let Some(count) = self.strict.get_mut(usize::from(entry.request.strict)) {
            *count -= 1;
        }
        // Whoever comes next has not waited for the lock.
        if self.queue.is_empty() {
            self.locked = 0;
            self.soonest = None;
        }
    }

    /// Puts a job at the end of the queue. `true`: its deadline is the writer thread's to keep.
    pub(super) fn append(&mut self, entry: Entry<J, T>) -> bool {
        self.rows += entry.request.rows;
        self.bytes += entry.request.bytes;
        if let Some(count) = self.strict.get_mut(usize::from(entry.request.strict)) {
            *count += 1;
        }
        let watched = entry.submitters_deadline();
        if let Some(deadline) = watched {
            self.soonest = Some(self.soonest.map_or(deadline, |soonest| soonest.min(deadline)));
        }
        self.queue.push_back(entry);
        watched.is_some()
    }

    /// A number that no job, no place in the doorway and no turn has had.
    pub(super) fn next_number(&mut self) -> u64 {
        let number = self.next_seq;
        self.next_seq += 1;
        number
    }

    /// Removes what submitters left whose deadline has come.
    pub(super) fn take_late(&mut self, now: Instant) -> VecDeque<Entry<J, T>> {
        // A look at every job costs as much as writing some hundred of them when the queue is long.
        if self.soonest.is_none_or(|soonest| now < soonest) {
            return VecDeque::new();
        }
        let is_late = |entry: &Entry<J, T>| {
            entry.submitters_deadline().is_some_and(|deadline| deadline <= now)
        };
        // All at once: each that leaves alone moves up to half of the queue (5.9 s for 50,000 of
        // 100,000, with the lock held).
        let (late, others) = mem::take(&mut self.queue).into_iter().partition(is_late);
        self.queue = others;
        for entry in &late {
            self.count_out(entry);
        }
        self.soonest = self.queue.iter().filter_map(Entry::submitters_deadline).min();
        late
    }

    pub(super) fn has_deadlines(&self) -> bool {
        self.queue.iter().any(|entry| entry.deadline.is_some())
    }

    /// How strictly the strictest job in the queue wants its group synced to disk.
    pub(super) fn strictness(&self) -> u8 {
        let strictest = self.strict.iter().rposition(|count| *count > 0).unwrap_or(0);
        u8::try_from(strictest).unwrap_or(u8::MAX)
    }

    /// When to look next for a submitter who has to be told that its time is up.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.soonest
    }
}

impl<J, T> fmt::Debug for State<J, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("queued", &self.queue.len())
            .field("lane", &self.lane)
            .finish_non_exhaustive()
    }
}
