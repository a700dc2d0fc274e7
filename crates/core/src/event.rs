//! What observers are told about retries.

use crate::classify::{ErrorClass, Fate, RetryKind, Scope, Verdict};
use crate::error::ErrorKind;
use crate::numbered::numbered;
pub use crate::retry::StopReason;

numbered! {
    /// What happened.
    #[non_exhaustive]
    pub enum EventKind {
        /// A failure that is tried again.
        Retry = 0, "retry";
        /// A success after at least one failure.
        Recovery = 1, "recovery";
        /// A failure that is raised.
        Failure = 2, "failure";
        /// turnwise goes on without something that should be there.
        Degraded = 3, "degraded";
    }
}

/// One step of a retried unit of work.
///
/// Holds no SQL text and no parameter, so that it can go to any log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The class of the (last) error.
    pub class: ErrorClass,
    /// The database's code of the (last) error.
    pub code: i32,
    /// How often the work was tried so far, waits included; the first try is 1.
    pub attempt: u64,
    /// Nanoseconds until the next try; 0 if there is none.
    pub delay_ns: u64,
    /// Nanoseconds until the deadline.
    pub deadline_left_ns: u64,
    /// The [`fingerprint`] of the statement; 0 where there is none.
    pub statement: u64,
    /// Why it is not tried again; only in a failure.
    pub stop: Option<StopReason>,
    /// The kind of error that is raised; in a failure of turnwise's own, and in what is missing.
    pub error: Option<ErrorKind>,
}

impl Event {
    /// A failure that is tried again in `delay_ns`.
    pub fn retry(verdict: &Verdict, attempt: u64, delay_ns: u64, deadline_left_ns: u64) -> Self {
        let event = Self::new(EventKind::Retry, verdict, attempt, deadline_left_ns);
        Self { delay_ns, ..event }
    }

    /// A success, after `verdict` was the last failure.
    pub fn recovery(verdict: &Verdict, attempt: u64, deadline_left_ns: u64) -> Self {
        Self::new(EventKind::Recovery, verdict, attempt, deadline_left_ns)
    }

    /// A failure that is raised because of `stop`.
    pub fn failure(
        verdict: &Verdict,
        attempt: u64,
        deadline_left_ns: u64,
        stop: StopReason,
    ) -> Self {
        let event = Self::new(EventKind::Failure, verdict, attempt, deadline_left_ns);
        Self { stop: Some(stop), ..event }
    }

    /// turnwise goes on without what `error` says is missing.
    pub fn degraded(error: ErrorKind) -> Self {
        let verdict =
            Verdict::new(ErrorClass::Permanent, Fate::None, Scope::Never, RetryKind::None);
        Self { error: Some(error), ..Self::new(EventKind::Degraded, &verdict, 0, 0) }
    }

    /// The same event, with the fingerprint of the statement.
    #[must_use]
    pub fn of_statement(self, statement: u64) -> Self {
        Self { statement, ..self }
    }

    /// The same event, with the kind of error that is raised.
    #[must_use]
    pub fn of_kind(self, error: ErrorKind) -> Self {
        Self { error: Some(error), ..self }
    }

    fn new(kind: EventKind, verdict: &Verdict, attempt: u64, deadline_left_ns: u64) -> Self {
        Self {
            kind,
            class: verdict.class,
            code: verdict.code,
            attempt,
            delay_ns: 0,
            deadline_left_ns,
            statement: 0,
            stop: None,
            error: None,
        }
    }
}

/// Gets every event. Called on the thread that retries, so it must be quick and must not wait.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn observe(&self, event: &Event);
}

impl<F: Fn(&Event) + Send + Sync> Observer for F {
    fn observe(&self, event: &Event) {
        self(event);
    }
}

/// A number that stands for a statement: FNV-1a (64 bits) of the UTF-8 bytes of its SQL text, as
/// it was given, placeholders and all. Never of its parameters.
///
/// Tells statements apart in logs; not a secure hash.
pub fn fingerprint(sql: &str) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    sql.bytes().fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}
