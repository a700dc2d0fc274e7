//! The queue itself: what it holds, waiting for an outcome, taking a job back, and the end.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::refusal::{cancelled, expired, orphaned};
use super::state::{SpaceCall, State};
use super::ticket::{Outcome, Patience, Pickup, Promise, Reply, Ticket};
use crate::error::Error;
use crate::sync::{Condvar, Mutex, MutexGuard, ThreadId, unlocked};

/// Levels of strictness.
pub(crate) const LEVELS: usize = 3;

/// Bounds of the queue and of a group.
#[expect(clippy::struct_field_names, reason = "they are the settings' names")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_batch: usize,
    pub(crate) max_rows: usize,
    pub(crate) max_bytes: usize,
}

/// What a caller asks for.
#[derive(Debug)]
pub(crate) struct Request<J> {
    pub(crate) job: J,
    pub(crate) rows: usize,
    pub(crate) bytes: usize,
    /// How strictly the group must be synced to disk, below [`LEVELS`]: it may be more.
    pub(crate) strict: u8,
    /// Wants the lane for itself (an interactive transaction), for this thread and so long.
    pub(crate) turn: Option<(ThreadId, Duration)>,
}

/// A request in the queue or in a group.
#[derive(Debug)]
pub(crate) struct Entry<J, T> {
    pub(crate) seq: u64,
    pub(crate) request: Request<J>,
    pub(crate) deadline: Option<Instant>,
    /// When it was accepted.
    pub(crate) since: Instant,
    pub(crate) promise: Promise<T>,
}

impl<J, T> Entry<J, T> {
    /// The deadline that the writer thread keeps, for a caller that does not block.
    pub(super) fn submitters_deadline(&self) -> Option<Instant> {
        self.deadline.filter(|_| matches!(self.promise.reply(), Some(Reply::Sink(..))))
    }
}

/// How a blocking request goes on.
#[derive(Debug)]
pub(crate) enum Admission<J, T> {
    /// Nobody waits: the caller owns the lane and runs the job itself.
    Inline(Request<J>),
    /// The job is in the queue under this number.
    Queued(Arc<Ticket<T>>, u64),
}

/// What taking a job back from the queue found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Withdrawn {
    /// The job had not begun and never will. `locked` tells whether the database's lock was the
    /// reason for the wait.
    NotBegun { locked: bool },
    /// The job has begun: its outcome will come.
    Begun,
}

/// Hears of a job that left the queue before it had begun, and of its caller's error if its deadline
/// had passed.
type OnLeft<J> = dyn Fn(&J, Option<&Error>) + Send + Sync;

/// The queue, the lane, and the conditions on which threads wait.
pub(crate) struct Handoff<J, T> {
    pub(super) state: Mutex<State<J, T>>,
    /// The writer thread waits here.
    pub(super) work: Condvar,
    /// Callers wait here for room in the queue, and for the end.
    pub(super) space: Condvar,
    pub(super) limits: Limits,
    left: Box<OnLeft<J>>,
    /// What error messages call the database.
    database: String,
    /// Who has its lock, in words, if that is known.
    blocker: Box<dyn Fn() -> Option<String> + Send + Sync>,
    pub(super) me: std::sync::Weak<Self>,
}

