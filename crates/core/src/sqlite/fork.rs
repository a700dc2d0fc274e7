//! What a process must know about `fork` before it touches a database handle again.
//!
//! A child that `fork` made inherits connections, mutexes and file descriptors that belong to its
//! parent. It must neither use nor close them: closing an inherited connection would unlock or
//! checkpoint the parent's database. The rule for every object that owns a connection:
//!
//! - remember [`generation`] when the connection is opened, and compare it on every call;
//! - when it differs, touch nothing of the old object (not even its mutexes: a thread that does not
//!   exist here may hold them), [leak it](Owned), and open a connection of the child's own;
//! - [`register`] the object, so that no SQLite call runs at the moment of a fork;
//! - build on `std::sync`, not on `parking_lot`, whatever a child may use, new objects included:
//!   `parking_lot` queues all waiting threads of a process in one global table, and a child inherits the
//!   entries of threads that it does not have. With 58 threads of the parent waiting, 4 of 10 children
//!   that started 100 contending threads hung; with `std` none.
//!
//! With the private copy on Linux the counter is moved by a `pthread_atfork` handler and quiescing
//! happens. Without it (an SQLite that the host application shares) nothing is quiesced: SQLite's own
//! rule "do not carry a connection across a fork" is kept by comparing the process id.

use std::sync::Weak;

#[cfg(not(all(feature = "private-copy", target_os = "linux")))]
use std::sync::atomic::{AtomicU64, Ordering};

/// An object that runs SQLite calls and can hold them off while the process forks.
///
/// All methods run in the forking thread, inside `fork`: `pause` before it, then `resume` in the parent
/// and `forked` in the child. Until then every SQLite call of the object must wait *outside* SQLite.
///
/// `pause` must not wait for a transaction to end: the forking thread may be the one that has it open.
/// It waits for the one SQLite call that is running, so no such call may be long (no busy timeout
/// inside SQLite), and the thread that runs it must be able to finish without the forking thread: it
/// must not need a lock that a thread may hold while it calls `fork`, such as Python's interpreter lock.
pub trait Quiesce: Send + Sync {
    /// Returns once no SQLite call of this object runs, and keeps new ones waiting.
    fn pause(&self);
    /// Undoes [`pause`](Self::pause).
    fn resume(&self);
    /// Undoes `pause` in the child: lets go of what belongs to the parent without closing or
    /// unlocking it. May release only standard mutexes that this thread took in `pause`.
    fn forked(&self) {}
}

/// How many forks lie between the first process and this one, as far as turnwise saw them.
///
/// Equal values in one process mean: no fork in between. Without the private copy the count starts at
/// the first call, which is enough to compare against.
#[cfg(not(all(feature = "private-copy", target_os = "linux")))]
pub fn generation() -> u64 {
    // Process id in the lower half, count in the upper: one word, so that no thread of a new child
    // can see the new id with the old count.
    static SEEN: AtomicU64 = AtomicU64::new(0);
    let pid = u64::from(std::process::id());
    let mut seen = SEEN.load(Ordering::Acquire);
    loop {
        if seen & 0xFFFF_FFFF == pid {
            return seen >> 32;
        }
        let count = if seen == 0 { 0 } else { (seen >> 32) + 1 };
        match SEEN.compare_exchange(seen, count << 32 | pid, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return count,
            Err(now) => seen = now,
        }
    }
}

#[cfg(all(feature = "private-copy", target_os = "linux"))]
pub use super::private::fork::generation;

/// Has `object` paused around every fork of this process, for as long as it lives.
///
/// Never call this while the object's own gate is held: a fork takes the registry first and the gates
/// after it. A child starts with an empty registry. Without the private copy this does nothing.
///
/// # Errors
/// [`OutOfMemory`](crate::ErrorKind::OutOfMemory) when the system has no room for the fork handlers.
pub fn register(object: Weak<dyn Quiesce>) -> crate::Result<()> {
    #[cfg(all(feature = "private-copy", target_os = "linux"))]
    return super::private::fork::register(object);
    #[cfg(not(all(feature = "private-copy", target_os = "linux")))]
    {
        drop(object);
        Ok(())
    }
}

/// A value that belongs to the process that made it.
///
/// In a child of that process [`get`](Self::get) gives nothing, and dropping leaks the value instead of
/// running its destructor: the safe end of an inherited connection.
#[derive(Debug)]
pub struct Owned<T> {
    value: Option<T>,
    generation: u64,
}

impl<T> Owned<T> {
    /// Binds `value` to this process.
    pub fn new(value: T) -> Self {
        Self { value: Some(value), generation: generation() }
    }

    /// Whether this process is not the one that made the value.
    pub fn is_inherited(&self) -> bool {
        self.generation != generation()
    }

    /// The value; `None` in a child of the process that made it.
    pub fn get(&self) -> Option<&T> {
        if self.is_inherited() { None } else { self.value.as_ref() }
    }

    /// Takes the value out; in a child of the process that made it, leaks it and gives `None`.
    pub fn take(&mut self) -> Option<T> {
        let value = self.value.take()?;
        if self.is_inherited() {
            std::mem::forget(value);
            return None;
        }
        Some(value)
    }

    /// Binds another value to the process of this one.
    pub(crate) fn bind<U>(&self, value: U) -> Owned<U> {
        Owned { value: Some(value), generation: self.generation }
    }

    /// The value, whichever process this is: for what is no lock and reaches none.
    pub(crate) fn peek(&self) -> Option<&T> {
        self.value.as_ref()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        drop(self.take());
    }
}
