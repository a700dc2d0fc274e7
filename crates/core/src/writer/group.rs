//! Runs a group of jobs in one transaction, so that each gets its own outcome.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::commit::{Undone, commit_open};
use super::engine::Engine;
use super::stats::add;
use super::unit::{Done, Job, Rows, Unit};
use super::waiting::{BUSY, SLICE, time_left};
use crate::error::{Error, ErrorKind};
use crate::handoff::worker::{Begin, Late};
use crate::handoff::{Entry, Outcome, Patience};
use crate::sqlite::{Durability, Failure, Store, Written};

type Group = Vec<Entry<Job, Done>>;
type Outcomes = Vec<Option<Outcome<Done>>>;

/// The job that has ended the transaction of its group, and how.
type Spoilt = (usize, Failure);

/// Times that jobs are run again because the disk, not a job, failed them.
const RESOURCE_RETRIES: usize = 1;

/// Runs the jobs of a group in the transaction that is open, and commits it.
///
/// Single statements rely on SQLite's statement atomicity; units of several rows get a savepoint.
pub(super) fn run(
    engine: &Engine,
    group: &mut Group,
    late: &Late<'_, Job, Done>,
) -> Vec<Outcome<Done>> {
    let mut outcomes: Outcomes = group.iter().map(|_| None).collect();
    let mut members: Vec<usize> = (0..group.len()).collect();
    match run_all(engine, group, late, &mut outcomes, &mut members) {
        Ok(()) => commit(engine, group, &mut outcomes, &members),
        Err(spoilt) => recover(engine, group, &mut outcomes, members, spoilt),
    }
    engine.turns.end();
    add(&engine.counters.groups, 1);
    let writes = group.iter().filter(|entry| matches!(entry.request.job, Job::Write(_))).count();
    engine.counters.max_group.fetch_max(writes as u64, Ordering::Relaxed);
    settle(engine, group, outcomes)
}

/// Runs one job in the caller's own thread, which called at `begun`. The transaction is open.
pub(super) fn run_inline(
    engine: &Engine,
    job: &Job,
    begun: Instant,
    patience: &Patience<'_>,
) -> Outcome<Done> {
    let ran = engine.with_store(|store| {
        let outcome = run_job(store, job);
        if outcome.is_err() {
            store.roll_back();
        }
        outcome
    });
    let outcome = match ran {
        Ok(written) => match commit_open(engine, patience, &|| true) {
            Ok(()) => Ok(Done::Written(written)),
            Err(undone) => Err(undone.into_failure().into_error()),
        },
        Err(failure) => Err(failure.into_error()),
    };
    add(&engine.counters.inline, 1);
    settle_one(engine, job, &outcome, begun.elapsed());
    outcome
}

/// Runs the members, and then whoever has come meanwhile, until nobody comes.
fn run_all(
    engine: &Engine,
    group: &mut Group,
    late: &Late<'_, Job, Done>,
    outcomes: &mut Outcomes,
    members: &mut Vec<usize>,
) -> Result<(), Spoilt> {
    let mut done = 0;
    loop {
        run_members(engine, group, outcomes, members.get(done..).unwrap_or_default())?;
        done = members.len();
        let before = group.len();
        late(group);
        if group.len() == before {
            return Ok(());
        }
        members.extend(before..group.len());
        outcomes.resize_with(group.len(), || None);
    }
}

/// Runs jobs in the open transaction. An error says which of them has ended the transaction.
fn run_members(
    engine: &Engine,
    group: &Group,
    outcomes: &mut Outcomes,
    members: &[usize],
) -> Result<(), Spoilt> {
    for &at in members {
        let Some(entry) = group.get(at) else { continue };
        let ran = engine.with_store(|store| {
            let outcome = run_job(store, &entry.request.job);
            Ok((outcome, store.in_transaction()))
        });
        let outcome = match ran {
            Ok((Ok(written), true)) => Ok(Done::Written(written)),
            Ok((Err(failure), true)) => Err(failure.into_error()),
            Ok((Ok(_), false)) => {
                let message = "the statement ended the transaction that others share";
                return Err((at, Failure::new(ErrorKind::StatementNotAllowed, message)));
            }
            Ok((Err(failure), false)) | Err(failure) => return Err((at, failure)),
        };
        set(outcomes, at, outcome);
    }
    Ok(())
}

