//! Time, as a number of nanoseconds that the caller supplies.

use core::sync::atomic::{AtomicU64, Ordering};

/// A source of monotonic time.
pub trait Clock: Send + Sync + core::fmt::Debug {
    /// Nanoseconds since an origin of the clock's own. Never decreases.
    fn now_ns(&self) -> u64;
}

/// A clock that stands still until it is moved.
#[derive(Debug, Default)]
pub struct ManualClock {
    now_ns: AtomicU64,
}

impl ManualClock {
    /// A clock that shows `now_ns`.
    pub const fn new(now_ns: u64) -> Self {
        Self { now_ns: AtomicU64::new(now_ns) }
    }

    /// Moves the clock forward by `by_ns`. Stops at the largest number instead of wrapping.
    pub fn advance(&self, by_ns: u64) {
        // The closure never refuses, so there is no error to look at.
        let _ = self.now_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
            Some(now.saturating_add(by_ns))
        });
    }
}

impl Clock for ManualClock {
    fn now_ns(&self) -> u64 {
        self.now_ns.load(Ordering::Relaxed)
    }
}

/// The system's monotonic clock, counted from the creation of this value.
///
/// Two clocks have two origins: compare only times of one clock.
#[cfg(feature = "threads")]
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    origin: std::time::Instant,
}

#[cfg(feature = "threads")]
impl SystemClock {
    /// A clock that starts now, at 0.
    pub fn new() -> Self {
        Self { origin: std::time::Instant::now() }
    }
}

#[cfg(feature = "threads")]
impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(feature = "threads")]
impl Clock for SystemClock {
    fn now_ns(&self) -> u64 {
        // 2^64 ns are 584 years.
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::{Clock as _, ManualClock};

    #[test]
    fn moves_only_when_told() {
        let clock = ManualClock::new(5);
        assert_eq!(clock.now_ns(), 5);
        clock.advance(7);
        assert_eq!(clock.now_ns(), 12);
        clock.advance(u64::MAX);
        assert_eq!(clock.now_ns(), u64::MAX);
    }

    #[cfg(feature = "threads")]
    #[test]
    fn the_system_clock_never_goes_back() {
        let clock = super::SystemClock::new();
        let times: Vec<u64> = (0..1_000).map(|_| clock.now_ns()).collect();
        assert!(times.is_sorted());
    }
}
