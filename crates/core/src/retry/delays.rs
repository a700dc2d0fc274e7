//! How long to wait: exponential growth, capped first, then drawn.

use super::adaptive::Learner;
use super::policy::{RetryPolicy, nanoseconds};
use crate::numbered::numbered;
use crate::rng::Rng;

numbered! {
    /// How a delay is drawn from its ceiling `v`, which is capped *before* the draw, so that delays
    /// stay spread out at the cap too. `U[a, b]` is a whole number of nanoseconds, both ends
    /// included.
    ///
    /// Full, equal and decorrelated are those of the AWS article "Exponential Backoff And Jitter",
    /// but for the order of cap and draw.
    #[non_exhaustive]
    pub enum Jitter {
        /// `v`.
        None = 0, "none";
        /// `v + U[0, initial_delay]`. May exceed `max_delay` by `initial_delay`.
        Additive = 1, "additive";
        /// `v/2 + U[0, v/2]`, halves rounded down.
        Equal = 2, "equal";
        /// `U[0, v]`.
        Full = 3, "full";
        /// `U[initial_delay, min(max_delay, 3 × the delay before)]`, the first from
        /// `initial_delay`. Does not use `backoff_factor`.
        Decorrelated = 4, "decorrelated";
        /// `U[0.5·mu, 1.5·mu]`, where `mu` follows how long the lock is really held: see
        /// [`Learner`]. It begins at 5 ms and is at most `max_delay`; `initial_delay` and
        /// `backoff_factor` are not used. Without a learner that outlives the wait nothing is
        /// learned, and `mu` grows by a tenth with each delay.
        Adaptive = 5, "adaptive";
    }
}

/// The delays of one policy and seed, in nanoseconds, without end.
#[derive(Debug, Clone)]
pub struct Delays {
    jitter: Jitter,
    initial_ns: u64,
    max_ns: u64,
    factor: f64,
    /// The ceiling of the next delay. A double, because the factor is one; it never exceeds the
    /// cap, so that nothing can overflow however many delays are drawn.
    ceiling: f64,
    previous_ns: u64,
    rng: Rng,
    /// Of the adaptive kind alone: who draws, and the sum of the delays so far.
    learner: Option<(Learner, u64)>,
}

impl Delays {
    pub(super) fn new(policy: &RetryPolicy, seed: u64) -> Self {
        let initial_ns = nanoseconds(policy.initial_delay());
        Self {
            jitter: policy.jitter(),
            initial_ns,
            max_ns: nanoseconds(policy.max_delay()),
            factor: policy.backoff_factor(),
            ceiling: exact_f64(initial_ns),
            previous_ns: initial_ns,
            rng: Rng::new(seed),
            learner: policy.learner(seed).ok().map(|learner| (learner, 0)),
        }
    }

    /// The next delay in nanoseconds. Takes one draw, and none without jitter.
    pub fn next_ns(&mut self) -> u64 {
        if let Some((learner, elapsed)) = &mut self.learner {
            let delay = learner.failed(*elapsed);
            *elapsed = elapsed.saturating_add(delay);
            return delay;
        }
        let ceiling = whole(self.ceiling);
        // One rounded multiplication a step, which IEEE 754 defines to the last bit; powers and
        // logarithms of the standard library differ between platforms.
        self.ceiling = (self.ceiling * self.factor).min(exact_f64(self.max_ns));
        let delay = match self.jitter {
            // The adaptive kind has a learner.
            Jitter::None | Jitter::Adaptive => ceiling,
            Jitter::Additive => ceiling.saturating_add(self.rng.between(0, self.initial_ns)),
            Jitter::Equal => (ceiling / 2).saturating_add(self.rng.between(0, ceiling / 2)),
            Jitter::Full => self.rng.between(0, ceiling),
            Jitter::Decorrelated => {
                let high = self.previous_ns.saturating_mul(3).min(self.max_ns);
                self.rng.between(self.initial_ns, high)
            }
        };
        self.previous_ns = delay;
        delay
    }
}

impl Iterator for Delays {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        Some(self.next_ns())
    }
}

/// Exact, because a policy's durations stay below 2^53 ns.
#[allow(clippy::cast_precision_loss)]
fn exact_f64(ns: u64) -> f64 {
    ns as f64
}

/// Rounds down. The value is at least 0 and at most a policy's longest duration.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(ns: f64) -> u64 {
    ns as u64
}
