//! What a caller is told whose job was not begun.

use super::queue::Limits;
use super::state::State;
use crate::error::{Error, ErrorKind};

pub(super) fn closed() -> Error {
    Error::new(ErrorKind::WriterClosed, "the writer is closed: open a new BatchWriter")
}

pub(super) fn cancelled() -> Error {
    Error::new(
        ErrorKind::WriteCancelled,
        "the write was cancelled before it had begun; it is not in the file",
    )
}

pub(super) fn orphaned() -> Error {
    Error::new(
        ErrorKind::Internal,
        "the writer thread failed before the write had begun; it is not in the file; please report \
         this, and open a new BatchWriter",
    )
}

/// SQLITE_BUSY, which is what kept the job from beginning.
const BUSY: i32 = 5;

/// `locked`: how often the lock of `database` was found taken meanwhile, `blocker`: by whom.
pub(super) fn expired(locked: u32, database: &str, blocker: Option<String>) -> Error {
    if let (true, Some(blocker)) = (locked > 0, blocker) {
        Error::new(
            ErrorKind::LockTimeout,
            format!(
                "database is locked: {blocker} at {database}, and did not pass it on before the \
                 deadline; the write is not in the file"
            ),
        )
        .with_code(BUSY)
        .with_attempts(locked)
    } else if locked > 0 {
        Error::new(
            ErrorKind::LockTimeout,
            format!(
                "database is locked: another connection held the write lock of {database} at each of \
                 {locked} tries until the deadline; the write is not in the file"
            ),
        )
        .with_code(BUSY)
        .with_attempts(locked)
    } else {
        Error::new(
            ErrorKind::WriteTimeout,
            format!(
                "the time-out passed while the write waited in the queue of {database}, behind other \
                 writes or a transaction(); it is not in the file"
            ),
        )
    }
}

pub(super) fn full<J, T>(limits: &Limits, state: &State<J, T>) -> Error {
    Error::new(
        ErrorKind::QueueFull,
        format!(
            "the queue stayed full until the deadline ({} of {} rows, {} of {} bytes); nothing was \
             dropped, and this write is not in the file: write less at once, or raise the bounds",
            state.rows, limits.max_rows, state.bytes, limits.max_bytes
        ),
    )
}
