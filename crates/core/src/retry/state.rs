//! The state machine of one retried unit of work.

use super::budget::Budget;
use super::delays::Delays;
use super::policy::{RetryPolicy, nanoseconds};
use crate::classify::{RetryKind, Verdict};
use crate::numbered::numbered;

numbered! {
    /// Why a unit of work is not tried again.
    #[non_exhaustive]
    pub enum StopReason {
        /// The verdict says that trying again does not help or is not safe.
        NotRetryable = 1, "not_retryable";
        /// COMMIT may have taken effect; repeating it could apply the work twice.
        OutcomeUnknown = 2, "outcome_unknown";
        /// The attempts are used up.
        Attempts = 3, "attempts";
        /// The deadline has passed.
        Deadline = 4, "deadline";
        /// The budget has too few tokens.
        Budget = 5, "budget";
    }
}

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Sleep, then do what the verdict's scope says.
    Retry {
        /// Nanoseconds to sleep; never past the deadline.
        after_ns: u64,
    },
    /// Raise the error.
    Stop(StopReason),
}

/// One unit of work under a policy: how often it was tried, and for how long yet.
#[derive(Debug, Clone)]
pub struct RetryState {
    max_attempts: Option<u32>,
    deadline_at_ns: u64,
    delays: Delays,
    attempts: u32,
    waits: u64,
    last_cost: u32,
}

impl RetryState {
    /// The state before the first attempt, which starts at `started_at_ns`.
    pub fn new(policy: &RetryPolicy, seed: u64, started_at_ns: u64) -> Self {
        Self {
            max_attempts: policy.max_attempts(),
            deadline_at_ns: started_at_ns.saturating_add(nanoseconds(policy.deadline())),
            delays: policy.delays(seed),
            attempts: 1,
            waits: 0,
            last_cost: 0,
        }
    }

    /// Decides after a failure at `now_ns`, on the clock that `started_at_ns` was read from.
    ///
    /// In this order: a commit in doubt and what is not retryable stop; then, unless it waits for
    /// a lock, the attempts; then the deadline; then, unless it waits for a lock, the budget. The
    /// delay is cut to the time left, so that the last attempt falls on the deadline at the
    /// latest. Waits and redone work share one sequence of growing delays.
    ///
    /// ```
    /// use turnwise::classify::{ErrorClass, Fate, RetryKind, Scope, Verdict};
    /// use turnwise::retry::{Decision, Jitter, RetryPolicy, RetrySettings, RetryState, StopReason};
    ///
    /// let policy = RetryPolicy::new(RetrySettings {
    ///     max_attempts: Some(2),
    ///     jitter: Jitter::None,
    ///     ..RetrySettings::default()
    /// })?;
    /// let stale = Verdict::new(
    ///     ErrorClass::SnapshotStale, Fate::Stale, Scope::Transaction, RetryKind::Redo,
    /// );
    /// let mut state = RetryState::new(&policy, 7, 0);
    /// assert_eq!(state.next(1_000, &stale, None), Decision::Retry { after_ns: 100_000_000 });
    /// assert_eq!(state.next(100_002_000, &stale, None), Decision::Stop(StopReason::Attempts));
    /// # Ok::<(), turnwise::Error>(())
    /// ```
    pub fn next(&mut self, now_ns: u64, verdict: &Verdict, budget: Option<&Budget>) -> Decision {
        if verdict.is_in_doubt() {
            return Decision::Stop(StopReason::OutcomeUnknown);
        }
        if !verdict.is_retryable() {
            return Decision::Stop(StopReason::NotRetryable);
        }
        let waits = verdict.retry == RetryKind::Wait;
        if !waits && self.max_attempts.is_some_and(|most| self.attempts >= most) {
            return Decision::Stop(StopReason::Attempts);
        }
        let left = self.deadline_left_ns(now_ns);
        if left == 0 {
            return Decision::Stop(StopReason::Deadline);
        }
        if waits {
            self.waits = self.waits.saturating_add(1);
        } else {
            if let Some(budget) = budget {
                if !budget.take(verdict.retry) {
                    return Decision::Stop(StopReason::Budget);
                }
                self.last_cost = Budget::cost(verdict.retry);
            }
            self.attempts = self.attempts.saturating_add(1);
        }
        Decision::Retry { after_ns: self.delays.next_ns().min(left) }
    }

    /// Records success in the budget: without a retry that took tokens it returns 1, after one it
    /// returns what the last took. That is the AWS SDK's rule: the last retry has shown that there
    /// is room for it, the ones before have not.
    pub fn succeed(self, budget: &Budget) {
        if self.last_cost == 0 {
            budget.succeed();
        } else {
            budget.give(self.last_cost);
        }
    }

    /// Attempts so far, the first included. Waits for a lock do not count.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Waits for a lock so far.
    pub fn waits(&self) -> u64 {
        self.waits
    }

    /// Nanoseconds left at `now_ns`.
    pub fn deadline_left_ns(&self, now_ns: u64) -> u64 {
        self.deadline_at_ns.saturating_sub(now_ns)
    }
}
