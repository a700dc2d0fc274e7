//! What each finding's rule is, and what to do about it.

use super::finding::{FindingCode, Severity};

impl FindingCode {
    /// How bad it is, where nothing makes it less.
    pub const fn severity(self) -> Severity {
        match self {
            Self::ReopenedAfterClose
            | Self::ConcurrentUse
            | Self::HeldPastOwner
            | Self::GcReturned
            | Self::PoolExhausted
            | Self::ForkedConnection
            | Self::KilledByServer => Severity::Error,
            Self::SessionAfterResponse
            | Self::CommitAfterResponse
            | Self::CrossOwnerUse
            | Self::SyncOnLoop
            | Self::PoolWaitOnLoop
            | Self::IdleInTransaction
            | Self::LockHeld
            | Self::DirtyReturn
            | Self::BudgetExceeded
            | Self::SessionLeftOpen
            | Self::LazyLoadAfterResponse => Severity::Warning,
            Self::DeadInPool => Severity::Info,
        }
    }

    /// Whether it cannot be a false alarm under its [`rule`](Self::rule).
    pub const fn is_exact(self) -> bool {
        !matches!(self, Self::IdleInTransaction | Self::LockHeld | Self::KilledByServer)
    }

    /// When it is found: one sentence.
    pub const fn rule(self) -> &'static str {
        match self {
            Self::ReopenedAfterClose => {
                "A session whose first transaction began while its owner was running, and has \
                 ended since, begins another one after that owner has responded or ended."
            }
            Self::SessionAfterResponse => {
                "A statement runs after its owner has responded or ended, in a transaction that \
                 began while the owner was running; while the response streams it is an info, and \
                 a flush inside of a commit counts as commit-after-response."
            }
            Self::CommitAfterResponse => {
                "A transaction that began while its owner was running, and has written, is \
                 committed after that owner has responded or ended."
            }
            Self::CrossOwnerUse => {
                "A statement runs under another owner than the one that its open transaction began \
                 under, or under none, and neither owner began within the other."
            }
            Self::ConcurrentUse => {
                "A statement begins on a connection while one of another thread or task runs on \
                 it."
            }
            Self::SyncOnLoop => {
                "A statement of a synchronous engine, other than SQLite in memory, runs in a \
                 thread whose event loop is running; without an owner it is an info."
            }
            Self::PoolWaitOnLoop => {
                "A thread whose event loop is running waits for a connection of a synchronous \
                 pool."
            }
            Self::IdleInTransaction => {
                "A transaction is open, and no statement has run in it for longer than \
                 idle_in_transaction (5 s) under a request or WebSocket, or \
                 task_idle_in_transaction (60 s) elsewhere."
            }
            Self::LockHeld => {
                "A transaction wrote longer than lock_held (2 s) ago, is still open, and no \
                 statement of it is running."
            }
            Self::HeldPastOwner => {
                "An owner has ended, and a lease that was taken before is still out after grace (1 s)."
            }
            Self::GcReturned => {
                "A connection comes back to its pool because the garbage collector found it, not \
                 because it was closed."
            }
            Self::DirtyReturn => {
                "A connection has come back, its pool has reset it, and its driver says that a \
                 transaction is open."
            }
            Self::PoolExhausted => {
                "Somebody waited for a connection in vain; who waits longer than pool_wait (1 s) \
                 is a warning."
            }
            Self::DeadInPool => {
                "A connection is taken from its pool, and its socket says that the server has \
                 closed it."
            }
            Self::ForkedConnection => {
                "A connection is taken from its pool in another process than the one that opened \
                 it."
            }
            Self::BudgetExceeded => {
                "The workers, each with pool_size and max_overflow of all its engines, may open \
                 more connections than the server's max_connections less the reserved ones."
            }
            Self::SessionLeftOpen => {
                "A task or job has ended, and a session that was begun in it is not closed."
            }
            Self::LazyLoadAfterResponse => {
                "An attribute of an object is loaded from the database after the owner of its \
                 session has responded or ended, where that owner was running when the session \
                 began; while the response streams it is an info."
            }
            Self::KilledByServer => {
                "A leased connection is lost with a code that says that the server ended it, or \
                 without one after a time that is above a limit of the server."
            }
        }
    }

    /// What to change: one line.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::ReopenedAfterClose => {
                "open a session of its own in the background task: what this one takes after its \
                 close, nobody gives back"
            }
            Self::SessionAfterResponse => "open a session of its own in the background task",
            Self::CommitAfterResponse => {
                "commit in the handler, before the response: what fails later, the client never \
                 learns"
            }
            Self::CrossOwnerUse => {
                "pass ids instead of sessions and objects, and open a session where the work is \
                 done"
            }
            Self::ConcurrentUse => "give each thread and task a session of its own",
            Self::SyncOnLoop => "use an async engine, or run the work in turnwise.to_thread",
            Self::PoolWaitOnLoop => {
                "use an async engine, or run the work in turnwise.to_thread: nobody can give a \
                 connection back while the loop waits"
            }
            Self::IdleInTransaction => {
                "commit or roll back before slow work, such as a call of another service"
            }
            Self::LockHeld => {
                "do the slow work before the first write, and commit right after the last one"
            }
            Self::HeldPastOwner => "close the session where it was opened, with a with block",
            Self::GcReturned => {
                "close the session or connection with a with block; dropping it is not enough"
            }
            Self::DirtyReturn => {
                "begin transactions with SQLAlchemy, not with BEGIN as SQL text, and keep \
                 reset_on_return"
            }
            Self::PoolExhausted => "shorten what holds the leases; raise pool_size only after that",
            Self::DeadInPool => {
                "set pool_recycle below the time after which the server, or a proxy before it, \
                 closes idle connections"
            }
            Self::ForkedConnection => {
                "call engine.dispose(close=False) in the child, before its first statement"
            }
            Self::BudgetExceeded => "lower pool_size and max_overflow, or the number of workers",
            Self::SessionLeftOpen => {
                "open the session in a with block, or with turnwise.session_scope"
            }
            Self::LazyLoadAfterResponse => {
                "load what the response needs with the query, such as with selectinload"
            }
            Self::KilledByServer => {
                "end the transaction before the server's limit, or raise the limit"
            }
        }
    }
}
