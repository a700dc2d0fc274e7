//! An engine that is quiesced around forks, and forked children.
#![allow(clippy::missing_panics_doc)]

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use turnwise::sqlite::fork::Quiesce;

use super::{BUSY, code_of, ours};

/// One connection, used by many threads, quiesced around forks: what an engine does.
pub struct Engine {
    slot: Mutex<Slot>,
    changed: Condvar,
}

struct Slot {
    connection: Option<Connection>,
    paused: bool,
}

impl Engine {
    pub fn start(path: &Path) -> Arc<Self> {
        let connection = ours(path);
        connection.execute_batch("PRAGMA synchronous = normal").unwrap();
        let slot = Mutex::new(Slot { connection: Some(connection), paused: false });
        let engine = Arc::new(Self { slot, changed: Condvar::new() });
        let weak: std::sync::Weak<Self> = Arc::downgrade(&engine);
        turnwise::sqlite::fork::register(weak).unwrap();
        engine
    }

    pub fn run<T>(&self, work: impl FnOnce(&Connection) -> T) -> T {
        let mut slot = self.slot.lock().unwrap();
        let connection = loop {
            if !slot.paused
                && let Some(connection) = slot.connection.take()
            {
                break connection;
            }
            slot = self.changed.wait(slot).unwrap();
        };
        drop(slot);
        let result = work(&connection);
        self.slot.lock().unwrap().connection = Some(connection);
        self.changed.notify_all();
        result
    }

    /// Inserts a row and commits it; waits for the lock outside SQLite.
    pub fn insert(&self, row: i64) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Err(error) = self.run(|db| db.execute("INSERT INTO t VALUES (?1)", [row])) {
            assert_eq!(code_of::<()>(Err(error)), BUSY);
            assert!(Instant::now() < deadline, "locked for 30 s");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Quiesce for Engine {
    fn pause(&self) {
        let mut slot = self.slot.lock().unwrap();
        while slot.connection.is_none() {
            slot = self.changed.wait(slot).unwrap();
        }
        slot.paused = true;
    }

    fn resume(&self) {
        self.slot.lock().unwrap().paused = false;
        self.changed.notify_all();
    }
}

/// A forked child, killed when dropped.
pub struct Forked {
    pub pid: libc::pid_t,
    reaped: bool,
}

impl Forked {
    /// Forks; the child runs `work` and leaves by `_exit`, as `multiprocessing` does.
    pub fn start(work: impl FnOnce() -> Result<(), String>) -> Self {
        match unsafe { libc::fork() } {
            -1 => panic!("fork: {}", std::io::Error::last_os_error()),
            0 => {
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
                    .unwrap_or_else(|_| Err("panicked".to_owned()));
                if let Err(reason) = &result {
                    let line = format!("child: {reason}\n");
                    unsafe { libc::write(2, line.as_ptr().cast(), line.len()) };
                }
                unsafe { libc::_exit(i32::from(result.is_err())) }
            }
            pid => Self { pid, reaped: false },
        }
    }

    /// Waits until the child has left, and fails if it failed or takes longer than 20 s.
    pub fn succeed(mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let mut status = 0;
            if unsafe { libc::waitpid(self.pid, &raw mut status, libc::WNOHANG) } == self.pid {
                self.reaped = true;
                assert_eq!(status, 0, "the forked child failed");
                return;
            }
            assert!(Instant::now() < deadline, "the forked child hangs");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        if !self.reaped {
            unsafe {
                libc::kill(self.pid, libc::SIGKILL);
                libc::waitpid(self.pid, std::ptr::null_mut(), 0);
            }
        }
    }
}
