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
    let Some((file, methods)) = log_of(connection)? else { return Ok(()) };
    sync(file, methods)
}

/// Writes every byte of the log again, and syncs it. Needs the write lock, so that nobody begins the log
/// anew.
///
/// After a sync has failed, the kernel takes the pages for written, and no later sync writes them. Were the log
/// moved into the database instead, a power cut meanwhile would let the part of the log before the hole,
/// which is older, hide what is newer in the database.
pub(super) fn rewrite_log(connection: &mut Connection) -> Result<(), i32> {
    let Some((file, methods)) = log_of(connection)? else { return Ok(()) };
    let (Some(size_of), Some(read), Some(write)) =
        (methods.xFileSize, methods.xRead, methods.xWrite)
    else {
        return Err(ffi::SQLITE_IOERR);
    };
    let mut size: ffi::sqlite3_int64 = 0;
    // SAFETY: `file` is open and its own method is called.
    check(unsafe { size_of(file, &raw mut size) })?;
    if size == 0 {
        return Ok(());
    }
    let mut part = vec![0_u8; 1 << 16];
    let mut at: ffi::sqlite3_int64 = 0;
    while at < size {
        let length = i32::try_from(size - at).unwrap_or(i32::MAX).min(1 << 16);
        let bytes = part.as_mut_ptr().cast::<c_void>();
        // SAFETY: as above; `part` has room for `length` bytes.
        check(unsafe { read(file, bytes, length, at) })?;
        // SAFETY: as above.
        check(unsafe { write(file, bytes, length, at) })?;
        at += i64::from(length);
    }
    sync(file, methods)
}

fn check(code: i32) -> Result<(), i32> {
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(code) }
}

fn sync(file: *mut ffi::sqlite3_file, methods: &ffi::sqlite3_io_methods) -> Result<(), i32> {
    let sync = methods.xSync.ok_or(ffi::SQLITE_IOERR)?;
    // SAFETY: `file` is open and its own method is called.
    check(unsafe { sync(file, ffi::SQLITE_SYNC_NORMAL) })
}

type Log<'a> = (*mut ffi::sqlite3_file, &'a ffi::sqlite3_io_methods);

/// The log and its methods; `None` while it is not open: nothing was written to it then.
fn log_of(connection: &mut Connection) -> Result<Option<Log<'_>>, i32> {
    let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
    // SAFETY: the connection is open and nobody else uses it; the operation writes one pointer.
    check(unsafe {
        ffi::sqlite3_file_control(
            connection.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_JOURNAL_POINTER,
            (&raw mut file).cast::<c_void>(),
        )
    })?;
    // SAFETY: SQLite gave the pointer, which is null or a file object that lives as long as the
    // connection; a file that is not open has no methods.
    let methods = unsafe { file.as_ref().and_then(|file| file.pMethods.as_ref()) };
    Ok(methods.map(|methods| (file, methods)))
}
