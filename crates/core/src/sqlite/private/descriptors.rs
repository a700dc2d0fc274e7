//! Every file descriptor of our SQLite, open and held back.
//!
//! Closing any descriptor of a file drops all POSIX locks that the process holds on it (POSIX `close`,
//! `fcntl`): the host's locks, if the file is one of its databases or a -shm file. The rule:
//!
//! - A close by SQLite of a **regular file that still has a name** is held back: our OFD locks on it are
//!   dropped explicitly (the open file description lives on) and the descriptor is kept.
//! - An open of the same file (device, inode) in the same access mode gets a kept descriptor back, so that a
//!   file costs a bounded number of them. Never with `O_EXCL` or `O_TRUNC`, and only if the effective user may
//!   open the file that way now.
//! - A kept descriptor whose file **has no name any more** is closed at the unlink, if that is ours, or at one
//!   of the next opens and closes. Nobody can open such a file, so its locks guard nothing.
//! - A second open for writing of one file is refused; SQLite reports `SQLITE_CANTOPEN`.
//! - Directories and devices are neither tracked nor held back.
//!
//! The kind of file is not asked. A -wal or -journal carries no locks, but its name does not prove what it
//! is: databases are called `x-wal`, and hard links give a file two names. A held-back journal costs one
//! descriptor per database, and none once SQLite has deleted it.
//!
//! The table is behind a `std` mutex: it is one futex word without other state, so a forking thread may hold
//! it across the fork and release it in the child.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_int};
use std::mem::{self, MaybeUninit};
use std::os::fd::AsRawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

static TABLE: Mutex<Table> = Mutex::new(Table {
    live: BTreeMap::new(),
    held: Vec::new(),
    others: BTreeMap::new(),
    next_check: 0,
});

/// Held-back descriptors that one open or close checks for having lost their name.
///
/// More than the one descriptor that a call can add, so the nameless ones cannot pile up; few, so that a
/// process with thousands of living files does not pay for them at every journal.
const CHECKS_PER_CALL: usize = 16;

/// SQLite accepts no descriptor below this one (`SQLITE_MINIMUM_FILE_DESCRIPTOR`).
const MINIMUM_DESCRIPTOR: c_int = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct File {
    identity: Identity,
    /// `O_RDONLY` or `O_RDWR`.
    access: c_int,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    fd: c_int,
    file: File,
}

#[derive(Debug)]
pub(super) struct Table {
    live: BTreeMap<c_int, File>,
    held: Vec<Held>,
    /// Descriptors that are not SQLite's and that a child must not keep either.
    others: BTreeMap<c_int, Identity>,
    next_check: usize,
}

pub(super) fn lock() -> MutexGuard<'static, Table> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// SQLite's `open`.
pub(super) fn open(path: &CStr, flags: c_int, mode: c_int) -> c_int {
    let found = status_of_path(path, flags & libc::O_NOFOLLOW == 0);
    if found.as_ref().is_some_and(|status| !is_regular(status)) {
        // Not under the lock: opening a FIFO can block.
        let fd = system_open(path, flags, mode);
        if fd >= 0 {
            lock().track(fd, flags);
        }
        return fd;
    }
    let mut table = lock();
    table.close_nameless(CHECKS_PER_CALL);
    if flags & (libc::O_EXCL | libc::O_TRUNC) == 0 {
        let file = found
            .as_ref()
            .map(|status| File { identity: identity(status), access: flags & libc::O_ACCMODE });
        if file.is_some_and(|file| table.is_written_already(file)) {
            // The one error after which SQLite does not try again read-only.
            set_errno(libc::EISDIR);
            return -1;
        }
        if let Some(fd) = file.and_then(|file| table.take_held(path, file)) {
            return fd;
        }
    }
    occupy_standard_descriptors();
    let mut fd = system_open(path, flags, mode);
    if fd < 0 && matches!(errno(), libc::EMFILE | libc::ENFILE) {
        let error = errno();
        let before = table.held.len();
        table.close_nameless(before);
        if table.held.len() < before {
            fd = system_open(path, flags, mode);
        } else {
            set_errno(error);
        }
    }
    if fd >= 0 {
        table.track(fd, flags);
    }
    fd
}

