//! The delivery thread: takes outcomes from the writer thread, which never takes the GIL, and
//! completes futures.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::PyList;
use turnwise::Result;
use turnwise::sqlite::Written;
use turnwise::sqlite::fork::generation;
use turnwise::writer::{Completed, Pickup, Sink};

use crate::error::to_py_err;
use crate::lock::lock;
use crate::result::WriteResult;

/// A future, and the event loop it belongs to; `None` for a `concurrent.futures.Future`.
struct Target {
    future: Py<PyAny>,
    event_loop: Option<Py<PyAny>>,
}

enum Parcel {
    Outcomes(Vec<Completed<Written>>, Option<Pickup>),
    /// A future to be completed with `None`: the queue may have room.
    Room(u64),
}

#[derive(Default)]
struct Inbox {
    parcels: VecDeque<Parcel>,
    /// The delivery thread is completing futures.
    busy: bool,
    closed: bool,
    server: Option<ThreadId>,
}

/// Shared by the writer thread, the delivery thread and the Python object.
#[derive(Default)]
pub(crate) struct Delivery {
    inbox: Mutex<Inbox>,
    arrived: Condvar,
    drained: Condvar,
    /// Only touched with the GIL held, so that a fork never finds it locked.
    targets: Mutex<HashMap<u64, Target>>,
    next: AtomicU64,
    /// How many targets there are, for the thread that has no GIL.
    expected: AtomicUsize,
}

/// Every delivery that was started, with its process generation. Only touched with the GIL held, so
/// that a fork never finds it locked.
static STARTED: Mutex<Vec<(u64, Weak<Delivery>)>> = Mutex::new(Vec::new());

/// The deliveries of this process. The GIL is held.
pub(crate) fn deliveries() -> Vec<Arc<Delivery>> {
    let here = generation();
    let started = lock(&STARTED);
    started
        .iter()
        .filter(|(there, _)| *there == here)
        .filter_map(|(_, known)| known.upgrade())
        .collect()
}

/// Marks the tokens of event loops, whose coroutines the writer thread expects back.
const LOOP: u64 = 1;

/// The sink that the core knows.
pub(crate) struct Mailbox(pub(crate) Arc<Delivery>);

impl Sink<Written> for Mailbox {
    fn deliver(&self, completed: Vec<Completed<Written>>, pickup: Pickup) {
        // Nobody waits in line behind a `concurrent.futures.Future`: only loops are expected back.
        let loops = completed.iter().any(|done| done.token & LOOP != 0);
        self.0.push(Parcel::Outcomes(completed, loops.then_some(pickup)));
    }
}

impl Delivery {
    /// Starts a delivery thread. The GIL is held.
    pub(crate) fn start() -> PyResult<Arc<Self>> {
        let delivery = Arc::new(Self::default());
        let mut started = lock(&STARTED);
        started.retain(|(_, known)| known.strong_count() > 0);
        started.push((generation(), Arc::downgrade(&delivery)));
        drop(started);
        let shared = Arc::clone(&delivery);
        std::thread::Builder::new()
            .name("turnwise-delivery".into())
            .spawn(move || shared.serve())?;
        Ok(delivery)
    }

