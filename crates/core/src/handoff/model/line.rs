//! A stand-in for the queue of processes: the turn comes from another thread, at any moment.

use std::time::Duration;

use super::base::{Got, Job, Odds};
use super::{chance, note, pause, pick, sleep};
use crate::handoff::Handoff;
use crate::sync::{Condvar, Mutex};

#[expect(clippy::struct_excessive_bools, reason = "independent facts under one lock")]
#[derive(Default)]
struct Slot {
    held: bool,
    pending: bool,
    /// A turn that comes is wanted, and not to be given back at once.
    wanted: bool,
    over: bool,
    /// Turns that were said to have come.
    came: u32,
    /// Times that the database was asked before its time, since a turn had come.
    early: u32,
}

/// The place of the writer in the line. Its users are as careful as the layer above.
pub(super) struct Line {
    slot: Mutex<Slot>,
    asked: Condvar,
    odds: Odds,
}

impl Line {
    pub(super) fn new(odds: Odds) -> Self {
        Self { slot: Mutex::default(), asked: Condvar::new(), odds }
    }

    /// Whether the lane's owner may begin; otherwise the time after which to ask again.
    pub(super) fn take(&self, queues: bool) -> Result<(), Duration> {
        let mut slot = self.slot.lock();
        assert!(!slot.over, "asked after the end");
        let (likely, after) = self.odds.queued;
        slot.wanted |= queues;
        if slot.held {
            return Ok(());
        }
        if slot.pending {
            return Err(after);
        }
        if !chance(likely) {
            slot.held = true;
            return Ok(());
        }
        if queues {
            note("queued");
            slot.pending = true;
            self.asked.notify_one();
        }
        Err(after)
    }

    /// Gives the turn back, or the place in the line, unless the turn is on its way.
    pub(super) fn end(&self) {
        let mut slot = self.slot.lock();
        slot.held = false;
        slot.wanted = false;
        if slot.pending && chance(0.5) {
            slot.pending = false;
        }
    }

    /// The writer thread asks before the time that it was told.
    pub(super) fn note_early(&self) {
        let mut slot = self.slot.lock();
        slot.early += 1;
        assert!(slot.early <= slot.came, "asked for the lock before the time had come");
    }

    /// Hands out turns until [`end_usher`](Self::end_usher).
    pub(super) fn usher(&self, handoff: &Handoff<Job, Got>) {
        let mut slot = self.slot.lock();
        loop {
            while !slot.pending {
                if slot.over {
                    return;
                }
                self.asked.wait(&mut slot);
            }
            drop(slot);
            if chance(self.odds.slow) {
                sleep(Duration::from_millis(pick(5) as u64));
            }
            (0..pick(10)).for_each(|_| pause());
            slot = self.slot.lock();
            if !std::mem::take(&mut slot.pending) {
                continue;
            }
            slot.held |= slot.wanted;
            note(if slot.wanted { "the turn came" } else { "the turn came too late" });
            slot.came += 1;
            drop(slot);
            handoff.turn_came();
            slot = self.slot.lock();
        }
    }

    pub(super) fn end_usher(&self) {
        self.slot.lock().over = true;
        self.asked.notify_one();
    }

    pub(super) fn expect_over(&self) {
        let slot = self.slot.lock();
        assert!(!slot.held && !slot.pending, "a turn was kept");
    }

    pub(super) fn has_turn(&self) -> bool {
        self.slot.lock().held
    }
}
