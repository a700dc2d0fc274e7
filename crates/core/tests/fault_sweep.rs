//! Every fault that SQLite can report, at the first operation, the second, the third …, until a
//! run of the mix passes clean.
#![cfg(all(feature = "private-copy", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]
#![allow(clippy::print_stdout, reason = "says how much was swept")]

mod fault_sweep_support;

use std::sync::Arc;

use fault_sweep_support::{Round, Template, watched};
use rusqlite::ffi::{
    SQLITE_BUSY, SQLITE_BUSY_SNAPSHOT, SQLITE_FULL, SQLITE_INTERRUPT, SQLITE_IOERR_DIR_FSYNC,
    SQLITE_IOERR_FSYNC, SQLITE_IOERR_READ, SQLITE_IOERR_WRITE, SQLITE_NOMEM,
};
use turnwise::ErrorKind::{
    self, CommitOutcomeUnknown, DiskFull, FlushFailed, Internal, Interrupted, Io, LockTimeout,
    OutOfMemory, RolledBack,
};
use turnwise::classify::Journal::{self, Delete, Wal};
use turnwise::sqlite::{
    Durability, Fault,
    FaultEffect::{self, Done, Panicked, Refused},
    FaultPoint::{self, Begin, Checkpoint, Commit, Flush, Statement},
};
use turnwise::writer::{Rehearsal, rehearse};

/// Tries in a rehearsal: more than the faults that pass, fewer than those that last.
const TRIES: u32 = 10;
const LASTING: u32 = u32::MAX;

/// What SQLite may report, and what callers may then be told; nothing where the fault passes.
#[derive(Clone, Copy)]
struct Case {
    modes: &'static [Journal],
    point: FaultPoint,
    code: i32,
    effect: FaultEffect,
    times: &'static [u32],
    told: &'static [ErrorKind],
}

const BOTH: &[Journal] = &[Wal, Delete];
const ONCE_OR_LASTING: &[u32] = &[1, LASTING];
const PASSING: &[u32] = &[1, 3];
const UNDONE: FaultEffect = FaultEffect::RolledBack;

const fn case(
    modes: &'static [Journal],
    point: FaultPoint,
    code: i32,
    effect: FaultEffect,
    told: &'static [ErrorKind],
) -> Case {
    Case { modes, point, code, effect, times: ONCE_OR_LASTING, told }
}

const fn passing(case: Case) -> Case {
    Case { times: PASSING, told: &[], ..case }
}

const fn lasting(case: Case) -> Case {
    Case { times: &[LASTING], ..case }
}

/// Left out is what SQLite cannot do:
/// - BEGIN that fails has opened nothing, so there is nothing to roll back, and none is done.
/// - BUSY has no place in a statement behind BEGIN IMMEDIATE (a page that cannot be spilled stays in
///   memory), nor at COMMIT in WAL, where the writer's lock is all that COMMIT needs.
/// - `BUSY_SNAPSHOT` needs a transaction that has read before it writes; BEGIN IMMEDIATE turns it into
///   BUSY (`btreeBeginTrans`), which older versions did not.
/// - FULL and IOERR at COMMIT roll back (`OP_AutoCommit`); before COMMIT has begun its work only
///   NOMEM and INTERRUPT leave the transaction open.
/// - A statement that reports an error is undone. What cannot be fetched of the rows that it returns is
///   the exception: it has ended by then.
/// - In a delete journal an error before the journal is removed undoes the pages; what comes after it
///   is the sync of its folder.
const CASES: &[Case] = &[
    passing(case(BOTH, Begin, SQLITE_BUSY, Refused, &[])),
    passing(case(BOTH, Begin, SQLITE_BUSY_SNAPSHOT, Refused, &[])),
    lasting(case(BOTH, Begin, SQLITE_BUSY, Refused, &[LockTimeout])),
    // The journal of a writer that has crashed is rolled back here.
    case(BOTH, Begin, SQLITE_FULL, Refused, &[DiskFull]),
    case(BOTH, Begin, SQLITE_IOERR_READ, Refused, &[Io]),
    case(BOTH, Begin, SQLITE_IOERR_WRITE, Refused, &[Io]),
    case(BOTH, Begin, SQLITE_IOERR_FSYNC, Refused, &[Io]),
    case(BOTH, Begin, SQLITE_NOMEM, Refused, &[OutOfMemory]),
    case(BOTH, Statement, SQLITE_FULL, Refused, &[DiskFull]),
    case(BOTH, Statement, SQLITE_IOERR_READ, Refused, &[Io]),
    case(BOTH, Statement, SQLITE_NOMEM, Refused, &[OutOfMemory]),
    case(BOTH, Statement, SQLITE_FULL, UNDONE, &[DiskFull, RolledBack]),
    case(BOTH, Statement, SQLITE_IOERR_WRITE, UNDONE, &[Io, RolledBack]),
    case(BOTH, Statement, SQLITE_IOERR_FSYNC, UNDONE, &[Io, RolledBack]),
    case(BOTH, Statement, SQLITE_NOMEM, UNDONE, &[OutOfMemory, RolledBack]),
    case(BOTH, Statement, SQLITE_NOMEM, Done, &[OutOfMemory, RolledBack]),
    case(BOTH, Statement, 0, Panicked, &[Internal, RolledBack]),
    passing(case(&[Delete], Commit, SQLITE_BUSY, Refused, &[])),
    lasting(case(&[Delete], Commit, SQLITE_BUSY, Refused, &[LockTimeout])),
    case(BOTH, Commit, SQLITE_INTERRUPT, Refused, &[Interrupted]),
    case(&[Delete], Commit, SQLITE_NOMEM, Refused, &[OutOfMemory]),
    case(&[Delete], Commit, SQLITE_NOMEM, UNDONE, &[OutOfMemory]),
    case(&[Wal], Commit, SQLITE_NOMEM, Refused, &[CommitOutcomeUnknown]),
    case(&[Wal], Commit, SQLITE_NOMEM, UNDONE, &[CommitOutcomeUnknown]),
    case(&[Wal], Commit, SQLITE_NOMEM, Done, &[CommitOutcomeUnknown]),
    case(BOTH, Commit, SQLITE_FULL, UNDONE, &[DiskFull]),
    case(&[Delete], Commit, SQLITE_IOERR_WRITE, UNDONE, &[Io]),
    case(&[Delete], Commit, SQLITE_IOERR_FSYNC, UNDONE, &[Io]),
    case(&[Delete], Commit, SQLITE_IOERR_DIR_FSYNC, Done, &[CommitOutcomeUnknown]),
    case(&[Wal], Commit, SQLITE_IOERR_WRITE, UNDONE, &[CommitOutcomeUnknown]),
    case(&[Wal], Commit, SQLITE_IOERR_FSYNC, UNDONE, &[CommitOutcomeUnknown]),
    case(&[Wal], Commit, SQLITE_IOERR_FSYNC, Done, &[CommitOutcomeUnknown]),
    case(&[Wal], Flush, SQLITE_FULL, Refused, &[FlushFailed]),
    case(&[Wal], Flush, SQLITE_IOERR_FSYNC, Refused, &[FlushFailed]),
    case(&[Wal], Flush, SQLITE_NOMEM, Refused, &[FlushFailed]),
    case(&[Wal], Checkpoint, SQLITE_BUSY, Refused, &[]),
    case(&[Wal], Checkpoint, SQLITE_FULL, Refused, &[]),
    case(&[Wal], Checkpoint, SQLITE_IOERR_WRITE, Refused, &[]),
    case(&[Wal], Checkpoint, SQLITE_IOERR_FSYNC, Done, &[]),
    case(&[Wal], Checkpoint, SQLITE_NOMEM, Refused, &[]),
];

