//! A caller that flushes, and what must be true once its flush has returned.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::base::{Got, Job, Kind};
use super::plan::Role;
use super::play::{Fate, Stage};
use super::{note, pick};
use crate::error::{Error, ErrorKind};
use crate::handoff::state::Lane;
use crate::handoff::{Admission, Patience, Request, Ticket};

/// Whether the outcome of a write has been told.
#[derive(Clone)]
pub(super) enum Told {
    Ticket(Arc<Ticket<Got>>),
    Sink(Arc<AtomicBool>),
}

impl Told {
    fn yet(&self) -> bool {
        match self {
            Self::Ticket(ticket) => ticket.is_told(),
            Self::Sink(told) => told.load(Ordering::Relaxed),
        }
    }
}

/// A write that was accepted before a flush and whose outcome nobody had told when that returned.
struct Untold {
    id: u64,
    told: Told,
    /// How much was committed, if the flush found nothing to wait for.
    at_once: Option<usize>,
}

/// What flushes must have waited for. Its locks are nobody's turn to be switched at.
#[derive(Default)]
pub(super) struct Ledger {
    accepted: Mutex<Vec<(u64, Told)>>,
    untold: Mutex<Vec<Untold>>,
    /// The write that runs inline, or 0.
    inline: AtomicU64,
}

impl Ledger {
    /// Write `id` is in the queue.
    pub(super) fn note(&self, id: u64, told: Told) {
        self.accepted.lock().unwrap().push((id, told));
    }

    /// Runs `f`, in which write `id` has the lane.
    pub(super) fn inline<R>(&self, id: u64, f: impl FnOnce() -> R) -> R {
        self.inline.store(id, Ordering::Relaxed);
        let result = f();
        self.inline.store(0, Ordering::Relaxed);
        result
    }

    /// Whoever was not told before a flush returned was not told later either: it had taken its
    /// write back.
    pub(super) fn check(&self, log: &[u64]) {
        for Untold { id, told, at_once } in &*self.untold.lock().unwrap() {
            if !told.yet() {
                note("withdrawn during a flush");
                continue;
            }
            // The lane is free before callers that block are told of what has been committed.
            let decided = at_once.is_some_and(|committed| {
                log.iter().position(|logged| logged == id).is_none_or(|at| at < committed)
            });
            let blocks = matches!(told, Told::Ticket(_));
            assert!(blocks && decided, "write {id} was told after a flush");
        }
    }
}

impl Stage {
    /// Flushes behind a write of its own.
    pub(super) fn submit_and_flush(self: &Arc<Self>, id: u64) -> Fate {
        let role = [Role::Submitting, Role::Calling][pick(2)];
        let left = self.leave(role, id);
        self.flush(id + 50);
        match left {
            Ok(Some(left)) => self.collect(&left),
            Ok(None) => Fate::Dropped,
            Err(error) => Fate::Failed(error.kind()),
        }
    }

    fn flush(&self, id: u64) {
        let mut before = self.ledger.accepted.lock().unwrap().clone();
        before.retain(|(_, told)| !told.yet());
        let inline = self.ledger.inline.load(Ordering::Relaxed);
        let lane = self.handoff.lock().lane;
        let at_once = match self.with_patience(|patience| self.drain(id, patience)) {
            Err(error) => return self.expect_own(&error),
            Ok(at_once) => at_once.then(|| self.base.log().len()),
        };
        note(if at_once.is_some() { "nothing to flush" } else { "flushed" });
        let untold = before.into_iter().filter(|(_, told)| !told.yet());
        let untold = untold.map(|(id, told)| Untold { id, told, at_once });
        self.ledger.untold.lock().unwrap().extend(untold);
        let still = self.ledger.inline.load(Ordering::Relaxed);
        assert!(inline == 0 || still != inline, "flushed before an inline job had ended");
        if let Lane::Turn { id, .. } = lane {
            assert!(!self.handoff.holds_turn(id), "flushed before a turn had ended");
        }
    }

    /// What the layer above does to flush. `true`: there was nothing to wait for.
    fn drain(&self, id: u64, patience: &Patience<'_>) -> Result<bool, Error> {
        if self.handoff.is_idle() {
            return Ok(true);
        }
        let job = Job { id, kind: Kind::Barrier };
        let request = Request { job, rows: 0, bytes: 0, strict: 0, turn: None };
        let Admission::Queued(ticket, seq) = self.handoff.enter(request, false, patience)? else {
            panic!("a barrier was let in inline");
        };
        let (outcome, _, _) = self.handoff.wait(&ticket, seq, patience);
        assert_eq!(outcome?, Got::Done(id), "somebody else's outcome");
        Ok(false)
    }

    /// A flush fails for reasons of its own, not for those of the writes before it.
    fn expect_own(&self, error: &Error) {
        let own = match error.kind() {
            ErrorKind::WriteTimeout
            | ErrorKind::LockTimeout
            | ErrorKind::WriteCancelled
            | ErrorKind::QueueFull
            | ErrorKind::WriterClosed => true,
            ErrorKind::Internal => self.plan.odds.dies > 0.0,
            _ => false,
        };
        assert!(own, "a flush failed for somebody else: {error}");
    }
}
