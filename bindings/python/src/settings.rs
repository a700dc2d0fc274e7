//! The settings in effect, for Python.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use turnwise::sqlite::FileSettings;
use turnwise::writer::WriterOptions;

use crate::policy::RetryPolicy;

/// What holds for the file and for one writer, by the names of `WriterSettings`.
pub(crate) fn as_dict<'py>(
    py: Python<'py>,
    file: &FileSettings,
    own: &WriterOptions,
) -> PyResult<Bound<'py, PyDict>> {
    let settings = PyDict::new(py);
    settings.set_item("path", file.path.as_os_str())?;
    settings.set_item("sqlite_version", file.sqlite_version)?;
    settings.set_item("private_copy", file.private_copy)?;
    settings.set_item("journal_mode", file.journal_mode.name())?;
    settings.set_item("foreign_keys", file.foreign_keys)?;
    settings.set_item("page_size", file.page_size)?;
    settings.set_item("durability", own.durability.name())?;
    settings.set_item("max_batch", own.max_batch)?;
    settings.set_item("max_queue_rows", own.max_queue_rows)?;
    settings.set_item("max_queue_bytes", own.max_queue_bytes)?;
    settings.set_item("hold_limit", own.hold_limit.as_secs_f64())?;
    settings.set_item("turn_lock", file.turn_lock)?;
    settings.set_item("turn_lock_missing", file.turn_lock_missing.as_deref())?;
    let turn_timeout = own.turn_timeout.map(|timeout| timeout.as_secs_f64());
    settings.set_item("turn_timeout", turn_timeout)?;
    settings.set_item("policy", RetryPolicy { inner: own.policy })?;
    Ok(settings)
}
