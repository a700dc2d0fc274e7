//! The turn lock by itself, for writers on other connections than ours.

use std::net::Shutdown;
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use turnwise::ErrorKind;
use turnwise::turn::{Asker, Pending, Site, Turn, TurnLock, TurnOptions};

use crate::attention::attentively;
use crate::error::{refuse, to_py_err};
use crate::lock::lock;
use crate::values;

/// The native half of `TurnLock`.
#[pyclass(frozen, subclass, module = "turnwise._native")]
pub(crate) struct NativeTurnLock {
    lock: TurnLock,
    turn_timeout: Option<Duration>,
}

#[pymethods]
impl NativeTurnLock {
    #[new]
    #[pyo3(signature = (path, *, turn_timeout = Some(2.0)))]
    fn new(path: &Bound<'_, PyAny>, turn_timeout: Option<f64>) -> PyResult<Self> {
        let turn_timeout = values::seconds("turn_timeout", turn_timeout)?;
        let lock = TurnLock::open(values::path(path)?).map_err(to_py_err)?;
        Ok(Self { lock, turn_timeout })
    }

    /// Waits up to `timeout` seconds for the turn; `None` waits without end. `task` is the `id` of
    /// the asyncio task that asks.
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
        // Nobody has to wait, mostly.
        if let Some(turn) = self.lock.try_acquire_at(asker.clone()).map_err(to_py_err)? {
            return Ok(NativeTurn::new(turn));
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
    /// this thread; never blocks.
    #[pyo3(signature = (site, task = None))]
    fn try_acquire(&self, site: &str, task: Option<u64>) -> PyResult<Option<NativeTurn>> {
        let turn = match self.lock.try_acquire_at(Asker::new(Site::Text(site.into()), task)) {
            Err(error) if error.kind() == ErrorKind::TurnReentered => None,
            other => other.map_err(to_py_err)?,
        };
        Ok(turn.map(NativeTurn::new))
    }

    /// Lines up without blocking. The descriptor of what is returned can be read once the turn has
    /// come. Fails for a task that has it.
    #[pyo3(signature = (site, task = None))]
    fn request(&self, site: &str, task: Option<u64>) -> PyResult<NativePending> {
        let (ours, theirs) = UnixStream::pair().map_err(|error| {
            refuse(ErrorKind::OutOfMemory, format!("no descriptors for a wait: {error}"))
        })?;
        let slot = Arc::new(Mutex::new(Slot::default()));
        let shared = Arc::clone(&slot);
        let asker = Asker::new(Site::Text(site.into()), task);
        let wait = self.lock.request(asker, move |turn| {
            let mut slot = lock(&shared);
            // Else it is given back, outside the lock.
            let surplus = if slot.abandoned { Some(turn) } else { slot.turn.replace(turn) };
            drop(slot);
            drop(surplus);
            // Its end is what the reader sees, even while a child of fork has a copy.
            let _ = ours.shutdown(Shutdown::Both);
        });
        Ok(NativePending { wait: wait.map_err(to_py_err)?, slot, fd: theirs.into_raw_fd() })
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
    fn new(turn: Turn) -> Self {
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

#[derive(Default)]
struct Slot {
    turn: Option<Turn>,
    /// Nobody will take what comes.
    abandoned: bool,
}

/// A request for a turn.
#[pyclass(frozen, module = "turnwise._native")]
pub(crate) struct NativePending {
    wait: Pending,
    slot: Arc<Mutex<Slot>>,
    /// Python owns it.
    fd: i32,
}

#[pymethods]
impl NativePending {
    /// A socket's descriptor, the caller's to close: it reads as ended once the turn has come.
    #[getter]
    fn fd(&self) -> i32 {
        self.fd
    }

    /// The turn, if it has come.
    fn take(&self) -> Option<NativeTurn> {
        lock(&self.slot).turn.take().map(NativeTurn::new)
    }

    /// Takes the request back. `False`: the turn has come, or is coming.
    fn withdraw(&self) -> bool {
        self.wait.withdraw()
    }

    /// Gives up the place in the line, and a turn that has come or is coming.
    fn abandon(&self) {
        self.wait.withdraw();
        let mut slot = lock(&self.slot);
        slot.abandoned = true;
        let turn = slot.turn.take();
        drop(slot);
        drop(turn);
    }
}
