//! Rules of the application that win over the tables.

use super::{
    Conditions, ConstraintKind, Dialect, ErrorClass, Fate, Phase, RetryKind, Scope, Verdict,
    classify, code_text, group,
};
use crate::error::{Error, ErrorKind, Result};

/// A rule that wins over the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Override {
    /// Whose code it is.
    pub dialect: Dialect,
    /// The code. That of a group is also for the codes of the group, where no override for these
    /// exists: in SQLite a primary code (below 256), in PostgreSQL a class (ending with 000).
    pub code: i32,
    /// The phase; `None` for all.
    pub phase: Option<Phase>,
    /// What kind of trouble it is.
    pub class: ErrorClass,
    /// What has become of the transaction. What the driver observes still overrides it.
    pub fate: Fate,
    /// What may be done again.
    pub scope: Scope,
    /// How it is retried.
    pub retry: RetryKind,
    /// The constraint, if it is one.
    pub constraint: Option<ConstraintKind>,
}

/// The application's own rules, in order: the first that fits wins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overrides {
    rules: Vec<Override>,
}

impl Overrides {
    /// A checked list of rules.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidPolicy`] for a rule that contradicts itself: a commit in doubt that may
    /// be repeated without finding out, or a scope of never that is retried.
    pub fn new(rules: Vec<Override>) -> Result<Self> {
        for rule in &rules {
            let in_doubt = rule.fate == Fate::Unknown || rule.scope == Scope::Resolve;
            let settled = rule.scope != Scope::Resolve && rule.scope != Scope::Never;
            let wrong = if in_doubt && (settled || rule.retry != RetryKind::None) {
                "a commit in doubt needs scope resolve or never and retry none"
            } else if rule.scope == Scope::Commit && rule.dialect != Dialect::Sqlite {
                "only SQLite lets a COMMIT that failed be sent again"
            } else if rule.scope == Scope::Never && rule.retry != RetryKind::None {
                "scope never needs retry none"
            } else {
                continue;
            };
            return Err(Error::new(
                ErrorKind::InvalidPolicy,
                format!(
                    "override for {} code {}: fate {}, scope {} and retry {} contradict each \
                     other: {wrong}",
                    rule.dialect,
                    code_text(rule.dialect, rule.code),
                    rule.fate,
                    rule.scope,
                    rule.retry,
                ),
            ));
        }
        Ok(Self { rules })
    }

    /// Judges an error by these rules, and by the tables where none fits. The arguments are those
    /// of [`classify`](super::classify).
    pub fn classify(
        &self,
        dialect: Dialect,
        code: i32,
        phase: Phase,
        conditions: Conditions,
        in_transaction: Option<bool>,
    ) -> Verdict {
        let Some(rule) = self.find(dialect, code, phase) else {
            return classify(dialect, code, phase, conditions, in_transaction);
        };
        Verdict {
            rule: "override",
            dialect: Some(dialect),
            code,
            class: rule.class,
            fate: rule.fate,
            scope: rule.scope,
            retry: rule.retry,
            constraint: rule.constraint,
            why: "override: the application says so",
        }
        .observed(rule.fate, phase, conditions, in_transaction)
    }

    fn find(&self, dialect: Dialect, code: i32, phase: Phase) -> Option<&Override> {
        let find = |code| {
            self.rules.iter().find(|rule| {
                rule.dialect == dialect
                    && rule.code == code
                    && rule.phase.is_none_or(|wanted| wanted == phase)
            })
        };
        find(code).or_else(|| group(dialect, code).and_then(find))
    }
}
