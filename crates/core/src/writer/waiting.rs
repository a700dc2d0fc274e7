//! Waiting for a lock that somebody else has.

use std::time::{Duration, Instant};

use super::rehearsal::rehearsal_in_effect;
use super::watch::Watch;
use crate::classify::Verdict;
use crate::error::{Error, ErrorKind};
use crate::retry::{Delays, Learner, RetryPolicy};

/// How long a sleep lasts at most before the sleeper looks around again.
pub(super) const SLICE: Duration = Duration::from_millis(50);

/// SQLITE_BUSY.
pub(super) const BUSY: i32 = 5;

/// How often a lock was found taken, and when to ask again.
pub(super) struct Waiting {
    policy: RetryPolicy,
    delays: Delays,
    /// What outlives a wait, and the origin of its times.
    learned: Option<(Learner, Instant)>,
    since: Instant,
    tries: u64,
    last: Option<Verdict>,
}

impl Waiting {
    pub(super) fn new(policy: RetryPolicy) -> Self {
        let delays = policy.delays(fresh_seed());
        Self { policy, delays, learned: None, since: Instant::now(), tries: 0, last: None }
    }

    /// For many waits of one process for one lock, which learn from each other if the policy says
    /// so.
    pub(super) fn learning(policy: RetryPolicy) -> Self {
        let learner = policy.learner(fresh_seed()).ok();
        Self { learned: learner.map(|learner| (learner, Instant::now())), ..Self::new(policy) }
    }

    /// Others wait from here on: delays and time count anew.
    pub(super) fn restart(&mut self) {
        self.delays = self.policy.delays(fresh_seed());
        self.since = Instant::now();
    }

    /// The lock was had and held for so many nanoseconds.
    pub(super) fn held(&mut self, hold_ns: u64) {
        if let Some((learner, _)) = &mut self.learned {
            learner.succeeded(hold_ns);
        }
    }

    fn next_delay(&mut self) -> Duration {
        let delay_ns = match &mut self.learned {
            Some((learner, origin)) => learner.failed(nanoseconds(origin.elapsed())),
            None => self.delays.next_ns(),
        };
        Duration::from_nanos(delay_ns)
    }

    /// The lock was taken once more, as `verdict` says. Gives the time to wait before the next try.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::LockTimeout`] when a rehearsal allows no more tries.
    pub(super) fn again(&mut self, watch: &Watch, verdict: Verdict) -> Result<Duration, Error> {
        self.tries = self.tries.saturating_add(1);
        let delay = self.next_delay();
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

/// 2^64 ns are 584 years.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
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
