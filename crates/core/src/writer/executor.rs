//! What the lane's owner runs on the database.

use std::sync::atomic::Ordering;

use super::engine::Engine;
use super::stats::add;
use super::unit::{Done, Job};
use super::{files, group};
use crate::error::Error;
use crate::handoff::worker::{Begin, Executor, Late};
use crate::handoff::{Entry, Outcome};
use crate::sqlite::Durability;

impl Executor<Job, Done> for Engine {
    fn begin(&self, strict: u8, attempt: u32) -> Begin {
        self.try_begin(Durability::of_strictness(strict), attempt == 1, true)
    }

    fn forgo(&self) {
        self.turns.end();
    }

    fn run(
        &self,
        group: &mut Vec<Entry<Job, Done>>,
        late: &Late<'_, Job, Done>,
    ) -> Vec<Outcome<Done>> {
        group::run(self, group, late)
    }

    fn grant(&self, id: u64) -> Done {
        Done::Turn(id)
    }

    fn pass(&self, job: &Job) -> Option<Done> {
        job.passes()
    }

    fn refused(&self, job: &Job, error: &Error) {
        if !matches!(job, Job::Barrier) {
            add(&self.counters.failed, 1);
            self.watch.failure(job.statement(), error);
        }
    }

    fn roll_back(&self) {
        if let Some(store) = &mut *self.store.enter() {
            store.roll_back();
            self.turns.end();
        }
    }

    fn interrupt(&self) {
        self.interrupt.interrupt();
    }

    fn evict(&self, claim: &dyn Fn() -> bool) {
        let mut store = self.store.enter();
        if claim()
            && let Some(store) = &mut *store
        {
            store.guard().allow_savepoints(false);
            store.roll_back();
            self.turns.end();
        }
    }

    fn upkeep_due(&self) -> bool {
        self.upkeep.load(Ordering::Relaxed)
    }

    fn upkeep(&self) {
        self.upkeep.store(false, Ordering::Relaxed);
        if let Some(store) = &mut *self.store.enter() {
            // A checkpoint that fails has lost nothing: the log is still there for the next.
            if store.checkpoint().is_ok() {
                add(&self.counters.checkpoints, 1);
            }
        }
    }

    fn close(&self) {
        self.turns.end();
        let store = self.store.enter().take();
        if let Some(store) = store {
            // What fails here is the fold of the log into the file, which the next opener does.
            let _ = store.close();
        }
        files::forget(self.id, &self.store);
    }
}
