//! The numbered words of a verdict.

use crate::numbered::numbered;

numbered! {
    /// Whose error codes are meant.
    #[non_exhaustive]
    pub enum Dialect {
        /// SQLite: the extended result code.
        Sqlite = 0, "sqlite";
        /// PostgreSQL: the SQLSTATE, packed by [`sqlstate`](super::sqlstate).
        Postgresql = 1, "postgresql";
        /// MySQL: the error number.
        Mysql = 2, "mysql";
        /// MariaDB: the error number. Several numbers mean another thing than in MySQL.
        Mariadb = 3, "mariadb";
    }
}

numbered! {
    /// What was being done when the error came.
    pub enum Phase {
        /// Opening the connection.
        Connect = 0, "connect";
        /// BEGIN.
        Begin = 1, "begin";
        /// A statement.
        Statement = 2, "statement";
        /// SAVEPOINT, RELEASE or ROLLBACK TO. A RELEASE that ends the transaction is a commit.
        Savepoint = 3, "savepoint";
        /// COMMIT.
        Commit = 4, "commit";
        /// ROLLBACK.
        Rollback = 5, "rollback";
    }
}

numbered! {
    /// What has become of the transaction.
    pub enum Fate {
        /// Open and usable; only the failed statement was undone.
        Intact = 0, "intact";
        /// Open, but its snapshot is too old ever to write: it must be restarted.
        Stale = 1, "stale";
        /// Open, and must be rolled back before anything else.
        Aborted = 2, "aborted";
        /// Already rolled back by the database.
        RolledBack = 3, "rolled_back";
        /// Committed by the statement itself, as DDL does on some servers.
        ImplicitlyCommitted = 4, "implicitly_committed";
        /// The connection was lost before COMMIT was sent: certainly not committed.
        LostBeforeCommit = 5, "lost_before_commit";
        /// COMMIT is in doubt: the work may be in the database or not.
        Unknown = 6, "unknown";
        /// There is no transaction.
        None = 7, "none";
    }
}

numbered! {
    /// The smallest piece of work that may be done again.
    pub enum Scope {
        /// The statement (or BEGIN) alone.
        Statement = 0, "statement";
        /// Back to the savepoint, then the statement.
        Savepoint = 1, "savepoint";
        /// COMMIT alone.
        Commit = 2, "commit";
        /// The whole transaction, after ROLLBACK.
        Transaction = 3, "transaction";
        /// The whole transaction, on a new connection.
        Connection = 4, "connection";
        /// Nothing, before it is found out whether COMMIT took effect.
        Resolve = 5, "resolve";
        /// Nothing: the same error would come again, or repeating is not safe.
        Never = 6, "never";
    }
}

numbered! {
    /// What kind of trouble an error is.
    #[non_exhaustive]
    pub enum ErrorClass {
        /// The code is not in the table.
        Unlisted = 0, "unlisted";
        /// Somebody else holds the lock.
        Contention = 1, "contention";
        /// Two transactions wait for each other.
        Deadlock = 2, "deadlock";
        /// The transactions cannot be put in an order.
        Serialization = 3, "serialization";
        /// The transaction read before it wrote, and may never write now.
        SnapshotStale = 4, "snapshot_stale";
        /// A time limit of the server.
        Timeout = 5, "timeout";
        /// Somebody interrupted the statement on purpose.
        Cancelled = 6, "cancelled";
        /// The connection is gone.
        ConnectionLost = 7, "connection_lost";
        /// The server is starting, stopping or failing over.
        ServerGoing = 8, "server_going";
        /// The database does not accept writes.
        ReadOnly = 9, "read_only";
        /// The server refuses more work or connections.
        Overload = 10, "overload";
        /// Disk or memory ran out, or the device failed.
        Resource = 11, "resource";
        /// A constraint was violated.
        Constraint = 12, "constraint";
        /// The schema changed under the statement.
        Schema = 13, "schema";
        /// The statement or the file is wrong; it will stay so.
        Permanent = 14, "permanent";
        /// The consequence of an earlier error that was not heeded.
        Symptom = 15, "symptom";
        /// COMMIT failed without an answer that can be trusted.
        CommitUnknown = 16, "commit_unknown";
    }
}

numbered! {
    /// How the work is retried, which decides what bounds the retries.
    pub enum RetryKind {
        /// Not by itself.
        None = 0, "none";
        /// Asks for a lock again. A poll that does no work: bounded by the deadline only.
        Wait = 1, "wait";
        /// Does work again. Bounded by deadline, attempts and budget.
        Redo = 2, "redo";
        /// Asks for a connection again. Bounded by deadline, attempts and budget.
        Unavailable = 3, "unavailable";
    }
}

numbered! {
    /// Which kind of constraint was violated.
    #[non_exhaustive]
    pub enum ConstraintKind {
        /// UNIQUE, PRIMARY KEY, or a rowid that exists.
        Unique = 0, "unique";
        /// FOREIGN KEY, immediate or deferred.
        ForeignKey = 1, "foreign_key";
        /// NOT NULL.
        NotNull = 2, "not_null";
        /// CHECK.
        Check = 3, "check";
        /// EXCLUDE (PostgreSQL).
        Exclusion = 4, "exclusion";
    }
}

numbered! {
    /// The journal mode of a SQLite database. The numbers are SQLite's own (`PAGER_JOURNALMODE_*`).
    pub enum Journal {
        /// A rollback journal, deleted at COMMIT.
        Delete = 0, "delete";
        /// A rollback journal, its header zeroed at COMMIT.
        Persist = 1, "persist";
        /// No journal.
        Off = 2, "off";
        /// A rollback journal, truncated at COMMIT.
        Truncate = 3, "truncate";
        /// A rollback journal in memory.
        Memory = 4, "memory";
        /// A write-ahead log.
        Wal = 5, "wal";
    }
}
