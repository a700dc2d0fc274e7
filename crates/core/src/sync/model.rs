//! What the hand-off waits on under the model checker, with a clock of its own.
//!
//! Every thread that uses these must come from [`spawn`], and every execution must begin with
//! [`begin`]: the clock has to know who is awake. It moves when all threads sleep (to the first
//! moment that one of them waits for), and, in a hurry, whenever the scheduler likes: any amount of
//! time may pass between two steps of a thread.
#![allow(clippy::unwrap_used)]

use core::ops::{Deref, DerefMut};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use shuttle::rand::Rng as _;
use shuttle::{sync, thread};

/// Beyond this every deadline of a test has long passed: who still sleeps is waited for by nobody.
const END_OF_TIME: Duration = Duration::from_secs(30 * 24 * 3600);

struct Clock {
    elapsed: Duration,
    /// How likely time runs on to a sleeper's deadline while others still have something to do.
    hurry: f64,
    awake: usize,
    alarms: Vec<(u64, Duration)>,
    next_alarm: u64,
}

thread_local! {
    static START: Instant = Instant::now();
    // One checker runs on one thread of the machine, and all its tasks with it.
    static CLOCK: RefCell<Clock> = const {
        RefCell::new(Clock {
            elapsed: Duration::ZERO,
            hurry: 0.0,
            awake: 1,
            alarms: Vec::new(),
            next_alarm: 0,
        })
    };
}

fn clock<R>(f: impl FnOnce(&mut Clock) -> R) -> R {
    CLOCK.with_borrow_mut(f)
}

/// Starts an execution: the clock is at zero and only the caller is awake.
pub(crate) fn begin(hurry: f64) {
    clock(|clock| {
        *clock =
            Clock { elapsed: Duration::ZERO, hurry, awake: 1, alarms: Vec::new(), next_alarm: 0 };
    });
}

/// Model time since [`begin`].
pub(crate) fn elapsed() -> Duration {
    clock(|clock| clock.elapsed)
}

pub(crate) fn now() -> Instant {
    START.with(|start| *start) + elapsed()
}

impl Clock {
    /// Whether the sleeper `id` has slept until `deadline`.
    fn has_come(&mut self, id: u64, deadline: Duration) -> bool {
        if self.elapsed >= deadline {
            return true;
        }
        let all_asleep =
            self.awake == 0 && self.alarms.iter().all(|&(other, at)| other == id || at >= deadline);
        if all_asleep || self.hurry > 0.0 && shuttle::rand::thread_rng().gen_bool(self.hurry) {
            self.elapsed = deadline;
            assert!(self.elapsed < END_OF_TIME, "the model's time ran away: a wake-up was lost");
            return true;
        }
        false
    }
}

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(sync::Mutex<T>);

#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T> {
    of: &'a sync::Mutex<T>,
    // `None` only while `of` is released on purpose.
    inner: Option<sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard { of: &self.0, inner: Some(relock(&self.0)) }
    }
}

/// `parking_lot` knows no poisoning.
fn relock<T>(mutex: &sync::Mutex<T>) -> sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.inner.as_ref().unwrap()
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().unwrap()
    }
}

/// Runs `f` with the lock released.
pub(crate) fn unlocked<T, R>(guard: &mut MutexGuard<'_, T>, f: impl FnOnce() -> R) -> R {
    drop(guard.inner.take());
    let result = f();
    guard.inner = Some(relock(guard.of));
    result
}

#[derive(Debug)]
struct Waiter {
    thread: thread::Thread,
    notified: AtomicBool,
}

/// A condition variable whose timed waits end by the model's clock.
#[derive(Debug, Default)]
pub(crate) struct Condvar(std::sync::Mutex<Vec<Arc<Waiter>>>);

pub(crate) struct WaitTimeoutResult(bool);

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The caller counts as asleep from here on: it has decided to sleep.
    fn enlist(&self) -> Arc<Waiter> {
        let waiter =
            Arc::new(Waiter { thread: thread::current(), notified: AtomicBool::new(false) });
        self.0.lock().unwrap().push(Arc::clone(&waiter));
        clock(|clock| clock.awake -= 1);
        waiter
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let waiter = self.enlist();
        drop(guard.inner.take());
        while !waiter.notified.load(Ordering::Relaxed) {
            thread::park();
        }
        guard.inner = Some(relock(guard.of));
    }

    pub(crate) fn wait_until<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        deadline: Instant,
    ) -> WaitTimeoutResult {
        let deadline = deadline.saturating_duration_since(START.with(|start| *start));
        let waiter = self.enlist();
        let alarm = clock(|clock| {
            clock.next_alarm += 1;
            clock.alarms.push((clock.next_alarm, deadline));
            clock.next_alarm
        });
        drop(guard.inner.take());
        let timed_out = loop {
            if waiter.notified.load(Ordering::Relaxed) {
                break false;
            }
            if clock(|clock| clock.has_come(alarm, deadline)) {
                self.0.lock().unwrap().retain(|other| !Arc::ptr_eq(other, &waiter));
                clock(|clock| clock.awake += 1);
                break true;
            }
            thread::yield_now();
        };
        clock(|clock| clock.alarms.retain(|&(id, _)| id != alarm));
        guard.inner = Some(relock(guard.of));
        WaitTimeoutResult(timed_out)
    }

    pub(crate) fn notify_one(&self) {
        thread::sleep(Duration::ZERO);
        let mut waiters = self.0.lock().unwrap();
        if !waiters.is_empty() {
            let chosen = shuttle::rand::thread_rng().gen_range(0..waiters.len());
            let waiter = waiters.swap_remove(chosen);
            drop(waiters);
            wake(&[waiter]);
        }
    }

    pub(crate) fn notify_all(&self) {
        thread::sleep(Duration::ZERO);
        let waiters = std::mem::take(&mut *self.0.lock().unwrap());
        wake(&waiters);
    }
}

/// They are awake from now on, so that no time passes before they have run.
fn wake(waiters: &[Arc<Waiter>]) {
    // All of them in one step: `unpark` lets others run.
    for waiter in waiters {
        waiter.notified.store(true, Ordering::Relaxed);
        clock(|clock| clock.awake += 1);
    }
    for waiter in waiters {
        waiter.thread.unpark();
    }
}

impl WaitTimeoutResult {
    pub(crate) fn timed_out(&self) -> bool {
        self.0
    }
}

/// A thread that the clock knows.
pub(crate) struct Spawned {
    ended: Arc<(Mutex<bool>, Condvar)>,
    handle: thread::JoinHandle<()>,
}

/// Starts a thread.
pub(crate) fn spawn(f: impl FnOnce() + Send + 'static) -> Spawned {
    let ended = Arc::new((Mutex::new(false), Condvar::new()));
    clock(|clock| clock.awake += 1);
    let handle = thread::spawn({
        let ended = Arc::clone(&ended);
        move || {
            f();
            *ended.0.lock() = true;
            ended.1.notify_one();
            clock(|clock| clock.awake -= 1);
        }
    });
    Spawned { ended, handle }
}

impl Spawned {
    /// Waits for the end of the thread, as a thread that the clock knows.
    pub(crate) fn join(self) {
        let mut ended = self.ended.0.lock();
        while !*ended {
            self.ended.1.wait(&mut ended);
        }
        drop(ended);
        self.handle.join().unwrap();
    }
}
