//! What an error means: its class, the transaction's fate, and what may be retried.
//!
//! The code alone does not tell the fate, so the phase, a few conditions and the transaction state
//! that the driver observes go in as well. The rules are in `crates/core/rules.json`. Messages are
//! looked at in two places only, both for the caller to use: [`recognize`], where a driver gives no
//! code, and [`Constraint::read`], where it gives no names.

mod constraint;
mod overrides;
mod rule;
mod sqlstate;
mod table;
mod texts;
mod words;

pub use constraint::Constraint;
pub use overrides::{Override, Overrides};
pub use rule::{Rule, When};
pub use sqlstate::{code_text, sqlstate, sqlstate_text};
pub use texts::recognize;
pub use words::{ConstraintKind, Dialect, ErrorClass, Fate, Journal, Phase, RetryKind, Scope};

use rule::{Outcome, is_mysql};

/// What the caller knows beside code and phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
// Independent facts, each with its own source.
#[allow(clippy::struct_excessive_bools)]
pub struct Conditions {
    /// The journal mode (SQLite); `None` where it is not known. A connection with
    /// `locking_mode=EXCLUSIVE` commits a delete journal as [`Journal::Persist`] does.
    pub journal: Option<Journal>,
    /// The transaction had read before this statement, and had not yet written.
    pub has_read: bool,
    /// The statement only reads.
    pub is_read: bool,
    /// A transaction was open when the statement began, or began with it (autocommit is off);
    /// `None` is taken as open.
    pub was_in_transaction: Option<bool>,
    /// The statement changes the schema, which commits in MySQL and MariaDB.
    pub is_ddl: bool,
    /// The statement asks for a user lock: `GET_LOCK` of MariaDB.
    pub is_user_lock: bool,
    /// The transaction was declared READ ONLY.
    pub is_read_only: bool,
    /// The server runs with `innodb_rollback_on_timeout` (MySQL, MariaDB).
    pub rolls_back_on_timeout: bool,
    /// The driver says that the connection is gone.
    pub is_lost: bool,
    /// The SQLSTATE that came with an error number (MySQL, MariaDB), packed by [`sqlstate()`].
    pub sqlstate: Option<i32>,
}

/// What an error means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Verdict {
    /// The rule that decided: an id of the table, `"override"`, or `"default.…"`.
    pub rule: &'static str,
    /// Whose error it is; `None` if it is not one of a database.
    pub dialect: Option<Dialect>,
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
    /// The reason, and where it comes from.
    pub why: &'static str,
}

impl Verdict {
    /// A verdict that did not come from [`classify`]: of an application's own error, or in a test.
    pub const fn new(class: ErrorClass, fate: Fate, scope: Scope, retry: RetryKind) -> Self {
        Self {
            rule: "own",
            dialect: None,
            code: 0,
            class,
            fate,
            scope,
            retry,
            constraint: None,
            why: "own: the application says so",
        }
    }

    /// The verdict on an error that is not one of a database.
    pub const fn foreign() -> Self {
        Self {
            rule: "default.foreign",
            why: "default: no database has said this, so the transaction is as it was",
            ..Self::new(ErrorClass::Unlisted, Fate::Intact, Scope::Never, RetryKind::None)
        }
    }

    /// Whether the work may be done again without asking anybody.
    pub fn is_retryable(&self) -> bool {
        self.retry != RetryKind::None && !self.is_in_doubt() && self.scope != Scope::Never
    }

    /// Whether COMMIT may or may not have taken effect.
    pub fn is_in_doubt(&self) -> bool {
        self.fate == Fate::Unknown || self.scope == Scope::Resolve
    }

    fn observed(
        self,
        fate_if_open: Fate,
        phase: Phase,
        conditions: Conditions,
        in_transaction: Option<bool>,
    ) -> Self {
        let Some(dialect) = self.dialect else { return self };
        let table = Outcome { fate: self.fate, scope: self.scope, retry: self.retry };
        let mut seen = table.observed(dialect, fate_if_open, phase, conditions, in_transaction);
        if conditions.is_ddl && phase == Phase::Statement && is_mysql(dialect) {
            seen = seen.after_ddl(self.class);
        }
        Self { fate: seen.fate, scope: seen.scope, retry: seen.retry, ..self }
    }
}

