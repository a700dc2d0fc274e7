//! What every caller was told.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use turnwise::sqlite::Written;
use turnwise::{ErrorKind, Result};

/// What every caller was told.
#[derive(Default)]
pub struct Ledger {
    /// The marks of all units.
    pub asked: Mutex<Vec<i64>>,
    /// Of each unit, by its mark.
    pub units: Mutex<Vec<(i64, Option<ErrorKind>)>>,
    /// Every error that a call has returned or delivered.
    pub errors: Mutex<Vec<ErrorKind>>,
    /// Units and transactions that were told to be committed.
    pub committed: AtomicU64,
}

impl Ledger {
    pub fn ask(&self, mark: i64) {
        self.asked.lock().unwrap().push(mark);
    }

    pub fn tell(&self, mark: i64, outcome: &Result<Written>) {
        let error = outcome.as_ref().err().map(turnwise::Error::kind);
        self.count(error);
        self.note(mark, error);
    }

    pub fn note(&self, mark: i64, error: Option<ErrorKind>) {
        self.units.lock().unwrap().push((mark, error));
    }

    pub fn count(&self, error: Option<ErrorKind>) {
        match error {
            None => drop(self.committed.fetch_add(1, Ordering::Relaxed)),
            Some(kind) => self.errors.lock().unwrap().push(kind),
        }
    }

    /// The errors of all calls but the poisoned one's own.
    pub fn errors(&self) -> Vec<ErrorKind> {
        let errors = self.errors.lock().unwrap();
        errors.iter().copied().filter(|kind| *kind != ErrorKind::Constraint).collect()
    }
}