    /// Notes a future, and gives its token.
    pub(crate) fn expect(&self, future: Py<PyAny>, event_loop: Option<Py<PyAny>>) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let token = number << 1 | u64::from(event_loop.is_some());
        lock(&self.targets).insert(token, Target { future, event_loop });
        self.expected.fetch_add(1, Ordering::Release);
        token
    }

    /// The write was not accepted, or was taken back.
    pub(crate) fn forget(&self, token: u64) {
        drop(self.take(token));
        if self.expected.load(Ordering::Acquire) == 0 {
            // With the lock, or the thread that is about to wait would miss it.
            let _inbox = lock(&self.inbox);
            self.arrived.notify_all();
        }
    }

    /// Completes the future of `token` with `None`.
    pub(crate) fn push_room(&self, token: u64) {
        self.push(Parcel::Room(token));
    }

    fn take(&self, token: u64) -> Option<Target> {
        let target = lock(&self.targets).remove(&token)?;
        self.expected.fetch_sub(1, Ordering::AcqRel);
        Some(target)
    }

    /// Lets the thread end once every future is completed.
    pub(crate) fn close(&self) {
        lock(&self.inbox).closed = true;
        self.arrived.notify_all();
    }

    /// Waits without the GIL until everything that came is delivered. Not in a future's callback,
    /// which the delivery itself runs.
    pub(crate) fn wait_drained(&self, timeout: Duration) -> bool {
        let until = Instant::now().checked_add(timeout);
        let mut inbox = lock(&self.inbox);
        if inbox.server == Some(std::thread::current().id()) {
            return true;
        }
        while inbox.busy || !inbox.parcels.is_empty() {
            let left = until
                .map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return false;
            }
            let woken = self.drained.wait_timeout(inbox, left);
            inbox = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn push(&self, parcel: Parcel) {
        lock(&self.inbox).parcels.push_back(parcel);
        self.arrived.notify_one();
    }

    fn serve(&self) {
        lock(&self.inbox).server = Some(std::thread::current().id());
        loop {
            let mut inbox = lock(&self.inbox);
            inbox.busy = false;
            if inbox.parcels.is_empty() {
                self.drained.notify_all();
            }
            while inbox.parcels.is_empty() {
                if inbox.closed && self.expected.load(Ordering::Acquire) == 0 {
                    return;
                }
                inbox = self.arrived.wait(inbox).unwrap_or_else(PoisonError::into_inner);
            }
            let parcels = std::mem::take(&mut inbox.parcels);
            inbox.busy = true;
            drop(inbox);
            // At the end of the interpreter nobody is left to be told.
            if Python::try_attach(|py| self.hand_out(py, parcels)).is_none() {
                return;
            }
        }
    }

    fn hand_out(&self, py: Python<'_>, parcels: VecDeque<Parcel>) {
        let mut loops: Vec<(Py<PyAny>, Bound<'_, PyList>)> = Vec::new();
        let mut pickups = Vec::new();
        for parcel in parcels {
            match parcel {
                Parcel::Outcomes(completed, pickup) => {
                    pickups.extend(pickup);
                    for done in completed {
                        self.hand_over(py, done.token, Some(done.outcome), &mut loops);
                    }
                }
                Parcel::Room(token) => self.hand_over(py, token, None, &mut loops),
            }
        }
        let pickups = Py::new(py, Pickups(Mutex::new(pickups)));
        for (event_loop, batch) in loops {
            let posted = py.import("turnwise._loops").and_then(|loops| {
                let land = loops.getattr("land")?;
                let pickups = pickups.as_ref().map(|pickups| pickups.clone_ref(py)).ok();
                event_loop.call_method1(py, "call_soon_threadsafe", (land, batch, pickups))
            });
            // A loop that is closed has nobody waiting in it.
            drop(posted);
        }
    }

    fn hand_over<'py>(
        &self,
        py: Python<'py>,
        token: u64,
        outcome: Option<Result<Written>>,
        loops: &mut Vec<(Py<PyAny>, Bound<'py, PyList>)>,
    ) {
        let Some(target) = self.take(token) else { return };
        let result = match outcome {
            None => Ok(py.None()),
            Some(outcome) => outcome
                .map_err(to_py_err)
                .and_then(|written| Py::new(py, WriteResult::new(py, written)?))
                .map(Py::into_any),
        };
        let Some(event_loop) = target.event_loop else {
            let told = match result {
                Ok(result) => target.future.call_method1(py, "set_result", (result,)),
                Err(error) => target.future.call_method1(py, "set_exception", (error,)),
            };
            // A future that the application completed itself wants nothing from us.
            drop(told);
            return;
        };
        let (value, error) = match result {
            Ok(value) => (value, py.None()),
            Err(error) => (py.None(), error.into_value(py).into_any()),
        };
        let known = loops.iter().position(|(other, _)| other.is(&event_loop));
        let batch = if let Some((_, batch)) = known.and_then(|at| loops.get(at)) {
            batch.clone()
        } else {
            let batch = PyList::empty(py);
            loops.push((event_loop, batch.clone()));
            batch
        };
        let appended = batch.append((target.future, value, error));
        debug_assert!(appended.is_ok(), "a list takes what it is given");
    }
}

/// Tells the writer thread, when closed or dropped, that a loop has run the coroutines it woke.
#[pyclass(frozen, module = "turnwise._native")]
pub(crate) struct Pickups(Mutex<Vec<Pickup>>);

#[pymethods]
impl Pickups {
    /// The coroutines have run.
    fn close(&self) {
        lock(&self.0).clear();
    }
}