/// Judges an error by the tables alone.
///
/// `code` is the extended code (SQLite), the packed SQLSTATE (PostgreSQL) or the error number, and 0
/// where the driver gives none. `in_transaction` is what the driver reports *after* the error
/// (`sqlite3_get_autocommit` is 0, Python's `connection.in_transaction`); `None` where it cannot be
/// asked. It overrides the table, but never lifts [`Fate::Unknown`]; in MySQL and MariaDB an open
/// transaction proves nothing, and in PostgreSQL it is an aborted one.
///
/// The first of [`rules`] that fits is taken: for the code, then for its group. If the connection
/// [is lost](Conditions::is_lost), a rule that counts on it gives way to that of code 0. A code
/// without a rule gets a default verdict:
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
    match look_up(dialect, code, phase, conditions) {
        Some(rule) => Verdict {
            rule: rule.id,
            dialect: Some(dialect),
            code,
            class: rule.class,
            fate: rule.fate,
            scope: rule.scope,
            retry: rule.retry,
            constraint: rule.constraint,
            why: rule.why,
        }
        .observed(rule.fate_if_open, phase, conditions, in_transaction),
        None => unlisted(dialect, code, phase).observed(
            Fate::Aborted,
            phase,
            conditions,
            in_transaction,
        ),
    }
}

/// Every rule for a dialect, in the order in which they are tried.
pub const fn rules(dialect: Dialect) -> &'static [Rule] {
    match dialect {
        Dialect::Sqlite => table::SQLITE,
        Dialect::Postgresql => table::POSTGRESQL,
        Dialect::Mysql => table::MYSQL,
        Dialect::Mariadb => table::MARIADB,
    }
}

/// The code of the group that a code belongs to, if it is not that itself.
fn group(dialect: Dialect, code: i32) -> Option<i32> {
    let group = match dialect {
        Dialect::Sqlite => code & 0xff,
        // ERRCODE_TO_CATEGORY: the first two characters.
        Dialect::Postgresql => code & 0xfff,
        Dialect::Mysql | Dialect::Mariadb => return None,
    };
    (group != code && group != 0).then_some(group)
}

fn look_up(
    dialect: Dialect,
    code: i32,
    phase: Phase,
    conditions: Conditions,
) -> Option<&'static Rule> {
    let find = |code| rules(dialect).iter().find(|rule| rule.fits(code, phase, conditions));
    let listed = match code {
        0 => None,
        code => find(code).or_else(|| group(dialect, code).and_then(find)),
    };
    if conditions.is_lost && listed.is_none_or(Rule::needs_connection) {
        find(0).or(listed)
    } else {
        listed
    }
}

fn unlisted(dialect: Dialect, code: i32, phase: Phase) -> Verdict {
    let (rule, fate, scope, why) = match phase {
        Phase::Connect | Phase::Begin => {
            ("default.begin", Fate::None, Scope::Never, "default: nothing has begun")
        }
        Phase::Statement | Phase::Savepoint => (
            "default.statement",
            Fate::Aborted,
            Scope::Never,
            "default: ROLLBACK is right whatever the error has done",
        ),
        Phase::Commit => (
            "default.commit",
            Fate::Unknown,
            Scope::Resolve,
            "default: nothing is known of a COMMIT that fails so",
        ),
        Phase::Rollback => (
            "default.rollback",
            Fate::Aborted,
            Scope::Connection,
            "default: a connection that cannot roll back is of no more use",
        ),
    };
    Verdict {
        rule,
        dialect: Some(dialect),
        code,
        why,
        ..Verdict::new(ErrorClass::Unlisted, fate, scope, RetryKind::None)
    }
}
