//! The settings of a retry, checked once.

use core::time::Duration;

use super::adaptive::Learner;
use super::delays::{Delays, Jitter};
use crate::error::{Error, ErrorKind, Result};

/// Every duration is at most 90 days. Its nanoseconds stay below 2^53, so that they are exact as
/// a double in every language.
const LONGEST: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// What a [`RetryPolicy`] is made of. Start from the default and change what differs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetrySettings {
    /// Attempts in all, the first included: 1 or more; `None` for as many as the deadline allows.
    /// Waits for a lock do not count. Default 3.
    pub max_attempts: Option<u32>,
    /// The first delay before jitter. 0 to 90 days; default 0.1 s. At 0 a lock is polled without
    /// pause.
    pub initial_delay: Duration,
    /// What a delay is multiplied by to give the next. 1 to 1000; default 2.
    pub backoff_factor: f64,
    /// The bound of a delay before jitter. From `initial_delay` to 90 days; default 10 s.
    pub max_delay: Duration,
    /// How a delay is drawn. Default full.
    pub jitter: Jitter,
    /// The time for everything, sleeps included, from the first attempt. 0 to 90 days; default
    /// 30 s.
    pub deadline: Duration,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            max_attempts: Some(3),
            initial_delay: Duration::from_millis(100),
            backoff_factor: 2.0,
            max_delay: Duration::from_secs(10),
            jitter: Jitter::Full,
            deadline: Duration::from_secs(30),
        }
    }
}

/// Checked, immutable retry settings.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RetryPolicy {
    settings: RetrySettings,
}

// The factor is the one double in here, and a checked one is never NaN.
impl Eq for RetryPolicy {}

impl core::hash::Hash for RetryPolicy {
    fn hash<H: core::hash::Hasher>(&self, state: &mut H) {
        let RetrySettings {
            max_attempts,
            initial_delay,
            backoff_factor,
            max_delay,
            jitter,
            deadline,
        } = self.settings;
        (max_attempts, initial_delay, backoff_factor.to_bits(), max_delay, jitter, deadline)
            .hash(state);
    }
}

impl RetryPolicy {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidPolicy`], which names the setting, its value and the accepted range.
    ///
    /// ```
    /// use turnwise::retry::{RetryPolicy, RetrySettings};
    ///
    /// let policy = RetryPolicy::new(RetrySettings { max_attempts: Some(10), ..Default::default() })?;
    /// assert_eq!(policy.max_attempts(), Some(10));
    ///
    /// let error = RetryPolicy::new(RetrySettings { backoff_factor: 0.5, ..Default::default() });
    /// assert_eq!(error.unwrap_err().message(), "backoff_factor is 0.5; it must be from 1 to 1000");
    /// # Ok::<(), turnwise::Error>(())
    /// ```
    pub fn new(settings: RetrySettings) -> Result<Self> {
        if settings.max_attempts == Some(0) {
            return Err(invalid("max_attempts is 0; it must be 1 or more, or none for no limit"));
        }
        at_most_longest("initial_delay", settings.initial_delay)?;
        // Not a range test with a negation: it would let NaN through.
        if !(1.0..=1000.0).contains(&settings.backoff_factor) {
            return Err(invalid(format!(
                "backoff_factor is {}; it must be from 1 to 1000",
                settings.backoff_factor
            )));
        }
        at_most_longest("max_delay", settings.max_delay)?;
        if settings.max_delay < settings.initial_delay {
            return Err(invalid(format!(
                "max_delay is {} s; it must be from initial_delay ({} s) to 7776000 s",
                settings.max_delay.as_secs_f64(),
                settings.initial_delay.as_secs_f64()
            )));
        }
        at_most_longest("deadline", settings.deadline)?;
        Ok(Self { settings })
    }

    /// Settings for waiting on a lock that is held for milliseconds: 1 ms growing to 50 ms with
    /// full jitter, for 30 s.
    ///
    /// Not [`Jitter::Adaptive`]: it is had sooner, but leaves less to writers that know nothing of
    /// turnwise, and among many processes the lock more often stays with one.
    pub fn for_locks() -> Self {
        Self {
            settings: RetrySettings {
                max_attempts: None,
                initial_delay: Duration::from_millis(1),
                max_delay: Duration::from_millis(50),
                ..RetrySettings::default()
            },
        }
    }

    /// The same delays, for as long as `deadline` allows.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPolicy`] above 90 days.
    pub fn for_locks_within(deadline: Duration) -> Result<Self> {
        Self::new(RetrySettings { deadline, ..Self::for_locks().settings })
    }

    /// The settings, as they were given.
    pub fn settings(&self) -> &RetrySettings {
        &self.settings
    }

    /// Attempts in all, the first included; `None` for no limit.
    pub fn max_attempts(&self) -> Option<u32> {
        self.settings.max_attempts
    }

    /// The first delay before jitter.
    pub fn initial_delay(&self) -> Duration {
        self.settings.initial_delay
    }

    /// What a delay is multiplied by to give the next.
    pub fn backoff_factor(&self) -> f64 {
        self.settings.backoff_factor
    }

    /// The bound of a delay before jitter.
    pub fn max_delay(&self) -> Duration {
        self.settings.max_delay
    }

    /// How a delay is drawn.
    pub fn jitter(&self) -> Jitter {
        self.settings.jitter
    }

    /// The time for everything.
    pub fn deadline(&self) -> Duration {
        self.settings.deadline
    }

    /// The delays in nanoseconds that this policy draws with `seed`, without end: attempts and
    /// deadline are not looked at.
    pub fn delays(&self, seed: u64) -> Delays {
        Delays::new(self, seed)
    }

    /// What learns, across waits, how long to wait for one lock.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPolicy`] unless the jitter is [`Jitter::Adaptive`].
    pub fn learner(&self, seed: u64) -> Result<Learner> {
        match self.jitter() {
            Jitter::Adaptive => Ok(Learner::new(self, seed)),
            other => Err(invalid(format!(
                "jitter is {other}, which learns nothing; make the policy with jitter adaptive, or \
                 draw from its delays"
            ))),
        }
    }
}

/// Seconds as bindings take them, as a duration rounded to the nearest nanosecond.
///
/// # Errors
/// [`ErrorKind::InvalidPolicy`] for a number that is negative, not finite or above 90 days; it
/// names `setting`, the value and the range.
pub fn duration_from_seconds(setting: &str, seconds: f64) -> Result<Duration> {
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if duration <= LONGEST => Ok(duration),
        _ => Err(out_of_range(setting, seconds)),
    }
}

fn at_most_longest(setting: &str, duration: Duration) -> Result<()> {
    if duration <= LONGEST { Ok(()) } else { Err(out_of_range(setting, duration.as_secs_f64())) }
}

fn out_of_range(setting: &str, seconds: f64) -> Error {
    invalid(format!("{setting} is {seconds} s; it must be from 0 to 7776000 s (90 days)"))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidPolicy, message)
}

/// Nanoseconds of a duration that [`RetryPolicy::new`] has accepted.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
