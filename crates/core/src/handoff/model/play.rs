//! The callers of the model, and what must be true of what they were told.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::base::{Base, Got, Job, Kind};
use super::flush::{Ledger, Told};
use super::plan::{Plan, Role};
use super::{chance, note, pause, pick, sleep};
use crate::error::ErrorKind;
use crate::handoff::worker::{self, Begin};
use crate::handoff::{Admission, Handoff, Outcome, Patience, Pickup, Request};
use crate::sync::model::{self, Spawned};
use crate::sync::{Mutex, current, now};

/// What a caller knows of its write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Landed,
    Failed(ErrorKind),
    /// Turned away, taken back or rolled back by its caller.
    Dropped,
}

/// Shared by all callers of one execution.
pub(super) struct Stage {
    pub(super) handoff: Arc<Handoff<Job, Got>>,
    pub(super) base: Arc<Base>,
    pub(super) plan: Plan,
    pub(super) told: Mutex<Vec<(u64, Fate)>>,
    /// Pickups of callers that stay away for long.
    attic: Mutex<Vec<Pickup>>,
    pub(super) ledger: Ledger,
}

pub(super) fn fate(id: u64, outcome: Outcome<Got>) -> Fate {
    match outcome {
        Ok(got) => {
            assert_eq!(got, Got::Done(id), "somebody else's outcome");
            Fate::Landed
        }
        Err(error) => Fate::Failed(error.kind()),
    }
}

impl Stage {
    pub(super) fn put_away(&self, pickup: Pickup) {
        let (late, never) = self.plan.stays_away;
        if chance(never) {
            std::mem::forget(pickup);
        } else if chance(late) {
            self.attic.lock().push(pickup);
        } else {
            drop(pickup);
        }
    }

    pub(super) fn request(&self, id: u64) -> Request<Job> {
        let plan = &self.plan;
        let kind = if chance(plan.panics) {
            Kind::Panics
        } else if chance(plan.poisoned) {
            Kind::Poisoned
        } else {
            Kind::Plain
        };
        let rows = if chance(plan.big) { plan.limits.max_rows } else { 1 };
        Request {
            job: Job { id, kind },
            rows,
            bytes: 8,
            strict: u8::from(chance(plan.strict)) * 2,
            turn: None,
        }
    }

