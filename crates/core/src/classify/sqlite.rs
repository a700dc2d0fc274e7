//! The rules for SQLite's result codes.
//!
//! A row gives the reason and where it comes from: *measured* on SQLite 3.40.1 with real files and
//! processes, *source* of the 3.54.1 amalgamation, or SQLite's *documentation*.

use super::rule::{Rule, When};
use super::words::{ConstraintKind, ErrorClass, Fate, Phase, RetryKind, Scope};

const OPENING: &[Phase] = &[Phase::Connect, Phase::Begin];
const WORK: &[Phase] = &[Phase::Statement, Phase::Savepoint];
const COMMIT: &[Phase] = &[Phase::Commit];
const IN_TRANSACTION: &[Phase] = &[Phase::Statement, Phase::Savepoint, Phase::Commit];
const ANY: &[Phase] =
    &[Phase::Connect, Phase::Begin, Phase::Statement, Phase::Savepoint, Phase::Commit];

/// A row that is neither retried nor a constraint; the others change what differs.
const REFUSED: Rule = Rule {
    id: "",
    codes: &[],
    phases: ANY,
    when: When::Always,
    class: ErrorClass::Permanent,
    fate: Fate::Intact,
    fate_if_open: Fate::Intact,
    scope: Scope::Never,
    retry: RetryKind::None,
    constraint: None,
    why: "",
};

const fn constraint(id: &'static str, codes: &'static [i32], kind: ConstraintKind) -> Rule {
    Rule {
        id,
        codes,
        class: ErrorClass::Constraint,
        constraint: Some(kind),
        why: "measured: the statement is undone and the transaction goes on, also at COMMIT (a \
              deferred foreign key); OR ROLLBACK and RAISE(ROLLBACK) end it",
        ..REFUSED
    }
}

const fn commit_in_doubt(
    id: &'static str,
    codes: &'static [i32],
    phases: &'static [Phase],
    when: When,
    why: &'static str,
) -> Rule {
    Rule {
        id,
        codes,
        phases,
        when,
        class: ErrorClass::CommitUnknown,
        fate: Fate::Unknown,
        fate_if_open: Fate::Unknown,
        scope: Scope::Resolve,
        why,
        ..REFUSED
    }
}

/// BUSY and its two variants that mean the same: recovery by another process, and a blocking lock
/// that timed out.
const BUSY: &[i32] = &[5, 261, 773];
/// Errors of removing the journal, which is the moment of COMMIT in delete mode: DELETE,
/// `DELETE_NOENT`, `DIR_FSYNC`, CLOSE, `DIR_CLOSE`, UNLOCK.
const IOERR_AT_THE_END: &[i32] = &[2570, 5898, 1290, 4106, 4362, 2058];

