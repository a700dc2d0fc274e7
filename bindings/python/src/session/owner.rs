//! The request, task or job that leases belong to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use turnwise::session::{self, OwnerKind, Phase};

use super::{now_ns, seconds};

/// A request, a task or a job: whoever leases belong to.
#[pyclass(frozen, module = "turnwise")]
pub(crate) struct Owner {
    pub(super) inner: Arc<session::Owner>,
    parent: Option<Py<Owner>>,
}

static NUMBER: AtomicU64 = AtomicU64::new(0);

#[pymethods]
impl Owner {
    #[new]
    #[pyo3(signature = (kind, name, *, id = "", parent = None))]
    fn new(kind: &str, name: &str, id: &str, parent: Option<Py<Owner>>) -> PyResult<Self> {
        let Some(known) = OwnerKind::from_name(kind) else {
            let kinds: Vec<_> = OwnerKind::ALL.iter().map(|kind| kind.name()).collect();
            let message = format!("kind is one of {}, not {kind:?}", kinds.join(", "));
            return Err(PyValueError::new_err(message));
        };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed) + 1;
        let above = parent.as_ref().map(|parent| Arc::clone(&parent.get().inner));
        let inner = Arc::new(session::Owner::new(number, known, name, id, above, now_ns()));
        Ok(Self { inner, parent })
    }

    /// Its number, which no other owner of this process has.
    #[getter]
    fn number(&self) -> u64 {
        self.inner.number()
    }

    /// What it is: `"request"`, `"websocket"`, `"task"`, `"job"` or `"cli"`.
    #[getter]
    fn kind(&self) -> &'static str {
        self.inner.kind().name()
    }

    /// What tells it from others of the same name; may be empty.
    #[getter]
    fn id(&self) -> &str {
        self.inner.id()
    }

    /// Its name, such as a route. Can be set: a route is known late.
    #[getter]
    fn name(&self) -> String {
        self.inner.name()
    }

    #[setter]
    fn set_name(&self, name: &str) {
        self.inner.rename(name);
    }

    /// How far it is: `"running"`, `"streaming"`, `"responded"` or `"ended"`. Can be set to a later
    /// one; an earlier one is ignored.
    #[getter]
    fn phase(&self) -> &'static str {
        self.inner.phase().name()
    }

    #[setter]
    fn set_phase(&self, phase: &str) -> PyResult<()> {
        let Some(known) = Phase::from_name(phase) else {
            let phases: Vec<_> = Phase::ALL.iter().map(|phase| phase.name()).collect();
            let message = format!("phase is one of {}, not {phase:?}", phases.join(", "));
            return Err(PyValueError::new_err(message));
        };
        self.inner.advance(known, now_ns());
        Ok(())
    }

    /// The owner that began it, or `None`.
    #[getter]
    fn parent(&self, py: Python<'_>) -> Option<Py<Owner>> {
        self.parent.as_ref().map(|parent| parent.clone_ref(py))
    }

    /// Seconds since it began.
    #[getter]
    fn age(&self) -> f64 {
        seconds(now_ns().saturating_sub(self.inner.began_ns()))
    }

    /// Seconds for which its synchronous calls have blocked an event loop.
    #[getter]
    fn blocked(&self) -> f64 {
        seconds(self.inner.blocked_ns())
    }

    fn __repr__(&self) -> String {
        format!("<Owner {} {} {}>", self.kind(), self.name(), self.phase())
    }
}
