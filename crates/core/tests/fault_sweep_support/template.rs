//! Files to copy, each round its own.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use turnwise::classify::Journal;
use turnwise::sqlite::private;

const SCHEMA: &str = "PRAGMA page_size = 512;
    CREATE TABLE t(id INTEGER PRIMARY KEY, mark INTEGER NOT NULL, k INTEGER UNIQUE, body BLOB);
    INSERT INTO t(mark, k) VALUES (0, 1);";

/// A database to copy: in WAL mode with a log of `frames` frames, so that a few writes more make a
/// checkpoint due.
pub struct Template {
    folder: tempfile::TempDir,
    pub journal: Journal,
}

impl Template {
    pub fn new(journal: Journal, frames: u64) -> Self {
        private::arm().unwrap();
        let folder = folder();
        let making = folder.path().join("making.db");
        let connection = Connection::open(&making).unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        if journal == Journal::Wal {
            let settings = "PRAGMA journal_mode = wal; PRAGMA synchronous = off;
                            PRAGMA wal_autocheckpoint = 0;";
            connection.execute_batch(settings).unwrap();
            let log = beside(&making, "-wal");
            let wanted = 32 + frames * (512 + 24);
            while !log.exists() || std::fs::metadata(&log).unwrap().len() < wanted {
                connection.execute("UPDATE t SET body = randomblob(8)", []).unwrap();
            }
        }
        copy(&making, &folder.path().join("app.db"));
        connection.close().unwrap();
        Self { folder, journal }
    }

    /// A copy of the database, named `app.db`, in a folder of its own.
    pub fn copied(&self) -> tempfile::TempDir {
        let folder = folder();
        copy(&self.folder.path().join("app.db"), &folder.path().join("app.db"));
        folder
    }
}

/// In memory where there is a place for it: what the disk does is not asked here.
fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

/// Copies what a crash would leave: the file and its logs, but not what processes share in memory.
pub fn copy(from: &Path, to: &Path) {
    for suffix in ["", "-wal", "-journal"] {
        if beside(from, suffix).exists() {
            std::fs::copy(beside(from, suffix), beside(to, suffix)).unwrap();
        }
    }
}
