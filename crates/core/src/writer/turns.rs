//! The writer's place in the queue of processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::Result;
use crate::sync::Mutex;
use crate::turn::{Asker, Pending, SECOND_LOOK, Site, Turn, TurnLock, TurnStats};

/// The turn of whoever has the lane. Only the lane's owner calls [`take`](Self::take).
#[derive(Debug)]
pub(super) struct Turns {
    /// `None`: switched off.
    lock: Option<TurnLock>,
    turn_timeout: Option<Duration>,
    slot: Arc<Mutex<Slot>>,
    /// The lane's owner has something to give back.
    active: AtomicBool,
}

#[derive(Debug, Default)]
struct Slot {
    turn: Option<Turn>,
    pending: Option<Pending>,
    /// A turn that comes is wanted, and not to be given back at once.
    wanted: bool,
}

/// What other users of the turn are told of a writer that has it.
const SITE: Site = Site::Ours("a batch writer");

/// How long the writer waits before it looks around where the turn may stand still for ever.
const LONG: Duration = Duration::from_secs(60);

impl Turns {
    pub(super) fn new(lock: Option<TurnLock>, turn_timeout: Option<Duration>) -> Self {
        Self { lock, turn_timeout, slot: Arc::default(), active: AtomicBool::new(false) }
    }

    /// Whether the writer may begin: it has the turn, or goes on without. Otherwise the time after
    /// which to ask again; with `wake` it stands in line, and `wake` tells that the turn has come.
    pub(super) fn take(
        &self,
        wake: Option<impl FnOnce() + Send + 'static>,
    ) -> std::result::Result<(), Duration> {
        let Some(lock) = &self.lock else { return Ok(()) };
        self.active.store(true, Ordering::Relaxed);
        let mut slot = self.slot.lock();
        slot.wanted = true;
        if slot.turn.is_some() {
            return Ok(());
        }
        if let Some(pending) = &slot.pending {
            return match self.turn_timeout {
                Some(timeout) if lock.is_stuck(timeout) && pending.withdraw() => {
                    slot.pending = None;
                    slot.turn = lock.fall_through().ok();
                    Ok(())
                }
                _ => Err(self.turn_timeout.unwrap_or(LONG)),
            };
        }
        if let Ok(Some(turn)) = lock.try_acquire_for_nobody(SITE) {
            slot.turn = Some(turn);
            return Ok(());
        }
        let Some(wake) = wake else {
            slot.wanted = false;
            return Err(Duration::ZERO);
        };
        drop(slot);
        let shared = Arc::clone(&self.slot);
        let pending = lock.request_for_nobody(SITE, move |turn| {
            let mut slot = shared.lock();
            slot.pending = None;
            // Else it is given back, outside the lock.
            let surplus = if slot.wanted { slot.turn.replace(turn) } else { Some(turn) };
            drop(slot);
            drop(surplus);
            wake();
        });
        let mut slot = self.slot.lock();
        match pending {
            // It may have come meanwhile.
            Ok(pending) if slot.turn.is_none() => slot.pending = Some(pending),
            Ok(_) => {}
            Err(_) => slot.turn = lock.fall_through().ok(),
        }
        match self.turn_timeout {
            _ if slot.turn.is_some() => Ok(()),
            None => Err(LONG),
            Some(timeout) if lock.is_stuck(timeout) => Err(SECOND_LOOK),
            Some(timeout) => Err(timeout),
        }
    }

    /// Gives the turn back, or the place in the line.
    pub(super) fn end(&self) {
        if !self.active.swap(false, Ordering::Relaxed) {
            return;
        }
        let mut slot = self.slot.lock();
        slot.wanted = false;
        if slot.pending.as_ref().is_some_and(Pending::withdraw) {
            slot.pending = None;
        }
        let turn = slot.turn.take();
        drop(slot);
        drop(turn);
    }

    /// Somebody else has SQLite's lock.
    pub(super) fn note_outsider(&self) {
        if let Some(turn) = &self.slot.lock().turn {
            turn.note_outsider();
        }
    }

    /// From here on the turn is the calling thread's.
    pub(super) fn claim(&self, asker: Asker) {
        if let Some(turn) = &self.slot.lock().turn {
            turn.claim(asker);
        }
    }

    /// Fails for a caller that has the turn and would wait for itself.
    pub(super) fn check_reentry(&self, asker: impl Into<Asker>, suspends: bool) -> Result<()> {
        let Some(lock) = self.lock.as_ref().filter(|lock| lock.is_claimed()) else { return Ok(()) };
        // In a transaction of its own the hand-off knows better what to say.
        if self.slot.lock().turn.is_some() { Ok(()) } else { lock.check_reentry(asker, suspends) }
    }

    /// Who has the turn, in words, where it is not this writer.
    pub(super) fn holder(&self) -> Option<String> {
        if self.slot.lock().turn.as_ref().is_some_and(Turn::is_held) {
            return None;
        }
        self.lock.as_ref()?.describe_holder()
    }

    pub(super) fn stats(&self) -> TurnStats {
        self.lock.as_ref().map(TurnLock::stats).unwrap_or_default()
    }

    /// Why there is no turn lock where there should be one.
    pub(super) fn probe(&self) -> Option<String> {
        let lock = self.lock.as_ref()?;
        drop(lock.try_acquire_for_nobody(SITE));
        lock.unavailable()
    }
}
