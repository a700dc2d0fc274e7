//! Retry policy, state machine and budget.

use std::sync::{Arc, Mutex};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use turnwise::retry::{self, Decision, RetrySettings, RetryState, duration_from_seconds};
use turnwise::rng::Rng;
use turnwise::{Error, ErrorKind};

use crate::error::to_py_err;
use crate::lock::lock;
use crate::verdict::Verdict;

/// Immutable retry settings. Durations are in seconds.
///
/// Raises `InvalidPolicyError` for a setting out of range; the message names the setting, its
/// value and the range.
///
/// - `max_attempts`: attempts in all, the first included; `None` for as many as the deadline
///   allows. Waits for a lock do not count.
/// - `initial_delay`: the first delay before jitter, 0 to 90 days.
/// - `backoff_factor`: what a delay is multiplied by to give the next, 1 to 1000.
/// - `max_delay`: the bound of a delay before jitter, `initial_delay` to 90 days.
/// - `jitter`: `"none"`, `"additive"`, `"equal"`, `"full"`, `"decorrelated"` or `"adaptive"`, which
///   learns how long the lock is held (see `Learner`) and uses neither `initial_delay` nor
///   `backoff_factor`.
/// - `deadline`: the time for everything, sleeps included, 0 to 90 days.
#[pyclass(frozen, eq, hash, module = "turnwise")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RetryPolicy {
    pub(crate) inner: retry::RetryPolicy,
}

#[pymethods]
impl RetryPolicy {
    #[new]
    #[pyo3(signature = (
        *,
        max_attempts = Some(3),
        initial_delay = 0.1,
        backoff_factor = 2.0,
        max_delay = 10.0,
        jitter = "full",
        deadline = 30.0,
    ))]
    fn new(
        max_attempts: Option<i64>,
        initial_delay: f64,
        backoff_factor: f64,
        max_delay: f64,
        jitter: &str,
        deadline: f64,
    ) -> PyResult<Self> {
        let settings = || {
            Ok(RetrySettings {
                max_attempts: max_attempts.map(attempts).transpose()?,
                initial_delay: duration_from_seconds("initial_delay", initial_delay)?,
                backoff_factor,
                max_delay: duration_from_seconds("max_delay", max_delay)?,
                jitter: jitter_named(jitter)?,
                deadline: duration_from_seconds("deadline", deadline)?,
            })
        };
        let inner = settings().and_then(retry::RetryPolicy::new).map_err(to_py_err)?;
        Ok(Self { inner })
    }

    /// The policy of a `BatchWriter` that is given none, with another `deadline`: 1 ms, doubling to
    /// 50 ms, full jitter.
    #[staticmethod]
    #[pyo3(signature = (*, deadline = 30.0))]
    fn for_locks(deadline: f64) -> PyResult<Self> {
        let inner = duration_from_seconds("deadline", deadline)
            .and_then(retry::RetryPolicy::for_locks_within)
            .map_err(to_py_err)?;
        Ok(Self { inner })
    }

    /// Attempts in all, the first included; `None` for no limit.
    #[getter]
    fn max_attempts(&self) -> Option<u32> {
        self.inner.max_attempts()
    }

    /// The first delay before jitter, in seconds.
    #[getter]
    fn initial_delay(&self) -> f64 {
        self.inner.initial_delay().as_secs_f64()
    }

    /// What a delay is multiplied by to give the next.
    #[getter]
    fn backoff_factor(&self) -> f64 {
        self.inner.backoff_factor()
    }

    /// The bound of a delay before jitter, in seconds.
    #[getter]
    fn max_delay(&self) -> f64 {
        self.inner.max_delay().as_secs_f64()
    }

    /// How a delay is drawn.
    #[getter]
    fn jitter(&self) -> &'static str {
        self.inner.jitter().name()
    }

    /// The time for everything, in seconds.
    #[getter]
    fn deadline(&self) -> f64 {
        self.inner.deadline().as_secs_f64()
    }

    /// What learns, across waits, how long to wait for one lock.
    ///
    /// Raises `InvalidPolicyError` unless `jitter` is `"adaptive"`.
    fn learner(&self, seed: u64) -> PyResult<Learner> {
        let inner = self.inner.learner(seed).map_err(to_py_err)?;
        Ok(Learner { inner: Mutex::new(inner) })
    }

    /// The first `count` delays that `seed` gives, in seconds. Neither attempts nor deadline are
    /// looked at. Of `"adaptive"` those of a learner that never succeeds.
    fn delays(&self, seed: u64, count: usize) -> Vec<f64> {
        let seconds = |ns| core::time::Duration::from_nanos(ns).as_secs_f64();
        self.inner.delays(seed).take(count).map(seconds).collect()
    }

    /// The same delays in whole nanoseconds.
    fn delays_ns(&self, seed: u64, count: usize) -> Vec<u64> {
        self.inner.delays(seed).take(count).collect()
    }

    fn __repr__(&self) -> String {
        format!(
            "RetryPolicy(max_attempts={}, initial_delay={:?}, backoff_factor={:?}, \
             max_delay={:?}, jitter='{}', deadline={:?})",
            self.max_attempts().map_or_else(|| "None".to_owned(), |most| most.to_string()),
            self.initial_delay(),
            self.backoff_factor(),
            self.max_delay(),
            self.jitter(),
            self.deadline(),
        )
    }

    /// For pickle and copy, which know nothing of keyword-only settings.
    #[pyo3(signature = () -> "tuple[tuple[()], dict[str, object]]")]
    fn __getnewargs_ex__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
        let settings = PyDict::new(py);
        settings.set_item("max_attempts", self.max_attempts())?;
        settings.set_item("initial_delay", self.initial_delay())?;
        settings.set_item("backoff_factor", self.backoff_factor())?;
        settings.set_item("max_delay", self.max_delay())?;
        settings.set_item("jitter", self.jitter())?;
        settings.set_item("deadline", self.deadline())?;
        Ok((PyTuple::empty(py), settings))
    }
}

