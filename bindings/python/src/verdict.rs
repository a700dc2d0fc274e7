//! What classification gives, and takes.

use pyo3::exceptions::PyValueError;
#[cfg(feature = "stubs")]
use pyo3::inspect::PyStaticExpr;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use turnwise::classify::{
    self, ConstraintKind, Dialect, ErrorClass, Fate, Overrides, Phase, RetryKind, Scope,
};

use crate::error::to_py_err;
use crate::words::named;

/// A code: a number, a SQLSTATE, or none.
#[derive(FromPyObject)]
pub(crate) enum Code {
    #[pyo3(transparent, annotation = "int")]
    Number(i32),
    #[pyo3(transparent, annotation = "str")]
    Text(String),
}

impl Code {
    pub(crate) fn number(self, dialect: Dialect) -> PyResult<i32> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Text(text) if dialect == Dialect::Postgresql => packed("code", &text),
            Self::Text(text) => Err(PyValueError::new_err(format!(
                "code is '{text}'; it must be an int in {dialect}, text is for PostgreSQL"
            ))),
        }
    }
}

pub(crate) fn packed(argument: &str, text: &str) -> PyResult<i32> {
    classify::sqlstate(text).ok_or_else(|| {
        PyValueError::new_err(format!(
            "{argument} is '{text}'; a SQLSTATE has five digits and capital letters"
        ))
    })
}

/// Names as a tuple, which the stub knows as `tuple[str, ...]`.
pub(crate) struct Names<'a>(&'a [String]);

impl<'py> IntoPyObject<'py> for Names<'_> {
    type Target = PyTuple;
    type Output = Bound<'py, PyTuple>;
    type Error = PyErr;

    #[cfg(feature = "stubs")]
    const OUTPUT_TYPE: PyStaticExpr = pyo3::type_hint_subscript!(
        <PyTuple as pyo3::PyTypeInfo>::TYPE_HINT,
        <String as IntoPyObject>::OUTPUT_TYPE,
        PyStaticExpr::Name { id: "..." }
    );

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Self::Output> {
        PyTuple::new(py, self.0)
    }
}

/// A violated constraint, as far as it is known.
#[pyclass(frozen, eq, hash, module = "turnwise", from_py_object)]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Constraint {
    pub(crate) inner: classify::Constraint,
}

#[pymethods]
impl Constraint {
    #[new]
    #[pyo3(signature = (kind, *, name = None, table = None, columns = Vec::new()))]
    fn new(
        kind: &str,
        name: Option<String>,
        table: Option<String>,
        columns: Vec<String>,
    ) -> PyResult<Self> {
        let kind = named!(ConstraintKind, "kind", kind)?;
        Ok(Self { inner: classify::Constraint { kind, name, table, columns } })
    }

    /// `"unique"`, `"foreign_key"`, `"not_null"`, `"check"` or `"exclusion"`.
    #[getter]
    fn kind(&self) -> &'static str {
        self.inner.kind.name()
    }

    /// The number of `kind`.
    #[getter]
    fn kind_code(&self) -> i32 {
        self.inner.kind.code()
    }

    /// The constraint's name; of an unnamed CHECK in SQLite the expression. `None` if not known.
    #[getter]
    fn name(&self) -> Option<&str> {
        self.inner.name.as_deref()
    }

    /// The table that it is on; `None` if not known.
    #[getter]
    fn table(&self) -> Option<&str> {
        self.inner.table.as_deref()
    }

    /// The columns that it names; empty if not known.
    #[getter]
    fn columns(&self) -> Names<'_> {
        Names(&self.inner.columns)
    }

    fn __repr__(&self) -> String {
        format!(
            "<Constraint {} name={} table={} columns={}>",
            self.kind(),
            self.name().unwrap_or("?"),
            self.table().unwrap_or("?"),
            self.inner.columns.join(","),
        )
    }
}

/// What an error means. Every word comes as its name, and as its number under `…_code`.
#[pyclass(frozen, eq, hash, module = "turnwise")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Verdict {
    pub(crate) inner: classify::Verdict,
    pub(crate) sqlstate: Option<String>,
    pub(crate) constraint: Option<Constraint>,
}

impl From<classify::Verdict> for Verdict {
    fn from(inner: classify::Verdict) -> Self {
        Self { inner, sqlstate: None, constraint: None }
    }
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
        Ok(inner.into())
    }

    /// The verdict on an error that is not one of a database: rule `"default.foreign"`.
    #[staticmethod]
    fn foreign() -> Self {
        classify::Verdict::foreign().into()
    }

    /// The same verdict with what the driver's own fields say of the constraint.
    fn with_constraint(&self, constraint: Option<Constraint>) -> Self {
        Self { constraint, ..self.clone() }
    }

    /// Whose error it is; `None` if no database's.
    #[getter]
    fn dialect(&self) -> Option<&'static str> {
        self.inner.dialect.map(Dialect::name)
    }

    /// The SQLSTATE, where one is known.
    #[getter]
    fn sqlstate(&self) -> Option<&str> {
        self.sqlstate.as_deref()
    }

    /// The reason, and where it comes from.
    #[getter]
    fn why(&self) -> &'static str {
        self.inner.why
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

    /// The constraint that was violated, if it was one.
    #[getter]
    fn constraint(&self) -> Option<Constraint> {
        self.constraint.clone()
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
            self.inner.dialect.map_or_else(
                || self.code().to_string(),
                |dialect| classify::code_text(dialect, self.code())
            ),
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
    pub(crate) inner: classify::Override,
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
        code: Code,
        class_: &str,
        fate: &str,
        scope: &str,
        retry: &str,
        phase: Option<&str>,
        constraint: Option<&str>,
    ) -> PyResult<Self> {
        let dialect = named!(Dialect, "dialect", dialect)?;
        let inner = classify::Override {
            dialect,
            code: code.number(dialect)?,
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
            classify::code_text(self.inner.dialect, self.inner.code),
            self.inner.class,
            self.inner.fate,
            self.inner.scope,
            self.inner.retry,
        )
    }
}
