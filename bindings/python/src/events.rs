//! What the writer tells its observer, on its way to Python.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::PyList;
use turnwise::event::{self, Observer};
use turnwise::sqlite::fork::generation;

use crate::lock::lock;

/// Events that wait for Python at most; what comes beyond is counted and dropped, because a slow
/// hook must not fill the memory.
const MOST: usize = 10_000;

/// How long the thread waits for the next event before it ends.
const IDLE: Duration = Duration::from_secs(1);

/// One step of a write that met trouble. Holds no SQL text and no parameter.
#[pyclass(frozen, module = "turnwise")]
#[derive(Debug)]
pub(crate) struct Event {
    inner: event::Event,
    path: Arc<str>,
}

#[pymethods]
impl Event {
    /// What happened: `"retry"`, `"recovery"` or `"failure"`.
    #[getter]
    fn kind(&self) -> &'static str {
        self.inner.kind.name()
    }

    /// The database file.
    #[getter]
    fn path(&self) -> &str {
        &self.path
    }

    /// The class of the (last) error, such as `"contention"`.
    #[getter]
    fn class_(&self) -> &'static str {
        self.inner.class.name()
    }

    /// SQLite's extended code of the (last) error; 0 where SQLite was not asked.
    #[getter]
    fn code(&self) -> i32 {
        self.inner.code
    }

    /// How often it was tried so far; the first try is 1.
    #[getter]
    fn attempt(&self) -> u64 {
        self.inner.attempt
    }

    /// Seconds until the next try; 0 if there is none.
    #[getter]
    fn delay(&self) -> f64 {
        Duration::from_nanos(self.inner.delay_ns).as_secs_f64()
    }

    /// Seconds until the deadline.
    #[getter]
    fn deadline_left(&self) -> f64 {
        Duration::from_nanos(self.inner.deadline_left_ns).as_secs_f64()
    }

    /// A number that stands for the SQL text, in 16 hexadecimal digits; empty where there is none.
    #[getter]
    fn statement(&self) -> String {
        match self.inner.statement {
            0 => String::new(),
            number => format!("{number:016x}"),
        }
    }

    /// The kind of the error that is raised, such as `"Constraint"`; `None` unless it is a failure.
    #[getter]
    fn error(&self) -> Option<&'static str> {
        self.inner.error.map(turnwise::ErrorKind::name)
    }

    /// Why it is not tried again, such as `"deadline"`; `None` unless it is a failure.
    #[getter]
    fn stop(&self) -> Option<&'static str> {
        self.inner.stop.map(event::StopReason::name)
    }

    fn __repr__(&self) -> String {
        format!(
            "<Event {} {} class={} code={} attempt={} delay={:?}>",
            self.kind(),
            self.error().unwrap_or_default(),
            self.class_(),
            self.code(),
            self.attempt(),
            self.delay(),
        )
    }
}

#[derive(Default)]
struct Inbox {
    events: VecDeque<event::Event>,
    dropped: u64,
    /// The thread runs.
    serving: bool,
    /// The thread is in Python.
    busy: bool,
}

/// Takes a file's events from the threads that write, which never take the GIL, to one that does.
pub(crate) struct Feed {
    path: Arc<str>,
    inbox: Mutex<Inbox>,
    arrived: Condvar,
    drained: Condvar,
    me: Weak<Self>,
}

/// Every feed, with its process generation. Made while no process is forked (the core opens a file
/// under the lock that fork takes), and read with the GIL.
static FEEDS: Mutex<Vec<(u64, Weak<Feed>)>> = Mutex::new(Vec::new());

impl Feed {
    /// The observer of the file at `path`.
    pub(crate) fn observer(path: &Path) -> Arc<dyn Observer> {
        let feed = Arc::new_cyclic(|me| Self {
            path: path.to_string_lossy().into(),
            inbox: Mutex::default(),
            arrived: Condvar::new(),
            drained: Condvar::new(),
            me: me.clone(),
        });
        let mut feeds = lock(&FEEDS);
        feeds.retain(|(_, known)| known.strong_count() > 0);
        feeds.push((generation(), Arc::downgrade(&feed)));
        feed
    }

    /// Waits without the GIL until Python has heard of everything.
    pub(crate) fn wait_drained(&self, until: Instant) {
        let mut inbox = lock(&self.inbox);
        while inbox.busy || !inbox.events.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let woken = self.drained.wait_timeout(inbox, left);
            inbox = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn serve(&self) {
        loop {
            let mut inbox = lock(&self.inbox);
            inbox.busy = false;
            if inbox.events.is_empty() {
                self.drained.notify_all();
                let waited =
                    self.arrived.wait_timeout_while(inbox, IDLE, |inbox| inbox.events.is_empty());
                inbox = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            let events = std::mem::take(&mut inbox.events);
            let dropped = std::mem::take(&mut inbox.dropped);
            inbox.busy = true;
            if events.is_empty() {
                inbox.busy = false;
                inbox.serving = false;
                return;
            }
            drop(inbox);
            // At the end of the interpreter nobody is left to be told.
            if Python::try_attach(|py| self.tell(py, events, dropped)).is_none() {
                return;
            }
        }
    }

    fn tell(&self, py: Python<'_>, events: VecDeque<event::Event>, dropped: u64) {
        let told = || -> PyResult<()> {
            let batch = PyList::empty(py);
            for inner in events {
                batch.append(Py::new(py, Event { inner, path: Arc::clone(&self.path) })?)?;
            }
            py.import("turnwise.events")?.call_method1("_tell", (batch, dropped))?;
            Ok(())
        };
        // What a hook raises is seen to in Python; what is left is the end of the interpreter.
        drop(told());
    }
}

impl Observer for Feed {
    fn observe(&self, event: &event::Event) {
        let mut inbox = lock(&self.inbox);
        if inbox.events.len() == MOST {
            inbox.dropped += 1;
            return;
        }
        inbox.events.push_back(*event);
        if !inbox.serving {
            let Some(me) = self.me.upgrade() else { return };
            let thread = std::thread::Builder::new().name("turnwise-events".into());
            inbox.serving = thread.spawn(move || me.serve()).is_ok();
        }
        drop(inbox);
        self.arrived.notify_one();
    }
}

/// The feeds of this process. The GIL is held.
pub(crate) fn feeds() -> Vec<Arc<Feed>> {
    let here = generation();
    let feeds = lock(&FEEDS);
    feeds
        .iter()
        .filter(|(there, _)| *there == here)
        .filter_map(|(_, known)| known.upgrade())
        .collect()
}