/// SQLite's `close`.
pub(super) fn close(fd: c_int) -> c_int {
    let mut table = lock();
    let Some(file) = table.live.remove(&fd) else {
        drop(table);
        return system_close(fd);
    };
    table.close_nameless(CHECKS_PER_CALL);
    match status_of(fd) {
        Some(status) if identity(&status) == file.identity && status.st_nlink > 0 => {
            let mut lock = whole_file(libc::F_UNLCK);
            // SAFETY: F_OFD_SETLK reads one `flock`.
            unsafe { libc::fcntl(fd, libc::F_OFD_SETLK, &raw mut lock) };
            table.held.push(Held { fd, file });
            0
        }
        _ => system_close(fd),
    }
}

/// SQLite's `unlink`.
pub(super) fn unlink(path: &CStr) -> c_int {
    let found = status_of_path(path, false);
    // SAFETY: a C string.
    let rc = unsafe { libc::unlink(path.as_ptr()) };
    if let (0, Some(status)) = (rc, found) {
        lock().close_unlinked(identity(&status));
    }
    rc
}

/// Opens a file that a child of fork closes.
pub(crate) fn kept_from_children(
    open: impl FnOnce() -> std::io::Result<std::fs::File>,
) -> std::io::Result<std::fs::File> {
    let mut table = lock();
    let file = open()?;
    let fd = file.as_raw_fd();
    if let Some(status) = status_of(fd) {
        table.others.insert(fd, identity(&status));
    }
    Ok(file)
}

/// These files are about to be closed.
pub(crate) fn no_longer_kept<'a>(files: impl IntoIterator<Item = &'a std::fs::File>) {
    let mut table = lock();
    for file in files {
        table.others.remove(&file.as_raw_fd());
    }
}

