//! Who takes part in an execution, and what may go wrong in it.

use std::time::Duration;

use super::base::Odds;
use super::pick;
use crate::handoff::Limits;

pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// How a caller uses the hand-off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Waits for each write; may run it itself.
    Blocking,
    /// Waits for each write, which must not run in its thread.
    Queued,
    /// Leaves its writes with a sink, and blocks when the queue is full.
    Submitting,
    /// Leaves its writes with a sink, and asks to be called when the queue is full.
    Calling,
    /// Leaves its writes with a sink, and takes a full queue for an answer.
    Offering,
    /// Holds interactive transactions.
    Turning,
    /// Leaves its writes with a sink, and flushes behind each.
    Flushing,
    /// Closes the hand-off.
    Closing,
}

/// One execution's cast and chances.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) limits: Limits,
    pub(super) cast: Vec<Role>,
    /// Writes of each caller.
    pub(super) writes: usize,
    pub(super) odds: Odds,
    /// How likely time runs on though somebody has something to do.
    pub(super) hurry: f64,
    pub(super) strict: f64,
    pub(super) big: f64,
    pub(super) poisoned: f64,
    pub(super) panics: f64,
    /// How likely a write has a deadline, and which.
    pub(super) deadline: (f64, Duration),
    /// How likely a caller asks, while it waits, whether it is wanted elsewhere, and is.
    pub(super) interrupted: (f64, f64),
    /// How likely a submitted write is taken back.
    pub(super) cancelled: f64,
    /// How likely a caller that has its outcome says so late, or never.
    pub(super) stays_away: (f64, f64),
    pub(super) hold_limit: Duration,
    /// How likely a turn is held until its limit or beyond.
    pub(super) hogs: f64,
    /// How likely a caller comes at the moment when the first turn's limit does.
    pub(super) late: f64,
}

/// Nothing goes wrong and everybody has time.
pub(super) fn calm() -> Plan {
    Plan {
        limits: Limits { max_batch: 3, max_rows: 4, max_bytes: 1000 },
        cast: Vec::new(),
        writes: 2,
        odds: Odds::default(),
        hurry: 0.0,
        strict: 0.3,
        big: 0.0,
        poisoned: 0.0,
        panics: 0.0,
        deadline: (0.3, HOUR),
        interrupted: (0.0, 0.0),
        cancelled: 0.0,
        stays_away: (0.0, 0.0),
        hold_limit: HOUR,
        hogs: 0.0,
        late: 0.0,
    }
}

/// Anything may go wrong at any time.
pub(super) fn rough() -> Plan {
    Plan {
        odds: Odds {
            locked: 0.3,
            queued: (0.3, Duration::from_millis(2)),
            slow: 0.3,
            broken: 0.05,
            commit_fails: 0.1,
            upkeep: 0.3,
            dies: 0.0,
        },
        hurry: [0.0, 0.02, 0.2][pick(3)],
        big: 0.2,
        poisoned: 0.1,
        panics: [0.0, 0.2][pick(2)],
        deadline: (0.5, Duration::from_millis(2)),
        interrupted: (0.3, 0.3),
        cancelled: 0.3,
        stays_away: (0.2, 0.2),
        hold_limit: Duration::from_millis(5),
        hogs: 0.3,
        ..calm()
    }
}

/// A cast of `count` callers, each with a role of `roles`.
pub(super) fn cast(count: usize, roles: &[Role]) -> Vec<Role> {
    (0..count).map(|_| roles[pick(roles.len())]).collect()
}
