//! Who has the lane: inline jobs, turns, and the writer thread that waits for either.

use std::time::{Duration, Instant};

use super::queue::Handoff;
use super::state::{Lane, State};
use crate::sync::{MutexGuard, current, now};

impl<J: Send + 'static, T: Send + 'static> Handoff<J, T> {
    /// Gives the lane back after an inline job. `upkeep` asks for a checkpoint.
    pub(crate) fn leave_lane(&self, upkeep: bool) {
        self.free_lane(&mut self.state.lock(), upkeep);
    }

    fn free_lane(&self, state: &mut State<J, T>, upkeep: bool) {
        state.lane = Lane::Free;
        state.upkeep |= upkeep;
        state.company |= !state.queue.is_empty();
        if !state.queue.is_empty() || state.upkeep || state.closing {
            self.wake_writer(state);
        }
    }

    /// Whether turn `id` still has the lane. Ask with the connection locked, and keep it locked for
    /// the statement: eviction takes the lane only between statements.
    pub(crate) fn holds_turn(&self, id: u64) -> bool {
        self.state.lock().is_turn(id)
    }

    /// Gives the lane back after turn `id`, if the hold limit has not taken it meanwhile.
    pub(crate) fn leave_turn(&self, id: u64, upkeep: bool) -> bool {
        let mut state = self.state.lock();
        let held = state.is_turn(id);
        if held {
            self.free_lane(&mut state, upkeep);
        }
        held
    }

    /// Turns the inline lane into a turn of the calling thread, and gives its number.
    pub(crate) fn take_turn(&self, hold: Duration) -> u64 {
        let mut state = self.state.lock();
        let id = state.next_number();
        state.lane = Lane::Turn { id, owner: current().id(), until: now() + hold };
        // The writer thread watches how long it is held.
        self.wake_writer(&state);
        id
    }

    /// Whether nothing is queued, nobody has the lane, and everybody who left a write was told.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.queue.is_empty() && state.lane == Lane::Free && !state.telling
    }

    /// Wakes the writer thread if it is parked.
    pub(crate) fn wake_writer(&self, state: &State<J, T>) {
        if state.parked {
            self.work.notify_one();
        }
    }

    /// Parks the writer thread until it is woken or `until` has come.
    pub(crate) fn park(&self, state: &mut MutexGuard<'_, State<J, T>>, until: Option<Instant>) {
        state.parked = true;
        match until {
            None => self.work.wait(state),
            Some(until) => {
                self.work.wait_until(state, until);
            }
        }
        state.parked = false;
    }
}
