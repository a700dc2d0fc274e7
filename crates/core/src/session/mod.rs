//! Who holds a database session, since when, from which line, and what is wrong with it.
//!
//! Time comes in as an argument, in nanoseconds of one monotonic clock.

mod finding;
mod json;
mod lease;
#[cfg(all(test, shuttle))]
mod model;
mod owner;
mod report;
mod rules;
mod state;
mod statement;
#[cfg(test)]
mod tests;
mod text;
mod tracker;

pub use finding::{Finding, FindingCode, LeaseFacts, OwnerFacts, Severity};
pub use lease::{Limits, Opening, Outcome, Texts, Use, Wrong};
pub use owner::{Owner, OwnerKind};
pub use report::{Journal, Noted, Recorded};
pub use state::{LeaseState, Phase};
pub use statement::{may_write, without_literals};
pub use text::table;
pub use tracker::{Closed, LeaseId, MOST, Tracker};
