//! An interactive transaction: several statements, with the application's own code in between.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::call::Call;
use super::commit::commit_open;
use super::engine::Engine;
use super::group::run_step;
use super::stats::add;
use super::unit::Unit;
use crate::error::{Error, ErrorKind, Result};
use crate::handoff::Patience;
use crate::handoff::worker::Executor;
use crate::sqlite::fork::Owned;
use crate::sqlite::{Failure, Store, Written};

/// An open transaction that owns the connection, up to the hold limit. Dropping it rolls it back.
pub struct Transaction {
    engine: Owned<Arc<Engine>>,
    id: u64,
    ended: AtomicBool,
    /// The hold limit has interrupted a statement.
    interrupted: AtomicBool,
}

impl Transaction {
    pub(super) fn new(engine: Arc<Engine>, id: u64) -> Self {
        Self {
            engine: Owned::new(engine),
            id,
            ended: AtomicBool::new(false),
            interrupted: AtomicBool::new(false),
        }
    }

    /// Runs a unit of work in the transaction. It may read, and it may use savepoints.
    ///
    /// # Errors
    ///
    /// The unit's own error; nothing of the unit is then kept, and the transaction goes on.
    /// [`ErrorKind::HoldLimitExceeded`], [`ErrorKind::TransactionClosed`] or
    /// [`ErrorKind::RolledBack`] when there is no transaction any more.
    pub fn execute(&self, unit: &Unit) -> Result<Written> {
        let engine = self.engine()?;
        let ran = engine.with_store(|store| {
            self.check_store(engine, store)?;
            store.guard().allow_savepoints(true);
            let written = run_step(store, unit);
            store.guard().allow_savepoints(false);
            written.map_err(|failure| {
                if failure.kind != ErrorKind::Interrupted {
                    return failure;
                }
                // Nothing but the hold limit interrupts, a moment before it takes the lane.
                self.interrupted.store(true, Ordering::Release);
                store.roll_back();
                held_too_long()
            })
        });
        let outcome = ran.map_err(Failure::into_error);
        outcome.inspect_err(|error| engine.watch.failure(Some(&unit.sql), error))
    }

    /// Commits.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute); whatever the error, the transaction has ended, and unless it
    /// is [`ErrorKind::CommitOutcomeUnknown`] nothing of it is in the file.
    pub fn commit(&self) -> Result<()> {
        self.commit_with(&Call::default())
    }

    /// Commits, and rolls back instead when `call` says that the caller is wanted elsewhere while
    /// COMMIT waits for readers. Its time-out does not count: the hold limit does.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub fn commit_with(&self, call: &Call<'_>) -> Result<()> {
        let engine = self.engine()?;
        let outcome = self.end(engine, call);
        let counter = match outcome {
            Ok(()) => &engine.counters.committed,
            Err(_) => &engine.counters.failed,
        };
        add(counter, 1);
        outcome.inspect_err(|error| engine.watch.failure(None, error))
    }

    fn end(&self, engine: &Engine, call: &Call<'_>) -> Result<()> {
        if let Err(failure) = engine.with_store(|store| self.check_store(engine, store)) {
            self.roll_back();
            return Err(failure.into_error());
        }
        self.ended.store(true, Ordering::Release);
        let patience =
            Patience { deadline: None, slice: call.slice, interrupted: call.interrupted };
        // Also after a panic: nobody else could give the lane back before the hold limit.
        let _leave = Leave { transaction: self, engine };
        let outcome = commit_open(engine, &patience, &|| engine.handoff.holds_turn(self.id));
        outcome.map_err(|undone| undone.into_failure().into_error())
    }

    /// Rolls back. Harmless when the transaction has ended.
    pub fn roll_back(&self) {
        let Some(engine) = self.engine.get() else { return };
        if self.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        let _ = engine.with_store(|store| {
            if engine.handoff.holds_turn(self.id) {
                store.roll_back();
                engine.turns.end();
            }
            Ok(())
        });
        self.leave(engine);
    }

    fn leave(&self, engine: &Engine) {
        engine.handoff.leave_turn(self.id, engine.upkeep_due());
    }

    fn engine(&self) -> Result<&Arc<Engine>> {
        let closed = |message| Err(Error::new(ErrorKind::TransactionClosed, message));
        match self.engine.get() {
            None => closed("the transaction belongs to the process that forked this one"),
            Some(_) if self.ended.load(Ordering::Acquire) => {
                closed("the transaction has ended: begin another")
            }
            Some(engine) => Ok(engine),
        }
    }

    fn check_store(&self, engine: &Engine, store: &Store) -> Result<(), Failure> {
        if self.interrupted.load(Ordering::Acquire) || !engine.handoff.holds_turn(self.id) {
            return Err(held_too_long());
        }
        if !store.in_transaction() {
            return Err(Failure::new(
                ErrorKind::RolledBack,
                "SQLite has rolled the whole transaction back after an error: nothing of it is in \
                 the file; begin another",
            ));
        }
        Ok(())
    }
}

/// Gives the lane back at the end of its scope.
struct Leave<'a> {
    transaction: &'a Transaction,
    engine: &'a Engine,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.transaction.leave(self.engine);
    }
}

fn held_too_long() -> Failure {
    Failure::new(
        ErrorKind::HoldLimitExceeded,
        "the transaction was held longer than hold_limit and was rolled back: keep slow work out \
         of it, or raise hold_limit",
    )
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.roll_back();
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("id", &self.id).finish_non_exhaustive()
    }
}
