//! Who holds a database session, since when, from which line, and what is wrong with it.
//!
//! Time comes in as an argument, in nanoseconds of one monotonic clock.

mod finding;
mod json;
mod owner;
mod report;
mod rules;
mod state;
mod text;

pub use finding::{Finding, FindingCode, LeaseFacts, OwnerFacts, Severity};
pub use owner::{Owner, OwnerKind};
pub use report::{Journal, Noted, Recorded};
pub use state::{LeaseState, Phase};
pub use text::table;
