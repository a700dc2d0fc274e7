//! Faults on purpose, so that tests meet what a disk does once in a year.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::numbered::numbered;
use crate::sync::Mutex;

numbered! {
    /// Where a fault strikes.
    pub enum FaultPoint {
        /// Taking the write lock.
        Begin = 0, "begin";
        /// Running a statement once: each row of a unit of many rows.
        Statement = 1, "statement";
        /// COMMIT.
        Commit = 2, "commit";
        /// A checkpoint of the WAL.
        Checkpoint = 3, "checkpoint";
        /// Syncing the log after a COMMIT that did not (durability `pipelined`).
        Flush = 4, "flush";
    }
}

numbered! {
    /// What a fault leaves behind.
    pub enum FaultEffect {
        /// Nothing was done.
        Refused = 0, "refused";
        /// Nothing was done, and SQLite has rolled the transaction back, as it may after a full
        /// disk, an I/O error or a lack of memory (<https://sqlite.org/lang_transaction.html>).
        RolledBack = 1, "rolled_back";
        /// It was done, and reported as failed all the same.
        Done = 2, "done";
        /// The thread panics.
        Panicked = 3, "panicked";
    }
}

/// A fault that is to strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Where it strikes.
    pub point: FaultPoint,
    /// SQLite's (extended) code that is reported.
    pub code: i32,
    /// What it leaves behind.
    pub effect: FaultEffect,
    /// How many operations of this kind pass first.
    pub after: u32,
    /// How many it then strikes.
    pub times: u32,
}

/// The faults that wait for a connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults(Arc<Plan>);

#[derive(Debug, Default)]
struct Plan {
    /// Whether there are any: all that a connection looks at otherwise.
    armed: AtomicBool,
    faults: Mutex<Vec<Fault>>,
}

impl Faults {
    /// Adds a fault to those that wait.
    pub(crate) fn arm(&self, fault: Fault) {
        self.0.faults.lock().push(fault);
        self.0.armed.store(true, Ordering::Release);
    }

    /// Calls all off that have not struck as often as they should; gives their number.
    pub(crate) fn disarm(&self) -> usize {
        let mut faults = self.0.faults.lock();
        self.0.armed.store(false, Ordering::Release);
        std::mem::take(&mut *faults).len()
    }

    /// The fault that strikes this operation.
    pub(super) fn strike(&self, point: FaultPoint) -> Option<Fault> {
        if !self.0.armed.load(Ordering::Acquire) {
            return None;
        }
        let mut faults = self.0.faults.lock();
        let mut struck = None;
        for fault in faults.iter_mut().filter(|fault| fault.point == point) {
            if fault.after > 0 {
                fault.after -= 1;
            } else if struck.is_none() {
                fault.times = fault.times.saturating_sub(1);
                struck = Some(*fault);
            }
        }
        faults.retain(|fault| fault.after > 0 || fault.times > 0);
        struck
    }
}