impl<J: Send + 'static, T: Send + 'static> Handoff<J, T> {
    #[cfg(test)]
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Self::watched(limits, "the database".into(), || None, |_, _| {})
    }

    /// Tells `left` of jobs that leave the queue before they have begun; asks `blocker` who has the
    /// database's lock.
    pub(crate) fn watched(
        limits: Limits,
        database: String,
        blocker: impl Fn() -> Option<String> + Send + Sync + 'static,
        left: impl Fn(&J, Option<&Error>) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            state: Mutex::new(State::new()),
            work: Condvar::new(),
            space: Condvar::new(),
            limits,
            left: Box::new(left),
            database,
            blocker: Box::new(blocker),
            me: me.clone(),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State<J, T>> {
        self.state.lock()
    }

    /// Waits for the outcome of a queued job; a job that has begun is always waited for.
    ///
    /// The `bool` tells that the caller was interrupted after its job had begun.
    pub(crate) fn wait(
        &self,
        ticket: &Ticket<T>,
        seq: u64,
        patience: &Patience<'_>,
    ) -> (Outcome<T>, Pickup, bool) {
        let mut begun = false;
        let mut called_away = false;
        loop {
            let until = if begun { None } else { patience.next_stop() };
            if let Some((outcome, group)) = ticket.wait_until(until) {
                return (outcome, self.pickup(group, 1), called_away);
            }
            let over = patience.is_over();
            if !over && !(patience.interrupted)() {
                continue;
            }
            called_away = !over;
            match self.take_back(seq) {
                Some((job, locked)) => {
                    let error = if over { self.expired(locked) } else { cancelled() };
                    (self.left)(&job, over.then_some(&error));
                    return (Err(error), Pickup::uncounted(), false);
                }
                None => begun = true,
            }
        }
    }

    /// Takes a job back, if it has not begun.
    pub(crate) fn withdraw(&self, seq: u64) -> Withdrawn {
        match self.take_back(seq) {
            Some((job, locked)) => {
                (self.left)(&job, None);
                Withdrawn::NotBegun { locked: locked > 0 }
            }
            None => Withdrawn::Begun,
        }
    }

    /// The job, if it had not begun, and how often the database's lock was found taken meanwhile.
    fn take_back(&self, seq: u64) -> Option<(J, u32)> {
        let mut state = self.state.lock();
        let at = state.queue.binary_search_by_key(&seq, |entry| entry.seq).ok()?;
        let locked = state.locked;
        let entry = state.remove(at)?;
        let calls = self.room_came(&mut state);
        if state.parked {
            // The writer thread may be waiting for a lock that nobody needs any more.
            self.work.notify_one();
        }
        drop(state);
        entry.promise.forget();
        run_all(calls);
        Some((entry.request.job, locked))
    }

    /// Tells callers whose deadline passed before their jobs had begun. `locked`: how often the
    /// database's lock was found taken.
    pub(super) fn tell_expired(&self, entries: impl IntoIterator<Item = Entry<J, T>>, locked: u32) {
        for entry in entries {
            let error = self.expired(locked);
            (self.left)(&entry.request.job, Some(&error));
            entry.promise.fulfil(Err(error));
        }
    }

    fn expired(&self, locked: u32) -> Error {
        let blocker = if locked > 0 { (self.blocker)() } else { None };
        expired(locked, &self.database, blocker)
    }

    /// What the writer thread waits for outside the database has come: it asks again.
    pub(crate) fn turn_came(&self) {
        let mut state = self.state.lock();
        state.turn_came = true;
        self.wake_writer(&state);
    }

    /// Stops taking requests. What is in the queue is still run.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closing = true;
        let calls = std::mem::take(&mut state.space_calls);
        self.space.notify_all();
        self.wake_writer(&state);
        drop(state);
        run_all(calls);
    }

    /// The writer thread has run everything and let go of the database.
    pub(crate) fn finish_close(&self) {
        self.state.lock().closed = true;
        self.space.notify_all();
    }

    /// The writer thread has panicked: tells everybody who would wait for it.
    pub(crate) fn abandon(&self) {
        let mut state = self.state.lock();
        state.closing = true;
        state.closed = true;
        state.parked = false;
        state.gathering = false;
        let mut orphans = Vec::new();
        while let Some(entry) = state.remove(0) {
            orphans.push(entry);
        }
        let calls = self.room_came(&mut state);
        drop(state);
        // One that panics here must not keep the others from being told.
        for call in calls {
            let _ = catch_unwind(AssertUnwindSafe(call));
        }
        for entry in orphans {
            let tell = AssertUnwindSafe(|| entry.promise.fulfil(Err(orphaned())));
            let _ = catch_unwind(tell);
        }
    }

    /// Whether the writer thread ended before `until`.
    pub(crate) fn wait_closed(&self, patience: &Patience<'_>) -> bool {
        let mut state = self.state.lock();
        while !state.closed {
            match patience.next_stop() {
                None => self.space.wait(&mut state),
                Some(stop) => {
                    if self.space.wait_until(&mut state, stop).timed_out() {
                        let over = patience.is_over();
                        if unlocked(&mut state, || (patience.interrupted)()) || over {
                            return state.closed;
                        }
                    }
                }
            }
        }
        true
    }

    pub(super) fn room_came(&self, state: &mut MutexGuard<'_, State<J, T>>) -> Vec<SpaceCall> {
        self.space.notify_all();
        std::mem::take(&mut state.space_calls)
    }
}

impl<J, T> fmt::Debug for Handoff<J, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handoff").field("limits", &self.limits).finish_non_exhaustive()
    }
}

pub(super) fn run_all(calls: Vec<SpaceCall>) {
    for call in calls {
        call();
    }
}
