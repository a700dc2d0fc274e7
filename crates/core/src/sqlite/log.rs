//! The write-ahead log: its sync after COMMIT, and its way into the database.

use std::sync::atomic::Ordering;

use super::failure::Failure;
use super::fault::FaultPoint;
use super::log_sync::{rewrite_log, sync_log};
use super::store::{LogHealth, Store, ours};
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
        if synced.is_err() {
            self.log = LogHealth::Holed;
            // At once, if the lock is free: others may checkpoint.
            drop(self.mend_log());
        }
        synced.map_err(Failure::of_code)
    }

    /// Fills the hole that a failed sync may have left in the log.
    pub(super) fn mend_log(&mut self) -> Result<(), Failure> {
        if self.log != LogHealth::Holed {
            return Ok(());
        }
        // So that nobody begins the log anew meanwhile.
        self.control(ours!("BEGIN IMMEDIATE"))?;
        let mended = rewrite_log(&mut self.connection).map_err(Failure::of_code);
        if mended.is_ok() {
            self.log = LogHealth::Sound;
        }
        self.try_roll_back()?;
        mended
    }

    /// Whether the WAL is long enough for a checkpoint.
    pub(crate) fn checkpoint_due(&self) -> bool {
        self.journal_mode == Journal::Wal
            && self.frames.load(Ordering::Relaxed) >= self.checkpoint_at
    }

    /// Copies the WAL into the database as far as readers allow. Never waits for anybody.
    pub(crate) fn checkpoint(&mut self) -> Result<(), Failure> {
        self.mend_log()?;
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
