//! The connection: opening, control statements, running one statement.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal;
use rusqlite::{Connection, OpenFlags};

use super::failure::Failure;
use super::fault::{FaultEffect, FaultPoint, Faults};
use super::guard::Guard;
use super::last_insert::LastInsert;
use super::log::CHECKPOINT_FRAMES;
use super::settings::{Durability, FileSettings};
use super::statement::Verb;
use crate::classify::Journal;
use crate::error::ErrorKind;

/// Prepared statements kept, as many as an application has distinct writes.
const STATEMENTS: usize = 128;

/// Times that a ROLLBACK is tried.
const ROLLBACKS: usize = 3;

/// Begins every control statement: the cache of prepared statements goes by the text, and a caller's
/// `COMMIT` must not find ours, which the guard has let pass.
macro_rules! ours {
    ($sql:literal) => {
        concat!("/*turnwise*/", $sql)
    };
}
pub(super) use ours;
pub(super) const MARK: &str = ours!("");

/// One connection to one file.
#[derive(Debug)]
pub(crate) struct Store {
    pub(super) connection: Connection,
    pub(super) guard: Guard,
    pub(super) durability: Option<Durability>,
    pub(super) journal_mode: Journal,
    /// Frames in the WAL after the last commit.
    pub(super) frames: Arc<AtomicI32>,
    pub(super) checkpoint_at: i32,
    pub(super) last_insert: Arc<LastInsert>,
    pub(super) faults: Faults,
    /// What is open holds what callers were told is undone.
    doomed: bool,
    /// What the last COMMIT wrote to the log, or found there, is still to be synced.
    pub(super) unsynced: bool,
    pub(super) log: LogHealth,
}

/// Whether the log has a hole, at which a recovery would stop reading it, whatever was synced behind it
/// since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogHealth {
    /// From before it was open: Linux tells a failed sync only to descriptors that were open then.
    Unknown,
    /// No sync has failed since every byte was synced.
    Sound,
    /// A sync has failed.
    Holed,
}

