//! What the tracker is sure or suspects is wrong.

use super::owner::OwnerKind;
use super::state::{LeaseState, Phase};
use crate::numbered::numbered;

numbered! {
    /// How bad it is.
    pub enum Severity {
        /// Worth knowing.
        Info = 0, "info";
        /// Will hurt under load.
        Warning = 1, "warning";
        /// Data or connections are lost.
        Error = 2, "error";
    }
}

numbered! {
    /// What was found.
    #[non_exhaustive]
    pub enum FindingCode {
        /// A session whose transaction had ended began another one after the response.
        ReopenedAfterClose = 1, "reopened-after-close";
        /// A statement after the response, in a transaction from before it.
        SessionAfterResponse = 2, "session-after-response";
        /// Writes were committed after the client had its response.
        CommitAfterResponse = 3, "commit-after-response";
        /// A statement of one owner in the transaction of another.
        CrossOwnerUse = 4, "cross-owner-use";
        /// Two threads or tasks used one connection at the same time.
        ConcurrentUse = 5, "concurrent-use";
        /// A synchronous statement on an event loop.
        SyncOnLoop = 6, "sync-on-loop";
        /// An event loop waited for a connection of a synchronous pool.
        PoolWaitOnLoop = 7, "pool-wait-on-loop";
        /// A transaction is open, and nothing has run in it for long.
        IdleInTransaction = 8, "idle-in-transaction";
        /// Locks of a write are held for long, and nothing runs.
        LockHeld = 9, "lock-held";
        /// The owner has ended, and its lease has not.
        HeldPastOwner = 10, "held-past-owner";
        /// The garbage collector gave a connection back.
        GcReturned = 11, "gc-returned";
        /// A connection came back with a transaction open.
        DirtyReturn = 12, "dirty-return";
        /// Somebody waits for a connection, or waited in vain.
        PoolExhausted = 13, "pool-exhausted";
        /// A connection in the pool was closed by its server.
        DeadInPool = 14, "dead-in-pool";
        /// A connection of another process.
        ForkedConnection = 15, "forked-connection";
        /// The pools of all workers may open more connections than the server has.
        BudgetExceeded = 16, "budget-exceeded";
        /// A task has ended, and a session that it began is still open.
        SessionLeftOpen = 17, "session-left-open";
        /// An attribute was loaded from the database after the response.
        LazyLoadAfterResponse = 18, "lazy-load-after-response";
        /// The server has ended a connection.
        KilledByServer = 19, "killed-by-server";
    }
}

/// What a report says of an owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerFacts {
    /// Of this process.
    pub number: u64,
    /// What it is.
    pub kind: OwnerKind,
    /// What tells it from others of the same name; may be empty.
    pub id: String,
    /// Such as a route.
    pub name: String,
    /// How far it is.
    pub phase: Phase,
    /// Since it began.
    pub age_ns: u64,
}

/// What a report says of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseFacts {
    /// Of this process, never given again.
    pub number: u64,
    /// The pool that the connection is from; may be empty.
    pub pool: String,
    /// The server's number of the connection; 0: not known.
    pub backend_pid: i64,
    /// What it does.
    pub state: LeaseState,
    /// Since when it is out.
    pub age_ns: u64,
    /// Since when it is in its state.
    pub state_age_ns: u64,
    /// Since when it may hold locks of a write; `None`: it has written nothing.
    pub write_age_ns: Option<u64>,
    /// Whose it is.
    pub owner: Option<OwnerFacts>,
    /// The line that took it; may be empty.
    pub opened: String,
    /// The line of its last statement; may be empty.
    pub last: String,
    /// Its last statement without literals; may be empty.
    pub statement: String,
    /// How many statements have run.
    pub statements: u64,
    /// The thread of its last statement, by the system's number; 0: none.
    pub thread: u64,
    /// The task of its last statement; 0: none.
    pub task: u64,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub code: FindingCode,
    /// How bad it is here: the code's own severity, or less.
    pub severity: Severity,
    /// When.
    pub at_ns: u64,
    /// For how long; 0 where that says nothing.
    pub age_ns: u64,
    /// The lease that it is about.
    pub lease: Option<LeaseFacts>,
    /// Who did it, where that is not the lease's owner.
    pub by: Option<OwnerFacts>,
    /// The line that did it, where no lease tells; may be empty.
    pub site: String,
    /// What else there is to say; may be empty.
    pub detail: String,
}
