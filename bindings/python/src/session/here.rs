//! Where the interpreter is: which thread, and on an event loop or not.

use std::cell::Cell;
use std::sync::OnceLock;

use pyo3::prelude::*;
use pyo3::types::PyDict;

thread_local! {
    static THREAD: Cell<u64> = const { Cell::new(0) };
}

/// `threading.get_ident()`.
pub(super) fn thread(py: Python<'_>) -> u64 {
    let known = THREAD.get();
    if known != 0 {
        return known;
    }
    let ident = || py.import("_thread")?.call_method0("get_ident")?.extract::<u64>();
    let ident = ident().unwrap_or(1);
    THREAD.set(ident);
    ident
}

/// What tells whether an event loop runs in a thread, once asyncio is there.
#[derive(Default)]
pub(super) struct Loops(OnceLock<Py<PyAny>>);

impl Loops {
    /// Whether an event loop runs in this thread.
    pub(super) fn on_loop(&self, py: Python<'_>) -> bool {
        let running = if let Some(running) = self.0.get() {
            running
        } else {
            let Ok(Some(found)) = find(py) else { return false };
            self.0.get_or_init(|| found)
        };
        running.call0(py).is_ok_and(|running| !running.is_none(py))
    }
}

fn find(py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
    let modules = py.import("sys")?.getattr("modules")?.cast_into::<PyDict>()?;
    let Some(asyncio) = modules.get_item("asyncio")? else { return Ok(None) };
    // While it is being imported it may not have it yet.
    Ok(asyncio.getattr("_get_running_loop").ok().map(Bound::unbind))
}
