//! Jobs that run in their caller's own thread.

use std::sync::Arc;
use std::time::Instant;

use super::call::Landing;
use super::engine::Engine;
use super::group;
use super::options::WriterOptions;
use super::transaction::Transaction;
use super::unit::{Done, Job};
use crate::handoff::worker::{Begin, Executor};
use crate::handoff::{Patience, Pickup, Request, Ticket};

/// Runs a job in this thread, which has the lane; `Err` is its place in the queue if the database was locked.
pub(super) fn run(
    engine: &Arc<Engine>,
    options: &WriterOptions,
    request: Request<Job>,
    patience: &Patience<'_>,
) -> std::result::Result<Landing<Done>, (Arc<Ticket<Done>>, u64)> {
    let lane = InlineLane { engine, given: false };
    let begun = Instant::now();
    let outcome = match engine.try_begin(options.durability, true, false) {
        Begin::Locked(_) | Begin::Queued(_) => {
            engine.turns.end();
            let place = engine.handoff.requeue_inline(request, patience.deadline);
            lane.give();
            return Err(place);
        }
        Begin::Failed(error) => {
            engine.refused(&request.job, &error);
            Err(error)
        }
        Begin::Ready if request.turn.is_some() => {
            let id = engine.handoff.take_turn(options.hold_limit);
            lane.give();
            // Somebody has to watch the hold limit.
            engine.serve().map(|()| Done::Turn(id)).inspect_err(|_| {
                drop(Transaction::new(Arc::clone(engine), id));
            })
        }
        Begin::Ready => {
            let outcome = group::run_inline(engine, &request.job, begun, patience);
            drop(lane);
            outcome
        }
    };
    Ok(Landing { outcome, pickup: Pickup::uncounted(), interrupted: false })
}

/// The lane of an inline job, given back whatever happens.
struct InlineLane<'a> {
    engine: &'a Arc<Engine>,
    given: bool,
}

impl InlineLane<'_> {
    /// Somebody else has the lane now.
    fn give(mut self) {
        self.given = true;
    }
}

impl Drop for InlineLane<'_> {
    fn drop(&mut self) {
        if self.given {
            return;
        }
        self.engine.turns.end();
        let upkeep = self.engine.upkeep_due();
        self.engine.handoff.leave_lane(upkeep);
        if upkeep {
            // Without a thread the checkpoint waits for the next one that starts.
            let _ = self.engine.serve();
        }
    }
}
