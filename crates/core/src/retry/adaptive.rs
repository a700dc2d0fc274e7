//! Waiting in proportion to how long a lock is really held.

use super::policy::{RetryPolicy, nanoseconds};
use crate::rng::Rng;

/// The mean sleep and the hold time before anything is known.
const FIRST_NS: u64 = 5_000_000;
/// A hold counts as no shorter. A sleep overshoots by 70 µs, so that nothing finer can be kept.
const SHORTEST_HOLD_NS: u64 = 100_000;
/// The mean sleep is at most so many holds; so is what one hold counts for. (Bounds the time for
/// which one who was unlucky stays away.)
const MOST_HOLDS: u64 = 8;
/// In a wait the mean sleep may reach this part of the time for which the lock was seen taken.
const SEEN_PART: u64 = 8;

/// What a process has learned of one lock: the mean sleep `mu`, its own hold time `h`, and for how
/// long others have the lock, `s`.
///
/// For locks that cannot be queued for. Share one between all who ask for the same lock in a
/// process, and keep it for as long as the lock is used. Takes time as an argument, has no clock
/// and never sleeps; the same seed and the same events give the same delays everywhere.
///
/// - [`failed`](Self::failed): `mu ← min(1.1·mu, max(8·h, s/2, seen/8))`, sleep
///   `U[0.5·mu, 1.5·mu]`.
/// - [`succeeded`](Self::succeeded): `h ← h + 0.1·(hold − h)`, after a wait
///   `s ← s + 0.1·(seen − s)`, then `mu ← min(max(h/2, mu·1.1⁻³), max(8·h, s/2))`.
///
/// Raised once for each failure and lowered three times for each success, `mu` settles where about
/// three of four tries fail, however long the lock is held and however many ask for it. It is then
/// idle for a quarter of the time: polls at random times that find it taken `f` times for each
/// success leave it busy for `f/(1 + f)` of the time. (Multiplicative weights for a shared channel:
/// Chang, Jin and Pettie, "Simple Contention Resolution via Multiplicative Weight Updates",
/// SOSA 2019.)
///
/// - `mu` and `h` begin at 5 ms, `s` at 0. `max_delay` bounds `mu`, which is never below 50 µs;
///   `initial_delay` and `backoff_factor` are not used.
/// - *Once per window.* Failures within `mu/2` of the last raise do not raise again. No sleep is
///   shorter, so they are those of other waiters who met the same hold, which is one piece of news:
///   100 waiters that fail together would otherwise multiply `mu` by 1.1¹⁰⁰ = 13,781.
/// - *Others hold it longer.* `seen` is the time from the first to the last failure since a success:
///   the lock was taken for that long. Behind a program that has it for 20 ms at a time, a writer
///   whose own holds last 0.1 ms thus asks every 7 ms, and not every 1.4 ms. `seen/8` is for the one
///   wait that is out of all proportion: in a minute about 100 tries and not 75,000, forgotten with
///   the next success. Neither counts as a hold, which would bound `mu` from below: those who wait
///   longest would ask ever less often. `seen` begins anew after `2·mu` in which nobody asked.
/// - *One time is no rule.* What one success counts for is from 100 µs to `8·h`, and for `s` to
///   `8·max(8·h, s)`: a transaction of an hour makes `h` 1.7 times as long, and not six minutes.
///
/// ```
/// use turnwise::retry::{Jitter, RetryPolicy, RetrySettings};
///
/// let policy = RetryPolicy::new(RetrySettings { jitter: Jitter::Adaptive, ..Default::default() })?;
/// let mut learner = policy.learner(7)?;
/// let delay = learner.failed(0);
/// assert_eq!(learner.mean_ns(), 5_500_000);
/// assert!((2_750_000..=8_250_000).contains(&delay));
/// learner.succeeded(1_000_000);
/// assert_eq!((learner.mean_ns(), learner.hold_ns()), (4_132_231, 4_600_000));
/// # Ok::<(), turnwise::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Learner {
    mean_ns: u64,
    hold_ns: u64,
    others_ns: u64,
    limit_ns: u64,
    raised_at_ns: Option<u64>,
    /// The first and the last failure since a success.
    taken_ns: Option<(u64, u64)>,
    rng: Rng,
}

