//! The system calls that our copy's unix VFS makes instead of libc's.
//!
//! Where SQLite looks at `st_dev` and `st_ino` (`os_unix.c`): `findInodeInfo` and `findReusableFd` compare
//! both with the list of inode records, `fileHasMoved` compares `st_ino` alone with the record of its own
//! connection. Changing `st_dev` in step with the fork generation therefore separates a child's records from
//! those that it inherited and changes nothing else. Linux keeps device numbers within 32 bits, so the upper
//! half is free and two files never get the same identity. The descriptor table uses true numbers.

use std::ffi::{CStr, c_char, c_int, c_void};

use rusqlite::ffi;

use super::{descriptors, fork};
use crate::{Error, ErrorKind, Result};

unsafe extern "C" {
    fn turnwise_private_fcntl(fd: c_int, command: c_int, ...) -> c_int;
    static turnwise_private_stat_size: usize;
}

type Syscall = unsafe extern "C" fn();

/// Refuses a platform where the replacements would not do what they promise.
pub(super) fn require_support() -> Result<()> {
    // SAFETY: a constant that the C compiler initialised.
    let stat_size = unsafe { turnwise_private_stat_size };
    if stat_size == size_of::<libc::stat64>() && has_ofd_locks() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::UnsupportedPlatform,
        "this system has no open-file-description locks (Linux 3.15 or later is needed)",
    ))
}

fn has_ofd_locks() -> bool {
    // SAFETY: a constant path; the descriptor is closed below.
    let fd = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    if fd < 0 {
        return false;
    }
    let mut lock = descriptors::whole_file(libc::F_WRLCK);
    // SAFETY: F_OFD_GETLK reads and writes one `flock`.
    let rc = unsafe { libc::fcntl(fd, libc::F_OFD_GETLK, &raw mut lock) };
    // SAFETY: opened above; /dev/null carries no one's locks.
    unsafe { libc::close(fd) };
    rc == 0
}

/// Puts the replacements into the unix VFS. They are shared by all its variants ("unix-excl", …).
pub(super) fn install() -> Result<()> {
    let unsupported = || {
        Error::new(
            ErrorKind::UnsupportedPlatform,
            "SQLite has no unix VFS whose calls can be replaced",
        )
    };
    // SAFETY: SQLite is initialised; the name is a C string.
    let vfs = unsafe { ffi::sqlite3_vfs_find(c"unix".as_ptr()) };
    // SAFETY: null or a registered VFS, which lives as long as the library.
    let set = unsafe { vfs.as_ref() }.and_then(|vfs| vfs.xSetSystemCall).ok_or_else(unsupported)?;
    for (name, call) in replacements() {
        // SAFETY: each replacement has the signature through which os_unix.c calls that entry.
        let rc = unsafe { set(vfs, name.as_ptr(), Some(call)) };
        if rc != ffi::SQLITE_OK {
            return Err(unsupported().with_code(rc));
        }
    }
    Ok(())
}

fn replacements() -> [(&'static CStr, Syscall); 7] {
    macro_rules! erased {
        ($function:ident: $signature:ty) => {{
            let function: $signature = $function;
            // SAFETY: function pointers have one size; SQLite casts back before it calls.
            unsafe { std::mem::transmute::<$signature, Syscall>(function) }
        }};
    }
    [
        (
            c"fcntl",
            erased!(turnwise_private_fcntl: unsafe extern "C" fn(c_int, c_int, ...) -> c_int),
        ),
        (c"open", erased!(open: unsafe extern "C" fn(*const c_char, c_int, c_int) -> c_int)),
        (c"close", erased!(close: unsafe extern "C" fn(c_int) -> c_int)),
        (c"unlink", erased!(unlink: unsafe extern "C" fn(*const c_char) -> c_int)),
        (c"fstat", erased!(fstat: unsafe extern "C" fn(c_int, *mut libc::stat64) -> c_int)),
        (c"stat", erased!(stat: unsafe extern "C" fn(*const c_char, *mut libc::stat64) -> c_int)),
        (c"mmap", erased!(mmap: Mmap)),
    ]
}

type Mmap = unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, c_int, i64) -> *mut c_void;

// SQLite calls `open` through a pointer to a function of three fixed arguments (`posixOpen`).
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    // SAFETY: SQLite passes a C string that outlives the call.
    descriptors::open(unsafe { CStr::from_ptr(path) }, flags, mode)
}

unsafe extern "C" fn close(fd: c_int) -> c_int {
    descriptors::close(fd)
}

unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: SQLite passes a C string that outlives the call.
    descriptors::unlink(unsafe { CStr::from_ptr(path) })
}

unsafe extern "C" fn fstat(fd: c_int, out: *mut libc::stat64) -> c_int {
    // SAFETY: SQLite passes room for one `struct stat`, whose size `require_support` compared.
    unsafe {
        let rc = libc::fstat64(fd, out);
        if rc == 0 {
            (*out).st_dev ^= salt();
        }
        rc
    }
}

unsafe extern "C" fn stat(path: *const c_char, out: *mut libc::stat64) -> c_int {
    // SAFETY: as `fstat`, and a C string that outlives the call.
    unsafe {
        let rc = libc::stat64(path, out);
        if rc == 0 {
            (*out).st_dev ^= salt();
        }
        rc
    }
}

fn salt() -> u64 {
    fork::generation() << 32
}

/// A mapping of the -shm (or database) file references the open file description as a descriptor does: in a
/// child it would keep the locks of a parent that was killed.
unsafe extern "C" fn mmap(
    address: *mut c_void,
    length: usize,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: i64,
) -> *mut c_void {
    // No fork between the mapping and the advice.
    let _table = descriptors::lock();
    // SAFETY: SQLite's own arguments; the advice and the unmapping concern the mapping just made.
    unsafe {
        let mapped = libc::mmap64(address, length, protection, flags, fd, offset);
        if mapped != libc::MAP_FAILED && libc::madvise(mapped, length, libc::MADV_DONTFORK) != 0 {
            libc::munmap(mapped, length);
            *libc::__errno_location() = libc::ENOMEM;
            return libc::MAP_FAILED;
        }
        mapped
    }
}
