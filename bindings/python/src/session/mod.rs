//! The session tracker: what SQLAlchemy calls, and what it has found.

mod connections;
mod finding;
mod here;
mod hook;
mod lease;
mod mark;
mod owner;
mod reports;
mod texts;
mod tracker;
mod wrong;

pub(crate) use finding::Finding;
pub(crate) use hook::StatementHook;
pub(crate) use lease::Lease;
pub(crate) use owner::Owner;
pub(crate) use tracker::NativeTracker;

use std::sync::OnceLock;

use turnwise::clock::{Clock, SystemClock};

/// Nanoseconds of the clock that all owners and leases of the process share.
pub(crate) fn now_ns() -> u64 {
    static CLOCK: OnceLock<SystemClock> = OnceLock::new();
    CLOCK.get_or_init(SystemClock::new).now_ns()
}

pub(crate) fn seconds(ns: u64) -> f64 {
    std::time::Duration::from_nanos(ns).as_secs_f64()
}
