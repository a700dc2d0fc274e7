//! A stand-in for the database: a log of what was committed, and a watch over who touches it.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::line::Line;
use super::{chance, note, pause, pick};
use crate::error::{Error, ErrorKind};
use crate::handoff::worker::{Begin, Executor};
use crate::handoff::{Entry, Handoff, Limits, Outcome, Request};
use crate::sync::{Mutex, now};

/// How long the stand-in asks to be left alone after it was found locked.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    Poisoned,
    Panics,
    /// Wants nothing written: it waits for those before it.
    Barrier,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    pub(super) id: u64,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Got {
    Done(u64),
    Turn(u64),
}

/// How likely the database does what nobody wants it to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Odds {
    pub(super) locked: f64,
    /// Others come first, and for how long it asks to be left alone then.
    pub(super) queued: (f64, Duration),
    /// The turn takes its time.
    pub(super) slow: f64,
    pub(super) broken: f64,
    pub(super) commit_fails: f64,
    pub(super) upkeep: f64,
    /// The writer thread panics outside of a job.
    pub(super) dies: f64,
}

/// An open transaction.
struct Open {
    sync: u8,
    since: Instant,
    writes: Vec<u64>,
}

#[derive(Default)]
struct Connection {
    open: Option<Open>,
    log: Vec<u64>,
    in_upkeep: bool,
    closed: bool,
    /// How often it may still be found locked: a lock that is never let go is another matter.
    locks_left: u32,
    /// When to ask again, by the writer thread that could not begin.
    again: Option<Instant>,
    last_seq: u64,
    counts: Counts,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) transactions: u32,
    pub(super) locked: u32,
    pub(super) forgone: u32,
}

pub(super) struct Base {
    connection: Mutex<Connection>,
    odds: Odds,
    limits: Limits,
    pub(super) line: Line,
}

impl Base {
    pub(super) fn new(limits: Limits, odds: Odds) -> Arc<Self> {
        let connection = Mutex::new(Connection { locks_left: 4, ..Connection::default() });
        Arc::new(Self { connection, odds, limits, line: Line::new(odds) })
    }

    pub(super) fn log(&self) -> Vec<u64> {
        self.connection.lock().log.clone()
    }

    pub(super) fn counts(&self) -> Counts {
        self.connection.lock().counts
    }

    pub(super) fn is_closed(&self) -> bool {
        let connection = self.connection.lock();
        assert!(connection.open.is_none(), "a transaction was left open");
        connection.closed
    }

    fn open(&self, sync: u8, queues: bool) -> Begin {
        pause();
        if let Err(after) = self.line.take(queues) {
            return Begin::Queued(after);
        }
        let begun = self.open_in_turn(sync);
        if matches!(begun, Begin::Failed(_)) || !queues && !matches!(begun, Begin::Ready) {
            self.line.end();
        }
        begun
    }

    fn open_in_turn(&self, sync: u8) -> Begin {
        pause();
        let mut connection = self.connection.lock();
        assert!(connection.open.is_none(), "two own the lane: begun inside a transaction");
        assert!(!connection.in_upkeep, "two own the lane: begun during upkeep");
        assert!(!connection.closed, "begun after the end");
        assert!(connection.again.is_none(), "a wait for the lock was not forgone");
        if connection.locks_left > 0 && chance(self.odds.locked) {
            connection.locks_left -= 1;
            connection.counts.locked += 1;
            note("locked");
            return Begin::Locked(RETRY_AFTER);
        }
        if chance(self.odds.broken) {
            return Begin::Failed(Error::new(ErrorKind::Io, "the stand-in is broken"));
        }
        connection.counts.transactions += 1;
        connection.open = Some(Open { sync, since: now(), writes: Vec::new() });
        Begin::Ready
    }

    fn apply(&self, job: Job, strict: u8, deadline: Option<Instant>) -> Outcome<Got> {
        pause();
        let mut connection = self.connection.lock();
        let open = connection.open.as_mut().expect("somebody ended the transaction");
        assert!(open.sync >= strict, "a strict job in a group without sync");
        assert!(deadline.is_none_or(|at| at > open.since), "begun after its deadline");
        match job.kind {
            Kind::Plain => {
                open.writes.push(job.id);
                Ok(Got::Done(job.id))
            }
            Kind::Barrier => Ok(Got::Done(job.id)),
            Kind::Poisoned => Err(Error::new(ErrorKind::Constraint, "poisoned")),
            Kind::Panics => {
                drop(connection);
                // Not `panic!`: the checker's hook would report it.
                resume_unwind(Box::new("a job panicked"))
            }
        }
    }

    fn commit(&self) -> Result<(), Error> {
        pause();
        let mut connection = self.connection.lock();
        let open = connection.open.take().expect("somebody ended the transaction");
        assert!(self.line.has_turn(), "the turn was given back in the transaction");
        if chance(self.odds.commit_fails) {
            drop(connection);
            self.line.end();
            return Err(Error::new(ErrorKind::DiskFull, "COMMIT failed"));
        }
        connection.log.extend(open.writes);
        drop(connection);
        self.line.end();
        Ok(())
    }

