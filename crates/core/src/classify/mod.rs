//! What an error means: its class, the transaction's fate, and what may be retried.
//!
//! The code alone does not tell the fate, so the phase, a few conditions and the transaction state
//! that the driver observes go in as well. Nothing here looks at message texts.
//!
//! Only SQLite has a table. For the other dialects every code gets the default verdict.

mod overrides;
mod rule;
pub mod sqlite;
mod words;

pub use overrides::{Override, Overrides};
pub use rule::{Rule, When};
pub use words::{ConstraintKind, Dialect, ErrorClass, Fate, Journal, Phase, RetryKind, Scope};

use rule::Outcome;

/// What the caller knows beside code and phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conditions {
    /// The journal mode (SQLite); `None` where it is not known. A connection with
    /// `locking_mode=EXCLUSIVE` commits a delete journal as [`Journal::Persist`] does.
    pub journal: Option<Journal>,
    /// The transaction had read before this statement, and had not yet written.
    pub has_read: bool,
    /// The statement only reads.
    pub is_read: bool,
    /// A transaction was open when the statement began; `None` is taken as open.
    pub was_in_transaction: Option<bool>,
}

/// What an error means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Verdict {
    /// The rule that decided: an id of the table, `"override"`, or `"default.…"`.
    pub rule: &'static str,
    /// The code that was judged.
    pub code: i32,
    /// What kind of trouble it is.
    pub class: ErrorClass,
    /// What has become of the transaction.
    pub fate: Fate,
    /// What may be done again.
    pub scope: Scope,
    /// How it is retried.
    pub retry: RetryKind,
    /// The constraint, if it was one.
    pub constraint: Option<ConstraintKind>,
}

impl Verdict {
    /// A verdict that did not come from [`classify`]: of an application's own error, or in a test.
    pub const fn new(class: ErrorClass, fate: Fate, scope: Scope, retry: RetryKind) -> Self {
        Self { rule: "own", code: 0, class, fate, scope, retry, constraint: None }
    }

    /// Whether the work may be done again without asking anybody.
    pub fn is_retryable(&self) -> bool {
        self.retry != RetryKind::None && !self.is_in_doubt() && self.scope != Scope::Never
    }

    /// Whether COMMIT may or may not have taken effect.
    pub fn is_in_doubt(&self) -> bool {
        self.fate == Fate::Unknown || self.scope == Scope::Resolve
    }
}

/// Judges an error by the tables alone.
///
/// `in_transaction` is what the driver reports *after* the error (`sqlite3_get_autocommit` is 0,
/// Python's `connection.in_transaction`); `None` where it cannot be asked. It overrides the table,
/// but never lifts [`Fate::Unknown`], and in MySQL, MariaDB and PostgreSQL an open transaction does
/// not prove [`Fate::Intact`].
///
/// SQLite's rules are searched for the extended code first, then for `code & 0xff`, each time in
/// the order of [`sqlite::RULES`]. A code without a rule gets a default verdict:
///
/// | phase | fate | scope |
/// |---|---|---|
/// | connect, begin | none | never |
/// | statement, savepoint | aborted: roll back | never |
/// | commit | unknown | resolve |
/// | rollback | aborted | connection: discard it |
///
/// ```
/// use turnwise::classify::{classify, Conditions, Dialect, Fate, Phase, RetryKind, Scope};
///
/// // SQLITE_BUSY at COMMIT, and the autocommit flag says that the transaction is still open.
/// let verdict =
///     classify(Dialect::Sqlite, 5, Phase::Commit, Conditions::default(), Some(true));
/// assert_eq!(verdict.fate, Fate::Intact);
/// assert_eq!(verdict.scope, Scope::Commit);
/// assert_eq!(verdict.retry, RetryKind::Wait);
/// ```
pub fn classify(
    dialect: Dialect,
    code: i32,
    phase: Phase,
    conditions: Conditions,
    in_transaction: Option<bool>,
) -> Verdict {
    let rule = match dialect {
        Dialect::Sqlite => look_up(sqlite::RULES, code, phase, conditions),
        Dialect::Postgresql | Dialect::Mysql | Dialect::Mariadb => None,
    };
    match rule {
        Some(rule) => {
            let outcome = Outcome { fate: rule.fate, scope: rule.scope, retry: rule.retry }
                .observed(rule.fate_if_open, phase, conditions, in_transaction);
            Verdict {
                rule: rule.id,
                code,
                class: rule.class,
                fate: outcome.fate,
                scope: outcome.scope,
                retry: outcome.retry,
                constraint: rule.constraint,
            }
        }
        None => unlisted(code, phase, conditions, in_transaction),
    }
}

fn look_up(
    rules: &'static [Rule],
    code: i32,
    phase: Phase,
    conditions: Conditions,
) -> Option<&'static Rule> {
    let find = |code| rules.iter().find(|rule| rule.fits(code, phase, conditions));
    find(code).or_else(|| find(code & 0xff))
}

fn unlisted(
    code: i32,
    phase: Phase,
    conditions: Conditions,
    in_transaction: Option<bool>,
) -> Verdict {
    let (rule, fate, scope) = match phase {
        Phase::Connect | Phase::Begin => ("default.begin", Fate::None, Scope::Never),
        Phase::Statement | Phase::Savepoint => ("default.statement", Fate::Aborted, Scope::Never),
        Phase::Commit => ("default.commit", Fate::Unknown, Scope::Resolve),
        Phase::Rollback => ("default.rollback", Fate::Aborted, Scope::Connection),
    };
    let outcome = Outcome { fate, scope, retry: RetryKind::None }.observed(
        Fate::Aborted,
        phase,
        conditions,
        in_transaction,
    );
    Verdict {
        rule,
        code,
        class: ErrorClass::Unlisted,
        fate: outcome.fate,
        scope: outcome.scope,
        retry: outcome.retry,
        constraint: None,
    }
}

/// Packs a SQLSTATE of five digits and capital letters into a number, as PostgreSQL does itself
/// (`MAKE_SQLSTATE`: six bits a character, the first lowest). `None` for any other text.
pub fn sqlstate(text: &str) -> Option<i32> {
    if text.len() != 5 {
        return None;
    }
    text.bytes().rev().try_fold(0, |packed, byte| match byte {
        b'0'..=b'9' | b'A'..=b'Z' => Some(packed << 6 | i32::from(byte - b'0')),
        _ => None,
    })
}