impl Store {
    /// Opens the file. Nothing waits here, and nothing is read yet.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)?;
        // Waiting is ours alone: a time-out of SQLite's would multiply it.
        connection.busy_timeout(std::time::Duration::ZERO)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        let frames = Arc::new(AtomicI32::new(0));
        let seen = Arc::clone(&frames);
        // Replaces SQLite's automatic checkpoint, which would run inside somebody's COMMIT.
        connection.wal_hook(Some(move |_: &mut Wal, pages| {
            seen.store(pages, Ordering::Relaxed);
            Ok(())
        }))?;
        let last_insert = Arc::new(LastInsert::default());
        let watch = Arc::clone(&last_insert);
        connection.update_hook(Some(move |action, _: &str, _: &str, rowid| {
            watch.note(action, rowid);
        }))?;
        let guard = Guard::install(&mut connection)?;
        Ok(Self {
            connection,
            guard,
            durability: None,
            journal_mode: Journal::Wal,
            frames,
            checkpoint_at: CHECKPOINT_FRAMES,
            last_insert,
            faults: Faults::default(),
            doomed: false,
            unsynced: false,
            log: LogHealth::Unknown,
        })
    }

    /// Applies the file settings; fails with SQLite's busy codes while others are in the way.
    pub(crate) fn configure(
        &mut self,
        path: &Path,
        journal_mode: Journal,
        foreign_keys: bool,
    ) -> Result<FileSettings, Failure> {
        if self.connection.is_readonly("main")? {
            return Err(Failure::new(
                ErrorKind::ReadOnly,
                format!("{} cannot be written: check its permissions", path.display()),
            ));
        }
        let current = self.pragma_text("journal_mode", None)?;
        let effective = if current == journal_mode.name() {
            current
        } else {
            self.pragma_text("journal_mode", Some(journal_mode.name()))?
        };
        if effective != journal_mode.name() {
            return Err(Failure::new(
                ErrorKind::InvalidSetting,
                format!(
                    "journal_mode={} is not available for {}: SQLite keeps {effective}",
                    journal_mode.name(),
                    path.display()
                ),
            ));
        }
        self.journal_mode = journal_mode;
        let flag = if foreign_keys { "ON" } else { "OFF" };
        self.control(&format!("{MARK}PRAGMA foreign_keys={flag}"))?;
        let page_size = self.pragma_integer("page_size")?;
        Ok(FileSettings {
            path: path.to_owned(),
            journal_mode,
            foreign_keys: self.pragma_integer("foreign_keys")? == 1,
            turn_lock: false,
            turn_lock_missing: None,
            page_size: u32::try_from(page_size).unwrap_or_default(),
            sqlite_version: rusqlite::version(),
            private_copy: cfg!(all(feature = "private-copy", target_os = "linux")),
        })
    }

    /// Takes the write lock, without waiting.
    pub(crate) fn begin(&mut self, durability: Durability) -> Result<(), Failure> {
        // What a ROLLBACK that failed has left open.
        self.try_roll_back()?;
        if self.log == LogHealth::Unknown
            && durability == Durability::Pipelined
            && self.journal_mode == Journal::Wal
        {
            self.log = LogHealth::Holed;
        }
        self.mend_log()?;
        if self.durability != Some(durability) {
            let level = match (durability, self.journal_mode) {
                // Until the folder is synced, a power cut can bring a deleted journal back, and
                // with it undo the commit (sqlite.org/pragma.html#pragma_synchronous).
                (Durability::Full | Durability::Pipelined, Journal::Delete) => "EXTRA",
                (Durability::Pipelined, Journal::Wal) | (Durability::Normal, _) => "NORMAL",
                (Durability::Full | Durability::Pipelined, _) => "FULL",
            };
            self.control(&format!("{MARK}PRAGMA synchronous={level}"))?;
            self.durability = Some(durability);
        }
        self.meet(FaultPoint::Begin, || self.control(ours!("BEGIN IMMEDIATE")))
    }

    pub(crate) fn commit(&mut self) -> Result<(), Failure> {
        self.meet(FaultPoint::Commit, || self.control(ours!("COMMIT")))?;
        if self.in_transaction() {
            return Err(Failure::new(ErrorKind::Internal, "COMMIT left the transaction open"));
        }
        // Even if nothing was written: a row that was found there may be another process's, which has
        // not synced it yet.
        self.unsynced =
            self.durability == Some(Durability::Pipelined) && self.journal_mode == Journal::Wal;
        Ok(())
    }

    /// Ends a transaction. Where that fails, what is open is never committed.
    pub(crate) fn roll_back(&mut self) {
        drop(self.try_roll_back());
    }

    pub(super) fn try_roll_back(&mut self) -> Result<(), Failure> {
        let mut last = Ok(());
        for _ in 0..ROLLBACKS {
            // A failing ROLLBACK has ended the transaction all the same (lang_transaction.html),
            // unless it failed before it began: an interrupt for the statement before, no memory.
            if !self.connection.is_autocommit() {
                last = self.control(ours!("ROLLBACK"));
            }
        }
        self.doomed = !self.connection.is_autocommit();
        if self.doomed { last } else { Ok(()) }
    }

    pub(crate) fn savepoint(&self) -> Result<(), Failure> {
        self.control(ours!("SAVEPOINT turnwise_unit"))
    }

    pub(crate) fn release(&self) -> Result<(), Failure> {
        self.control(ours!("RELEASE turnwise_unit"))
    }

    pub(crate) fn roll_back_to(&self) -> Result<(), Failure> {
        self.control(ours!("ROLLBACK TO turnwise_unit"))?;
        self.release()
    }

    /// Whether a transaction is open that may be committed.
    pub(crate) fn in_transaction(&self) -> bool {
        !self.doomed && !self.connection.is_autocommit()
    }

    pub(crate) fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// Runs `operation`, or what a fault makes of it.
    pub(super) fn meet<T>(
        &self,
        point: FaultPoint,
        operation: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let Some(fault) = self.faults.strike(point) else { return operation() };
        match fault.effect {
            FaultEffect::Refused => {}
            FaultEffect::RolledBack => {
                if self.in_transaction() {
                    self.control(ours!("ROLLBACK"))?;
                }
            }
            FaultEffect::Done => {
                operation()?;
            }
            FaultEffect::Panicked => std::panic::resume_unwind(Box::new("injected panic")),
        }
        Err(Failure::injected(fault.code))
    }

    pub(crate) fn guard(&self) -> &Guard {
        &self.guard
    }

    pub(crate) fn interrupt_handle(&self) -> rusqlite::InterruptHandle {
        self.connection.get_interrupt_handle()
    }

    /// Rows that statements on this connection have changed so far, triggers included.
    pub(crate) fn total_changes(&self) -> u64 {
        self.connection.total_changes()
    }

    /// Whether the statement is of a kind that changes rows.
    pub(crate) fn may_change_rows(sql: &str) -> bool {
        matches!(Verb::of(sql), Verb::Insert | Verb::Change)
    }

    /// Closes the connection; the last one on a file folds the WAL into the database.
    pub(crate) fn close(mut self) -> Result<(), Failure> {
        if self.mend_log().is_err() {
            // A fold of the log is as dangerous as a checkpoint: see `rewrite_log`.
            self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        }
        self.connection.close().map_err(|(_, error)| error.into())
    }

    pub(super) fn control(&self, sql: &str) -> Result<(), Failure> {
        self.guard.lifted(|| {
            let mut statement = self.connection.prepare_cached(sql)?;
            if statement.column_count() == 0 {
                statement.raw_execute()?;
            } else {
                let mut rows = statement.raw_query();
                while rows.next()?.is_some() {}
            }
            Ok(())
        })
    }

    fn pragma_text(&self, name: &str, value: Option<&str>) -> Result<String, Failure> {
        let sql = value.map_or(format!("PRAGMA {name}"), |value| format!("PRAGMA {name}={value}"));
        Ok(self.guard.lifted(|| self.connection.query_row(&sql, [], |row| row.get(0)))?)
    }

    fn pragma_integer(&self, name: &str) -> Result<i64, Failure> {
        let sql = format!("PRAGMA {name}");
        Ok(self.guard.lifted(|| self.connection.query_row(&sql, [], |row| row.get(0)))?)
    }
}
