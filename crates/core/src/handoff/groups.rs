//! From the queue to a group, and from its end to its callers.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::queue::{Entry, Handoff, run_all};
use super::state::{Lane, State};
use super::ticket::{Completed, Outcome, Pickup, Promise, Rendezvous, Reply, Sink, UNCOUNTED};
use crate::sync::{MutexGuard, now, unlocked};

/// How long the writer thread waits for the next sign of life from callers of the last group.
///
/// A thread that was just told its outcome is back within a few scheduler turns (about 20 µs here);
/// the bound is for a machine that is busy, or whose interpreter lock a computation holds (5 ms a
/// turn): nobody waits longer for callers that do not come.
pub(crate) const PAUSE: Duration = Duration::from_millis(2);

/// Outcomes on their way to one sink.
type Delivery<T> = (Arc<dyn Sink<T>>, Vec<Completed<T>>);

impl<J: Send + 'static, T: Send + 'static> Handoff<J, T> {
    /// Holds the next group open while callers of the last one are on their way back.
    ///
    /// No timer runs when nobody is expected: with no caller on its way, or no room for it, this
    /// returns at once, and it ends at the first [`PAUSE`] in which none of them came back. That
    /// others came does not count: one caller that stays away would hold the group open for as long
    /// as there is traffic.
    pub(crate) fn gather(&self, state: &mut MutexGuard<'_, State<J, T>>) {
        state.gathering = true;
        while state.returning > 0
            && !state.closing
            && state.doorway.is_empty()
            && state.rows < self.limits.max_batch
        {
            let expected = state.returning;
            let quiet = self.work.wait_until(state, now() + PAUSE).timed_out();
            if quiet && state.returning == expected {
                break;
            }
        }
        state.gathering = false;
        state.returning = 0;
    }

    /// Moves jobs from the queue to a group that is open on the database.
    ///
    /// Stops at `max_batch` rows (a larger job goes alone), at a turn, and at a job that is
    /// stricter than the open group. Jobs whose deadline has passed are told so instead.
    pub(crate) fn drain(&self, group: &mut Vec<Entry<J, T>>, strict: u8) {
        let mut rows: usize = group.iter().map(|entry| entry.request.rows).sum();
        let mut late = Vec::new();
        let mut state = self.state.lock();
        let locked = std::mem::take(&mut state.locked);
        let now = state.has_deadlines().then(now);
        while let Some(head) = state.queue.front() {
            let passed = head.deadline.zip(now).is_some_and(|(deadline, now)| deadline <= now);
            let request = &head.request;
            let fits = group.is_empty() || rows + request.rows <= self.limits.max_batch;
            let own = request.turn.is_some() && !group.is_empty()
                || group.last().is_some_and(|last| last.request.turn.is_some());
            if !passed && (!fits || own || request.strict > strict) {
                break;
            }
            let Some(entry) = state.remove(0) else { break };
            if passed {
                late.push(entry);
            } else {
                rows += entry.request.rows;
                group.push(entry);
            }
        }
        let calls = self.room_came(&mut state);
        drop(state);
        run_all(calls);
        self.tell_expired(late, locked);
    }

    /// Tells submitters whose deadline has passed; blocked callers see to theirs themselves.
    ///
    /// Lets go of the lock while it tells.
    pub(crate) fn expire(&self, state: &mut MutexGuard<'_, State<J, T>>) {
        loop {
            let locked = state.locked;
            let late = state.take_late(now());
            if late.is_empty() {
                return;
            }
            let calls = self.room_came(state);
            state.telling = true;
            unlocked(state, || {
                run_all(calls);
                self.tell_expired(late, locked);
            });
            state.telling = false;
        }
    }

    /// Tells the first jobs in the queue that `passes` gives an outcome. No job may be running: what
    /// was before them has then been told already.
    ///
    /// Lets go of the lock while it tells.
    pub(crate) fn let_pass(
        &self,
        state: &mut MutexGuard<'_, State<J, T>>,
        passes: &dyn Fn(&J) -> Option<T>,
    ) {
        let mut through = Vec::new();
        while let Some(done) = state.queue.front().and_then(|head| passes(&head.request.job)) {
            through.extend(state.remove(0).map(|entry| (entry.promise, done)));
        }
        if through.is_empty() {
            return;
        }
        let calls = self.room_came(state);
        unlocked(state, || {
            run_all(calls);
            for (promise, done) in through {
                promise.fulfil(Ok(done));
            }
        });
    }

    /// Ends a group: tells the sinks, frees the lane (unless `keep`, for upkeep), and tells the
    /// callers that block.
    ///
    /// In this order, so that the outcomes of submitted jobs are with their sink when a flush finds
    /// nothing left to wait for.
    ///
    /// # Panics
    ///
    /// When a sink does, once everybody else has been told.
    pub(crate) fn finish(
        &self,
        group: impl IntoIterator<Item = (Promise<T>, Outcome<T>)>,
        keep: bool,
    ) {
        let mut tickets = Vec::new();
        let mut sinks: Vec<Delivery<T>> = Vec::new();
        for (promise, outcome) in group {
            match promise.into_reply() {
                Some(Reply::Ticket(ticket)) => tickets.push((ticket, outcome)),
                Some(Reply::Sink(sink, token)) => {
                    let done = Completed { token, outcome };
                    match sinks.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &sink)) {
                        Some((_, completed)) => completed.push(done),
                        None => sinks.push((sink, vec![done])),
                    }
                }
                None => {}
            }
        }
        let callers = tickets.len() + sinks.iter().map(|(_, done)| done.len()).sum::<usize>();
        let mut state = self.state.lock();
        state.group += 1;
        let number = state.group;
        state.returning = callers;
        let mut panic = None;
        if !sinks.is_empty() {
            unlocked(&mut state, || {
                for (sink, completed) in sinks {
                    let pickup = self.pickup(number, completed.len());
                    let deliver = AssertUnwindSafe(|| sink.deliver(completed, pickup));
                    panic = catch_unwind(deliver).err().or(panic.take());
                }
            });
        }
        state.lane = if keep { Lane::Writer } else { Lane::Free };
        state.company = callers > 1 || !state.queue.is_empty();
        drop(state);
        for (ticket, outcome) in tickets {
            ticket.complete(outcome, number);
        }
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    pub(super) fn pickup(&self, group: u64, callers: usize) -> Pickup {
        match self.me.upgrade() {
            Some(me) if group != UNCOUNTED => Pickup::new(me, group, callers),
            _ => Pickup::uncounted(),
        }
    }
}

impl<J: Send + 'static, T: Send + 'static> Rendezvous for Handoff<J, T> {
    fn back(&self, group: u64, callers: usize) {
        let mut state = self.state.lock();
        if state.group == group {
            state.returning = state.returning.saturating_sub(callers);
            if state.gathering && state.returning == 0 {
                self.work.notify_one();
            }
        }
    }
}
