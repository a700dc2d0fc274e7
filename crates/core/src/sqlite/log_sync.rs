//! The sync of the write-ahead log, which rusqlite has no call for.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr;

use rusqlite::{Connection, ffi};

/// Syncs the journal file of the main database to disk: its write-ahead log in WAL mode.
///
/// Through SQLite's own handle: it is the file that this connection writes, a new log's folder is
/// synced with it, and what the platform needs beside `fsync` is done. `Err` is an extended code.
///
/// Source: `SQLITE_FCNTL_JOURNAL_POINTER`, <https://sqlite.org/c3ref/c_fcntl_begin_atomic_write.html>;
/// `xSync`, <https://sqlite.org/c3ref/io_methods.html>.
pub(super) fn sync_log(connection: &mut Connection) -> Result<(), i32> {
    let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
    // SAFETY: the connection is open and nobody else uses it; the operation writes one pointer.
    let rc = unsafe {
        ffi::sqlite3_file_control(
            connection.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_JOURNAL_POINTER,
            (&raw mut file).cast::<c_void>(),
        )
    };
    if rc != ffi::SQLITE_OK {
        return Err(rc);
    }
    // SAFETY: SQLite gave the pointer, which is null or a file object that lives as long as the
    // connection; a file that is not open has no methods.
    let sync = unsafe { file.as_ref() }
        .and_then(|file| unsafe { file.pMethods.as_ref() })
        .and_then(|methods| methods.xSync);
    // Without a file nothing was written to it.
    let Some(sync) = sync else { return Ok(()) };
    // SAFETY: `file` is open and its own method is called.
    match unsafe { sync(file, ffi::SQLITE_SYNC_NORMAL) } {
        ffi::SQLITE_OK => Ok(()),
        code => Err(code),
    }
}