fn attempts(given: i64) -> turnwise::Result<u32> {
    u32::try_from(given).ok().filter(|&most| most > 0).ok_or_else(|| {
        Error::new(
            ErrorKind::InvalidPolicy,
            format!("max_attempts is {given}; it must be from 1 to {}, or None", u32::MAX),
        )
    })
}

fn jitter_named(name: &str) -> turnwise::Result<retry::Jitter> {
    retry::Jitter::from_name(name).ok_or_else(|| {
        let choices: Vec<_> = retry::Jitter::ALL.iter().map(|jitter| jitter.name()).collect();
        Error::new(
            ErrorKind::InvalidPolicy,
            format!("jitter is '{name}'; it must be one of {}", choices.join(", ")),
        )
    })
}

/// A shared allowance of retries: redone work takes 5 tokens, a new connection 14, a wait for a
/// lock none; a clean success returns 1.
#[pyclass(frozen, module = "turnwise")]
#[derive(Debug)]
pub(crate) struct Budget {
    inner: Arc<retry::Budget>,
}

#[pymethods]
impl Budget {
    #[new]
    #[pyo3(signature = (capacity = 500))]
    fn new(capacity: u32) -> Self {
        Self { inner: Arc::new(retry::Budget::new(capacity)) }
    }

    /// Takes the tokens for a retry of this kind (`"redo"`, `"unavailable"`, …), all or none.
    fn take(&self, retry: &str) -> PyResult<bool> {
        let kind = turnwise::classify::RetryKind::from_name(retry)
            .ok_or_else(|| PyValueError::new_err(format!("unknown kind of retry '{retry}'")))?;
        Ok(self.inner.take(kind))
    }

    /// Records a success that needed no retry.
    fn succeed(&self) {
        self.inner.succeed();
    }

    /// Tokens of a full budget.
    #[getter]
    fn capacity(&self) -> u32 {
        self.inner.capacity()
    }

    /// Tokens left.
    #[getter]
    fn tokens(&self) -> u32 {
        self.inner.tokens()
    }

    /// Retries that were refused.
    #[getter]
    fn denied(&self) -> u64 {
        self.inner.denied()
    }

    fn __repr__(&self) -> String {
        format!(
            "<Budget tokens={} capacity={} denied={}>",
            self.tokens(),
            self.capacity(),
            self.denied()
        )
    }
}

/// One unit of work under a policy. Decides, but never sleeps: the caller does. Learns nothing from
/// other units: for `jitter="adaptive"` ask `RetryPolicy.learner` how long to wait for a lock.
#[pyclass(frozen, module = "turnwise")]
#[derive(Debug)]
pub(crate) struct Retry {
    progress: Mutex<Progress>,
    budget: Option<Arc<retry::Budget>>,
}

#[derive(Debug)]
struct Progress {
    state: RetryState,
    stop: Option<retry::StopReason>,
}

#[pymethods]
impl Retry {
    #[new]
    #[pyo3(signature = (policy, seed, started_at_ns = 0, *, budget = None))]
    fn new(policy: &RetryPolicy, seed: u64, started_at_ns: u64, budget: Option<&Budget>) -> Self {
        let state = RetryState::new(&policy.inner, seed, started_at_ns);
        Self {
            progress: Mutex::new(Progress { state, stop: None }),
            budget: budget.map(|budget| Arc::clone(&budget.inner)),
        }
    }

