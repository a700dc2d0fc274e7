//! The numbered words of every language.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use turnwise::classify::{
    ConstraintKind, Dialect, ErrorClass, Fate, Journal, Phase, RetryKind, Scope, When,
};
use turnwise::event::EventKind;
use turnwise::retry::{Jitter, StopReason};
use turnwise::session::{FindingCode, LeaseState, OwnerKind, Phase as OwnerPhase, Severity};
use turnwise::{ErrorKind, ErrorState};

/// The value of a name, or a `ValueError` that lists the choices.
macro_rules! named {
    ($kind:ident, $argument:literal, $name:expr) => {{
        let name: &str = $name;
        $kind::from_name(name).ok_or_else(|| {
            let choices: Vec<_> = $kind::ALL.iter().map(|choice| choice.name()).collect();
            pyo3::exceptions::PyValueError::new_err(format!(
                "{} is '{name}'; it must be one of {}",
                $argument,
                choices.join(", ")
            ))
        })
    }};
}

pub(crate) use named;

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
        StopReason ErrorState ErrorKind When OwnerKind OwnerPhase LeaseState Severity FindingCode
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
