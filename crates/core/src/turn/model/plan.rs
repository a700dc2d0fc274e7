//! Who takes part in an execution, and what may go wrong in it.

use std::time::Duration;

use crate::sync::checker::pick;

pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// How a thread asks for turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Waits for each turn.
    Waiting,
    /// Takes a turn that is to be had at once, and goes its way otherwise.
    Trying,
    /// Leaves a request, which it may take back.
    Asking,
    /// Ends its process, at any moment.
    Dying,
}

/// One execution's cast and chances.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) processes: usize,
    /// The threads of each process.
    pub(super) cast: Vec<Role>,
    /// Turns that each thread asks for.
    pub(super) turns: usize,
    /// For how many milliseconds at most a turn is held.
    pub(super) hold: usize,
    /// How likely a holder stops for an hour.
    pub(super) stops: f64,
    /// How likely time runs on though somebody has something to do.
    pub(super) hurry: f64,
    /// How likely a thread has a deadline, and which.
    pub(super) deadline: (f64, Duration),
    /// How likely it goes on without a turn that stands still, and after which time.
    pub(super) stuck: (f64, Duration),
    /// How likely it asks, while it waits, whether it is wanted elsewhere, and is.
    pub(super) interrupted: (f64, f64),
    /// How likely a request is taken back.
    pub(super) withdrawn: f64,
    /// How likely a turn that was requested is given back as it comes.
    pub(super) surplus: f64,
    /// How likely the side files are not to be had.
    pub(super) unavailable: f64,
    /// How likely no thread is to be had that would be the keeper.
    pub(super) no_thread: f64,
    /// How likely an outsider is met in a turn.
    pub(super) outsider: f64,
}

/// Nothing goes wrong, and everybody has time.
pub(super) fn calm() -> Plan {
    Plan {
        processes: 2,
        cast: Vec::new(),
        turns: 2,
        hold: 0,
        stops: 0.0,
        hurry: 0.0,
        deadline: (0.3, HOUR),
        stuck: (0.0, HOUR),
        interrupted: (0.0, 0.0),
        withdrawn: 0.0,
        surplus: 0.0,
        unavailable: 0.0,
        no_thread: 0.0,
        outsider: 0.0,
    }
}

/// Anything may go wrong at any time.
pub(super) fn rough() -> Plan {
    Plan {
        processes: 2 + pick(2),
        hold: [4, 30][pick(2)],
        stops: 0.1,
        hurry: [0.0, 0.02, 0.2][pick(3)],
        deadline: (0.4, Duration::from_millis(4)),
        stuck: (0.4, Duration::from_millis(6)),
        interrupted: (0.3, 0.3),
        withdrawn: 0.4,
        surplus: 0.2,
        unavailable: [0.0, 0.1][pick(2)],
        no_thread: [0.0, 0.2][pick(2)],
        outsider: 0.2,
        ..calm()
    }
}

/// `count` threads, each with a role of `roles`.
pub(super) fn cast(count: usize, roles: &[Role]) -> Vec<Role> {
    (0..count).map(|_| roles[pick(roles.len())]).collect()
}
