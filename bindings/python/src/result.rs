//! What a write came to, in Python.

use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};
use turnwise::sqlite::Written;

use crate::values::to_python;

/// What a committed write came to.
#[pyclass(frozen, module = "turnwise")]
#[derive(Debug)]
pub(crate) struct WriteResult {
    rowcount: i64,
    lastrowid: Option<i64>,
    rows: Py<PyList>,
}

impl WriteResult {
    pub(crate) fn new(py: Python<'_>, written: Written) -> PyResult<Self> {
        let rows = PyList::empty(py);
        for row in written.rows {
            let row: PyResult<Vec<_>> = row.into_iter().map(|value| to_python(py, value)).collect();
            rows.append(PyTuple::new(py, row?)?)?;
        }
        Ok(Self {
            // As in the standard library: -1 for statements that change no rows by nature.
            rowcount: written.rowcount.map_or(-1, |count| i64::try_from(count).unwrap_or(i64::MAX)),
            lastrowid: written.lastrowid,
            rows: rows.unbind(),
        })
    }
}

#[pymethods]
impl WriteResult {
    /// Rows that INSERT, UPDATE, DELETE or REPLACE touched; -1 for other statements.
    #[getter]
    fn rowcount(&self) -> i64 {
        self.rowcount
    }

    /// The row id of the last inserted row; `None` unless an INSERT or REPLACE inserted one.
    #[getter]
    fn lastrowid(&self) -> Option<i64> {
        self.lastrowid
    }

    /// The rows that RETURNING or SELECT gave, as tuples.
    #[getter]
    fn rows<'py>(&self, py: Python<'py>) -> Bound<'py, PyList> {
        self.rows.bind(py).clone()
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let lastrowid = self.lastrowid.map_or_else(|| "None".to_owned(), |id| id.to_string());
        format!(
            "WriteResult(rowcount={}, lastrowid={lastrowid}, rows=<{}>)",
            self.rowcount,
            self.rows.bind(py).len()
        )
    }
}