impl Learner {
    /// For a policy whose kind is not looked at.
    pub(super) fn new(policy: &RetryPolicy, seed: u64) -> Self {
        let limit_ns = nanoseconds(policy.max_delay()).max(SHORTEST_HOLD_NS / 2);
        Self {
            mean_ns: FIRST_NS.min(limit_ns),
            hold_ns: FIRST_NS,
            others_ns: 0,
            limit_ns,
            raised_at_ns: None,
            taken_ns: None,
            rng: Rng::new(seed),
        }
    }

    /// The lock was asked for at `now_ns` and taken. Gives the nanoseconds to sleep before asking
    /// again. Takes one draw.
    ///
    /// Times are of one clock; one that is earlier than the last counts as the last.
    pub fn failed(&mut self, now_ns: u64) -> u64 {
        let seen = self.see_taken(now_ns);
        let window = self.mean_ns / 2;
        if self.raised_at_ns.is_none_or(|at| now_ns.saturating_sub(at) >= window) {
            self.raised_at_ns = Some(now_ns);
            let most = self.most_ns().max(seen / SEEN_PART).min(self.limit_ns);
            self.mean_ns = self.mean_ns.saturating_add(self.mean_ns / 10).min(most);
        }
        let half = self.mean_ns / 2;
        self.rng.between(half, self.mean_ns.saturating_add(half))
    }

    /// The lock was had, held for `hold_ns`, and let go. Takes no draw.
    pub fn succeeded(&mut self, hold_ns: u64) {
        let longest = self.hold_ns.saturating_mul(MOST_HOLDS);
        if let Some((first, last)) = self.taken_ns.take() {
            let longest = longest.max(self.others_ns).saturating_mul(MOST_HOLDS);
            self.others_ns = tenth_nearer(self.others_ns, (last - first).min(longest));
        }
        self.hold_ns = tenth_nearer(self.hold_ns, hold_ns.clamp(SHORTEST_HOLD_NS, longest));
        // 1.1 to the power of -3, exactly.
        let lowered = self.mean_ns.saturating_mul(1_000) / 1_331;
        self.mean_ns = lowered.max(self.hold_ns / 2).min(self.most_ns()).min(self.limit_ns);
    }

    /// The mean sleep, in nanoseconds.
    pub fn mean_ns(&self) -> u64 {
        self.mean_ns
    }

    /// How long the lock is held at a time, in nanoseconds, as far as is known.
    pub fn hold_ns(&self) -> u64 {
        self.hold_ns
    }

    /// For how long others were seen to have the lock before it was had, in nanoseconds.
    pub fn others_ns(&self) -> u64 {
        self.others_ns
    }

    /// What bounds the mean sleep, but for `max_delay`.
    fn most_ns(&self) -> u64 {
        self.hold_ns.saturating_mul(MOST_HOLDS).max(self.others_ns / 2)
    }

    /// Notes one more failure, and tells for how long the lock has been seen taken.
    fn see_taken(&mut self, now_ns: u64) -> u64 {
        let (first, last) = match self.taken_ns {
            Some((first, last)) if now_ns.saturating_sub(last) <= self.mean_ns * 2 => {
                (first, last.max(now_ns))
            }
            _ => (now_ns, now_ns),
        };
        self.taken_ns = Some((first, last));
        last - first
    }
}

/// `known`, moved by a tenth of the way to `told`.
fn tenth_nearer(known: u64, told: u64) -> u64 {
    if told > known {
        known.saturating_add((told - known) / 10)
    } else {
        known - (known - told) / 10
    }
}
