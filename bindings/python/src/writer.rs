//! The batch writer, in Python.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use turnwise::ErrorKind;
use turnwise::classify::Journal;
use turnwise::sqlite::fork::generation;
use turnwise::sqlite::{Durability, Params};
use turnwise::writer::{
    BatchWriter, Call, Histogram, Landing, MakeObserver, Outbox, Place, Submitted, Unit,
    WriterOptions,
};

use crate::attention::{attend, attentively, noted};
use crate::delivery::{Delivery, Mailbox};
use crate::error::{refuse, to_py_err};
use crate::events::Feed;
use crate::lock::lock;
use crate::policy::RetryPolicy;
use crate::result::WriteResult;
use crate::settings;
use crate::testing;
use crate::transaction::NativeTransaction;
use crate::values;

/// The native half of `turnwise.BatchWriter`.
#[pyclass(frozen, subclass, module = "turnwise._native")]
pub(crate) struct NativeWriter {
    writer: BatchWriter,
    post: Mutex<Option<Post>>,
}

/// How outcomes get to futures, in one process generation.
#[derive(Clone)]
struct Post {
    generation: u64,
    delivery: Arc<Delivery>,
    outbox: Outbox,
}

#[pymethods]
impl NativeWriter {
    #[new]
    #[expect(clippy::too_many_arguments, reason = "keyword-only settings in Python")]
    #[pyo3(signature = (
        path,
        *,
        policy = None,
        max_batch = 1_000,
        max_queue_rows = 100_000,
        max_queue_bytes = 67_108_864,
        durability = "full",
        journal_mode = "wal",
        foreign_keys = false,
        hold_limit = 5.0,
        turn_lock = true,
        turn_timeout = Some(2.0),
    ))]
    fn new(
        py: Python<'_>,
        path: &Bound<'_, PyAny>,
        policy: Option<&RetryPolicy>,
        max_batch: i64,
        max_queue_rows: i64,
        max_queue_bytes: i64,
        durability: &str,
        journal_mode: &str,
        foreign_keys: bool,
        hold_limit: f64,
        turn_lock: bool,
        turn_timeout: Option<f64>,
    ) -> PyResult<Self> {
        let path = values::path(path)?;
        let mut options = WriterOptions::default();
        if let Some(policy) = policy {
            options.policy = policy.inner;
        }
        options.max_batch = size("max_batch", max_batch)?;
        options.max_queue_rows = size("max_queue_rows", max_queue_rows)?;
        options.max_queue_bytes = size("max_queue_bytes", max_queue_bytes)?;
        options.durability = Durability::from_name(durability)
            .ok_or_else(|| choice("durability", durability, "'full', 'pipelined' or 'normal'"))?;
        options.journal_mode = Journal::from_name(journal_mode).ok_or_else(|| {
            choice("journal_mode", journal_mode, "'wal', 'delete', 'truncate' or 'persist'")
        })?;
        options.foreign_keys = foreign_keys;
        options.hold_limit = values::seconds("hold_limit", Some(hold_limit))?.unwrap_or_default();
        options.turn_lock = turn_lock;
        options.turn_timeout = values::seconds("turn_timeout", turn_timeout)?;
        options.observer = Some(MakeObserver::new(Feed::observer));
        let opened =
            attentively(py, None, false, move |call| BatchWriter::open_with(path, options, call))?;
        Ok(Self { writer: opened.map_err(to_py_err)?, post: Mutex::new(None) })
    }

    /// Runs one statement and returns once it is committed.
    ///
    /// `params` is a sequence for `?` or a mapping for `:name`. `timeout`, in seconds, bounds the
    /// wait of a write that has not begun; the default is the policy's deadline.
    #[pyo3(signature = (sql, params = None, *, timeout = None))]
    fn execute(
        &self,
        py: Python<'_>,
        sql: &str,
        params: Option<&Bound<'_, PyAny>>,
        timeout: Option<f64>,
    ) -> PyResult<WriteResult> {
        self.run(py, Unit::one(sql, parameters(params)?), timeout)
    }

    /// Runs one statement for every row, all rows or none, and returns once it is committed.
    #[pyo3(signature = (sql, rows, *, timeout = None))]
    fn executemany(
        &self,
        py: Python<'_>,
        sql: &str,
        rows: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<WriteResult> {
        self.run(py, Unit::many(sql, values::rows(rows)?), timeout)
    }

    /// Leaves a write in the queue for `future`, which belongs to `event_loop` unless that is
    /// `None`. `None` when the queue is full and `event_loop` must not be blocked.
    #[pyo3(signature = (future, event_loop, sql, params, timeout))]
    fn _submit(
        &self,
        py: Python<'_>,
        future: Py<PyAny>,
        event_loop: Option<Py<PyAny>>,
        sql: &str,
        params: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Option<NativePlace>> {
        let mut unit = Unit::one(sql, values::params(params)?);
        let patience = values::seconds("timeout", timeout)?;
        let post = self.post()?;
        let blocks = event_loop.is_none();
        let token = post.delivery.expect(future, event_loop);
        let outcome = loop {
            let writer = &self.writer;
            let outbox = &post.outbox;
            let submit = move || writer.submit(unit, patience, outbox, token);
            // With the GIL: beside a busy Python thread, who lets go of it may wait for a switch
            // interval (5 ms) to get it back, and an event loop with it.
            let submitted = if writer.is_connected() { submit() } else { py.detach(submit) };
            match submitted {
                Ok(Submitted::Queued(place)) => {
                    return Ok(Some(NativePlace { place, token, post }));
                }
                Ok(Submitted::Full(back)) if blocks => {
                    unit = back;
                    let waited = &unit;
                    let room = attentively(py, patience, false, |call| {
                        self.writer.await_room(waited, call)
                    });
                    match room {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => break Err(to_py_err(error)),
                        Err(interrupt) => break Err(interrupt),
                    }
                }
                Ok(Submitted::Full(_)) => break Ok(None),
                Err(error) => break Err(to_py_err(error)),
            }
        };
        post.delivery.forget(token);
        outcome
    }

    /// Completes `future` with `None` once the queue has room for this write.
    fn _when_room(
        &self,
        future: Py<PyAny>,
        event_loop: Py<PyAny>,
        sql: &str,
        params: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let unit = Unit::one(sql, values::params(params)?);
        let post = self.post()?;
        let token = post.delivery.expect(future, Some(event_loop));
        let delivery = Arc::clone(&post.delivery);
        self.writer.when_room(&unit, move || delivery.push_room(token)).map_err(to_py_err)
    }

    /// Begins an interactive transaction.
    fn _begin(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        site: &str,
        task: Option<u64>,
    ) -> PyResult<NativeTransaction> {
        let timeout = values::seconds("timeout", timeout)?;
        let begun = attentively(py, timeout, true, |call| {
            self.writer.transaction(&Call { site, task, ..*call })
        })?;
        begun.map(NativeTransaction::new).map_err(to_py_err)
    }

    /// Fails for an asyncio task, by its `id`, that would wait for itself.
    fn _check_task(&self, task: u64) -> PyResult<()> {
        self.writer.check_task(task).map_err(to_py_err)
    }

    /// Returns once everything that was accepted before is committed or has failed, and its
    /// futures are completed.
    #[pyo3(signature = (timeout = None))]
    fn flush(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let timeout = values::seconds("timeout", timeout)?;
        let until = self.until(timeout);
        attentively(py, timeout, false, |call| self.writer.flush(call))?.map_err(to_py_err)?;
        self.wait_delivered(py, until)
    }

    /// Drains what was accepted, and closes the connection with the last writer on the file.
    /// Harmless when the writer is closed.
    #[pyo3(signature = (timeout = None))]
    fn close(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        let timeout = values::seconds("timeout", timeout)?;
        let until = self.until(timeout);
        attentively(py, timeout, false, |call| self.writer.close(call))?.map_err(to_py_err)?;
        self.wait_delivered(py, until)
    }

    /// Whether `close` was called.
    #[getter]
    fn closed(&self) -> bool {
        self.writer.is_closed()
    }

    /// The database file, by its resolved path.
    #[getter]
    fn path(&self) -> std::ffi::OsString {
        self.writer.path().as_os_str().to_owned()
    }

    #[pyo3(signature = () -> "dict[str, int]")]
    fn _stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.writer.stats();
        let counters = PyDict::new(py);
        for (name, count) in stats.iter() {
            counters.set_item(name, count)?;
        }
        Ok(counters)
    }

    /// Of each histogram: upper bounds in seconds, counts, and the sum in seconds.
    #[pyo3(signature = () -> "dict[str, tuple[tuple[float, ...], tuple[int, ...], float]]")]
    fn _histograms<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.writer.stats();
        let histograms = PyDict::new(py);
        for (name, histogram) in [("write_time", stats.write_time), ("lock_time", stats.lock_time)]
        {
            let bounds = Histogram::bounds().map(|bound| bound.as_secs_f64());
            let bounds = PyTuple::new(py, bounds.collect::<Vec<_>>())?;
            let counts = PyTuple::new(py, histogram.counts)?;
            histograms.set_item(name, (bounds, counts, histogram.sum.as_secs_f64()))?;
        }
        Ok(histograms)
    }

    /// Has a fault strike the file's connection.
    fn _arm(&self, at: &str, code: i32, effect: &str, after: i64, times: i64) -> PyResult<()> {
        let fault =
            testing::fault(self.writer.options().journal_mode, at, code, effect, after, times)?;
        self.writer.arm(fault).map_err(to_py_err)
    }

    /// Calls off the faults that have not struck as often as they should; gives their number.
    fn _disarm(&self) -> usize {
        self.writer.disarm()
    }

    #[pyo3(signature = () -> "dict[str, object]")]
    fn _settings<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let file = py.detach(|| self.writer.settings()).map_err(to_py_err)?;
        settings::as_dict(py, &file, self.writer.options())
    }
}

