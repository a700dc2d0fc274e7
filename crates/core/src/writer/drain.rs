//! The end of a process: what was submitted is still written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::BatchWriter;
use super::engine::Engine;
use super::files;
use crate::error::{Error, ErrorKind, Result};
use crate::handoff::Patience;

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
    let drained = match BatchWriter::drain(engine, patience) {
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