    /// What the layer above does for a caller that was let in inline. `Err`: the database is locked.
    pub(super) fn run_inline(&self, request: &Request<Job>) -> Result<Outcome<Got>, ()> {
        match self.begin_inline(request) {
            Begin::Locked(_) | Begin::Queued(_) => return Err(()),
            Begin::Failed(error) => return Ok(Err(error)),
            Begin::Ready => {}
        }
        note("inline");
        if request.job.kind == Kind::Panics {
            self.roll_back();
            return Ok(Err(Error::new(ErrorKind::Internal, "an inline job panicked")));
        }
        let outcome = self.apply(request.job, request.strict, None);
        Ok(self.commit().and(outcome))
    }

    pub(super) fn begin_inline(&self, request: &Request<Job>) -> Begin {
        self.open(request.strict, false)
    }

    /// A statement of turn `id`, if it still has the lane.
    pub(super) fn write_in_turn(&self, handoff: &Handoff<Job, Got>, id: u64, job: u64) -> bool {
        let mut connection = self.connection.lock();
        if !handoff.holds_turn(id) {
            return false;
        }
        pause();
        connection.open.as_mut().expect("the turn has no transaction").writes.push(job);
        true
    }

    /// Ends the transaction of turn `id`, if it still has the lane.
    pub(super) fn end_turn(&self, handoff: &Handoff<Job, Got>, id: u64, commit: bool) -> bool {
        let mut connection = self.connection.lock();
        if !handoff.holds_turn(id) {
            return false;
        }
        pause();
        let open = connection.open.take().expect("the turn has no transaction");
        if commit {
            connection.log.extend(open.writes);
        }
        self.line.end();
        true
    }

    /// The order of arrival, the bounds of a group.
    fn check(&self, group: &[Entry<Job, Got>], fresh: usize) {
        let rows: usize = group.iter().map(|entry| entry.request.rows).sum();
        assert!(group.len() == 1 || rows <= self.limits.max_batch, "a group beyond max_batch");
        for entry in &group[fresh..] {
            assert!(entry.request.turn.is_none(), "a turn in a group");
            self.in_order(entry.seq);
        }
    }

    fn in_order(&self, seq: u64) {
        let mut connection = self.connection.lock();
        assert!(connection.last_seq < seq, "a job overtook another");
        connection.last_seq = seq;
    }
}

impl Executor<Job, Got> for Base {
    fn begin(&self, sync: u8, attempt: u32) -> Begin {
        let again = self.connection.lock().again.take();
        assert!(attempt == 1 || again.is_some(), "not found locked before");
        if again.is_some_and(|again| now() < again) {
            self.line.note_early();
        }
        if chance(self.odds.dies) {
            resume_unwind(Box::new("the writer thread panicked"));
        }
        let begun = self.open(sync, true);
        if let Begin::Locked(after) | Begin::Queued(after) = &begun {
            self.connection.lock().again = Some(now() + *after);
        }
        begun
    }

    fn forgo(&self) {
        let mut connection = self.connection.lock();
        assert!(connection.again.take().is_some(), "forgone what was not waited for");
        connection.counts.forgone += 1;
        drop(connection);
        self.line.end();
        note("forgone");
    }

    fn run(
        &self,
        group: &mut Vec<Entry<Job, Got>>,
        late: &dyn Fn(&mut Vec<Entry<Job, Got>>),
    ) -> Vec<Outcome<Got>> {
        let mut outcomes = Vec::new();
        while outcomes.len() < group.len() {
            self.check(group, outcomes.len());
            for entry in &group[outcomes.len()..] {
                outcomes.push(self.apply(entry.request.job, entry.request.strict, entry.deadline));
            }
            late(group);
        }
        match self.commit() {
            Ok(()) => outcomes,
            Err(error) => outcomes.into_iter().map(|one| one.and(Err(error.clone()))).collect(),
        }
    }

    fn grant(&self, id: u64) -> Got {
        self.in_order(id);
        Got::Turn(id)
    }

    fn pass(&self, job: &Job) -> Option<Got> {
        matches!(job.kind, Kind::Barrier).then_some(Got::Done(job.id))
    }

    fn roll_back(&self) {
        pause();
        self.connection.lock().open = None;
        self.line.end();
    }

    fn interrupt(&self) {}

    fn evict(&self, claim: &dyn Fn() -> bool) {
        // The holder may leave, and another come, before the connection is to be had.
        (0..pick(40)).for_each(|_| pause());
        let mut connection = self.connection.lock();
        if claim() {
            pause();
            connection.open = None;
            self.line.end();
            note("evicted");
        }
    }

    fn upkeep_due(&self) -> bool {
        chance(self.odds.upkeep)
    }

    fn upkeep(&self) {
        {
            let mut connection = self.connection.lock();
            assert!(connection.open.is_none(), "two own the lane: upkeep inside a transaction");
            assert!(!connection.in_upkeep && !connection.closed);
            assert!(connection.again.is_none(), "a wait for the lock was not forgone");
            connection.in_upkeep = true;
        }
        pause();
        let mut connection = self.connection.lock();
        connection.in_upkeep = false;
        note("upkeep");
    }

    fn close(&self) {
        let mut connection = self.connection.lock();
        assert!(connection.open.is_none(), "closed inside a transaction");
        assert!(!connection.in_upkeep, "closed during upkeep");
        assert!(connection.again.is_none(), "a wait for the lock was not forgone");
        connection.closed = true;
        self.line.end();
    }
}
