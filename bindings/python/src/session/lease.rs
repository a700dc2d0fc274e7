//! A lease as Python sees it.

use pyo3::prelude::*;
use turnwise::session::{LeaseFacts, OwnerFacts};

use super::seconds;

/// One checkout of a connection that has not come back, as it was when it was asked for.
#[pyclass(frozen, module = "turnwise")]
pub(crate) struct Lease {
    pub(super) facts: LeaseFacts,
}

impl Lease {
    fn owner(&self) -> Option<&OwnerFacts> {
        self.facts.owner.as_ref()
    }
}

#[pymethods]
impl Lease {
    /// Its number, which no other lease of this process has.
    #[getter]
    fn number(&self) -> u64 {
        self.facts.number
    }

    /// The pool that the connection is from.
    #[getter]
    fn pool(&self) -> &str {
        &self.facts.pool
    }

    /// The server's number of the connection; 0 where it is not known.
    #[getter]
    fn backend_pid(&self) -> i64 {
        self.facts.backend_pid
    }

    /// `"checked_out"`, `"active"`, `"idle_in_tx"`, `"aborted_tx"` or `"resetting"`.
    #[getter]
    fn state(&self) -> &'static str {
        self.facts.state.name()
    }

    /// Seconds since it was taken.
    #[getter]
    fn age(&self) -> f64 {
        seconds(self.facts.age_ns)
    }

    /// Seconds since it is in its state, a quarter of a second fewer or more.
    #[getter]
    fn state_age(&self) -> f64 {
        seconds(self.facts.state_age_ns)
    }

    /// What it belongs to, such as `"request"`; empty where nothing is known.
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

    /// The owner's number; 0 where there is none.
    #[getter]
    fn owner_number(&self) -> u64 {
        self.owner().map_or(0, |owner| owner.number)
    }

    /// How far the owner is.
    #[getter]
    fn phase(&self) -> &'static str {
        self.owner().map_or("", |owner| owner.phase.name())
    }

    /// The line that took it: `"app/items.py:41 in list_items"`.
    #[getter]
    fn opened(&self) -> &str {
        &self.facts.opened
    }

    /// The line of its last statement; empty unless `watch(sites="statement")`.
    #[getter]
    fn last(&self) -> &str {
        &self.facts.last
    }

    /// Its last statement, with placeholders for its parameters.
    #[getter]
    fn statement(&self) -> &str {
        &self.facts.statement
    }

    /// Whether its transaction may hold locks of a write.
    #[getter]
    fn wrote(&self) -> bool {
        self.facts.write_age_ns.is_some()
    }

    /// How many statements have run.
    #[getter]
    fn statements(&self) -> u64 {
        self.facts.statements
    }

    /// `threading.get_ident()` of the thread of its last statement; 0: none.
    #[getter]
    fn thread(&self) -> u64 {
        self.facts.thread
    }

    /// The lease as one JSON object.
    fn json(&self) -> String {
        self.facts.json()
    }

    /// Leases as a table.
    #[staticmethod]
    #[allow(clippy::needless_pass_by_value, reason = "PyO3 makes the list of a Python one")]
    fn table(leases: Vec<PyRef<'_, Lease>>) -> String {
        let facts: Vec<_> = leases.iter().map(|lease| lease.facts.clone()).collect();
        turnwise::session::table(&facts)
    }

    fn __repr__(&self) -> String {
        let facts = &self.facts;
        format!("<Lease {} {} {} {}>", facts.number, facts.state, self.owner_name(), facts.opened)
    }
}
