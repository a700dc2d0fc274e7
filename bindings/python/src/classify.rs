//! What an error means.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use turnwise::classify::{self, Conditions, ConstraintKind, Dialect, Journal, Overrides, Phase};
use turnwise::event;

use crate::error::to_py_err;
use crate::verdict::{Code, Constraint, Override, Verdict, packed};
use crate::words::named;

/// Judges an error by its code, the phase and what is known of the transaction.
///
/// - `code`: SQLite's extended code, PostgreSQL's SQLSTATE (as text or number), the error number;
///   `None` or 0 where the driver gives none.
/// - `phase`: `"connect"`, `"begin"`, `"statement"`, `"savepoint"`, `"commit"` or `"rollback"`.
/// - `in_transaction`: what the driver reports *after* the error; `None` if it was not asked. It
///   overrides the table, but never lifts a commit in doubt. In MySQL and MariaDB `True` proves
///   nothing, in PostgreSQL it means aborted.
/// - `was_in_transaction`: a transaction was open when the statement began, or began with it;
///   `None` is taken as open.
/// - `has_read`: the transaction had read, and not yet written. `is_read`: the statement only
///   reads. `is_ddl`: it changes the schema. `is_user_lock`: it asks for one (`GET_LOCK`).
/// - `is_read_only`: the transaction was declared READ ONLY.
/// - `is_lost`: the driver says that the connection is gone.
/// - `journal`: SQLite's journal mode, `None` if it is not known.
/// - `rolls_back_on_timeout`: the server runs with `innodb_rollback_on_timeout`.
/// - `sqlstate`: the one that came with an error number (MySQL, MariaDB).
/// - `message`: the database's own words, read where a driver gives no code (the start of SQLite's,
///   a few of PostgreSQL's in English) and for the names of a constraint. Not kept.
/// - `overrides`: rules that win over the table; the first that fits.
///
/// Raises `ValueError` for a word that it does not know.
#[pyfunction]
#[pyo3(signature = (
    dialect,
    code,
    *,
    phase = "statement",
    in_transaction = None,
    was_in_transaction = None,
    has_read = false,
    is_read = false,
    is_ddl = false,
    is_user_lock = false,
    is_read_only = false,
    is_lost = false,
    journal = None,
    rolls_back_on_timeout = false,
    sqlstate = None,
    message = None,
    overrides = Vec::new(),
))]
// One argument for each thing that a verdict depends on, all but two of them keyword-only.
#[allow(clippy::too_many_arguments, clippy::fn_params_excessive_bools)]
pub(crate) fn classify_code(
    dialect: &str,
    code: Option<Code>,
    phase: &str,
    in_transaction: Option<bool>,
    was_in_transaction: Option<bool>,
    has_read: bool,
    is_read: bool,
    is_ddl: bool,
    is_user_lock: bool,
    is_read_only: bool,
    is_lost: bool,
    journal: Option<&str>,
    rolls_back_on_timeout: bool,
    sqlstate: Option<&str>,
    message: Option<&str>,
    overrides: Vec<Override>,
) -> PyResult<Verdict> {
    let dialect = named!(Dialect, "dialect", dialect)?;
    let phase = named!(Phase, "phase", phase)?;
    let code = code.map_or(Ok(0), |code| code.number(dialect))?;
    let conditions = Conditions {
        journal: journal.map(|name| named!(Journal, "journal", name)).transpose()?,
        has_read,
        is_read,
        was_in_transaction,
        is_ddl,
        is_user_lock,
        is_read_only,
        rolls_back_on_timeout,
        is_lost,
        sqlstate: sqlstate.map(|text| packed("sqlstate", text)).transpose()?,
    };
    let overrides = Overrides::new(overrides.into_iter().map(|rule| rule.inner).collect())
        .map_err(to_py_err)?;
    let judged = message.map_or(code, |text| classify::recognize(dialect, code, text));
    let mut inner = overrides.classify(dialect, judged, phase, conditions, in_transaction);
    inner.code = code;
    let constraint = inner.constraint.map(|kind| Constraint {
        inner: message.map_or(classify::Constraint::new(kind), |text| {
            classify::Constraint::read(dialect, kind, text)
        }),
    });
    let sqlstate = match dialect {
        Dialect::Postgresql if code != 0 => classify::sqlstate_text(code),
        _ => sqlstate.map(ToOwned::to_owned),
    };
    Ok(Verdict { inner, sqlstate, constraint })
}

/// Every rule, in the order in which they are tried; a dialect's in one piece.
///
/// Each is a dict with `dialect`, `id`, `codes` (PostgreSQL: SQLSTATE), `phases`, `when`,
/// `sqlstate`, `class_`, `fate`, `fate_if_open`, `scope`, `retry`, `constraint` and `why`. Code 0 is
/// a connection that was lost without a code.
#[pyfunction]
#[pyo3(signature = () -> "list[dict[str, object]]")]
pub(crate) fn rules(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let list = PyList::empty(py);
    for &dialect in Dialect::ALL {
        for rule in classify::rules(dialect) {
            let row = PyDict::new(py);
            row.set_item("dialect", dialect.name())?;
            row.set_item("id", rule.id)?;
            match dialect {
                Dialect::Postgresql => {
                    let texts: Vec<_> =
                        rule.codes.iter().map(|&code| classify::code_text(dialect, code)).collect();
                    row.set_item("codes", texts)?;
                }
                _ => row.set_item("codes", rule.codes)?,
            }
            let phases: Vec<_> = rule.phases.iter().map(|phase| phase.name()).collect();
            row.set_item("phases", phases)?;
            row.set_item("when", rule.when.name())?;
            row.set_item("sqlstate", rule.sqlstate.and_then(classify::sqlstate_text))?;
            row.set_item("class_", rule.class.name())?;
            row.set_item("fate", rule.fate.name())?;
            row.set_item("fate_if_open", rule.fate_if_open.name())?;
            row.set_item("scope", rule.scope.name())?;
            row.set_item("retry", rule.retry.name())?;
            row.set_item("constraint", rule.constraint.map(ConstraintKind::name))?;
            row.set_item("why", rule.why)?;
            list.append(row)?;
        }
    }
    Ok(list)
}

/// Packs a SQLSTATE into the number that `classify` takes; `None` if the text is none.
#[pyfunction]
pub(crate) fn sqlstate(text: &str) -> Option<i32> {
    classify::sqlstate(text)
}

/// A number that stands for a statement in events: 64-bit FNV-1a of its SQL text.
#[pyfunction]
pub(crate) fn fingerprint(sql: &str) -> u64 {
    event::fingerprint(sql)
}