impl NativeWriter {
    fn run(&self, py: Python<'_>, unit: Unit, timeout: Option<f64>) -> PyResult<WriteResult> {
        let timeout = values::seconds("timeout", timeout)?;
        let (landing, interrupt) =
            attend(py, timeout, true, |call| self.writer.execute_with(unit, call));
        let Landing { outcome, pickup, .. } = landing;
        // With the GIL back, the caller is as good as on its way to the next write.
        drop(pickup);
        match interrupt {
            None => WriteResult::new(py, outcome.map_err(to_py_err)?),
            Some(interrupt) => {
                let fate = match outcome {
                    Ok(_) => "the interrupted write was committed".to_owned(),
                    Err(error) if error.kind() == ErrorKind::WriteCancelled => {
                        "the interrupted write had not begun; it is not in the file".to_owned()
                    }
                    Err(error) => format!("the interrupted write failed: {error}"),
                };
                Err(noted(py, interrupt, &fate))
            }
        }
    }

    /// The way to futures, in this process.
    fn post(&self) -> PyResult<Post> {
        let mut post = lock(&self.post);
        let now = generation();
        match &*post {
            Some(known) if known.generation == now => Ok(known.clone()),
            _ => {
                let delivery = Delivery::start()?;
                let outbox = Outbox::new(Mailbox(Arc::clone(&delivery)));
                let fresh = Post { generation: now, delivery, outbox };
                // An inherited one belongs to the parent: its thread is not here.
                std::mem::forget(post.replace(fresh.clone()));
                Ok(fresh)
            }
        }
    }

