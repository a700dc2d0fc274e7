//! The keeper: the one thread of a process that waits at a file's side files.

use std::sync::Arc;

use super::queue::{SideLock, Taken, TurnQueue};
use super::state::Side;
use crate::sync::{now, unlocked};

impl<L: SideLock> TurnQueue<L> {
    /// Waits at the side files while somebody in this process wants the turn, and ends gaps.
    ///
    /// A wait in the kernel cannot be called off: a turn that comes too late goes to who is in line
    /// by then, or back.
    pub(super) fn keep(self: Arc<Self>) {
        let mut state = self.state.lock();
        loop {
            if let Some(until) = state.gap {
                if now() >= until {
                    state.gap = None;
                    self.pass_on(&mut state);
                } else {
                    self.work.wait_until(&mut state, until);
                }
                continue;
            }
            if state.side != Side::Asked {
                if state.users == 0 {
                    state.keeper = false;
                    return;
                }
                self.work.wait(&mut state);
                continue;
            }
            if !Self::has_waiters(&state) {
                state.side = Side::Free;
                continue;
            }
            match unlocked(&mut state, || self.lock.take()) {
                Taken::Unavailable(_) => Self::send_off(&mut state),
                Taken::Yes | Taken::Busy if !Self::has_waiters(&state) => {
                    self.lock.give_back();
                    state.side = Side::Free;
                }
                Taken::Yes | Taken::Busy => {
                    state.side = Side::Ours(now());
                    self.grant(&mut state);
                }
            }
        }
    }
}
