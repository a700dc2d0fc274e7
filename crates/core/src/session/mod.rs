//! Who holds a database session, since when, from which line, and what is wrong with it.
//!
//! Time comes in as an argument, in nanoseconds of one monotonic clock.

mod finding;
mod owner;
mod state;

pub use finding::{Finding, FindingCode, LeaseFacts, OwnerFacts, Severity};
pub use owner::{Owner, OwnerKind};
pub use state::{LeaseState, Phase};