/// A `flock` over the whole file, with `l_pid` 0 as the OFD commands demand.
#[allow(clippy::cast_possible_truncation, reason = "the kinds and SEEK_SET are below 3")]
pub(super) fn whole_file(kind: c_int) -> libc::flock {
    // SAFETY: `flock` is plain integers, for which zeroes are valid.
    let mut lock: libc::flock = unsafe { mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock
}

impl Table {
    fn track(&mut self, fd: c_int, flags: c_int) {
        if let Some(status) = status_of(fd).filter(is_regular) {
            let access = flags & libc::O_ACCMODE;
            self.live.insert(fd, File { identity: identity(&status), access });
        }
    }

    /// Whether SQLite has a descriptor for writing on the file that it opens for writing now.
    ///
    /// It does so only for a second connection (or an `ATTACH`) to one database, whose locks would be
    /// split over two open file descriptions and some never released.
    fn is_written_already(&self, file: File) -> bool {
        file.access == libc::O_RDWR && self.live.values().any(|live| *live == file)
    }

    /// A kept descriptor of `file`, which `path` names.
    fn take_held(&mut self, path: &CStr, file: File) -> Option<c_int> {
        let index =
            self.held.iter().position(|held| held.file == file && held.fd >= MINIMUM_DESCRIPTOR)?;
        if !may_open(path, file.access) {
            return None;
        }
        let Held { fd, .. } = self.held.swap_remove(index);
        if state_of(fd, file.identity) != State::Named {
            return None;
        }
        self.live.insert(fd, file);
        Some(fd)
    }

    /// Closes those of the next `count` kept descriptors whose files have lost their last name.
    fn close_nameless(&mut self, count: usize) {
        for _ in 0..count.min(self.held.len()) {
            if self.next_check >= self.held.len() {
                self.next_check = 0;
            }
            let Some(&held) = self.held.get(self.next_check) else { return };
            if self.closes(held) {
                self.held.swap_remove(self.next_check);
            } else {
                self.next_check += 1;
            }
        }
    }

    fn close_unlinked(&mut self, unlinked: Identity) {
        let mut held = mem::take(&mut self.held);
        held.retain(|&held| held.file.identity != unlinked || !self.closes(held));
        self.held = held;
    }

    /// Closes `held` if its file has no name, and says whether its entry is void.
    #[allow(clippy::unused_self, reason = "closing is safe only under the table's lock")]
    fn closes(&self, held: Held) -> bool {
        match state_of(held.fd, held.file.identity) {
            State::Named => false,
            State::Nameless => {
                system_close(held.fd);
                true
            }
            State::NotOurs => true,
        }
    }

    /// Closes everything, in a new child, and starts empty.
    pub(super) fn close_inherited(&mut self) {
        let live = mem::take(&mut self.live);
        let held = mem::take(&mut self.held);
        let others = mem::take(&mut self.others);
        let kept = held.iter().map(|held| (held.fd, held.file.identity));
        let kept = kept.chain(others.iter().map(|(fd, identity)| (*fd, *identity)));
        for (fd, identity) in live.iter().map(|(fd, file)| (*fd, file.identity)).chain(kept) {
            if state_of(fd, identity) != State::NotOurs {
                system_close(fd);
            }
        }
        self.next_check = 0;
        // Another allocator than libc's may not be usable yet.
        mem::forget((live, held, others));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The file has a name.
    Named,
    /// The file's last name was removed.
    Nameless,
    /// Somebody closed our descriptor (a daemon closing all of them); the number may be theirs by now.
    NotOurs,
}

fn state_of(fd: c_int, expected: Identity) -> State {
    match status_of(fd) {
        Some(status) if identity(&status) != expected => State::NotOurs,
        Some(status) if status.st_nlink > 0 => State::Named,
        Some(_) => State::Nameless,
        None => State::NotOurs,
    }
}

/// Keeps 0, 1 and 2 taken. SQLite closes a database descriptor that is one of them and opens the file
/// again; that close would drop the host's locks, and held back it would be handed out again for ever.
fn occupy_standard_descriptors() {
    // SAFETY: F_GETFD takes no argument; a constant path.
    unsafe {
        while (0..MINIMUM_DESCRIPTOR).any(|fd| libc::fcntl(fd, libc::F_GETFD) == -1) {
            let fd = libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY);
            if fd >= MINIMUM_DESCRIPTOR {
                libc::close(fd);
            }
            if !(0..MINIMUM_DESCRIPTOR).contains(&fd) {
                return;
            }
        }
    }
}

/// Whether the effective user may open `path` in this mode now.
fn may_open(path: &CStr, access: c_int) -> bool {
    let wanted = if access == libc::O_RDONLY { libc::R_OK } else { libc::R_OK | libc::W_OK };
    // SAFETY: a C string.
    unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), wanted, libc::AT_EACCESS) == 0 }
}

fn system_open(path: &CStr, flags: c_int, mode: c_int) -> c_int {
    // SAFETY: a C string; O_CREAT's mode is passed always.
    unsafe { libc::open(path.as_ptr(), flags, mode) }
}

fn system_close(fd: c_int) -> c_int {
    // SAFETY: called for a descriptor that SQLite or the table owns.
    unsafe { libc::close(fd) }
}

fn status_of(fd: c_int) -> Option<libc::stat64> {
    let mut status = MaybeUninit::uninit();
    // SAFETY: fstat fills the structure when it returns 0.
    unsafe { (libc::fstat64(fd, status.as_mut_ptr()) == 0).then(|| status.assume_init()) }
}

fn status_of_path(path: &CStr, follow: bool) -> Option<libc::stat64> {
    let mut status = MaybeUninit::uninit();
    // SAFETY: a C string; both calls fill the structure when they return 0.
    unsafe {
        let rc = if follow {
            libc::stat64(path.as_ptr(), status.as_mut_ptr())
        } else {
            libc::lstat64(path.as_ptr(), status.as_mut_ptr())
        };
        (rc == 0).then(|| status.assume_init())
    }
}

fn is_regular(status: &libc::stat64) -> bool {
    status.st_mode & libc::S_IFMT == libc::S_IFREG
}

fn identity(status: &libc::stat64) -> Identity {
    Identity { device: status.st_dev, inode: status.st_ino }
}

fn errno() -> c_int {
    // SAFETY: libc gives a valid pointer to this thread's errno.
    unsafe { *libc::__errno_location() }
}

fn set_errno(value: c_int) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = value };
}
