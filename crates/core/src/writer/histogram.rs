//! Latencies, counted in buckets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The first upper bound: 1,024 ns.
const FIRST: u32 = 10;

/// Bounds, each twice the one before: about 1 µs to 34 s.
const BOUNDS: usize = 26;

/// Durations, counted in buckets whose upper bounds double.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Histogram {
    /// Durations up to each of the [`bounds`](Self::bounds) and above the one before; the last
    /// counts what is above them all.
    pub counts: [u64; BOUNDS + 1],
    /// All durations together.
    pub sum: Duration,
}

impl Histogram {
    /// The upper bounds of the buckets, themselves included.
    pub fn bounds() -> impl Iterator<Item = Duration> {
        (FIRST..).take(BOUNDS).map(|power| Duration::from_nanos(1 << power))
    }
}

/// A histogram that many threads add to.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    counts: [AtomicU64; BOUNDS + 1],
    sum_ns: AtomicU64,
}

impl Recorder {
    pub(super) fn add(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // The power of two that is not below it.
        let power = u64::BITS - ns.saturating_sub(1).leading_zeros();
        let bucket = power.saturating_sub(FIRST) as usize;
        if let Some(count) = self.counts.get(bucket.min(BOUNDS)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> Histogram {
        let mut counts = [0; BOUNDS + 1];
        for (count, recorded) in counts.iter_mut().zip(&self.counts) {
            *count = recorded.load(Ordering::Relaxed);
        }
        Histogram { counts, sum: Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_below_its_bound() {
        for (at, bound) in Histogram::bounds().enumerate() {
            let nanosecond = Duration::from_nanos(1);
            for (duration, bucket) in [(bound, at), (bound + nanosecond, at + 1)] {
                let recorder = Recorder::default();
                recorder.add(duration);
                let read = recorder.read();
                assert_eq!(read.counts.iter().position(|&count| count == 1), Some(bucket));
                assert_eq!(read.sum, duration);
            }
        }
        let recorder = Recorder::default();
        recorder.add(Duration::ZERO);
        recorder.add(Duration::MAX);
        assert_eq!(recorder.read().counts.iter().sum::<u64>(), 2);
        assert_eq!(recorder.read().counts[0], 1);
    }
}
