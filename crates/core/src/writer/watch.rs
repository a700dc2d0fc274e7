//! What the writer of a file tells its observer.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::classify::{
    Conditions, Dialect, ErrorClass, Fate, Phase, RetryKind, Scope, Verdict, classify,
};
use crate::error::{Error, ErrorKind};
use crate::event::{Event, Observer, fingerprint};
use crate::retry::StopReason;

/// Makes the observer of a file's writer: once when the file is opened, and again in a child of
/// fork, where what the parent's observer relied on (a thread, a lock) is not there.
#[derive(Clone)]
pub struct MakeObserver(Arc<Make>);

type Make = dyn Fn(&Path) -> Arc<dyn Observer> + Send + Sync;

impl MakeObserver {
    /// From a function that makes one for the file at a path.
    pub fn new(make: impl Fn(&Path) -> Arc<dyn Observer> + Send + Sync + 'static) -> Self {
        Self(Arc::new(make))
    }
}

impl fmt::Debug for MakeObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MakeObserver").finish_non_exhaustive()
    }
}

/// The observer of one file's writer, if there is one.
#[derive(Clone)]
pub(super) struct Watch(Option<Arc<dyn Observer>>);

impl Watch {
    pub(super) fn new(make: Option<&MakeObserver>, path: &Path) -> Self {
        Self(make.map(|make| (make.0)(path)))
    }

    /// A failure that is tried again in `delay`.
    pub(super) fn retry(&self, verdict: &Verdict, attempt: u64, delay: Duration, left: Duration) {
        self.tell(|| Event::retry(verdict, attempt, nanoseconds(delay), nanoseconds(left)));
    }

    /// A success after failures.
    pub(super) fn recovery(&self, verdict: &Verdict, attempt: u64, left: Duration) {
        self.tell(|| Event::recovery(verdict, attempt, nanoseconds(left)));
    }

    /// A write that its caller is told has failed, with its statement.
    pub(super) fn failure(&self, statement: Option<&str>, error: &Error) {
        self.tell(|| {
            let verdict = verdict_on(error);
            let stop = match error.kind() {
                ErrorKind::LockTimeout | ErrorKind::WriteTimeout | ErrorKind::QueueFull => {
                    StopReason::Deadline
                }
                ErrorKind::CommitOutcomeUnknown => StopReason::OutcomeUnknown,
                _ => StopReason::NotRetryable,
            };
            let attempt = u64::from(error.attempts().max(1));
            let event = Event::failure(&verdict, attempt, 0, stop).of_kind(error.kind());
            match statement {
                Some(sql) => event.of_statement(fingerprint(sql)),
                None => event,
            }
        });
    }

    /// There is no turn lock where there should be one; told once.
    pub(super) fn missing_turn_lock(&self) {
        self.tell(|| Event::degraded(ErrorKind::TurnUnavailable));
    }

    fn tell(&self, event: impl FnOnce() -> Event) {
        if let Some(observer) = &self.0 {
            // An observer that panics must not cost anybody a write.
            let _ = catch_unwind(AssertUnwindSafe(|| observer.observe(&event())));
        }
    }
}

/// The class of an error: SQLite's, or, where SQLite was not asked, of turnwise's own kind.
fn verdict_on(error: &Error) -> Verdict {
    let never = |class| Verdict::new(class, Fate::None, Scope::Never, RetryKind::None);
    if let Some(code) = error.code() {
        let phase = match error.kind() {
            ErrorKind::CommitOutcomeUnknown => Phase::Commit,
            _ => Phase::Statement,
        };
        return classify(Dialect::Sqlite, code, phase, Conditions::default(), None);
    }
    never(match error.kind() {
        ErrorKind::LockTimeout => ErrorClass::Contention,
        ErrorKind::WriteTimeout | ErrorKind::HoldLimitExceeded => ErrorClass::Timeout,
        ErrorKind::WriteCancelled => ErrorClass::Cancelled,
        ErrorKind::QueueFull => ErrorClass::Overload,
        ErrorKind::OutOfMemory => ErrorClass::Resource,
        _ => ErrorClass::Permanent,
    })
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
