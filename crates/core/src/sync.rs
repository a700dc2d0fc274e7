//! Locks, condition variables and the time: the system's, or a model checker's under
//! `--cfg shuttle`.

#[cfg(all(test, shuttle))]
pub(crate) mod checker;
#[cfg(all(test, shuttle))]
pub(crate) mod model;
#[cfg(not(all(test, shuttle)))]
mod system;

#[cfg(all(test, shuttle))]
pub(crate) use model::{Condvar, Mutex, MutexGuard, now, unlocked};
#[cfg(all(test, shuttle))]
pub(crate) use shuttle::thread::{ThreadId, current};
#[cfg(not(all(test, shuttle)))]
pub(crate) use std::thread::{ThreadId, current};
#[cfg(not(all(test, shuttle)))]
pub(crate) use system::{Condvar, Mutex, MutexGuard, now, unlocked};
