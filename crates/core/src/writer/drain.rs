//! Waiting for what was accepted: a flush, and the end of a process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::engine::Engine;
use super::files;
use super::unit::Job;
use crate::error::{Error, ErrorKind, ErrorState, Result};
use crate::handoff::{Admission, Patience};
use crate::sqlite::Durability;
use crate::turn::Site;

impl Engine {
    /// Fails for a thread that has the turn which the queued writes wait for.
    pub(super) fn check_drain(&self) -> Result<()> {
        let (rows, _) = self.handoff.lock().load();
        if rows == 0 {
            return Ok(());
        }
        self.turns.check_reentry(Site::Ours("a batch writer's flush in this thread"), false)
    }
}

/// Returns once everything that was accepted before is committed or has failed.
pub(super) fn drain(engine: &Arc<Engine>, patience: &Patience<'_>) -> Result<()> {
    engine.handoff.check_reentry()?;
    if engine.handoff.is_idle() {
        return Ok(());
    }
    let request = Job::Barrier.request(Durability::Normal);
    let waited = match engine.handoff.enter(request, false, patience) {
        Ok(Admission::Queued(ticket, seq)) => {
            engine.serve()?;
            engine.handoff.wait(&ticket, seq, patience).0.map(|_| ())
        }
        Ok(Admission::Inline(_)) => Ok(()),
        Err(error) => Err(error),
    };
    waited.map_err(|error| match error.state() {
        ErrorState::Permanent => error,
        // Whatever it waited for: room, the lock, or those before it.
        ErrorState::Transient | ErrorState::Exhausted => Error::new(
            ErrorKind::WriteTimeout,
            format!(
                "the time-out passed before everything that {} was given is written; what is \
                 queued goes on being tried until its own deadlines",
                engine.path().display()
            ),
        ),
    })
}

/// Drains every writer of this process, at its end. Waits up to `timeout` in all.
///
/// # Errors
///
/// The first of: [`ErrorKind::WriteTimeout`] or [`ErrorKind::LockTimeout`] when writes are left over
/// or have failed meanwhile, [`ErrorKind::WriterReentered`] inside a transaction of this thread.
pub fn drain_all(timeout: Duration) -> Result<()> {
    let deadline = Instant::now().checked_add(timeout);
    let patience = Patience { deadline, slice: None, interrupted: &|| false };
    let mut first = Ok(());
    for engine in files::engines() {
        let drained = drain_last(&engine, &patience);
        first = first.and(drained);
    }
    first
}

/// Drains one writer. Whoever could be told by then of a write that failed is gone.
fn drain_last(engine: &Arc<Engine>, patience: &Patience<'_>) -> Result<()> {
    let unwritten = || engine.stats().failed + engine.stats().cancelled;
    let before = unwritten();
    let drained = match drain(engine, patience) {
        // Without a handle it drains by itself, and closes.
        Err(error) if error.kind() == ErrorKind::WriterClosed => engine.wait_closed(patience),
        drained => drained,
    };
    let path = engine.path().display();
    if let Err(error) = drained {
        let left = engine.stats().queue_rows;
        return Err(Error::new(error.kind(), format!("{path}, {left} rows left: {error}")));
    }
    match unwritten().saturating_sub(before) {
        0 => Ok(()),
        lost => Err(Error::new(
            ErrorKind::WriteTimeout,
            format!("{path}: {lost} writes failed or passed their deadline meanwhile"),
        )),
    }
}