    /// Calls `f` with the patience of one caller.
    pub(super) fn with_patience<R>(&self, f: impl FnOnce(&Patience<'_>) -> R) -> R {
        let (likely, time) = self.plan.deadline;
        let deadline = chance(likely).then(|| now() + time);
        let (asks, is_wanted) = self.plan.interrupted;
        let slice = chance(asks).then_some(Duration::from_millis(50));
        let interrupted = || {
            pause();
            chance(is_wanted)
        };
        f(&Patience { deadline, slice, interrupted: &interrupted })
    }

    fn perform(self: &Arc<Self>, role: Role, first: u64) {
        if chance(self.plan.late) {
            sleep(self.plan.hold_limit);
            (0..pick(30)).for_each(|_| pause());
        }
        for id in first..first + self.plan.writes as u64 {
            let fate = match role {
                Role::Blocking => self.write(id, true),
                Role::Queued => self.write(id, false),
                Role::Submitting | Role::Calling | Role::Offering => self.submit(role, id),
                Role::Turning => self.take_turn(id),
                Role::Flushing => self.submit_and_flush(id),
                Role::Closing => return self.close(),
            };
            self.told.lock().push((id, fate));
        }
    }

    fn write(&self, id: u64, inline: bool) -> Fate {
        self.with_patience(|patience| {
            match self.handoff.enter(self.request(id), inline, patience) {
                Err(error) => Fate::Failed(error.kind()),
                Ok(admission) => self.see_through(id, admission, patience),
            }
        })
    }

    fn see_through(
        &self,
        id: u64,
        admission: Admission<Job, Got>,
        patience: &Patience<'_>,
    ) -> Fate {
        let (ticket, seq) = match admission {
            Admission::Queued(ticket, seq) => (ticket, seq),
            Admission::Inline(request) => {
                match self.ledger.inline(id, || self.base.run_inline(&request)) {
                    Ok(outcome) => {
                        self.handoff.leave_lane(chance(self.plan.odds.upkeep));
                        return fate(id, outcome);
                    }
                    Err(()) => self.handoff.requeue_inline(request, patience.deadline),
                }
            }
        };
        self.ledger.note(id, Told::Ticket(Arc::clone(&ticket)));
        let (outcome, pickup, _) = self.handoff.wait(&ticket, seq, patience);
        self.put_away(pickup);
        fate(id, outcome)
    }

    fn take_turn(&self, id: u64) -> Fate {
        let mut request = self.request(id);
        request.turn = Some((current().id(), self.plan.hold_limit));
        let turn = self.with_patience(|patience| self.wait_for_turn(request, patience));
        match turn {
            Err(error) => Fate::Failed(error.kind()),
            Ok(Got::Done(_)) => panic!("somebody else's outcome"),
            Ok(Got::Turn(turn)) => self.hold(turn, id),
        }
    }

    fn wait_for_turn(&self, request: Request<Job>, patience: &Patience<'_>) -> Outcome<Got> {
        let id = request.job.id;
        let (ticket, seq) = match self.handoff.enter(request, chance(0.5), patience)? {
            Admission::Queued(ticket, seq) => (ticket, seq),
            Admission::Inline(request) => {
                match self.ledger.inline(id, || self.base.begin_inline(&request)) {
                    Begin::Locked(_) | Begin::Queued(_) => {
                        self.handoff.requeue_inline(request, patience.deadline)
                    }
                    Begin::Failed(error) => {
                        self.handoff.leave_lane(false);
                        return Err(error);
                    }
                    Begin::Ready => {
                        return Ok(Got::Turn(self.handoff.take_turn(self.plan.hold_limit)));
                    }
                }
            }
        };
        self.ledger.note(id, Told::Ticket(Arc::clone(&ticket)));
        let (outcome, pickup, _) = self.handoff.wait(&ticket, seq, patience);
        self.put_away(pickup);
        outcome
    }

    fn hold(&self, turn: u64, id: u64) -> Fate {
        if chance(self.plan.hogs) {
            // Up to the very moment of the eviction, or beyond.
            let twice = chance(0.5);
            sleep(self.plan.hold_limit * if twice { 2 } else { 1 });
            let evicted = !self.handoff.holds_turn(turn);
            assert!(evicted || !twice || self.plan.hurry > 0.0, "the hold limit was not watched");
        }
        self.re_enter(turn);
        let wrote = self.base.write_in_turn(&self.handoff, turn, id);
        let commit = chance(0.7);
        let ended = wrote && self.base.end_turn(&self.handoff, turn, commit);
        let left = self.handoff.leave_turn(turn, chance(self.plan.odds.upkeep));
        assert!(!left || ended || !wrote, "the turn came back");
        if ended && commit { Fate::Landed } else { Fate::Dropped }
    }

    /// The holder of a turn must not wait for itself.
    fn re_enter(&self, turn: u64) {
        let id = u64::MAX - turn;
        let patience = Patience { deadline: None, slice: None, interrupted: &|| false };
        let request = Request {
            job: Job { id, kind: Kind::Poisoned },
            rows: 1,
            bytes: 8,
            strict: 0,
            turn: None,
        };
        match self.handoff.enter(request, chance(0.5), &patience) {
            Err(error) if error.kind() == ErrorKind::WriterReentered => note("re-entered"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WriterClosed),
            Ok(admission) => {
                assert!(!self.handoff.holds_turn(turn), "the holder was let in");
                let fate = self.see_through(id, admission, &patience);
                assert!(matches!(fate, Fate::Failed(_)));
            }
        }
    }

    fn close(&self) {
        self.handoff.close();
        let patience = Patience { deadline: None, slice: None, interrupted: &|| false };
        assert!(self.handoff.wait_closed(&patience));
        self.expect_closed();
    }

    fn expect_closed(&self) {
        assert!(self.base.is_closed() || self.plan.odds.dies > 0.0, "closed too early");
        let state = self.handoff.lock();
        assert!(state.queue.is_empty(), "jobs were left in the queue");
        assert_eq!((state.rows, state.bytes, state.strict), (0, 0, [0; 3]), "wrong counters");
    }

    fn expect_outcomes(&self) {
        let log = self.base.log();
        let told = self.told.lock();
        let actors = self.plan.cast.iter().filter(|role| **role != Role::Closing).count();
        assert_eq!(told.len(), actors * self.plan.writes);
        for &(id, fate) in &*told {
            let times = log.iter().filter(|logged| **logged == id).count();
            assert_eq!(times, usize::from(fate == Fate::Landed), "write {id} is {fate:?}");
            let may_panic = self.plan.panics > 0.0 || self.plan.odds.dies > 0.0;
            assert!(fate != Fate::Failed(ErrorKind::Internal) || may_panic, "a fault of our own");
            note(format!("{fate:?}"));
        }
        assert_eq!(told.iter().filter(|(_, fate)| *fate == Fate::Landed).count(), log.len());
        self.ledger.check(&log);
    }
}

/// Plays one execution and checks everybody's outcome at its end.
pub(super) fn play(plan: Plan) -> Arc<Stage> {
    model::begin(plan.hurry);
    let base = Base::new(plan.limits, plan.odds);
    let stage = Arc::new(Stage {
        handoff: Handoff::new(plan.limits),
        base: Arc::clone(&base),
        plan,
        told: Mutex::new(Vec::new()),
        attic: Mutex::new(Vec::new()),
        ledger: Ledger::default(),
    });
    let usher = model::spawn({
        let stage = Arc::clone(&stage);
        move || stage.base.line.usher(&stage.handoff)
    });
    let writer = model::spawn({
        let stage = Arc::clone(&stage);
        move || {
            let work = || worker::work(&stage.handoff, &*stage.base);
            let died = catch_unwind(AssertUnwindSafe(work)).is_err();
            assert!(!died || stage.plan.odds.dies > 0.0, "the writer thread died");
        }
    });
    let callers: Vec<Spawned> = (1..)
        .zip(stage.plan.cast.clone())
        .map(|(number, role)| {
            let stage = Arc::clone(&stage);
            model::spawn(move || stage.perform(role, number * 100))
        })
        .collect();
    for caller in callers {
        caller.join();
    }
    stage.close();
    writer.join();
    stage.base.line.end_usher();
    usher.join();
    stage.base.line.expect_over();
    stage.expect_closed();
    let state = stage.handoff.lock();
    assert!(state.doorway.is_empty() && state.space_calls.is_empty(), "somebody still waits");
    assert!(!state.parked && !state.gathering);
    drop(state);
    stage.expect_outcomes();
    stage.attic.lock().clear();
    stage
}
