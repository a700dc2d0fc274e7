//! The write-ahead log: its sync after COMMIT, and its way into the database.

use std::sync::atomic::Ordering;

use super::failure::Failure;
use super::fault::FaultPoint;
use super::log_sync::sync_log;
use super::store::Store;
use crate::classify::Journal;

/// Frames in the WAL after which a checkpoint is due: SQLite's own default.
pub(super) const CHECKPOINT_FRAMES: i32 = 1_000;

impl Store {
    /// Syncs the log after a COMMIT whose durability leaves that for later.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        if !std::mem::take(&mut self.unsynced) {
            return Ok(());
        }
        let synced = match self.faults.strike(FaultPoint::Flush) {
            Some(fault) => Err(fault.code),
            None => sync_log(&mut self.connection),
        };
        self.holed = synced.is_err();
        synced.map_err(Failure::of_code)
    }

    /// Moves the whole log into the database and cuts it off, so that no recovery reads it.
    pub(super) fn empty_log(&mut self) -> Result<(), Failure> {
        let busy: i32 = self.guard.lifted(|| {
            let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
            self.connection.query_row(sql, [], |row| row.get(0))
        })?;
        if busy != 0 {
            return Err(Failure::of_code(rusqlite::ffi::SQLITE_BUSY));
        }
        sync_log(&mut self.connection).map_err(Failure::of_code)?;
        self.holed = false;
        self.checkpoint_at = CHECKPOINT_FRAMES;
        self.frames.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the WAL is long enough for a checkpoint.
    pub(crate) fn checkpoint_due(&self) -> bool {
        self.journal_mode == Journal::Wal
            && self.frames.load(Ordering::Relaxed) >= self.checkpoint_at
    }

    /// Copies the WAL into the database as far as readers allow. Never waits for anybody.
    pub(crate) fn checkpoint(&mut self) -> Result<(), Failure> {
        let (frames, moved): (i32, i32) = self.meet(FaultPoint::Checkpoint, || {
            Ok(self.guard.lifted(|| {
                self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
                    Ok((row.get(1)?, row.get(2)?))
                })
            })?)
        })?;
        // A reader that holds the log open would make every commit ask again.
        let held = if moved < frames { frames } else { 0 };
        self.checkpoint_at = held.saturating_add(CHECKPOINT_FRAMES);
        self.frames.store(0, Ordering::Relaxed);
        Ok(())
    }
}
