//! Whose the last row id is.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use rusqlite::hooks::Action;

/// Tells whether a statement has inserted the row that `last_insert_rowid()` names.
///
/// SQLite keeps that number when nothing is inserted (an upsert that updates, a table without row
/// ids); here it would be the row of another caller.
#[derive(Debug, Default)]
pub(super) struct LastInsert {
    before: AtomicI64,
    again: AtomicBool,
}

impl LastInsert {
    /// A statement begins, and the number is `rowid`.
    pub(super) fn expect(&self, rowid: i64) {
        self.before.store(rowid, Ordering::Relaxed);
        self.again.store(false, Ordering::Relaxed);
    }

    /// A row was changed.
    pub(super) fn note(&self, action: Action, rowid: i64) {
        if action == Action::SQLITE_INSERT && rowid == self.before.load(Ordering::Relaxed) {
            self.again.store(true, Ordering::Relaxed);
        }
    }

    /// The statement has ended, and the number is `rowid`.
    pub(super) fn of_statement(&self, rowid: i64) -> Option<i64> {
        let inserted =
            rowid != self.before.load(Ordering::Relaxed) || self.again.load(Ordering::Relaxed);
        inserted.then_some(rowid)
    }
}
