//! The turn lock by itself, for writers on other connections than ours.

use std::sync::Mutex;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use turnwise::ErrorKind;
use turnwise::turn::{Asker, Pending, Site, Turn, TurnLock, TurnOptions};

use crate::attention::attentively;
use crate::courier::{Arrival, Courier, courier};
use crate::error::to_py_err;
use crate::lock::lock;
use crate::values;

/// The native half of `TurnLock`.
#[pyclass(frozen, subclass, module = "turnwise._native")]
pub(crate) struct NativeTurnLock {
    lock: TurnLock,
    turn_timeout: Option<Duration>,
    /// Kept, so that its thread lives as long as the lock. Only touched with the GIL held, so that a
    /// fork never finds it locked.
    courier: Mutex<Option<Courier>>,
}

impl NativeTurnLock {
    fn courier(&self) -> Option<Courier> {
        let mut kept = lock(&self.courier);
        if kept.as_ref().is_none_or(Courier::is_inherited) {
            *kept = courier();
        }
        kept.clone()
    }
}

#[pymethods]
impl NativeTurnLock {
    #[new]
    #[pyo3(signature = (path, *, turn_timeout = Some(2.0)))]
    fn new(path: &Bound<'_, PyAny>, turn_timeout: Option<f64>) -> PyResult<Self> {
        let turn_timeout = values::seconds("turn_timeout", turn_timeout)?;
        let lock = TurnLock::open(values::path(path)?).map_err(to_py_err)?;
        Ok(Self { lock, turn_timeout, courier: Mutex::default() })
    }

    /// Waits up to `timeout` seconds for the turn; `None` waits without end. `task` is the number
    /// of the asyncio task that asks.
    #[pyo3(signature = (timeout, site, task = None))]
    fn acquire(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        site: &str,
        task: Option<u64>,
    ) -> PyResult<NativeTurn> {
        let timeout = values::seconds("timeout", timeout)?;
        let asker = Asker::new(Site::Text(site.into()), task);
        // Nobody has to wait, mostly. What a coroutine of this thread has not taken up is had below.
        match self.lock.try_acquire_at(asker.clone()) {
            Ok(Some(turn)) => return Ok(NativeTurn::new(turn)),
            Err(error) if error.kind() != ErrorKind::TurnReentered => return Err(to_py_err(error)),
            _ => {}
        }
        let taken = attentively(py, timeout, true, |call| {
            let mut options = TurnOptions::default();
            options.timeout = timeout;
            options.turn_timeout = self.turn_timeout;
            options.slice = call.slice;
            options.interrupted = call.interrupted;
            self.lock.acquire_at(asker, &options)
        })?;
        Ok(NativeTurn::new(taken.map_err(to_py_err)?))
    }

    /// The turn, or leave to go on without one, if nobody has it, waits for it or asks for it in
    /// this thread; never blocks. `timeout` is that of the wait which may follow.
    #[pyo3(signature = (timeout, site, task = None))]
    fn try_acquire(
        &self,
        timeout: Option<f64>,
        site: &str,
        task: Option<u64>,
    ) -> PyResult<Option<NativeTurn>> {
        values::seconds("timeout", timeout)?;
        let turn = match self.lock.try_acquire_at(Asker::new(Site::Text(site.into()), task)) {
            Err(error) if error.kind() == ErrorKind::TurnReentered => None,
            other => other.map_err(to_py_err)?,
        };
        Ok(turn.map(NativeTurn::new))
    }

    /// Lines up without blocking, `first` in line after a turn that could not be taken up. `came`, a
    /// future of `event_loop`, gets the turn, to be taken up. `None`: no thread is to be had that
    /// would bring it. Fails for a task that has it.
    #[pyo3(signature = (event_loop, came, site, task = None, *, first = false))]
    fn request(
        &self,
        event_loop: Py<PyAny>,
        came: Py<PyAny>,
        site: &str,
        task: Option<u64>,
        first: bool,
    ) -> PyResult<Option<NativePending>> {
        let Some(courier) = self.courier() else { return Ok(None) };
        let asker = Asker::new(Site::Text(site.into()), task);
        let then = move |turn| courier.bring(Arrival { turn, event_loop, came });
        let wait = self.lock.request_offer(asker, first, then).map_err(to_py_err)?;
        Ok(Some(NativePending(wait)))
    }

    /// Whether the turn has stood still for `turn_timeout`.
    fn is_stuck(&self) -> bool {
        self.turn_timeout.is_some_and(|timeout| self.lock.is_stuck(timeout))
    }

    /// Leave to go on without a turn.
    fn fall_through(&self) -> PyResult<NativeTurn> {
        self.lock.fall_through().map(NativeTurn::new).map_err(to_py_err)
    }

    /// The seconds that the turn may stand still before a waiter goes on without it.
    #[getter]
    fn turn_timeout(&self) -> Option<f64> {
        self.turn_timeout.map(|timeout| timeout.as_secs_f64())
    }

    /// The database, by its resolved path.
    #[getter]
    fn path(&self) -> &std::ffi::OsStr {
        self.lock.database().as_os_str()
    }

    /// Who has the turn, in words; `None` when nobody has.
    #[getter]
    fn holder(&self) -> Option<String> {
        self.lock.describe_holder()
    }

    /// Why there is no turn lock for this database; `None` when there is one, or nobody has tried.
    #[getter]
    fn unavailable(&self) -> Option<String> {
        self.lock.unavailable()
    }

    fn _stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.lock.stats();
        let figures = PyDict::new(py);
        figures.set_item("waits", stats.waits)?;
        figures.set_item("hand_offs", stats.hand_offs)?;
        figures.set_item("fall_throughs", stats.fall_throughs)?;
        figures.set_item("outsiders", stats.outsiders)?;
        Ok(figures)
    }
}

/// A turn, or leave to go on without one.
#[pyclass(frozen, module = "turnwise._native")]
pub(crate) struct NativeTurn(Mutex<Option<Turn>>);

impl NativeTurn {
    pub(crate) fn new(turn: Turn) -> Self {
        Self(Mutex::new(Some(turn)))
    }
}

#[pymethods]
impl NativeTurn {
    /// Whether it is one. `False`: the turn stood still, or there is no turn lock here.
    #[getter]
    fn held(&self) -> bool {
        lock(&self.0).as_ref().is_some_and(Turn::is_held)
    }

    /// From here on it is no thread's: any may give it back, and whoever asks again waits.
    fn disclaim(&self) {
        if let Some(turn) = lock(&self.0).as_ref() {
            turn.disclaim();
        }
    }

    /// Begins a turn that has come. `False`: its thread has had it meanwhile, and this is none.
    fn take_up(&self) -> bool {
        lock(&self.0).as_ref().is_some_and(Turn::take_up)
    }

    /// SQLite's own lock was taken in this turn: a writer that knows nothing of turns has it.
    fn note_outsider(&self) {
        if let Some(turn) = lock(&self.0).as_ref() {
            turn.note_outsider();
        }
    }

    /// Gives it back. Harmless when it was given back.
    fn release(&self) {
        let turn = lock(&self.0).take();
        drop(turn);
    }
}

/// A request for a turn.
#[pyclass(frozen, module = "turnwise._native")]
pub(crate) struct NativePending(Pending);

#[pymethods]
impl NativePending {
    /// Takes the request back. `False`: the turn has come, or is coming.
    fn withdraw(&self) -> bool {
        self.0.withdraw()
    }
}