    fn until(&self, timeout: Option<Duration>) -> Option<Instant> {
        Instant::now().checked_add(timeout.unwrap_or(self.writer.options().policy.deadline()))
    }

    /// Waits until every outcome that came is with its future.
    fn wait_delivered(&self, py: Python<'_>, until: Option<Instant>) -> PyResult<()> {
        let post = lock(&self.post).clone().filter(|post| post.generation == generation());
        let Some(post) = post else { return Ok(()) };
        let waited = attentively(py, None, false, |call| {
            loop {
                let left = until
                    .map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
                let slice = call.slice.unwrap_or(left).min(left);
                if post.delivery.wait_drained(slice) || (call.interrupted)() {
                    return Ok(());
                }
                if slice == left {
                    return Err(turnwise::Error::new(
                        ErrorKind::WriteTimeout,
                        "everything is written, but the time-out passed while the callbacks of \
                         futures ran",
                    ));
                }
            }
        })?;
        waited.map_err(to_py_err)
    }
}

impl Drop for NativeWriter {
    fn drop(&mut self) {
        // The thread ends once the outcomes of what is still queued are delivered.
        match lock(&self.post).take() {
            Some(post) if post.generation == generation() => post.delivery.close(),
            inherited => std::mem::forget(inherited),
        }
    }
}

/// A submitted write's place in the queue.
#[pyclass(frozen, module = "turnwise._native")]
pub(crate) struct NativePlace {
    place: Place,
    token: u64,
    post: Post,
}

#[pymethods]
impl NativePlace {
    /// Takes the write back. `False`: it has begun, and its outcome will come.
    fn withdraw(&self) -> bool {
        let withdrawn = self.place.withdraw();
        if withdrawn {
            self.post.delivery.forget(self.token);
        }
        withdrawn
    }
}

fn parameters(given: Option<&Bound<'_, PyAny>>) -> PyResult<Params> {
    given.map_or(Ok(Params::NONE), values::params)
}

fn size(name: &str, given: i64) -> PyResult<usize> {
    usize::try_from(given).map_err(|_| {
        refuse(ErrorKind::InvalidSetting, format!("{name}={given} is out of range: at least 1"))
    })
}

fn choice(name: &str, given: &str, choices: &str) -> PyErr {
    refuse(ErrorKind::InvalidSetting, format!("{name}='{given}' is unknown: it must be {choices}"))
}
