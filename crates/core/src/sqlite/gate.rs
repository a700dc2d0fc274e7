//! The gate in front of a connection: one thread at a time, and nobody while the process forks.

use std::ops::{Deref, DerefMut};

use crate::sync::{Condvar, Mutex, MutexGuard};

/// A value that one thread uses at a time, and that can be shut off from all.
#[derive(Debug)]
pub(crate) struct Gate<T> {
    doors: Mutex<Doors>,
    changed: Condvar,
    value: Mutex<T>,
}

#[derive(Debug, Default)]
struct Doors {
    occupied: bool,
    shut: bool,
    /// Threads that wait: waking nobody would still be a system call.
    waiting: usize,
}

impl<T> Gate<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self {
            doors: Mutex::new(Doors { occupied: false, shut: false, waiting: 0 }),
            changed: Condvar::new(),
            value: Mutex::new(value),
        }
    }

    /// Waits for the value, and for the gate to be open.
    pub(crate) fn enter(&self) -> Inside<'_, T> {
        let mut doors = self.doors.lock();
        while doors.occupied || doors.shut {
            doors.waiting += 1;
            self.changed.wait(&mut doors);
            doors.waiting -= 1;
        }
        doors.occupied = true;
        drop(doors);
        Inside { gate: self, value: self.value.lock() }
    }

    /// Keeps everybody out; returns once nobody is inside.
    pub(crate) fn shut(&self) {
        let mut doors = self.doors.lock();
        doors.shut = true;
        while doors.occupied {
            doors.waiting += 1;
            self.changed.wait(&mut doors);
            doors.waiting -= 1;
        }
    }

    /// Undoes [`shut`](Self::shut).
    pub(crate) fn open(&self) {
        self.doors.lock().shut = false;
        self.changed.notify_all();
    }
}

/// The use of the value.
pub(crate) struct Inside<'a, T> {
    gate: &'a Gate<T>,
    value: MutexGuard<'a, T>,
}

impl<T> Deref for Inside<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Inside<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T> Drop for Inside<'_, T> {
    fn drop(&mut self) {
        let mut doors = self.gate.doors.lock();
        doors.occupied = false;
        if doors.waiting > 0 {
            self.gate.changed.notify_all();
        }
    }
}
