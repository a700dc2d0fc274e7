//! What holds for a database file while it is open.

use std::path::PathBuf;

use crate::classify::Journal;
use crate::numbered::numbered;

numbered! {
    /// When a committed write is safe from a power cut. A later one is the stricter.
    #[derive(PartialOrd, Ord)]
    #[non_exhaustive]
    pub enum Durability {
        /// `synchronous=NORMAL`: safe from a crash of the process; in WAL mode a power cut may
        /// take the last commits.
        Normal = 1, "normal";
        /// On disk before the write is acknowledged, but others can see it before that: committed
        /// with `synchronous=NORMAL`, and the log synced once the lock is free for others. In a
        /// rollback journal, which has no log, as `Full`.
        Pipelined = 2, "pipelined";
        /// `synchronous=FULL`: on disk before the write is acknowledged, and before others see it.
        Full = 3, "full";
    }
}

impl Durability {
    /// From the laxest, 0, up.
    pub(crate) fn strictness(self) -> u8 {
        self as u8 - Self::Normal as u8
    }

    pub(crate) fn of_strictness(strict: u8) -> Self {
        match strict {
            0 => Self::Normal,
            1 => Self::Pipelined,
            _ => Self::Full,
        }
    }
}

/// The settings in effect on an open file, as SQLite reports them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileSettings {
    /// The resolved path.
    pub path: PathBuf,
    /// The journal mode.
    pub journal_mode: Journal,
    /// Whether foreign keys are enforced.
    pub foreign_keys: bool,
    /// Whether writers queue with other processes at the turn lock.
    pub turn_lock: bool,
    /// Why they do not, where they should: a folder that cannot be written, a file system without
    /// locks.
    pub turn_lock_missing: Option<String>,
    /// The size of a page, in bytes.
    pub page_size: u32,
    /// The version of the SQLite copy that writes.
    pub sqlite_version: &'static str,
    /// Whether this copy keeps its locks from other copies in the process.
    pub private_copy: bool,
}
