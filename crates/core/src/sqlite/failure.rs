//! SQLite's errors in turnwise's words.

use rusqlite::ffi;

use crate::error::{Error, ErrorKind};

/// An error of one statement, before anybody has decided what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// SQLite's extended code; `None` where SQLite was not asked.
    pub(crate) code: Option<i32>,
    pub(crate) kind: ErrorKind,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { code: None, kind, message: message.into() }
    }

    /// What SQLite means by a code that came without words.
    pub(crate) fn of_code(code: i32) -> Self {
        from_sqlite(ffi::Error::new(code), Some(ffi::code_to_str(code).to_owned()))
    }

    /// A failure that SQLite did not have.
    pub(crate) fn injected(code: i32) -> Self {
        let words = format!("injected fault: {}", ffi::code_to_str(code));
        from_sqlite(ffi::Error::new(code), Some(words))
    }

    /// Whether nothing that follows on this disk is likely to fare better.
    pub(crate) fn is_resource(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::DiskFull
                | ErrorKind::Io
                | ErrorKind::OutOfMemory
                | ErrorKind::Corrupt
                | ErrorKind::ReadOnly
                | ErrorKind::FileReplaced
        )
    }

    /// Whether some of those whom it failed together may succeed without the others: a constraint that
    /// is checked at COMMIT (a deferred foreign key) does not say whose it is, a small write may fit
    /// where a large one did not, and not every table of a malformed file is damaged.
    pub(crate) fn may_spare_some(&self) -> bool {
        matches!(self.kind, ErrorKind::Constraint | ErrorKind::DiskFull | ErrorKind::Corrupt)
    }

    pub(crate) fn into_error(self) -> Error {
        let error = Error::new(self.kind, self.message);
        match self.code {
            Some(code) => error.with_code(code),
            None => error,
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error as E;
        match error {
            E::SqliteFailure(inner, message) => from_sqlite(inner, message),
            // The text of the statement may hold values: only SQLite's own words are kept.
            E::SqlInputError { error, msg, .. } => from_sqlite(error, Some(msg)),
            E::MultipleStatement => Self::new(
                ErrorKind::NotOneStatement,
                "the SQL text holds more than one statement: pass them one by one, or in a \
                 transaction",
            ),
            E::NulError(_) => Self::new(ErrorKind::Statement, "the SQL text holds a NUL character"),
            E::InvalidParameterCount(given, wanted) => Self::new(
                ErrorKind::ParameterMismatch,
                format!("the statement has {wanted} placeholders, {given} values were given"),
            ),
            other => Self::new(ErrorKind::Internal, other.to_string()),
        }
    }
}

fn from_sqlite(error: ffi::Error, message: Option<String>) -> Failure {
    let code = error.extended_code;
    let message = message.unwrap_or_else(|| ffi::code_to_str(code).to_owned());
    Failure { code: Some(code), kind: kind_of(code, &message), message }
}

/// The kind for an extended code: <https://sqlite.org/rescode.html>.
fn kind_of(code: i32, message: &str) -> ErrorKind {
    match code {
        ffi::SQLITE_READONLY_DBMOVED => return ErrorKind::FileReplaced,
        ffi::SQLITE_CANTOPEN_ISDIR => return ErrorKind::IsADirectory,
        _ => {}
    }
    match code & 0xff {
        ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED | ffi::SQLITE_PROTOCOL => ErrorKind::LockTimeout,
        ffi::SQLITE_READONLY => ErrorKind::ReadOnly,
        ffi::SQLITE_IOERR => ErrorKind::Io,
        ffi::SQLITE_FULL => ErrorKind::DiskFull,
        ffi::SQLITE_CORRUPT => ErrorKind::Corrupt,
        ffi::SQLITE_NOTADB => ErrorKind::NotADatabase,
        ffi::SQLITE_CANTOPEN => ErrorKind::CannotOpen,
        ffi::SQLITE_NOMEM => ErrorKind::OutOfMemory,
        ffi::SQLITE_INTERRUPT => ErrorKind::Interrupted,
        ffi::SQLITE_TOOBIG => ErrorKind::TooBig,
        ffi::SQLITE_CONSTRAINT | ffi::SQLITE_MISMATCH => ErrorKind::Constraint,
        ffi::SQLITE_AUTH => ErrorKind::StatementNotAllowed,
        ffi::SQLITE_RANGE => ErrorKind::ParameterMismatch,
        // SQLite has no code of its own for a missing table; the text is the last resort.
        ffi::SQLITE_ERROR if message.starts_with("no such table") => ErrorKind::NoSuchTable,
        _ => ErrorKind::Statement,
    }
}
