//! The writer thread's loop.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use super::queue::{Entry, Handoff};
use super::state::{Lane, State};
use super::ticket::{Outcome, Promise};
use crate::error::{Error, ErrorKind};
use crate::sync::{MutexGuard, now};

/// What asking the database for its write lock came to.
#[derive(Debug)]
pub(crate) enum Begin {
    /// A transaction is open and holds the write lock.
    Ready,
    /// Somebody else holds the lock: ask again after this time.
    Locked(Duration),
    /// Others come before this process: ask again when told that the turn has come, or after this
    /// time.
    Queued(Duration),
    /// The database cannot be written.
    Failed(Error),
}

/// Lets late arrivals into the open group.
pub(crate) type Late<'a, J, T> = dyn Fn(&mut Vec<Entry<J, T>>) + 'a;

/// Runs jobs on the database for whoever owns the lane.
pub(crate) trait Executor<J, T>: Send + Sync {
    /// Begins a transaction, without waiting, that is synced as `strict` asks; `attempt` counts from 1.
    fn begin(&self, strict: u8, attempt: u32) -> Begin;

    /// Nobody wants the transaction any more that could not be begun.
    fn forgo(&self) {}

    /// Runs a group in the open transaction and commits it. Calls `late` before COMMIT to let
    /// late arrivals ride along. Returns one outcome for each entry, in order.
    fn run(&self, group: &mut Vec<Entry<J, T>>, late: &Late<'_, J, T>) -> Vec<Outcome<T>>;

    /// What the caller gets to whom the open transaction is handed as turn number `id`.
    fn grant(&self, id: u64) -> T;

    /// What a job comes to that wants nothing but its turn; `None` when it needs the database.
    fn pass(&self, _job: &J) -> Option<T> {
        None
    }

    /// Notes that a job failed because no transaction could be begun for it.
    fn refused(&self, _job: &J, _error: &Error) {}

    /// Ends the open transaction without a trace, whatever state it is in.
    fn roll_back(&self);

    /// Stops the statement that the holder of a turn runs, if any. Called with the hand-off locked:
    /// the turn cannot be given back meanwhile, and nobody else's statement be met.
    fn interrupt(&self);

    /// Rolls back a turn that was held for too long. `claim` takes the lane from its holder and
    /// tells whether the holder still had it; it is called when no statement runs.
    fn evict(&self, claim: &dyn Fn() -> bool);

    /// Whether the last commit left upkeep to do.
    fn upkeep_due(&self) -> bool;

    /// Does the upkeep (a checkpoint).
    fn upkeep(&self);

    /// Lets go of the database.
    fn close(&self);
}

enum Task {
    Group,
    Upkeep,
    Evict(u64),
    Close,
}

/// Runs groups until the hand-off is closed and its queue is empty.
///
/// # Panics
///
/// When something other than a job panics (a sink, a callback, the executor's own code): nobody is
/// then left waiting.
pub(crate) fn work<J: Send + 'static, T: Send + 'static>(
    handoff: &Handoff<J, T>,
    executor: &dyn Executor<J, T>,
) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| serve(handoff, executor))) {
        // First, so that nobody who is told finds the database still in use.
        let _ = catch_unwind(AssertUnwindSafe(|| executor.close()));
        handoff.abandon();
        resume_unwind(panic);
    }
}

fn serve<J: Send + 'static, T: Send + 'static>(
    handoff: &Handoff<J, T>,
    executor: &dyn Executor<J, T>,
) {
    loop {
        let mut state = handoff.lock();
        let task = loop {
            handoff.expire(&mut state);
            if state.lane == Lane::Free {
                handoff.let_pass(&mut state, &|job| executor.pass(job));
            }
            let now = now();
            let mut until = state.next_deadline();
            match state.lane {
                Lane::Free if !state.queue.is_empty() => break Task::Group,
                Lane::Free if state.upkeep => break Task::Upkeep,
                Lane::Free if state.closing => break Task::Close,
                Lane::Turn { id, until: end, .. } if end <= now => break Task::Evict(id),
                Lane::Turn { until: end, .. } => until = Some(until.map_or(end, |at| at.min(end))),
                _ => {}
            }
            handoff.park(&mut state, until);
        };
        if !matches!(task, Task::Evict(_)) {
            state.lane = Lane::Writer;
        }
        match task {
            Task::Group => {
                handoff.gather(&mut state);
                run_group(handoff, executor, state);
            }
            Task::Upkeep => {
                state.upkeep = false;
                drop(state);
                executor.upkeep();
                handoff.leave_lane(false);
            }
            Task::Evict(id) => {
                // A statement that is still running would keep the connection.
                executor.interrupt();
                drop(state);
                executor.evict(&|| {
                    let mut state = handoff.lock();
                    let held = state.is_turn(id);
                    if held {
                        state.lane = Lane::Writer;
                    }
                    held
                });
                let mut state = handoff.lock();
                if state.lane == Lane::Writer {
                    state.lane = Lane::Free;
                }
            }
            Task::Close => {
                drop(state);
                executor.close();
                handoff.finish_close();
                return;
            }
        }
    }
}