/// Sweeps one case over the mix; gives how many runs it struck.
fn sweep(template: &Arc<Template>, case: &'static Case, times: u32, act: fn(&Round)) -> u32 {
    let Case { point, code, effect, told, .. } = *case;
    for after in 0..1_000 {
        let fault = Fault { point, code, effect, after, times };
        let what = format!("{fault:?}");
        let template = Arc::clone(template);
        let clean = watched(&what.clone(), move || {
            let durability = if point == Flush { Durability::Pipelined } else { Durability::Full };
            let round = Round::open(&template, durability);
            round.writer.arm(fault).unwrap();
            act(&round);
            let unspent = round.writer.disarm() == 1;
            let errors = round.ledger.errors();
            assert!(errors.iter().all(|kind| told.contains(kind)), "{what}: {errors:?}");
            let stats = round.writer.stats();
            let checkpoint = if point == Checkpoint { stats.checkpoints } else { 1 };
            let clean = unspent && errors.is_empty() && stats.lock_retries == 0 && checkpoint > 0;
            round.check();
            clean
        });
        if clean {
            return after;
        }
    }
    panic!("no run has passed clean");
}

fn sweep_all(journal: Journal, points: &[FaultPoint]) {
    sweep_act(journal, points, Round::mix, |point| match point {
        Begin | Commit | Flush => 7,
        Statement => 15,
        Checkpoint => 1,
    });
}

/// Sweeps all cases over `act`, which has `least` operations of a kind at least.
fn sweep_act(
    journal: Journal,
    points: &[FaultPoint],
    act: fn(&Round),
    least: fn(FaultPoint) -> u32,
) {
    rehearse(Some(Rehearsal { max_attempts: TRIES, seed: 1 }));
    // Its log needs few frames more until a checkpoint is due.
    let template = Arc::new(Template::new(journal, 970));
    let cases = CASES.iter().filter(|case| points.contains(&case.point));
    let (mut strikes, mut rounds) = (0, 0);
    for case in cases.filter(|case| case.modes.contains(&journal)) {
        for &times in case.times {
            let struck = sweep(&template, case, times, act);
            let what = (case.point, case.code, case.effect, times);
            assert!(struck >= least(case.point), "{what:?} struck {struck} operations only");
            strikes += struck;
            rounds += struck + 1;
        }
    }
    println!("{} {points:?}: {strikes} faults struck in {rounds} rounds", journal.name());
}

#[test]
fn a_lock_that_is_not_to_be_had_in_wal() {
    sweep_all(Wal, &[Begin]);
}

#[test]
fn a_statement_that_fails_in_wal() {
    sweep_all(Wal, &[Statement]);
}

#[test]
fn a_commit_or_checkpoint_that_fails_in_wal() {
    sweep_all(Wal, &[Commit, Checkpoint]);
}

#[test]
fn a_sync_after_the_turn_that_fails() {
    sweep_all(Wal, &[Flush]);
}

#[test]
fn a_lock_that_is_not_to_be_had_in_a_delete_journal() {
    sweep_all(Delete, &[Begin]);
}

#[test]
fn a_statement_that_fails_in_a_delete_journal() {
    sweep_all(Delete, &[Statement]);
}

#[test]
fn a_commit_that_fails_in_a_delete_journal() {
    sweep_all(Delete, &[Commit]);
}

#[test]
fn a_fault_while_the_writer_closes() {
    for journal in [Wal, Delete] {
        sweep_act(journal, &[Begin, Statement, Commit], Round::closing, |point| match point {
            Begin => 2,
            Statement => 4,
            Commit | Checkpoint | Flush => 1,
        });
    }
}
