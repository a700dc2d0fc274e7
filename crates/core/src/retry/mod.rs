//! When to try again, and when to stop.
//!
//! Nothing here sleeps, reads a clock or makes up a seed: [`RetryState::next`] says what to do, and
//! the caller does it. The same seed and the same times give the same decisions everywhere.

mod adaptive;
mod budget;
mod delays;
mod policy;
mod state;

pub use adaptive::Learner;
pub use budget::Budget;
pub use delays::{Delays, Jitter};
pub use policy::{RetryPolicy, RetrySettings, duration_from_seconds};
pub use state::{Decision, RetryState, StopReason};
