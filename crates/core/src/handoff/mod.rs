//! The hand-off between callers and the one that holds the turn.
//!
//! Callers leave their jobs in a bounded queue; whoever owns the *lane* (a caller that found nobody
//! waiting, the writer thread, or an interactive transaction) runs jobs on the database. Nothing
//! here knows a database: [`worker::Executor`] is what the lane's owner runs, so that a model
//! checker can run the same hand-off with a stand-in.

mod entering;
mod groups;
mod lane;
#[cfg(all(test, shuttle))]
mod model;
mod queue;
mod refusal;
mod state;
#[cfg(all(test, not(shuttle)))]
mod tests;
mod ticket;
pub(crate) mod worker;

pub(crate) use queue::{Admission, Entry, Handoff, Limits, Request, Withdrawn};
pub use ticket::{Completed, Pickup, Sink};
pub(crate) use ticket::{Outcome, Patience, Reply, Ticket};
