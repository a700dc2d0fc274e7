//! Waiting for a lock that somebody else has.

use std::time::{Duration, Instant};

use super::rehearsal::rehearsal_in_effect;
use super::watch::Watch;
use crate::classify::Verdict;
use crate::error::{Error, ErrorKind};
use crate::retry::{Delays, RetryPolicy};

/// How long a sleep lasts at most before the sleeper looks around again.
pub(super) const SLICE: Duration = Duration::from_millis(50);

/// SQLITE_BUSY.
pub(super) const BUSY: i32 = 5;

/// How often a lock was found taken, and when to ask again.
pub(super) struct Waiting {
    policy: RetryPolicy,
    delays: Delays,
    since: Instant,
    tries: u64,
    last: Option<Verdict>,
}

impl Waiting {
    pub(super) fn new(policy: RetryPolicy) -> Self {
        let delays = policy.delays(fresh_seed());
        Self { policy, delays, since: Instant::now(), tries: 0, last: None }
    }

    /// Others wait from here on: delays and time count anew.
    pub(super) fn restart(&mut self) {
        self.delays = self.policy.delays(fresh_seed());
        self.since = Instant::now();
    }

    /// The lock was taken once more, as `verdict` says. Gives the time to wait before the next try.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::LockTimeout`] when a rehearsal allows no more tries.
    pub(super) fn again(&mut self, watch: &Watch, verdict: Verdict) -> Result<Duration, Error> {
        self.tries = self.tries.saturating_add(1);
        let delay = Duration::from_nanos(self.delays.next_ns());
        let delay = match rehearsal_in_effect() {
            None => delay,
            Some(rehearsal) if self.tries < u64::from(rehearsal.max_attempts) => Duration::ZERO,
            Some(rehearsal) => {
                self.tries = 0;
                self.last = None;
                return Err(Error::new(
                    ErrorKind::LockTimeout,
                    "database is locked: another connection held the write lock at every try that \
                     the rehearsal allows; the write is not in the file",
                )
                .with_code(BUSY)
                .with_attempts(rehearsal.max_attempts));
            }
        };
        self.last = Some(verdict);
        watch.retry(&verdict, self.tries, delay, self.left());
        Ok(delay)
    }

    /// As [`again`](Self::again), and sleeps: never past `left`, and never for long.
    pub(super) fn sleep(
        &mut self,
        watch: &Watch,
        verdict: Verdict,
        left: Duration,
    ) -> Result<(), Error> {
        std::thread::sleep(self.again(watch, verdict)?.min(left).min(SLICE));
        Ok(())
    }

    /// What was waited for has come.
    pub(super) fn end(&mut self, watch: &Watch) {
        if let Some(verdict) = self.last.take() {
            watch.recovery(&verdict, self.tries.saturating_add(1), self.left());
        }
        self.tries = 0;
    }

    /// The time until the policy's deadline.
    fn left(&self) -> Duration {
        self.policy.deadline().saturating_sub(self.since.elapsed())
    }
}

/// The time that is left until `deadline`, or `None` when it has come.
pub(super) fn time_left(deadline: Option<Instant>) -> Option<Duration> {
    match deadline {
        None => Some(Duration::MAX),
        Some(deadline) => {
            let left = deadline.saturating_duration_since(Instant::now());
            (!left.is_zero()).then_some(left)
        }
    }
}

/// A seed that differs from process to process and call to call, but in a rehearsal.
pub(super) fn fresh_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    if let Some(rehearsal) = rehearsal_in_effect() {
        return rehearsal.seed;
    }
    std::hash::RandomState::new().build_hasher().finish()
}