/// Every rule for SQLite. The first row that fits is taken; see [`super::classify`].
pub const RULES: &[Rule] = &[
    Rule {
        id: "sqlite.busy.begin",
        codes: BUSY,
        phases: OPENING,
        class: ErrorClass::Contention,
        fate: Fate::None,
        scope: Scope::Statement,
        retry: RetryKind::Wait,
        why: "measured: BEGIN IMMEDIATE waits for the writer's lock and has opened nothing",
        ..REFUSED
    },
    Rule {
        id: "sqlite.busy.commit",
        codes: BUSY,
        phases: COMMIT,
        class: ErrorClass::Contention,
        scope: Scope::Commit,
        retry: RetryKind::Wait,
        why: "measured: a reader holds off COMMIT in a rollback journal; the transaction stays \
              open and the same COMMIT succeeds once the reader is done",
        ..REFUSED
    },
    Rule {
        id: "sqlite.busy.write_after_read",
        codes: BUSY,
        phases: WORK,
        when: When::WriteAfterRead,
        class: ErrorClass::SnapshotStale,
        fate: Fate::Stale,
        fate_if_open: Fate::Stale,
        scope: Scope::Transaction,
        retry: RetryKind::Redo,
        why: "measured: the upgrade of a reader is refused at once. In WAL the writer's COMMIT \
              makes the snapshot stale; in a rollback journal waiting with SHARED held starves it",
        ..REFUSED
    },
    Rule {
        id: "sqlite.busy.statement",
        codes: BUSY,
        phases: WORK,
        class: ErrorClass::Contention,
        scope: Scope::Statement,
        retry: RetryKind::Wait,
        why: "measured: the first write of a transaction that has not read can be tried again",
        ..REFUSED
    },
    Rule {
        id: "sqlite.busy_snapshot",
        codes: &[517],
        phases: IN_TRANSACTION,
        class: ErrorClass::SnapshotStale,
        fate: Fate::Stale,
        fate_if_open: Fate::Stale,
        scope: Scope::Transaction,
        retry: RetryKind::Redo,
        why: "measured: repeats for ever, because somebody committed after this transaction read",
        ..REFUSED
    },
    Rule {
        id: "sqlite.locked_sharedcache",
        codes: &[262],
        phases: &[Phase::Connect, Phase::Begin, Phase::Statement, Phase::Savepoint],
        class: ErrorClass::Contention,
        scope: Scope::Statement,
        retry: RetryKind::Wait,
        why: "measured: another connection of the shared cache; SQLite's busy handler is not called",
        ..REFUSED
    },
    Rule {
        id: "sqlite.locked",
        codes: &[6],
        why: "source: a conflict within one connection; waiting cannot end it",
        ..REFUSED
    },
    Rule {
        id: "sqlite.full",
        codes: &[13],
        class: ErrorClass::Resource,
        fate: Fate::Aborted,
        why: "measured: a full disk ends the transaction; so does max_page_count, unless SQLite kept \
              a statement journal, which it does not for one row. Only the autocommit flag tells",
        ..REFUSED
    },
    commit_in_doubt(
        "sqlite.ioerr.commit_end",
        IOERR_AT_THE_END,
        COMMIT,
        When::Always,
        "measured for DIR_FSYNC, source (pager_end_transaction) for the others: the journal is gone, \
         and with it the way back; the rows were there though SQLite said rolled back",
    ),
    commit_in_doubt(
        "sqlite.ioerr.commit",
        &[10],
        COMMIT,
        When::CommitPointUnclear,
        "measured in WAL, truncate and persist: after IOERR_FSYNC the rows were there though SQLite \
         said rolled back, because the failing sync came after the write that commits",
    ),
    commit_in_doubt(
        "sqlite.ioerr.autocommit_end",
        IOERR_AT_THE_END,
        &[Phase::Statement],
        When::AutocommitWrite,
        "source: a write outside a transaction is its own COMMIT",
    ),
    commit_in_doubt(
        "sqlite.ioerr.autocommit",
        &[10],
        &[Phase::Statement],
        When::AutocommitWriteCommitPointUnclear,
        "source: a write outside a transaction is its own COMMIT",
    ),
    commit_in_doubt(
        "sqlite.nomem.commit",
        &[7],
        COMMIT,
        When::CommitPointUnclear,
        "measured in WAL: without memory for the log's index after the frames were written, SQLite says \
         rolled back, and a crash brings the rows back",
    ),
    commit_in_doubt(
        "sqlite.nomem.autocommit",
        &[7],
        &[Phase::Statement],
        When::AutocommitWriteCommitPointUnclear,
        "source: a write outside a transaction is its own COMMIT",
    ),
    Rule {
        id: "sqlite.ioerr",
        codes: &[10],
        class: ErrorClass::Resource,
        fate: Fate::Aborted,
        fate_if_open: Fate::Aborted,
        why: "measured: rolled back by SQLite, also at COMMIT in a delete journal; \
              documentation: where it was not, ROLLBACK is the advice",
        ..REFUSED
    },
    Rule {
        id: "sqlite.interrupt.read",
        codes: &[9],
        phases: WORK,
        when: When::Read,
        class: ErrorClass::Cancelled,
        scope: Scope::Statement,
        why: "measured: an interrupted SELECT leaves the transaction alone. Not retried by itself: \
              somebody wanted it to stop",
        ..REFUSED
    },
    Rule {
        id: "sqlite.interrupt.write",
        codes: &[9],
        phases: WORK,
        class: ErrorClass::Cancelled,
        fate: Fate::RolledBack,
        scope: Scope::Transaction,
        why: "measured: an interrupted INSERT, UPDATE or DELETE ends the transaction, and the next \
              statement would commit by itself",
        ..REFUSED
    },
    Rule {
        id: "sqlite.interrupt",
        codes: &[9],
        class: ErrorClass::Cancelled,
        fate: Fate::Aborted,
        scope: Scope::Transaction,
        why: "source: COMMIT counts as reading, so an interrupt before its work leaves it undone",
        ..REFUSED
    },
    Rule {
        id: "sqlite.nomem",
        codes: &[7],
        class: ErrorClass::Resource,
        fate: Fate::Aborted,
        fate_if_open: Fate::Aborted,
        why: "documentation: may end the transaction; ROLLBACK is the advice where it did not",
        ..REFUSED
    },
    Rule {
        id: "sqlite.broken_file",
        codes: &[11, 26],
        fate: Fate::Aborted,
        fate_if_open: Fate::Aborted,
        why: "documentation: CORRUPT and NOTADB stay as they are; nothing more should be written",
        ..REFUSED
    },
    Rule {
        id: "sqlite.protocol",
        codes: &[15],
        class: ErrorClass::Contention,
        scope: Scope::Statement,
        retry: RetryKind::Redo,
        why: "source: lost 100 races for a WAL lock in a row; SQLite has waited up to 10 s, so it \
              is worth a few tries, not a long wait",
        ..REFUSED
    },
    Rule {
        id: "sqlite.schema",
        codes: &[17],
        class: ErrorClass::Schema,
        scope: Scope::Statement,
        retry: RetryKind::Redo,
        why: "source: the schema changed while the statement was prepared again and again",
        ..REFUSED
    },
    Rule {
        id: "sqlite.readonly_dbmoved",
        codes: &[1032],
        class: ErrorClass::ReadOnly,
        fate: Fate::Aborted,
        scope: Scope::Connection,
        why: "measured: the file was moved or deleted. Opening again may find another file, so \
              nobody but the application can decide to",
        ..REFUSED
    },
    Rule {
        id: "sqlite.readonly",
        codes: &[8],
        class: ErrorClass::ReadOnly,
        fate: Fate::Aborted,
        why: "measured: refused before anything was changed, unless SQLite says otherwise",
        ..REFUSED
    },
    Rule {
        id: "sqlite.cantopen",
        codes: &[14],
        fate: Fate::Aborted,
        why: "measured: the file, its journal or its directory cannot be opened",
        ..REFUSED
    },
    Rule {
        id: "sqlite.abort_rollback",
        codes: &[516],
        phases: IN_TRANSACTION,
        class: ErrorClass::Symptom,
        fate: Fate::RolledBack,
        scope: Scope::Transaction,
        retry: RetryKind::Redo,
        why: "source: the transaction was rolled back under a running SELECT",
        ..REFUSED
    },
    Rule {
        id: "sqlite.abort",
        codes: &[4],
        class: ErrorClass::Cancelled,
        fate: Fate::Aborted,
        why: "documentation: a callback of the application asked to stop",
        ..REFUSED
    },
    constraint("sqlite.constraint.unique", &[2067, 1555, 2579], ConstraintKind::Unique),
    constraint("sqlite.constraint.foreign_key", &[787], ConstraintKind::ForeignKey),
    constraint("sqlite.constraint.not_null", &[1299], ConstraintKind::NotNull),
    constraint("sqlite.constraint.check", &[275], ConstraintKind::Check),
    Rule {
        id: "sqlite.constraint.commit_hook",
        codes: &[531],
        class: ErrorClass::Constraint,
        fate: Fate::RolledBack,
        why: "documentation: a commit hook turned COMMIT into ROLLBACK",
        ..REFUSED
    },
    Rule {
        id: "sqlite.constraint",
        codes: &[19],
        class: ErrorClass::Constraint,
        why: "documentation: a trigger, a type of a STRICT table, a virtual table; the statement \
              is undone unless it said ROLLBACK",
        ..REFUSED
    },
    Rule {
        id: "sqlite.no_transaction",
        codes: &[1],
        phases: &[Phase::Commit, Phase::Rollback],
        class: ErrorClass::Symptom,
        fate: Fate::None,
        fate_if_open: Fate::Aborted,
        why: "source: COMMIT or ROLLBACK found no transaction; an earlier error has ended it",
        ..REFUSED
    },
    Rule {
        id: "sqlite.refused",
        codes: &[1, 3, 18, 20, 21, 23, 25],
        why: "source: ERROR, PERM, TOOBIG, MISMATCH, MISUSE, AUTH and RANGE undo the statement; \
              only FULL, IOERR, NOMEM and INTERRUPT can end the transaction",
        ..REFUSED
    },
];