fn run_group<J: Send + 'static, T: Send + 'static>(
    handoff: &Handoff<J, T>,
    executor: &dyn Executor<J, T>,
    state: MutexGuard<'_, State<J, T>>,
) {
    let strict = state.strictness();
    drop(state);
    let mut group = Vec::new();
    let strict = match take_lock(handoff, executor, strict) {
        Ok(Some(strict)) => strict,
        Ok(None) => {
            executor.forgo();
            return handoff.leave_lane(false);
        }
        Err(error) => {
            handoff.drain(&mut group, u8::MAX);
            for entry in &group {
                executor.refused(&entry.request.job, &error);
            }
            let outcomes = group.iter().map(|_| Err(error.clone())).collect();
            return handoff.finish(told(executor, group, outcomes), false);
        }
    };
    handoff.drain(&mut group, strict);
    match group.first().map(|first| (first.seq, first.request.turn)) {
        // Everybody gave up meanwhile, or the first job is stricter than this transaction.
        None => {
            executor.roll_back();
            handoff.leave_lane(false);
        }
        Some((id, Some((owner, hold)))) => {
            handoff.lock().lane = Lane::Turn { id, owner, until: now() + hold };
            for entry in group {
                entry.promise.fulfil(Ok(executor.grant(id)));
            }
        }
        Some((_, None)) => {
            let late = |group: &mut Vec<_>| handoff.drain(group, strict);
            let outcomes = catch_unwind(AssertUnwindSafe(|| executor.run(&mut group, &late)))
                .unwrap_or_else(|_| {
                    executor.roll_back();
                    group.iter().map(|_| Err(panicked())).collect()
                });
            let upkeep = executor.upkeep_due();
            handoff.finish(told(executor, group, outcomes), upkeep);
            if upkeep {
                executor.upkeep();
                handoff.leave_lane(false);
            }
        }
    }
}

/// What the members of a group are told. One that wanted nothing but its turn has had it, whatever
/// became of the others.
fn told<J: Send + 'static, T: Send + 'static>(
    executor: &dyn Executor<J, T>,
    group: Vec<Entry<J, T>>,
    outcomes: Vec<Outcome<T>>,
) -> impl Iterator<Item = (Promise<T>, Outcome<T>)> {
    group.into_iter().zip(outcomes).map(|(entry, outcome)| {
        (entry.promise, executor.pass(&entry.request.job).map_or(outcome, Ok))
    })
}

/// Waits for the database's write lock while somebody wants it, and tells how strictly its
/// transaction is synced. `None`: nobody wants it any more.
fn take_lock<J: Send + 'static, T: Send + 'static>(
    handoff: &Handoff<J, T>,
    executor: &dyn Executor<J, T>,
    mut strict: u8,
) -> Result<Option<u8>, Error> {
    let mut attempt: u32 = 1;
    loop {
        let after = match executor.begin(strict, attempt) {
            Begin::Ready => return Ok(Some(strict)),
            Begin::Failed(error) => return Err(error),
            Begin::Queued(after) => after,
            Begin::Locked(after) => {
                attempt = attempt.saturating_add(1);
                after
            }
        };
        match wait_for_lock(handoff, executor, now() + after) {
            Some(wanted) => strict = wanted,
            None => return Ok(None),
        }
    }
}

/// Waits until `again` or until the turn comes, however often the writer thread is woken meanwhile,
/// and tells how strict those are who wait. `None`: nobody wants the lock any more.
fn wait_for_lock<J: Send + 'static, T: Send + 'static>(
    handoff: &Handoff<J, T>,
    executor: &dyn Executor<J, T>,
    again: Instant,
) -> Option<u8> {
    let mut state = handoff.lock();
    let tries = state.locked.saturating_add(1);
    loop {
        state.locked = tries;
        handoff.expire(&mut state);
        handoff.let_pass(&mut state, &|job| executor.pass(job));
        if state.queue.is_empty() {
            state.locked = 0;
            return None;
        }
        if std::mem::take(&mut state.turn_came) || now() >= again {
            return Some(state.strictness());
        }
        let until = state.next_deadline().map_or(again, |deadline| deadline.min(again));
        handoff.park(&mut state, Some(until));
    }
}

fn panicked() -> Error {
    Error::new(
        ErrorKind::Internal,
        "the writer panicked while it ran this group; it is unknown whether the write is in the \
         file; please report this",
    )
}
