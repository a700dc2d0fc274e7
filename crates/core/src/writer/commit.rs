//! The end of a transaction: COMMIT, tried again where the journal makes it wait.

use std::time::Instant;

use super::engine::{Engine, judge};
use super::stats::add;
use super::waiting::{Waiting, time_left};
use crate::classify::{Fate, Phase, RetryKind, Scope, Verdict};
use crate::error::ErrorKind;
use crate::handoff::Patience;
use crate::sqlite::{Failure, Store};

/// What a failed COMMIT left behind.
pub(super) enum Undone {
    /// Nothing of the transaction is in the file.
    Nothing(Failure),
    /// Nobody knows.
    Unknown(Failure),
    /// Everything is in the file, and may not survive a power cut.
    Unsynced(Failure),
}

impl Undone {
    pub(super) fn into_failure(self) -> Failure {
        match self {
            Self::Nothing(failure) => failure,
            Self::Unknown(failure) => {
                let message = format!(
                    "COMMIT failed ({}): it is unknown whether the write is in the file; read it \
                     back before you write it again",
                    failure.message
                );
                Failure { kind: ErrorKind::CommitOutcomeUnknown, message, ..failure }
            }
            Self::Unsynced(failure) => {
                let message = format!(
                    "the write is committed, and others see it, but syncing it to disk failed ({}): \
                     a power cut may still take it; do not write it again, look after the disk",
                    failure.message
                );
                Failure { kind: ErrorKind::FlushFailed, message, ..failure }
            }
        }
    }
}

/// Commits the open transaction, waiting for readers where the journal makes COMMIT wait.
///
/// `is_ours` is asked before every try, with the gate shut: the lane may have been taken away. When
/// the patience ends, so does the transaction, without a trace.
pub(super) fn commit_open(
    engine: &Engine,
    patience: &Patience<'_>,
    is_ours: &dyn Fn() -> bool,
) -> Result<(), Undone> {
    let policy = engine.options().policy;
    let deadline = patience.deadline.or_else(|| Instant::now().checked_add(policy.deadline()));
    let mut waiting: Option<Waiting> = None;
    let mut gives_up = false;
    loop {
        let tried = engine.with_store(|store| {
            if !is_ours() {
                let message = "the transaction was rolled back: it exceeded the hold limit";
                let failure = Failure::new(ErrorKind::HoldLimitExceeded, message);
                return Ok(Tried::Undone(Undone::Nothing(failure)));
            }
            let Err(failure) = store.commit() else {
                engine.note_upkeep(store);
                // With the gate shut: afterwards the turn may be that of another transaction.
                engine.turns.end();
                return Ok(Tried::Committed);
            };
            let open = Some(store.in_transaction());
            let verdict = judge(&failure, Phase::Commit, engine.options().journal_mode, open);
            if verdict.scope == Scope::Commit
                && verdict.retry == RetryKind::Wait
                && time_left(deadline).is_some()
                && !gives_up
            {
                return Ok(Tried::Waits(verdict));
            }
            store.roll_back();
            engine.turns.end();
            Ok(Tried::Undone(match verdict.fate {
                Fate::Unknown => Undone::Unknown(failure),
                _ => Undone::Nothing(failure),
            }))
        });
        match tried {
            Ok(Tried::Committed) => {
                if let Some(mut waiting) = waiting {
                    waiting.end(&engine.watch);
                }
                engine.committed();
                // Others write meanwhile, and sync at the same time.
                return engine.with_store(Store::flush).map_err(Undone::Unsynced);
            }
            Ok(Tried::Undone(undone)) => return Err(undone),
            Err(closed) => return Err(Undone::Nothing(closed)),
            Ok(Tried::Waits(verdict)) => {
                add(&engine.counters.lock_retries, 1);
                let left = time_left(deadline).unwrap_or_default();
                let waiting = waiting.get_or_insert_with(|| Waiting::new(policy));
                let slept = waiting.sleep(&engine.watch, verdict, left);
                // Outside the gate: the answer may need a lock of the application's.
                gives_up = slept.is_err() || patience.slice.is_some() && (patience.interrupted)();
            }
        }
    }
}

/// What one COMMIT came to.
enum Tried {
    Committed,
    Undone(Undone),
    Waits(Verdict),
}
