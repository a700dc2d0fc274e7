//! What a writer is opened with.

use std::time::Duration;

use super::watch::MakeObserver;
use crate::classify::Journal;
use crate::error::{Error, ErrorKind, Result};
use crate::handoff::Limits;
use crate::retry::RetryPolicy;
use crate::sqlite::Durability;
use crate::turn::TURN_TIMEOUT;

/// Settings of a [`BatchWriter`](super::BatchWriter).
///
/// `journal_mode`, `foreign_keys`, `turn_lock`, `max_batch`, `max_queue_rows` and
/// `max_queue_bytes` belong to the file: writers that share one in a process must agree on them. The others are the writer's
/// own.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WriterOptions {
    /// The default deadline of a write, and how often the lock is asked for while others hold it:
    /// for all writers on a file as the one says that opened it. Of the adaptive kind they share
    /// what is learned.
    pub policy: RetryPolicy,
    /// Rows that one transaction takes; a larger unit goes alone. 1 to 1,000,000.
    pub max_batch: usize,
    /// Rows that the queue takes; callers wait while it is full. At least 1.
    pub max_queue_rows: usize,
    /// Bytes that the queue takes. At least 1.
    pub max_queue_bytes: usize,
    /// When a write is acknowledged.
    pub durability: Durability,
    /// How SQLite makes a transaction atomic.
    pub journal_mode: Journal,
    /// Whether foreign keys are enforced. Off, as in SQLite itself.
    pub foreign_keys: bool,
    /// How long an interactive transaction may be held before it is rolled back.
    pub hold_limit: Duration,
    /// Whether the writer queues with other processes at the turn lock.
    pub turn_lock: bool,
    /// How long the turn may stand still (its holder hangs) before the writer goes on without it;
    /// `None` for never: every write then waits up to its own deadline.
    pub turn_timeout: Option<Duration>,
    /// Makes who is told of retries, recoveries and failures: for all writers on a file as the one
    /// says that opened it.
    pub observer: Option<MakeObserver>,
}

/// Rows that one transaction takes at most: well below a second of lock time.
const MOST_ROWS: usize = 1_000_000;

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            policy: RetryPolicy::for_locks(),
            max_batch: 1_000,
            max_queue_rows: 100_000,
            max_queue_bytes: 64 << 20,
            durability: Durability::Full,
            journal_mode: Journal::Wal,
            foreign_keys: false,
            hold_limit: Duration::from_secs(5),
            turn_lock: true,
            turn_timeout: Some(TURN_TIMEOUT),
            observer: None,
        }
    }
}

impl WriterOptions {
    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidSetting`] names the setting, its value and its range.
    pub(super) fn check(&self) -> Result<()> {
        let wrong = |name: &str, value: String, range: &str| {
            Err(Error::new(
                ErrorKind::InvalidSetting,
                format!("{name}={value} is out of range: {range}"),
            ))
        };
        if self.max_batch == 0 || self.max_batch > MOST_ROWS {
            return wrong("max_batch", self.max_batch.to_string(), "1 to 1000000 rows");
        }
        if self.max_queue_rows == 0 {
            return wrong("max_queue_rows", "0".into(), "at least 1 row");
        }
        if self.max_queue_bytes == 0 {
            return wrong("max_queue_bytes", "0".into(), "at least 1 byte");
        }
        if matches!(self.journal_mode, Journal::Off | Journal::Memory) {
            // Neither can undo a group in which one write fails, or survive a crash in COMMIT.
            let name = self.journal_mode.name().to_owned();
            return wrong("journal_mode", name, "wal, delete, truncate or persist");
        }
        if self.hold_limit.is_zero() || self.hold_limit > Duration::from_secs(3600) {
            let value = format!("{} s", self.hold_limit.as_secs_f64());
            return wrong("hold_limit", value, "above 0, to 3600 s");
        }
        Ok(())
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            max_batch: self.max_batch,
            max_rows: self.max_queue_rows,
            max_bytes: self.max_queue_bytes,
        }
    }

    /// The first file setting in which two writers differ, with both values.
    pub(super) fn conflict(&self, other: &Self) -> Option<String> {
        let differ = |name: &str, ours: String, theirs: String| {
            (ours != theirs).then(|| format!("{name}={ours} here, {theirs} there"))
        };
        differ("journal_mode", other.journal_mode.name().into(), self.journal_mode.name().into())
            .or_else(|| {
                let (ours, theirs) = (other.foreign_keys, self.foreign_keys);
                differ("foreign_keys", ours.to_string(), theirs.to_string())
            })
            .or_else(|| {
                differ("max_batch", other.max_batch.to_string(), self.max_batch.to_string())
            })
            .or_else(|| {
                let (ours, theirs) = (other.max_queue_rows, self.max_queue_rows);
                differ("max_queue_rows", ours.to_string(), theirs.to_string())
            })
            .or_else(|| {
                let (ours, theirs) = (other.turn_lock, self.turn_lock);
                differ("turn_lock", ours.to_string(), theirs.to_string())
            })
            .or_else(|| {
                let (ours, theirs) = (other.max_queue_bytes, self.max_queue_bytes);
                differ("max_queue_bytes", ours.to_string(), theirs.to_string())
            })
    }
}