/// Runs one job's statements. An error leaves nothing of the job.
fn run_job(store: &mut Store, job: &Job) -> Result<Written, Failure> {
    let Job::Write(unit) = job else { return Ok(Written::default()) };
    contained(store, |store| run_unit(store, unit))
}

/// Turns a panic into an error that ends the transaction.
fn contained(
    store: &mut Store,
    run: impl FnOnce(&mut Store) -> Result<Written, Failure>,
) -> Result<Written, Failure> {
    let ran = catch_unwind(AssertUnwindSafe(|| run(store)));
    let ran = ran.unwrap_or_else(|_| {
        // Half a statement may have run: only the whole transaction is known to be undone.
        store.roll_back();
        Err(Failure::new(ErrorKind::Internal, "the write panicked; nothing of it was kept"))
    });
    if ran.as_ref().is_err_and(|failure| failure.kind == ErrorKind::Corrupt) {
        // SQLite lets a transaction that has met a malformed page write and commit nothing more.
        store.roll_back();
    }
    ran
}

/// Runs a unit in a transaction of the writer's own. An error leaves nothing of the unit, if need be
/// by rolling back the transaction, which the caller then finds closed.
fn run_unit(store: &mut Store, unit: &Unit) -> Result<Written, Failure> {
    match &unit.rows {
        Rows::One(params) => {
            let changes = store.total_changes();
            let ran = store.run(&unit.sql, params);
            if ran.is_err() && store.total_changes() != changes {
                // OR FAIL and RAISE(FAIL) keep the rows before the failing one.
                store.roll_back();
            }
            ran
        }
        Rows::Many(rows) => as_one(store, |store| store.run_many(&unit.sql, rows)),
    }
}

/// Runs a unit in a caller's transaction, which goes on after an error, without the unit; after a
/// panic it does not.
pub(super) fn run_step(store: &mut Store, unit: &Unit) -> Result<Written, Failure> {
    contained(store, |store| match &unit.rows {
        Rows::One(params) if Store::may_change_rows(&unit.sql) => {
            as_one(store, |store| store.run(&unit.sql, params))
        }
        Rows::One(params) => store.run(&unit.sql, params),
        Rows::Many(rows) => as_one(store, |store| store.run_many(&unit.sql, rows)),
    })
}

/// Runs statements in a savepoint, so that all of them count or none.
fn as_one(
    store: &mut Store,
    run: impl FnOnce(&Store) -> Result<Written, Failure>,
) -> Result<Written, Failure> {
    store.savepoint()?;
    let ran = run(store).and_then(|written| store.release().map(|()| written));
    if ran.is_err() && store.in_transaction() && store.roll_back_to().is_err() {
        store.roll_back();
    }
    ran
}

/// Lands what can be landed after one of the members has made SQLite roll everything back: it is set
/// aside, the others are run again, and it goes last, alone.
fn recover(
    engine: &Engine,
    group: &Group,
    outcomes: &mut Outcomes,
    mut members: Vec<usize>,
    (mut culprit, mut failure): Spoilt,
) {
    let mut aside = Vec::new();
    let mut setbacks = 0;
    loop {
        add(&engine.counters.recoveries, 1);
        setbacks += usize::from(failure.is_resource());
        if setbacks > RESOURCE_RETRIES {
            divide(engine, group, outcomes, &members, &failure);
            break;
        }
        members.retain(|&at| at != culprit);
        aside.push(culprit);
        if members.is_empty() {
            break;
        }
        match run_again(engine, group, outcomes, &members) {
            Ok(()) => break,
            Err(next) => (culprit, failure) = next,
        }
    }
    for at in aside {
        run_part(engine, group, outcomes, &[at]);
    }
}

fn commit(engine: &Engine, group: &Group, outcomes: &mut Outcomes, members: &[usize]) {
    let good: Vec<usize> = members.iter().copied().filter(|&at| is_good(outcomes, at)).collect();
    let deadline = good.iter().filter_map(|&at| group.get(at)?.deadline).max();
    match commit_open(engine, &Patience { deadline, ..Patience::UNDISTURBED }, &|| true) {
        Ok(()) => {}
        Err(Undone::Nothing(failure)) => divide(engine, group, outcomes, &good, &failure),
        Err(undone) => fail_all(outcomes, &good, &undone.into_failure()),
    }
}

