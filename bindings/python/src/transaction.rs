//! An interactive transaction, in Python.

use pyo3::prelude::*;
use turnwise::sqlite::Params;
use turnwise::writer::{Transaction, Unit};

use crate::attention::{attend, noted};
use crate::error::to_py_err;
use crate::result::WriteResult;
use crate::values;

/// The native half of `turnwise.Transaction`.
#[pyclass(frozen, module = "turnwise._native")]
pub(crate) struct NativeTransaction {
    transaction: Transaction,
}

impl NativeTransaction {
    pub(crate) fn new(transaction: Transaction) -> Self {
        Self { transaction }
    }

    fn run(&self, py: Python<'_>, unit: &Unit) -> PyResult<WriteResult> {
        let written = py.detach(|| self.transaction.execute(unit)).map_err(to_py_err)?;
        WriteResult::new(py, written)
    }
}

#[pymethods]
impl NativeTransaction {
    /// Runs one statement in the transaction.
    #[pyo3(signature = (sql, params = None))]
    fn execute(
        &self,
        py: Python<'_>,
        sql: &str,
        params: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<WriteResult> {
        let params = params.map_or(Ok(Params::NONE), values::params)?;
        self.run(py, &Unit::one(sql, params))
    }

    /// Runs one statement for every row in the transaction, all rows or none.
    fn executemany(
        &self,
        py: Python<'_>,
        sql: &str,
        rows: &Bound<'_, PyAny>,
    ) -> PyResult<WriteResult> {
        self.run(py, &Unit::many(sql, values::rows(rows)?))
    }

    /// Commits.
    fn commit(&self, py: Python<'_>) -> PyResult<()> {
        let (outcome, interrupt) =
            attend(py, None, false, |call| self.transaction.commit_with(call));
        let Some(interrupt) = interrupt else { return outcome.map_err(to_py_err) };
        let fate = match outcome {
            Ok(()) => "the interrupted transaction was committed".to_owned(),
            Err(error) => format!("the interrupted transaction failed: {error}"),
        };
        Err(noted(py, interrupt, &fate))
    }

    /// Rolls back. Harmless when the transaction has ended.
    fn rollback(&self, py: Python<'_>) {
        py.detach(|| self.transaction.roll_back());
    }
}
