//! Random numbers from a seed that the caller gives.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng as _, SeedableRng as _};

/// The generator xoshiro256++ (Blackman and Vigna), seeded from 64 bits through splitmix64.
///
/// The same seed gives the same numbers on every platform and in every language; only the raw
/// 64-bit output is used, never a distribution of a library, which may change between versions.
/// Not for secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rng {
    inner: Xoshiro256PlusPlus,
}

impl Rng {
    /// A generator that depends on `seed` alone.
    pub fn new(seed: u64) -> Self {
        Self { inner: Xoshiro256PlusPlus::seed_from_u64(seed) }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.inner.next_u64()
    }

    /// A number in `0..n`, and 0 for `n = 0`. Takes exactly one draw.
    ///
    /// The high 64 bits of the 128-bit product of the draw and `n` (Lemire 2019, without the
    /// rejection step): no value is favoured by more than `n / 2^64`, which for a delay of an hour
    /// is less than one in a million.
    pub fn below(&mut self, n: u64) -> u64 {
        let product = u128::from(self.next_u64()) * u128::from(n);
        // The high half of a 64 x 64 bit product always fits.
        u64::try_from(product >> 64).unwrap_or(u64::MAX)
    }

    /// A number in `low..=high`; `low` where `high` is not above it. Takes exactly one draw.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        match high.saturating_sub(low).checked_add(1) {
            Some(width) => low.saturating_add(self.below(width)),
            None => self.next_u64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn one_draw_per_call_whatever_the_range() {
        for n in [0, 1, 7, u64::MAX] {
            let (mut ranged, mut raw) = (Rng::new(42), Rng::new(42));
            ranged.below(n);
            raw.next_u64();
            assert_eq!(ranged, raw, "below({n})");
            ranged.between(n, u64::MAX);
            raw.next_u64();
            assert_eq!(ranged, raw, "between({n}, max)");
        }
    }

    #[test]
    fn the_whole_range_does_not_overflow() {
        let mut rng = Rng::new(1);
        let raw = rng.clone().next_u64();
        assert_eq!(rng.between(0, u64::MAX), raw);
        assert_eq!(rng.between(9, 3), 9);
    }
}
