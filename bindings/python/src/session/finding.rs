//! A finding as Python sees it.

use pyo3::prelude::*;
use turnwise::session::{self, OwnerFacts};

use super::seconds;

/// Something that the tracker is sure or suspects is wrong.
#[pyclass(frozen, module = "turnwise")]
pub(crate) struct Finding {
    pub(super) inner: session::Finding,
    pub(super) number: u64,
    /// Those of its kind and place that were not reported since the last one.
    pub(super) repeats: u64,
}

impl Finding {
    fn owner(&self) -> Option<&OwnerFacts> {
        let lease = self.inner.lease.as_ref();
        self.inner.by.as_ref().or_else(|| lease.and_then(|lease| lease.owner.as_ref()))
    }

    fn of_lease<'a>(&'a self, take: impl FnOnce(&'a session::LeaseFacts) -> &'a str) -> &'a str {
        self.inner.lease.as_ref().map_or("", take)
    }
}

#[pymethods]
impl Finding {
    /// What was found, such as `"idle-in-transaction"`.
    #[getter]
    fn code(&self) -> &'static str {
        self.inner.code.name()
    }

    /// Its number, which no other finding of this process has.
    #[getter]
    fn number(&self) -> u64 {
        self.number
    }

    /// How bad it is: `"info"`, `"warning"` or `"error"`.
    #[getter]
    fn severity(&self) -> &'static str {
        self.inner.severity.name()
    }

    /// Whether it cannot be a false alarm under its rule.
    #[getter]
    fn exact(&self) -> bool {
        self.inner.code.is_exact()
    }

    /// Everything in one line.
    #[getter]
    fn text(&self) -> String {
        self.inner.line()
    }

    /// What to change.
    #[getter]
    fn hint(&self) -> &'static str {
        self.inner.hint()
    }

    /// For how many seconds it had lasted; 0 where that says nothing.
    #[getter]
    fn age(&self) -> f64 {
        seconds(self.inner.age_ns)
    }

    /// The pool of the connection.
    #[getter]
    fn pool(&self) -> &str {
        self.of_lease(|lease| &lease.pool)
    }

    /// The server's number of the connection; 0 where it is not known.
    #[getter]
    fn backend_pid(&self) -> i64 {
        self.inner.lease.as_ref().map_or(0, |lease| lease.backend_pid)
    }

    /// What did it, such as `"request"`; empty where nothing is known.
    #[getter]
    fn owner_kind(&self) -> &'static str {
        self.owner().map_or("", |owner| owner.kind.name())
    }

    /// The owner's name, such as a route.
    #[getter]
    fn owner_name(&self) -> &str {
        self.owner().map_or("", |owner| &owner.name)
    }

    /// What tells the owner from others of the same name.
    #[getter]
    fn owner_id(&self) -> &str {
        self.owner().map_or("", |owner| &owner.id)
    }

    /// How far the owner was.
    #[getter]
    fn phase(&self) -> &'static str {
        self.owner().map_or("", |owner| owner.phase.name())
    }

    /// The line that took the connection.
    #[getter]
    fn opened(&self) -> &str {
        self.of_lease(|lease| &lease.opened)
    }

    /// The line that did it.
    #[getter]
    fn last(&self) -> &str {
        self.inner.last()
    }

    /// The statement, with placeholders for its parameters.
    #[getter]
    fn statement(&self) -> &str {
        self.of_lease(|lease| &lease.statement)
    }

    /// What the connection did.
    #[getter]
    fn state(&self) -> &'static str {
        self.inner.lease.as_ref().map_or("", |lease| lease.state.name())
    }

    /// The lease's number; 0 where there is none.
    #[getter]
    fn lease(&self) -> u64 {
        self.inner.lease.as_ref().map_or(0, |lease| lease.number)
    }

    /// What else there is to say.
    #[getter]
    fn detail(&self) -> &str {
        &self.inner.detail
    }

    /// How many of its kind and place were left out of the log since the last one.
    #[getter]
    fn repeats(&self) -> u64 {
        self.repeats
    }

    /// The finding as one JSON object.
    fn json(&self) -> String {
        self.inner.json()
    }

    fn __str__(&self) -> String {
        self.inner.line()
    }

    fn __repr__(&self) -> String {
        format!("<Finding {} {}>", self.code(), self.inner.line())
    }
}