    /// After a failure at `now_ns`: nanoseconds to sleep before trying again, or `None` to stop,
    /// and then `stop_reason` says why. `now_ns` and `started_at_ns` are of one clock.
    fn next(&self, now_ns: u64, verdict: &Verdict) -> Option<u64> {
        let mut progress = lock(&self.progress);
        match progress.state.next(now_ns, &verdict.inner, self.budget.as_deref()) {
            Decision::Retry { after_ns } => {
                progress.stop = None;
                Some(after_ns)
            }
            Decision::Stop(reason) => {
                progress.stop = Some(reason);
                None
            }
        }
    }

    /// Records success in the budget, if there is one: returns what the last retry took, or 1.
    fn succeed(&self) {
        if let Some(budget) = &self.budget {
            lock(&self.progress).state.clone().succeed(budget);
        }
    }

    /// Why the last answer was to stop: `"not_retryable"`, `"outcome_unknown"`, `"attempts"`,
    /// `"deadline"` or `"budget"`.
    #[getter]
    fn stop_reason(&self) -> Option<&'static str> {
        lock(&self.progress).stop.map(retry::StopReason::name)
    }

    /// Attempts so far, the first included. Waits for a lock do not count.
    #[getter]
    fn attempts(&self) -> u32 {
        lock(&self.progress).state.attempts()
    }

    /// Waits for a lock so far.
    #[getter]
    fn waits(&self) -> u64 {
        lock(&self.progress).state.waits()
    }

    /// Nanoseconds left at `now_ns`.
    fn deadline_left_ns(&self, now_ns: u64) -> u64 {
        lock(&self.progress).state.deadline_left_ns(now_ns)
    }
}

/// What a process has learned of one lock: for locks that cannot be queued for. Made by
/// `RetryPolicy.learner`.
///
/// Share one between all who ask for the same lock, and keep it for as long as the lock is used;
/// threads may. Tell it of each failure, sleep as long as it says, and tell it of each success with
/// the time that the lock was held. It never sleeps and reads no clock.
///
/// The mean sleep `mu` grows by a tenth with a failure (at most once in `mu / 2`: what fails sooner
/// is another waiter who met the same hold) and shrinks to `1.1**-3` of it with a success, so that
/// about three of four tries fail and the lock is idle for a quarter of the time, however long it is
/// held. It is at least half of one's own hold time, and at most 8 times that, half of the time for
/// which others have the lock, or an eighth of the present wait, whichever is most. It begins at 5 ms,
/// and is never below 50 µs or above the policy's `max_delay`. A sleep is from `0.5 * mu` to
/// `1.5 * mu`.
#[pyclass(frozen, module = "turnwise")]
#[derive(Debug)]
pub(crate) struct Learner {
    inner: Mutex<retry::Learner>,
}

#[pymethods]
impl Learner {
    /// The lock was asked for at `now_ns` and taken: nanoseconds to sleep before asking again. All
    /// times are of one clock, such as `time.monotonic_ns()`.
    fn failed(&self, now_ns: u64) -> u64 {
        lock(&self.inner).failed(now_ns)
    }

    /// The lock was had, held for `hold_ns`, and let go.
    fn succeeded(&self, hold_ns: u64) {
        lock(&self.inner).succeeded(hold_ns);
    }

    /// The mean sleep, in nanoseconds.
    #[getter]
    fn mean_ns(&self) -> u64 {
        lock(&self.inner).mean_ns()
    }

    /// How long the lock is held at a time, in nanoseconds, as far as is known.
    #[getter]
    fn hold_ns(&self) -> u64 {
        lock(&self.inner).hold_ns()
    }

    /// For how long others were seen to have the lock before it was had, in nanoseconds.
    #[getter]
    fn others_ns(&self) -> u64 {
        lock(&self.inner).others_ns()
    }

    fn __repr__(&self) -> String {
        let learner = lock(&self.inner);
        format!(
            "<Learner mean_ns={} hold_ns={} others_ns={}>",
            learner.mean_ns(),
            learner.hold_ns(),
            learner.others_ns()
        )
    }
}

/// `count` raw draws of the generator behind every delay, or numbers below `below`.
#[pyfunction]
#[pyo3(signature = (seed, count, below = None))]
pub(crate) fn draws(seed: u64, count: usize, below: Option<u64>) -> Vec<u64> {
    let mut rng = Rng::new(seed);
    let mut draw = || match below {
        Some(limit) => rng.below(limit),
        None => rng.next_u64(),
    };
    (0..count).map(|_| draw()).collect()
}
