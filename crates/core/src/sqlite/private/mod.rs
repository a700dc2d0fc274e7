//! The private copy: an SQLite of our own inside a library that a host with another copy loads.
//!
//! POSIX `fcntl` locks belong to the process and SQLite's table of its own locks to one copy of the
//! library, so two copies in a process do not see each other's locks, and any of them that closes a
//! file drops the locks of both (sqlite.org, "How To Corrupt An SQLite Database File", 2.2.1). Python's
//! `sqlite3` is such a second copy. [`arm`] replaces system calls of our copy's unix VFS:
//!
//! | call | replacement | why |
//! |---|---|---|
//! | `fcntl` | open-file-description locks | they conflict with the host's locks and are not dropped by its closes |
//! | `open`, `close`, `unlink` | descriptors are held back and handed out again | our close would drop the host's locks |
//! | `fstat`, `stat` | another device number in every child | a child must not find its parent's inode records |
//! | `mmap` | not inherited by a child | a mapping holds the open file description, and so the locks of a dead parent |
//!
//! # What the user of an armed copy must keep to
//! - Arm before the first connection is opened, and only a copy that no other code uses.
//! - **One connection per file**, by (device, inode), `ATTACH` included. SQLite counts SHARED locks
//!   per process and takes them on whichever descriptor came first; with locks that belong to a
//!   descriptor a second connection can wait for the first for ever. A second one that may write is
//!   refused with `SQLITE_CANTOPEN`; one that only reads is not recognised.
//! - No shared cache: it finds the parent's pages in a child.
//! - A descriptor stays open for every file that was ever opened and still exists. An application
//!   that works through many thousand living database files runs into `RLIMIT_NOFILE`, which SQLite
//!   reports as `SQLITE_CANTOPEN`.
//!
//! # Lock order
//! Registry of the fork handlers, then an engine's own gate ([`Quiesce`]), then SQLite's mutexes, then
//! the descriptor table. Code that holds one of them takes only later ones.
//!
//! Only `libc`'s `fork` runs the handlers. A raw `clone` system call does not, and such a child must not
//! use turnwise. `vfork`, `posix_spawn` and `exec` need no handler: every descriptor is `O_CLOEXEC`.
//!
//! [`Quiesce`]: crate::sqlite::fork::Quiesce
#![allow(unsafe_code)]

mod descriptors;
pub mod fork;
mod syscalls;

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) use descriptors::{kept_from_children, no_longer_kept};
use rusqlite::ffi;

use crate::{Error, ErrorKind, Result};

static ARMED: AtomicBool = AtomicBool::new(false);

/// Makes this process's private SQLite safe beside another copy. Call it before any connection is
/// opened; further calls do nothing.
///
/// # Errors
/// [`UnsupportedPlatform`](ErrorKind::UnsupportedPlatform) when the kernel has no open-file-description
/// locks (before Linux 3.15, some sandboxes) or SQLite is not linked into the same library as turnwise;
/// [`OutOfMemory`](ErrorKind::OutOfMemory) when SQLite or the fork handlers cannot be set up.
pub fn arm() -> Result<()> {
    // Without the registry's mutex, so that an armed process may call this anywhere.
    if is_armed() {
        return Ok(());
    }
    fork::exclusively(|| {
        if is_armed() {
            return Ok(());
        }
        require_own_copy()?;
        syscalls::require_support()?;
        // SAFETY: has no preconditions; SQLite serialises it.
        let rc = unsafe { ffi::sqlite3_initialize() };
        if rc != ffi::SQLITE_OK {
            return Err(
                Error::new(ErrorKind::OutOfMemory, "SQLite could not be initialised").with_code(rc)
            );
        }
        syscalls::install()?;
        ARMED.store(true, Ordering::Release);
        Ok(())
    })
}

/// Whether [`arm`] has succeeded in this process or in one that it was forked from.
pub fn is_armed() -> bool {
    ARMED.load(Ordering::Acquire)
}

/// Refuses an SQLite that lives in another library than this code: the host could be using it.
fn require_own_copy() -> Result<()> {
    let sqlite = library_of(ffi::sqlite3_initialize as *const c_void);
    let ours = library_of(require_own_copy as *const c_void);
    if sqlite.is_some() && sqlite == ours {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::UnsupportedPlatform,
        "turnwise was built for an SQLite of its own, but is linked against one that the host \
         application may share; build it with the bundled SQLite, or without `private-copy`",
    ))
}

/// The address at which the library that holds `code` is loaded.
fn library_of(code: *const c_void) -> Option<usize> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: dladdr accepts any address and writes only to `info`, which is all zeroes before.
    let found = unsafe { libc::dladdr(code, info.as_mut_ptr()) };
    // SAFETY: Dl_info is plain pointers, for which zeroes are valid.
    let info = unsafe { info.assume_init() };
    (found != 0).then_some(info.dli_fbase as usize)
}
