//! One row of the table, and how observation changes it.

use super::Conditions;
use super::words::{ConstraintKind, Dialect, ErrorClass, Fate, Journal, Phase, RetryKind, Scope};
use crate::numbered::numbered;

numbered! {
    /// A condition beside code and phase.
    #[non_exhaustive]
    pub enum When {
        /// None.
        Always = 0, "always";
        /// The statement only reads.
        Read = 1, "read";
        /// The statement writes, and its transaction has read before.
        WriteAfterRead = 2, "write_after_read";
        /// A failing COMMIT may have taken effect: any journal but delete and memory, or not known.
        CommitPointUnclear = 3, "commit_point_unclear";
        /// The statement writes outside a transaction, and so commits by itself.
        AutocommitWrite = 4, "autocommit_write";
        /// Both of the above.
        AutocommitWriteCommitPointUnclear = 5, "autocommit_write_commit_point_unclear";
        /// The transaction has read before.
        AfterRead = 6, "after_read";
        /// The statement changes the schema.
        Ddl = 7, "ddl";
        /// The statement asks for a user lock (`GET_LOCK`).
        UserLock = 8, "user_lock";
        /// The transaction was declared READ ONLY.
        ReadOnlyTransaction = 9, "read_only_transaction";
        /// The server runs with `innodb_rollback_on_timeout`.
        RollsBackOnTimeout = 10, "rolls_back_on_timeout";
    }
}

impl When {
    fn holds(self, conditions: Conditions) -> bool {
        let unclear = !matches!(conditions.journal, Some(Journal::Delete | Journal::Memory));
        let own_commit = conditions.was_in_transaction == Some(false) && !conditions.is_read;
        match self {
            Self::Always => true,
            Self::Read => conditions.is_read,
            Self::WriteAfterRead => conditions.has_read && !conditions.is_read,
            Self::CommitPointUnclear => unclear,
            Self::AutocommitWrite => own_commit,
            Self::AutocommitWriteCommitPointUnclear => own_commit && unclear,
            Self::AfterRead => conditions.has_read,
            Self::Ddl => conditions.is_ddl,
            Self::UserLock => conditions.is_user_lock,
            Self::ReadOnlyTransaction => conditions.is_read_only,
            Self::RollsBackOnTimeout => conditions.rolls_back_on_timeout,
        }
    }
}

/// One row of a table of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rule {
    /// A name that never changes.
    pub id: &'static str,
    /// The codes it is for. The code of a group is also for the codes of the group, where no rule
    /// for these fits: in SQLite a primary code (below 256) for its extended codes, in PostgreSQL
    /// a class (ending with 000) for its members. 0 stands for a connection that was lost without
    /// a code.
    pub codes: &'static [i32],
    /// The phases it is for.
    pub phases: &'static [Phase],
    /// What else must hold.
    pub when: When,
    /// The SQLSTATE that must come with the code, where another one means another thing.
    pub sqlstate: Option<i32>,
    /// What kind of trouble it is.
    pub class: ErrorClass,
    /// What has become of the transaction, if nobody looked.
    pub fate: Fate,
    /// The same, if the driver still sees a transaction.
    pub fate_if_open: Fate,
    /// What may be done again.
    pub scope: Scope,
    /// How it is retried.
    pub retry: RetryKind,
    /// The constraint, if it was one.
    pub constraint: Option<ConstraintKind>,
    /// The reason, and where it comes from.
    pub why: &'static str,
}

impl Rule {
    pub(super) fn fits(&self, code: i32, phase: Phase, conditions: Conditions) -> bool {
        self.codes.contains(&code)
            && self.phases.contains(&phase)
            && self.when.holds(conditions)
            && self.sqlstate.is_none_or(|wanted| conditions.sqlstate == Some(wanted))
    }

    /// Whether it tells of an answer, so that the connection outlived the error.
    pub(super) fn needs_connection(&self) -> bool {
        matches!(
            self.fate,
            Fate::Intact
                | Fate::Stale
                | Fate::Aborted
                | Fate::RolledBack
                | Fate::ImplicitlyCommitted
        )
    }
}

/// Fate, scope and kind of retry, after what the driver sees has been taken into account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) fate: Fate,
    pub(super) scope: Scope,
    pub(super) retry: RetryKind,
}

impl Outcome {
    /// Applies the observed transaction state, which overrides the table, with these limits:
    ///
    /// - A commit in doubt stays in doubt, because the connection does not know either.
    /// - MySQL and MariaDB send no state with an error, so what the driver holds is older; and
    ///   MariaDB has been seen to say "open" after it had undone earlier rows. Only "not open" counts.
    /// - In PostgreSQL an error always ends the transaction: `fate_if_open` is never intact.
    pub(super) fn observed(
        self,
        dialect: Dialect,
        fate_if_open: Fate,
        phase: Phase,
        conditions: Conditions,
        in_transaction: Option<bool>,
    ) -> Self {
        if self.fate == Fate::Unknown {
            return self;
        }
        let opening = matches!(phase, Phase::Connect | Phase::Begin);
        let autocommit = phase == Phase::Statement && conditions.was_in_transaction == Some(false);
        match in_transaction {
            Some(true) if !is_mysql(dialect) => Self { fate: fate_if_open, ..self },
            _ if opening || autocommit => self.without_transaction(),
            Some(false) => match self.fate {
                Fate::Intact | Fate::Stale | Fate::Aborted | Fate::RolledBack => self.rolled_back(),
                // These say already that, and how, the transaction ended.
                Fate::None | Fate::ImplicitlyCommitted | Fate::LostBeforeCommit | Fate::Unknown => {
                    self
                }
            },
            // PostgreSQL answers COMMIT with an error only after it has rolled back.
            None if dialect == Dialect::Postgresql
                && phase == Phase::Commit
                && self.fate == Fate::Aborted =>
            {
                self.rolled_back()
            }
            Some(true) | None => self,
        }
    }

    /// DDL of MySQL and MariaDB commits the transaction before it does anything, but after it was
    /// parsed.
    pub(super) fn after_ddl(self, class: ErrorClass) -> Self {
        let (fate, scope) = match (self.fate, class) {
            (_, ErrorClass::Permanent | ErrorClass::ReadOnly) => return self,
            (Fate::LostBeforeCommit, _) => (Fate::Unknown, Scope::Resolve),
            (Fate::Intact | Fate::Stale | Fate::Aborted | Fate::RolledBack, _) => {
                (Fate::ImplicitlyCommitted, Scope::Never)
            }
            _ => return self,
        };
        Self { fate, scope, retry: RetryKind::None }
    }

    /// Nothing was open before: the statement is the whole unit of work.
    fn without_transaction(self) -> Self {
        let scope = match self.scope {
            Scope::Savepoint | Scope::Commit | Scope::Transaction => Scope::Statement,
            other => other,
        };
        Self { fate: Fate::None, scope, ..self }
    }

    /// The transaction is gone, so no part of it can be repeated alone; and what was a poll for a
    /// lock becomes work done again.
    fn rolled_back(self) -> Self {
        let scope = match self.scope {
            Scope::Statement | Scope::Savepoint | Scope::Commit => Scope::Transaction,
            other => other,
        };
        let retry = match self.retry {
            RetryKind::Wait => RetryKind::Redo,
            other => other,
        };
        Self { fate: Fate::RolledBack, scope, retry }
    }
}

pub(super) fn is_mysql(dialect: Dialect) -> bool {
    matches!(dialect, Dialect::Mysql | Dialect::Mariadb)
}
