//! One row of the table, and how observation changes it.

use super::Conditions;
use super::words::{ConstraintKind, ErrorClass, Fate, Journal, Phase, RetryKind, Scope};

/// A condition beside code and phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum When {
    /// None.
    Always,
    /// The statement only reads.
    Read,
    /// The statement writes, and its transaction has read before.
    WriteAfterRead,
    /// A failing COMMIT may have taken effect: any journal but delete and memory, or not known.
    CommitPointUnclear,
    /// The statement writes outside a transaction, and so commits by itself.
    AutocommitWrite,
    /// Both of the above.
    AutocommitWriteCommitPointUnclear,
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
        }
    }
}

/// One row of a table of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rule {
    /// A name that never changes.
    pub id: &'static str,
    /// The codes it is for. A primary code (below 256) is also for its extended codes, where no
    /// rule for these fits.
    pub codes: &'static [i32],
    /// The phases it is for.
    pub phases: &'static [Phase],
    /// What else must hold.
    pub when: When,
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
        self.codes.contains(&code) && self.phases.contains(&phase) && self.when.holds(conditions)
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
    /// Applies the observed transaction state, which overrides the table, with one limit:
    /// a commit in doubt stays in doubt, because the connection does not know either.
    pub(super) fn observed(
        self,
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
            Some(true) => Self { fate: fate_if_open, ..self },
            _ if opening || autocommit => self.without_transaction(),
            None => self,
            Some(false) => match self.fate {
                Fate::Intact | Fate::Stale | Fate::Aborted | Fate::RolledBack => self.rolled_back(),
                // These say already that, and how, the transaction ended.
                Fate::None | Fate::ImplicitlyCommitted | Fate::LostBeforeCommit | Fate::Unknown => {
                    self
                }
            },
        }
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
