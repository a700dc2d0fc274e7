//! What an error means.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use turnwise::classify::{
    self, Conditions, ConstraintKind, Dialect, ErrorClass, Fate, Journal, Overrides, Phase,
    RetryKind, Scope,
};
use turnwise::event::{self, EventKind};
use turnwise::retry::{Jitter, StopReason};
use turnwise::{ErrorKind, ErrorState};

use crate::error::to_py_err;

/// The value of a name, or a `ValueError` that lists the choices.
macro_rules! named {
    ($kind:ident, $argument:literal, $name:expr) => {{
        let name: &str = $name;
        $kind::from_name(name).ok_or_else(|| {
            let choices: Vec<_> = $kind::ALL.iter().map(|choice| choice.name()).collect();
            PyValueError::new_err(format!(
                "{} is '{name}'; it must be one of {}",
                $argument,
                choices.join(", ")
            ))
        })
    }};
}

/// What an error means. Every word comes as its name, and as its number under `…_code`.
#[pyclass(frozen, eq, hash, module = "turnwise")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Verdict {
    pub(crate) inner: classify::Verdict,
}

#[pymethods]
impl Verdict {
    /// A verdict of the application's own, for `Retry.next`.
    #[new]
    #[pyo3(signature = (*, fate, scope, retry, class_ = "unlisted"))]
    fn new(fate: &str, scope: &str, retry: &str, class_: &str) -> PyResult<Self> {
        let inner = classify::Verdict::new(
            named!(ErrorClass, "class_", class_)?,
            named!(Fate, "fate", fate)?,
            named!(Scope, "scope", scope)?,
            named!(RetryKind, "retry", retry)?,
        );
        Ok(Self { inner })
    }

    /// The rule that decided: an id of the table, `"override"`, `"default.…"` or `"own"`.
    #[getter]
    fn rule(&self) -> &'static str {
        self.inner.rule
    }

    /// The code that was judged.
    #[getter]
    fn code(&self) -> i32 {
        self.inner.code
    }

    /// What kind of trouble it is.
    #[getter]
    fn class_(&self) -> &'static str {
        self.inner.class.name()
    }

    /// The number of `class_`.
    #[getter]
    fn class_code(&self) -> i32 {
        self.inner.class.code()
    }

    /// What has become of the transaction.
    #[getter]
    fn fate(&self) -> &'static str {
        self.inner.fate.name()
    }

    /// The number of `fate`.
    #[getter]
    fn fate_code(&self) -> i32 {
        self.inner.fate.code()
    }

    /// What may be done again.
    #[getter]
    fn scope(&self) -> &'static str {
        self.inner.scope.name()
    }

    /// The number of `scope`.
    #[getter]
    fn scope_code(&self) -> i32 {
        self.inner.scope.code()
    }

    /// How it is retried.
    #[getter]
    fn retry(&self) -> &'static str {
        self.inner.retry.name()
    }

    /// The number of `retry`.
    #[getter]
    fn retry_code(&self) -> i32 {
        self.inner.retry.code()
    }

    /// The kind of constraint that was violated, if it was one.
    #[getter]
    fn constraint(&self) -> Option<&'static str> {
        self.inner.constraint.map(ConstraintKind::name)
    }

    /// The number of `constraint`.
    #[getter]
    fn constraint_code(&self) -> Option<i32> {
        self.inner.constraint.map(ConstraintKind::code)
    }

    /// Whether the work may be done again without asking anybody.
    #[getter]
    fn is_retryable(&self) -> bool {
        self.inner.is_retryable()
    }

    /// Whether COMMIT may or may not have taken effect.
    #[getter]
    fn is_in_doubt(&self) -> bool {
        self.inner.is_in_doubt()
    }

    fn __repr__(&self) -> String {
        format!(
            "<Verdict {} code={} class={} fate={} scope={} retry={}>",
            self.rule(),
            self.code(),
            self.class_(),
            self.fate(),
            self.scope(),
            self.retry(),
        )
    }
}

/// A rule of the application that wins over the table.
///
/// Raises `InvalidPolicyError` if it contradicts itself: a commit in doubt that may be repeated,
/// or a scope of never that is retried.
#[pyclass(frozen, eq, module = "turnwise", from_py_object)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Override {
    inner: classify::Override,
}

