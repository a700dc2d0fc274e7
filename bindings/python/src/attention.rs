//! Waiting without the GIL, and without losing sight of signals.

use std::cell::Cell;
use std::sync::Mutex;
use std::time::Duration;

use pyo3::intern;
use pyo3::prelude::*;
use turnwise::sqlite::fork::generation;
use turnwise::writer::Call;

use crate::lock::lock;

/// How often a waiting main thread looks for Ctrl-C.
const SIGNAL_SLICE: Duration = Duration::from_millis(50);

/// Runs `wait` without the GIL; a main thread looks for signals meanwhile. Gives what they raised,
/// beside what `wait` came to.
pub(crate) fn attend<T: Send>(
    py: Python<'_>,
    timeout: Option<Duration>,
    inline: bool,
    wait: impl FnOnce(&Call<'_>) -> T + Send,
) -> (T, Option<PyErr>) {
    let interrupt = Mutex::new(None);
    let slice = signal_slice(py);
    let outcome = py.detach(|| {
        let interrupted = || asked_away(&interrupt);
        wait(&Call { timeout, inline, slice, interrupted: &interrupted, ..Call::default() })
    });
    // One that came while a statement ran: its exception can still be told the outcome.
    asked_away(&interrupt);
    (outcome, interrupt.into_inner().unwrap_or_default())
}

/// As [`attend`], for what may be given up without a word: what a signal raised comes first.
pub(crate) fn attentively<T: Send>(
    py: Python<'_>,
    timeout: Option<Duration>,
    inline: bool,
    wait: impl FnOnce(&Call<'_>) -> turnwise::Result<T> + Send,
) -> PyResult<turnwise::Result<T>> {
    match attend(py, timeout, inline, wait) {
        (_, Some(interrupt)) => Err(interrupt),
        (outcome, None) => Ok(outcome),
    }
}

/// Runs Python's signal handlers, and keeps what they raise.
fn asked_away(interrupt: &Mutex<Option<PyErr>>) -> bool {
    if lock(interrupt).is_some() {
        return true;
    }
    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "lifetimes: the path does not fit"
    )]
    let checked = Python::attach(|py| py.check_signals());
    match checked {
        Ok(()) => false,
        Err(error) => {
            *lock(interrupt) = Some(error);
            true
        }
    }
}

/// Only Python's main thread runs signal handlers; the others need not look.
fn signal_slice(py: Python<'_>) -> Option<Duration> {
    thread_local! {
        /// The process generation in which this was asked, plus 1, and the answer.
        static MAIN: Cell<(u64, bool)> = const { Cell::new((0, false)) };
    }
    let (asked, main) = MAIN.get();
    let now = generation() + 1;
    if asked == now {
        return main.then_some(SIGNAL_SLICE);
    }
    let is_main = || -> PyResult<bool> {
        let threading = py.import("threading")?;
        let here = threading.call_method0(intern!(py, "get_ident"))?;
        let main = threading.call_method0("main_thread")?.getattr("ident")?;
        main.eq(here)
    };
    let main = is_main().unwrap_or(true);
    MAIN.set((now, main));
    main.then_some(SIGNAL_SLICE)
}

/// The exception with a line of ours under its traceback (Python 3.11 and newer show it).
pub(crate) fn noted(py: Python<'_>, error: PyErr, note: &str) -> PyErr {
    let value = error.value(py);
    let noted = value.call_method1("add_note", (note,));
    if noted.is_err() {
        let _ = value.setattr("__notes__", vec![note]);
    }
    error
}
