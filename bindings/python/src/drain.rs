//! The end of a process, for Python.

use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::delivery::deliveries;
use crate::events::feeds;
use crate::values;

/// How long the end of a process waits at most.
const LONGEST_DRAIN: Duration = Duration::from_secs(3600);

/// Waits up to `timeout` seconds until every writer of this process is drained, every outcome that
/// came is with its future, and every event with the hooks. Gives the text of the first error.
///
/// Python kills a thread that is in its code when the interpreter ends; the delivery thread must not
/// be met there, because the end of a Rust thread's stack cannot be unwound that way and aborts.
#[pyfunction]
pub(crate) fn drain_all(py: Python<'_>, timeout: f64) -> PyResult<Option<String>> {
    let timeout = values::seconds("timeout", Some(timeout))?.unwrap_or_default();
    let until = Instant::now() + timeout.min(LONGEST_DRAIN);
    let deliveries = deliveries();
    let feeds = feeds();
    let drained = py.detach(|| {
        let drained = turnwise::writer::drain_all(timeout);
        for delivery in deliveries {
            delivery.wait_drained(until.saturating_duration_since(Instant::now()));
        }
        for feed in feeds {
            feed.wait_drained(until);
        }
        drained
    });
    Ok(drained.err().map(|error| error.to_string()))
}
