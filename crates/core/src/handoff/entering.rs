//! How jobs come into the queue, and who waits for room.

use std::sync::Arc;
use std::time::Instant;

use super::queue::{Admission, Entry, Handoff, Request, run_all};
use super::refusal::{cancelled, closed, full, orphaned};
use super::state::{Lane, SpaceCall, State};
use super::ticket::{Patience, Promise, Reply, Ticket};
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{MutexGuard, current, now, unlocked};

impl<J: Send + 'static, T: Send + 'static> Handoff<J, T> {
    /// Enters the queue, or takes the lane when nobody waits and `inline` allows it.
    ///
    /// Blocks while the queue is full.
    pub(crate) fn enter(
        &self,
        request: Request<J>,
        inline: bool,
        patience: &Patience<'_>,
    ) -> Result<Admission<J, T>> {
        self.check_size(&request)?;
        let mut state = self.state.lock();
        Self::check_open(&state)?;
        if inline && state.may_run_inline() {
            state.lane = Lane::Inline;
            return Ok(Admission::Inline(request));
        }
        self.wait_for_room(&mut state, (request.rows, request.bytes), patience)?;
        let ticket = Ticket::new();
        let promise = Promise::new(Reply::Ticket(Arc::clone(&ticket)));
        let seq = self.push(&mut state, request, patience.deadline, promise);
        Ok(Admission::Queued(ticket, seq))
    }

    /// Enters the queue for a caller that does not block. Gives the request back when it is full.
    pub(crate) fn offer(
        &self,
        request: Request<J>,
        deadline: Option<Instant>,
        reply: Reply<T>,
    ) -> Result<std::result::Result<u64, Request<J>>> {
        self.check_size(&request)?;
        let mut state = self.state.lock();
        Self::check_open(&state)?;
        if !state.admits(&self.limits, (request.rows, request.bytes)) {
            return Ok(Err(request));
        }
        Ok(Ok(self.push(&mut state, request, deadline, Promise::new(reply))))
    }

    /// Calls `then` once there may be room for `request`; at once when there is, or when the writer
    /// closes. Room is there when [`Self::offer`] would take the request, so that a caller that
    /// offers again on each call does not spin.
    pub(crate) fn when_room(&self, size: (usize, usize), then: SpaceCall) {
        let mut state = self.state.lock();
        if state.closing || state.admits(&self.limits, size) {
            drop(state);
            then();
        } else {
            state.space_calls.push(then);
        }
    }

    /// Blocks until [`Self::offer`] would take a request of this size. Nothing is reserved.
    ///
    /// Waits beside the doorway, not in it: two callers that left it for an offer would each find
    /// the other one back in it, and go round for ever.
    pub(crate) fn await_room(&self, size: (usize, usize), patience: &Patience<'_>) -> Result<()> {
        let mut state = self.state.lock();
        Self::check_open(&state)?;
        self.stand_by(&mut state, patience, |state| state.admits(&self.limits, size))
    }

    /// The inline job found the database locked: it waits in the queue like everybody.
    pub(crate) fn requeue_inline(
        &self,
        request: Request<J>,
        deadline: Option<Instant>,
    ) -> (Arc<Ticket<T>>, u64) {
        let ticket = Ticket::new();
        let promise = Promise::new(Reply::Ticket(Arc::clone(&ticket)));
        let mut state = self.state.lock();
        state.lane = Lane::Free;
        if state.closed {
            let seq = state.next_number();
            drop(state);
            promise.fulfil(Err(orphaned()));
            return (ticket, seq);
        }
        state.locked += 1;
        let seq = self.push(&mut state, request, deadline, promise);
        (ticket, seq)
    }

    /// Fails for the thread that holds a turn.
    pub(crate) fn check_reentry(&self) -> Result<()> {
        Self::refuse_owner(&self.state.lock())
    }

    fn check_size(&self, request: &Request<J>) -> Result<()> {
        if request.bytes > self.limits.max_bytes {
            return Err(Error::new(
                ErrorKind::UnitTooLarge,
                format!(
                    "the write holds {} bytes, the queue takes {} in all: split it, or raise \
                     max_queue_bytes",
                    request.bytes, self.limits.max_bytes
                ),
            ));
        }
        if request.rows > self.limits.max_rows {
            return Err(Error::new(
                ErrorKind::UnitTooLarge,
                format!(
                    "the write holds {} rows, the queue takes {} in all: split it, or raise \
                     max_queue_rows",
                    request.rows, self.limits.max_rows
                ),
            ));
        }
        Ok(())
    }

    fn check_open(state: &State<J, T>) -> Result<()> {
        if state.closing {
            return Err(closed());
        }
        Self::refuse_owner(state)
    }

    fn refuse_owner(state: &State<J, T>) -> Result<()> {
        if let Lane::Turn { owner, .. } = state.lane
            && owner == current().id()
        {
            return Err(Error::new(
                ErrorKind::WriterReentered,
                "this thread holds a transaction on the writer and would wait for itself: use the \
                 transaction's own execute, or leave the transaction first",
            ));
        }
        Ok(())
    }

    fn wait_for_room(
        &self,
        state: &mut MutexGuard<'_, State<J, T>>,
        size: (usize, usize),
        patience: &Patience<'_>,
    ) -> Result<()> {
        if state.admits(&self.limits, size) {
            return Ok(());
        }
        let place = state.next_number();
        state.doorway.push_back(place);
        if state.gathering {
            self.work.notify_one();
        }
        let result = self.stand_by(state, patience, |state| {
            state.doorway.front() == Some(&place) && state.has_room(&self.limits, size)
        });
        state.doorway.retain(|other| *other != place);
        self.space.notify_all();
        if result.is_err() && state.doorway.is_empty() {
            // The way is clear for those that do not block; no group need end before they are told.
            let calls = std::mem::take(&mut state.space_calls);
            unlocked(state, || run_all(calls));
        }
        result
    }

    /// Waits until `may_go_on`, or until the caller has to give up.
    fn stand_by(
        &self,
        state: &mut MutexGuard<'_, State<J, T>>,
        patience: &Patience<'_>,
        may_go_on: impl Fn(&State<J, T>) -> bool,
    ) -> Result<()> {
        let mut stopped = false;
        loop {
            if state.closing {
                return Err(closed());
            }
            if may_go_on(state) {
                return Ok(());
            }
            if stopped && patience.is_over() {
                return Err(full(&self.limits, state));
            }
            if stopped {
                if unlocked(state, || (patience.interrupted)()) {
                    return Err(cancelled());
                }
                stopped = false;
                continue;
            }
            match patience.next_stop() {
                None => self.space.wait(state),
                Some(stop) => stopped = self.space.wait_until(state, stop).timed_out(),
            }
        }
    }

    fn push(
        &self,
        state: &mut MutexGuard<'_, State<J, T>>,
        request: Request<J>,
        deadline: Option<Instant>,
        promise: Promise<T>,
    ) -> u64 {
        let seq = state.next_number();
        let since = now();
        let watched = state.append(Entry { seq, request, deadline, since, promise });
        let wanted = state.parked && (state.lane == Lane::Free || watched);
        if wanted || state.gathering && state.rows >= self.limits.max_batch {
            self.work.notify_one();
        }
        seq
    }
}
