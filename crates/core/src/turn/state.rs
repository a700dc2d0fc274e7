//! What the queue's lock protects.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::claim::{Claim, Grant};
use super::share::Owed;
use crate::sync::Condvar;

/// Gets the grant of a waiter that does not block. Runs outside the lock.
pub(super) type Then = Box<dyn FnOnce(Grant) + Send>;

pub(super) enum Wake {
    Thread(Arc<Seat>),
    Call(Then),
}

#[derive(Default)]
pub(super) struct Seat {
    pub(super) bell: Condvar,
}

pub(super) struct Waiter {
    pub(super) id: u64,
    pub(super) claim: Claim,
    pub(super) wake: Wake,
}

pub(super) struct Holder {
    pub(super) id: u64,
    pub(super) claim: Claim,
    pub(super) since: Instant,
}

/// The side files' locks, as far as this process is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Not ours, and nobody here wants them.
    Free,
    /// The keeper waits for them, or is about to.
    Asked,
    /// Ours since then.
    Ours(Instant),
}

pub(super) struct State {
    pub(super) waiting: VecDeque<Waiter>,
    pub(super) holder: Option<Holder>,
    pub(super) side: Side,
    /// Time that is owed to outsiders.
    pub(super) owed: Owed,
    /// The database is left alone until then.
    pub(super) gap: Option<Instant>,
    /// Those whom the keeper has told to go on without a turn.
    pub(super) sent_off: Vec<u64>,
    pub(super) next: u64,
    /// When the turn last came to this process or went round in it.
    pub(super) moved: Instant,
    /// When somebody here began to wait for the side files.
    pub(super) asked: Instant,
    pub(super) keeper: bool,
    /// Who has the queue open; the keeper ends without them.
    pub(super) users: usize,
    pub(super) waits: u64,
    pub(super) hand_offs: u64,
    pub(super) fall_throughs: u64,
    pub(super) outsiders: u64,
}

impl State {
    pub(super) fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    pub(super) fn grant_of(&mut self, id: u64) -> Option<Grant> {
        if self.holder.as_ref().is_some_and(|holder| holder.id == id) {
            return Some(Grant::Held(id));
        }
        let at = self.sent_off.iter().position(|other| *other == id)?;
        self.sent_off.swap_remove(at);
        Some(Grant::Without)
    }

    /// The waiter, if it still waits. What it left behind is dropped outside the lock.
    pub(super) fn leave(&mut self, id: u64) -> Option<Waiter> {
        let at = self.waiting.iter().position(|waiter| waiter.id == id)?;
        self.waiting.remove(at)
    }
}
