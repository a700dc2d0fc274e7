//! turnwise's errors as the exceptions of `turnwise.errors`.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use turnwise::{Error, ErrorKind};

/// The exception for an error: the class `<Kind>Error` of `turnwise.errors`.
#[expect(clippy::needless_pass_by_value, reason = "`map_err` hands the error over")]
pub(crate) fn to_py_err(error: Error) -> PyErr {
    Python::attach(|py| raise(py, &error).unwrap_or_else(|failed| failed))
}

/// An exception of our own making.
pub(crate) fn refuse(kind: ErrorKind, message: impl Into<String>) -> PyErr {
    to_py_err(Error::new(kind, message))
}

fn raise(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let class = format!("{}Error", error.kind().name());
    let class = py.import("turnwise.errors")?.getattr(class)?;
    let details = PyDict::new(py);
    details.set_item("attempts", error.attempts())?;
    details.set_item("sqlite_errorcode", error.code())?;
    Ok(PyErr::from_value(class.call((error.message(),), Some(&details))?))
}
