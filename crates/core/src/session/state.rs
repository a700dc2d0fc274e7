//! The phases of an owner and the states of a lease.

use crate::numbered::numbered;

numbered! {
    /// How far a request is. Jobs and tasks know only the first and the last.
    pub enum Phase {
        /// Its handler runs.
        Running = 0, "running";
        /// The response has begun, and its body goes on.
        Streaming = 1, "streaming";
        /// The last byte of the response was handed over.
        Responded = 2, "responded";
        /// It is over.
        Ended = 3, "ended";
    }
}

impl Phase {
    /// Whether the client has its whole response.
    pub const fn is_after_response(self) -> bool {
        matches!(self, Self::Responded | Self::Ended)
    }
}

numbered! {
    /// What a leased connection does.
    pub enum LeaseState {
        /// Nobody has it.
        Free = 0, "free";
        /// It is out, and no transaction is open.
        CheckedOut = 1, "checked_out";
        /// A statement runs.
        Active = 2, "active";
        /// A transaction is open, and nothing runs.
        IdleInTransaction = 3, "idle_in_tx";
        /// A transaction is open that can only be rolled back, and nothing runs.
        AbortedTransaction = 4, "aborted_tx";
        /// The pool ends what its user has left open.
        Resetting = 5, "resetting";
    }
}
