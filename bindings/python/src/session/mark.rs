//! What is known of a session, kept in its `info`.

use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use turnwise::session::{Owner, Phase};

/// How a session began for its owner, and its transaction.
#[pyclass(frozen, module = "turnwise._native")]
pub(crate) struct SessionMark {
    /// The owner's number.
    pub(super) owner: u64,
    /// The owner's phase when its first transaction began.
    first: i32,
    /// The same for the one that is open.
    phase: AtomicI32,
    transactions: AtomicU32,
}

impl SessionMark {
    /// A session's mark, if it has begun for an owner.
    pub(super) fn of<'py>(session: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, Self>>> {
        let py = session.py();
        let info = session.getattr(intern!(py, "info"))?.cast_into::<PyDict>()?;
        let mark = info.get_item(intern!(py, "turnwise.session"))?;
        Ok(mark.and_then(|mark| mark.cast_into().ok()))
    }

    /// A transaction of the session begins for this owner.
    pub(super) fn note(session: &Bound<'_, PyAny>, owner: &Owner) -> PyResult<()> {
        let py = session.py();
        let info = session.getattr(intern!(py, "info"))?.cast_into::<PyDict>()?;
        let key = intern!(py, "turnwise.session");
        let phase = owner.phase().code();
        if let Some(mark) = info.get_item(key)?
            && let Ok(mark) = mark.cast_into::<Self>()
            && mark.get().owner == owner.number()
        {
            mark.get().phase.store(phase, Ordering::Relaxed);
            mark.get().transactions.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let (first, transactions) = (phase, AtomicU32::new(1));
        let phase = AtomicI32::new(phase);
        info.set_item(key, Self { owner: owner.number(), first, phase, transactions })
    }

    /// The owner's phase when the open transaction began.
    pub(super) fn phase(&self) -> Phase {
        Phase::from_code(self.phase.load(Ordering::Relaxed)).unwrap_or(Phase::Running)
    }

    /// Whether the open transaction is one more, after the response, of a session from before it.
    pub(super) fn reopens(&self) -> bool {
        self.first == Phase::Running.code()
            && self.transactions.load(Ordering::Relaxed) > 1
            && self.phase().is_after_response()
    }
}
