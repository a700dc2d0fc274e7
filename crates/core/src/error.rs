//! The errors of turnwise: numbered kinds, in three states.

use core::fmt;

use crate::numbered::numbered;

numbered! {
    /// Whether trying again can help.
    #[non_exhaustive]
    pub enum ErrorState {
        /// Trying the unit of work again may succeed.
        Transient = 0, "transient";
        /// Trying again gives the same error.
        Permanent = 1, "permanent";
        /// Was transient, and the policy has given up. Do not retry it again.
        Exhausted = 2, "exhausted";
    }
}

macro_rules! error_kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal, $state:ident;)+) => {
        /// What went wrong. The numbers are ABI: they are never reused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(i32)]
        #[non_exhaustive]
        pub enum ErrorKind {
            $($(#[$doc])* $name = $code,)+
        }

        impl ErrorKind {
            /// Every kind, in order of number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The kind's number.
            pub const fn code(self) -> i32 {
                self as i32
            }

            /// The kind's name, the same in every language.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }

            /// What the kind means, in one short line.
            pub const fn summary(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// Whether trying again can help.
            pub const fn state(self) -> ErrorState {
                match self { $(Self::$name => ErrorState::$state,)+ }
            }
        }
    };
}

error_kinds! {
    // 1xx: what the caller passed.
    /// A retry policy setting is out of range.
    InvalidPolicy = 100, "a retry policy setting is out of range", Permanent;
    /// A writer setting is out of range or unknown.
    InvalidSetting = 101, "a writer setting is out of range or unknown", Permanent;
    /// A parameter has a type that SQLite cannot store.
    UnsupportedParameter = 102, "a parameter has a type that SQLite cannot store", Permanent;
    /// A parameter does not fit SQLite's range: an integer beyond 64 bits, text that is not Unicode.
    ParameterOutOfRange = 103, "a parameter does not fit SQLite's range", Permanent;
    /// The statement wants another number of parameters, or another name.
    ParameterMismatch = 104, "the parameters do not match the statement's placeholders", Permanent;
    /// The statement would end or change the transaction that other callers share.
    StatementNotAllowed = 105, "the statement would interfere with the transaction that other writes share", Permanent;
    /// The SQL text holds no statement, or more than one.
    NotOneStatement = 106, "the SQL text must hold exactly one statement", Permanent;
    /// SQLite refused the statement: a syntax error, an unknown column or function.
    Statement = 107, "SQLite refused the statement", Permanent;
    /// The table does not exist.
    NoSuchTable = 108, "the table does not exist", Permanent;
    /// The unit of work is larger than the queue.
    UnitTooLarge = 109, "the unit of work is larger than the queue's bound", Permanent;
    /// What was given cannot be run again: a generator, a session that is not ours to end.
    UnsupportedUnit = 110, "this cannot be a unit of work", Permanent;

    // 2xx: the database file.
    /// The file cannot be opened.
    CannotOpen = 200, "the database file cannot be opened", Permanent;
    /// The file is not a SQLite database.
    NotADatabase = 201, "the file is not a SQLite database", Permanent;
    /// The path is a directory.
    IsADirectory = 202, "the path is a directory", Permanent;
    /// The database cannot be written.
    ReadOnly = 203, "the database is read-only", Permanent;
    /// The disk, or the size that the database is allowed, is full. Nothing of the write was kept.
    DiskFull = 204, "the disk is full", Permanent;
    /// Reading or writing the file failed.
    Io = 205, "a disk I/O error occurred", Permanent;
    /// The database file is malformed.
    Corrupt = 206, "the database file is malformed", Permanent;
    /// SQLite ran out of memory.
    OutOfMemory = 207, "out of memory", Permanent;
    /// The file is open already in this process with other settings.
    SettingsConflict = 208, "the file is already open in this process with other settings", Permanent;
    /// Safe locking beside another SQLite copy is not available on this platform.
    UnsupportedPlatform = 209, "this platform has no safe locking beside another SQLite copy", Permanent;
    /// The database file was deleted or replaced while it was open.
    FileReplaced = 210, "the database file was deleted or replaced while open", Permanent;
    /// The server, or its version, has not what is asked for.
    UnsupportedServer = 211, "the server does not support this", Permanent;

    // 3xx: contention.
    /// The database stayed locked until the policy gave up. Nothing was written.
    LockTimeout = 300, "the database stayed locked until the deadline", Exhausted;
    /// A retried unit of work used up its attempts.
    AttemptsExhausted = 301, "all attempts were used up", Exhausted;
    /// The process's retry budget is spent.
    BudgetSpent = 302, "the retry budget is spent", Exhausted;
    /// The turn was asked for by the thread that has it. Nothing was written.
    TurnReentered = 303, "the turn was asked for by the thread that has it", Permanent;
    /// No turn lock can be had at this database; writers go on without turns.
    TurnUnavailable = 304, "no turn lock can be had at this database", Permanent;
    /// A unit of work failed inside a transaction that its caller had begun. It was not retried.
    TransactionNotOwned = 305, "the transaction belongs to the caller, who alone may retry it", Permanent;
    /// The session tracker has found something, and watches strictly.
    Finding = 306, "the session tracker has found something, and watches strictly", Permanent;

    // 4xx: the batch writer.
    /// The queue stayed full until the deadline. Nothing was written.
    QueueFull = 400, "the writer's queue stayed full until the deadline", Transient;
    /// The caller's own time-out passed before the write had begun. It is never applied.
    WriteTimeout = 401, "the time-out passed before the write had begun", Transient;
    /// The write was cancelled before it had begun. It is never applied.
    WriteCancelled = 402, "the write was cancelled before it had begun", Permanent;
    /// The writer is closed.
    WriterClosed = 403, "the writer is closed", Permanent;
    /// The writer was used by the thread that holds a transaction on it.
    WriterReentered = 404, "the writer was used inside its own transaction", Permanent;
    /// The transaction was open longer than the hold limit and was rolled back.
    HoldLimitExceeded = 405, "the transaction exceeded the hold limit and was rolled back", Permanent;
    /// The transaction has ended.
    TransactionClosed = 406, "the transaction has ended", Permanent;
    /// Another write rolled the shared transaction back, and this one could not be run again.
    RolledBack = 407, "the transaction was rolled back", Transient;

    // 5xx: what a statement met.
    /// A constraint was violated.
    Constraint = 500, "a constraint was violated", Permanent;
    /// The statement was interrupted.
    Interrupted = 501, "the statement was interrupted", Transient;
    /// A text or blob is larger than SQLite allows.
    TooBig = 502, "a text or blob is larger than SQLite allows", Permanent;

    // 6xx: COMMIT.
    /// COMMIT failed in a way that leaves open whether the write is in the file.
    CommitOutcomeUnknown = 600, "COMMIT failed and it is unknown whether the write was kept", Permanent;
    /// The write is committed, and others see it; syncing it to disk failed, so that a power cut may
    /// still take it.
    FlushFailed = 601, "the write is committed but could not be synced to disk", Permanent;
    /// The failed transaction cannot be restored truthfully. Nothing of it is in the database.
    CommitNotReplayable = 602, "the transaction was rolled back and cannot be restored", Permanent;
    /// The transaction was replayed, and the database answered otherwise than before.
    ReplayDiverged = 603, "the replayed transaction met other data", Permanent;
    /// The database has ended or aborted the transaction; only ROLLBACK may follow.
    TransactionPoisoned = 604, "the transaction is gone, and only a rollback may follow", Permanent;
    /// A commit without statements followed a rollback that threw writes away.
    WritesLost = 605, "an earlier rollback threw writes away that this commit does not hold", Permanent;

    // 9xx: us.
    /// A fault in turnwise itself.
    Internal = 900, "a fault in turnwise", Permanent;
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.summary())
    }
}

/// An error with its numbered kind and, where a database spoke, the database's own code and words.
///
/// Never holds a parameter value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    code: Option<i32>,
    attempts: u32,
}

impl Error {
    /// An error of `kind` whose `message` says what was wrong, where, and what to do.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), code: None, attempts: 0 }
    }

    /// The same error with the database's own (extended) code.
    #[must_use]
    pub fn with_code(mut self, code: i32) -> Self {
        self.code = Some(code);
        self
    }

    /// The same error with the number of attempts that were made.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether trying again can help.
    pub fn state(&self) -> ErrorState {
        self.kind.state()
    }

    /// The database's own extended code, where the database spoke.
    pub fn code(&self) -> Option<i32> {
        self.code
    }

    /// Attempts made before giving up; 0 where nothing was retried.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The text of the error.
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// `Result` with turnwise's [`Error`].
pub type Result<T, E = Error> = core::result::Result<T, E>;
