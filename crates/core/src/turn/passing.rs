//! From hand to hand: giving a turn back, and to whom.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::claim::{Claim, Grant};
use super::queue::{SideLock, Taken, TurnQueue};
use super::state::{Holder, Side, State, Waiter, Wake};
use crate::sync::{MutexGuard, now, unlocked};

/// How long a process keeps the turn for its own waiters while other processes may be waiting.
pub(super) const BOUND: Duration = Duration::from_millis(2);

impl<L: SideLock> TurnQueue<L> {
    /// Gives a turn back: to the next in line, after a gap where an outsider wants one.
    pub(super) fn release(self: &Arc<Self>, grant: Grant) {
        let Grant::Held(id) = grant else { return };
        let mut state = self.state.lock();
        let Some(holder) = state.holder.take_if(|holder| holder.id == id) else { return };
        self.claimed.store(false, Ordering::Relaxed);
        if let Some(ago) = self.lock.outsider_seen() {
            let now = now();
            let gap = state.owed.gap(ago, now - holder.since);
            if let Some(gap) = gap.filter(|_| self.have_keeper(&mut state)) {
                state.gap = Some(now + gap);
                self.work.notify_one();
                return;
            }
        }
        self.pass_on(&mut state);
    }

    /// Nobody here has the turn any more: the next in line gets it, or the side files are given
    /// back. Lets go of the lock while it tells a waiter that does not block.
    pub(super) fn pass_on(&self, state: &mut MutexGuard<'_, State>) {
        let Side::Ours(since) = state.side else { return };
        if state.waiting.is_empty() {
            self.lock.give_back();
            state.side = Side::Free;
            return;
        }
        if now() - since >= BOUND {
            self.lock.give_back();
            match self.lock.try_take() {
                Taken::Yes => state.side = Side::Ours(now()),
                Taken::Busy => {
                    state.side = Side::Asked;
                    self.work.notify_one();
                    return;
                }
                Taken::Unavailable(_) => return Self::send_off(state),
            }
        }
        state.hand_offs += 1;
        self.grant(state);
    }

    /// The first in line gets the turn. There is one, and the side files are ours.
    pub(super) fn grant(&self, state: &mut MutexGuard<'_, State>) {
        let Some(Waiter { id, claim, wake }) = state.waiting.pop_front() else { return };
        self.hold(state, id, claim, now());
        match wake {
            Wake::Thread(seat) => seat.bell.notify_one(),
            Wake::Call(then) => unlocked(state, || then(Grant::Held(id))),
        }
    }

    /// Everybody in line goes on without a turn: there are no side files to be had.
    pub(super) fn send_off(state: &mut MutexGuard<'_, State>) {
        state.side = Side::Free;
        let mut calls = Vec::new();
        for waiter in std::mem::take(&mut state.waiting) {
            state.fall_throughs += 1;
            match waiter.wake {
                Wake::Thread(seat) => {
                    state.sent_off.push(waiter.id);
                    seat.bell.notify_one();
                }
                Wake::Call(then) => calls.push(then),
            }
        }
        unlocked(state, || calls.into_iter().for_each(|then| then(Grant::Without)));
    }

    pub(super) fn hold(&self, state: &mut State, id: u64, claim: Claim, since: Instant) {
        self.claimed.store(claim.thread.is_some(), Ordering::Relaxed);
        state.moved = since;
        state.holder = Some(Holder { id, claim, since });
    }

    pub(super) fn has_waiters(state: &State) -> bool {
        !state.waiting.is_empty()
    }

    /// Whether there is a keeper, started now if need be.
    pub(super) fn have_keeper(self: &Arc<Self>, state: &mut State) -> bool {
        if !state.keeper {
            state.keeper = (self.start_keeper)(Arc::clone(self));
        }
        state.keeper
    }
}