#[pymethods]
impl Override {
    #[new]
    #[pyo3(signature = (
        *,
        dialect,
        code,
        class_,
        fate,
        scope,
        retry,
        phase = None,
        constraint = None,
    ))]
    // One argument for each field of the rule, all of them keyword-only.
    #[allow(clippy::too_many_arguments)]
    fn new(
        dialect: &str,
        code: i32,
        class_: &str,
        fate: &str,
        scope: &str,
        retry: &str,
        phase: Option<&str>,
        constraint: Option<&str>,
    ) -> PyResult<Self> {
        let inner = classify::Override {
            dialect: named!(Dialect, "dialect", dialect)?,
            code,
            phase: phase.map(|name| named!(Phase, "phase", name)).transpose()?,
            class: named!(ErrorClass, "class_", class_)?,
            fate: named!(Fate, "fate", fate)?,
            scope: named!(Scope, "scope", scope)?,
            retry: named!(RetryKind, "retry", retry)?,
            constraint: constraint
                .map(|name| named!(ConstraintKind, "constraint", name))
                .transpose()?,
        };
        Overrides::new(vec![inner]).map_err(to_py_err)?;
        Ok(Self { inner })
    }

    fn __repr__(&self) -> String {
        format!(
            "<Override {} code={} class={} fate={} scope={} retry={}>",
            self.inner.dialect,
            self.inner.code,
            self.inner.class,
            self.inner.fate,
            self.inner.scope,
            self.inner.retry,
        )
    }
}

/// Judges an error by its code (SQLite: the extended one), the phase and what is known of the
/// transaction. Never looks at exception classes or messages.
///
/// - `phase`: `"connect"`, `"begin"`, `"statement"`, `"savepoint"`, `"commit"` or `"rollback"`.
/// - `in_transaction`: what the driver reports *after* the error; `None` if it was not asked. It
///   overrides the table, but never lifts a commit in doubt.
/// - `journal`: SQLite's journal mode, `None` if it is not known.
/// - `has_read`: the transaction had read, and not yet written. `is_read`: the statement only
///   reads. `was_in_transaction`: a transaction was open when the statement began; `None` is taken
///   as open.
/// - `overrides`: rules that win over the table; the first that fits.
///
/// Raises `ValueError` for a word that it does not know.
#[pyfunction]
#[pyo3(name = "classify", signature = (
    dialect,
    code,
    *,
    phase = "statement",
    in_transaction = None,
    journal = None,
    has_read = false,
    is_read = false,
    was_in_transaction = None,
    overrides = Vec::new(),
))]
// One argument for each thing that a verdict depends on, all but two of them keyword-only.
#[allow(clippy::too_many_arguments)]
pub(crate) fn classify_code(
    dialect: &str,
    code: i32,
    phase: &str,
    in_transaction: Option<bool>,
    journal: Option<&str>,
    has_read: bool,
    is_read: bool,
    was_in_transaction: Option<bool>,
    overrides: Vec<Override>,
) -> PyResult<Verdict> {
    let conditions = Conditions {
        journal: journal.map(|name| named!(Journal, "journal", name)).transpose()?,
        has_read,
        is_read,
        was_in_transaction,
    };
    let dialect = named!(Dialect, "dialect", dialect)?;
    let phase = named!(Phase, "phase", phase)?;
    let overrides = Overrides::new(overrides.into_iter().map(|rule| rule.inner).collect())
        .map_err(to_py_err)?;
    let inner = overrides.classify(dialect, code, phase, conditions, in_transaction);
    Ok(Verdict { inner })
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

/// Every numbered enum: its name, and its values' names and numbers.
#[pyfunction]
#[pyo3(signature = () -> "dict[str, dict[str, int]]")]
pub(crate) fn enums(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let tables = PyDict::new(py);
    macro_rules! table {
        ($($kind:ident)+) => {$(
            let values = PyDict::new(py);
            for value in $kind::ALL {
                values.set_item(value.name(), value.code())?;
            }
            tables.set_item(stringify!($kind), values)?;
        )+};
    }
    table!(
        Dialect Phase Fate Scope ErrorClass RetryKind ConstraintKind Journal Jitter EventKind
        StopReason ErrorState ErrorKind
    );
    Ok(tables)
}

/// The state of every kind of error: `"transient"`, `"permanent"` or `"exhausted"`.
#[pyfunction]
#[pyo3(signature = () -> "dict[str, str]")]
pub(crate) fn error_states(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let states = PyDict::new(py);
    for kind in ErrorKind::ALL {
        states.set_item(kind.name(), kind.state().name())?;
    }
    Ok(states)
}
