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
        /// `synchronous=FULL`: on disk before the write is acknowledged.
        Full = 2, "full";
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
    /// The size of a page, in bytes.
    pub page_size: u32,
    /// The version of the SQLite copy that writes.
    pub sqlite_version: &'static str,
    /// Whether this copy keeps its locks from other copies in the process.
    pub private_copy: bool,
}