/// Tells the members that they have failed together, or tries them in halves where the failure does
/// not say whose it is and some may fare better without the others.
fn divide(
    engine: &Engine,
    group: &Group,
    outcomes: &mut Outcomes,
    members: &[usize],
    failure: &Failure,
) {
    if members.len() < 2 || !failure.may_spare_some() {
        return fail_all(outcomes, members, failure);
    }
    let (left, right) = members.split_at(members.len() / 2);
    for half in [left, right] {
        run_part(engine, group, outcomes, half);
    }
}

/// Runs some jobs of a group in a transaction of their own.
fn run_part(engine: &Engine, group: &Group, outcomes: &mut Outcomes, members: &[usize]) {
    match run_again(engine, group, outcomes, members) {
        Ok(()) => {}
        Err((_, failure)) if members.len() == 1 => fail_all(outcomes, members, &failure),
        Err(spoilt) => recover(engine, group, outcomes, members.to_vec(), spoilt),
    }
}

/// Runs some jobs in a new transaction and commits it. An error says which of them has ended it.
fn run_again(
    engine: &Engine,
    group: &Group,
    outcomes: &mut Outcomes,
    members: &[usize],
) -> Result<(), Spoilt> {
    if let Err(error) = begin_again(engine, group) {
        give_all(outcomes, members, &error);
        return Ok(());
    }
    run_members(engine, group, outcomes, members)?;
    commit(engine, group, outcomes, members);
    Ok(())
}

/// Takes the write lock again after SQLite has rolled the transaction back.
fn begin_again(engine: &Engine, group: &Group) -> Result<(), Error> {
    // A group is as strict as its strictest member.
    let strict = group.iter().map(|entry| entry.request.strict).max().unwrap_or(u8::MAX);
    let durability = Durability::of_strictness(strict);
    let deadline = Instant::now().checked_add(engine.options().policy.deadline());
    let mut first = true;
    loop {
        match engine.try_begin(durability, first, true) {
            Begin::Ready => return Ok(()),
            Begin::Failed(error) => return Err(error),
            Begin::Locked(after) | Begin::Queued(after) => {
                first = false;
                let Some(left) = time_left(deadline) else {
                    return Err(Error::new(
                        ErrorKind::LockTimeout,
                        "database is locked: another write rolled this one back, and the lock \
                         could not be taken again before the deadline; it is not in the file",
                    )
                    .with_code(BUSY));
                };
                std::thread::sleep(after.min(left).min(SLICE));
            }
        }
    }
}

fn set(outcomes: &mut Outcomes, at: usize, outcome: Outcome<Done>) {
    if let Some(slot) = outcomes.get_mut(at) {
        *slot = Some(outcome);
    }
}

fn is_good(outcomes: &Outcomes, at: usize) -> bool {
    matches!(outcomes.get(at), Some(Some(Ok(_))))
}

fn fail_all(outcomes: &mut Outcomes, members: &[usize], failure: &Failure) {
    give_all(outcomes, members, &failure.clone().into_error());
}

fn give_all(outcomes: &mut Outcomes, members: &[usize], error: &Error) {
    for &at in members {
        set(outcomes, at, Err(error.clone()));
    }
}

fn settle(engine: &Engine, group: &Group, outcomes: Outcomes) -> Vec<Outcome<Done>> {
    let now = Instant::now();
    let settle = |(entry, outcome): (&Entry<Job, Done>, Option<Outcome<Done>>)| {
        if let Some(done) = entry.request.job.passes() {
            return Ok(done);
        }
        let outcome = outcome.unwrap_or_else(|| {
            Err(Error::new(ErrorKind::Internal, "the group ended without an outcome"))
        });
        settle_one(engine, &entry.request.job, &outcome, now - entry.since);
        outcome
    };
    group.iter().zip(outcomes).map(settle).collect()
}

fn settle_one(engine: &Engine, job: &Job, outcome: &Outcome<Done>, took: Duration) {
    match outcome {
        Ok(_) => add(&engine.counters.committed, 1),
        Err(error) => {
            add(&engine.counters.failed, 1);
            engine.watch.failure(job.statement(), error);
        }
    }
    engine.timings.write.add(took);
}
