//! A shared allowance of retries.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::classify::RetryKind;

/// Keeps retries from becoming the load: when most work fails, failures surface at once.
///
/// A bucket of tokens, shared by everything that talks to one database in a process. A retry takes
/// tokens and success returns some. The numbers are those of the AWS SDK's standard mode (500
/// tokens, 5 for a retry, 1 for a clean success) and 14 for a transient failure, as in its mode of
/// 2026. Waits for a lock take nothing: they do no work, and under a budget less than a fifth of
/// them succeed.
///
/// Lock-free: one atomic number.
#[derive(Debug)]
pub struct Budget {
    capacity: u32,
    tokens: AtomicU32,
    denied: AtomicU64,
}

impl Budget {
    /// Tokens of a full default budget.
    pub const CAPACITY: u32 = 500;
    /// Tokens that doing work again takes.
    pub const REDO_COST: u32 = 5;
    /// Tokens that asking for a connection again takes.
    pub const UNAVAILABLE_COST: u32 = 14;
    /// Tokens that a success without a retry returns.
    pub const SUCCESS_GAIN: u32 = 1;

    /// A full budget of `capacity` tokens. With 0 nothing but waits is retried.
    pub const fn new(capacity: u32) -> Self {
        Self { capacity, tokens: AtomicU32::new(capacity), denied: AtomicU64::new(0) }
    }

    /// What a retry of this kind takes.
    pub const fn cost(kind: RetryKind) -> u32 {
        match kind {
            RetryKind::None | RetryKind::Wait => 0,
            RetryKind::Redo => Self::REDO_COST,
            RetryKind::Unavailable => Self::UNAVAILABLE_COST,
        }
    }

    /// Takes the tokens for a retry, all or none. `false`, and one more in
    /// [`denied`](Self::denied), if there are too few.
    pub fn take(&self, kind: RetryKind) -> bool {
        let cost = Self::cost(kind);
        let taken = self
            .tokens
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tokens| tokens.checked_sub(cost))
            .is_ok();
        if !taken {
            self.denied.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// Records a success that needed no retry.
    pub fn succeed(&self) {
        self.give(Self::SUCCESS_GAIN);
    }

    /// Puts tokens back, up to the capacity.
    pub(super) fn give(&self, amount: u32) {
        // The closure never refuses, so there is no error to look at.
        let _ = self.tokens.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tokens| {
            Some(tokens.saturating_add(amount).min(self.capacity))
        });
    }

    /// Tokens of a full budget.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Tokens left.
    pub fn tokens(&self) -> u32 {
        self.tokens.load(Ordering::Relaxed)
    }

    /// Retries that were refused.
    pub fn denied(&self) -> u64 {
        self.denied.load(Ordering::Relaxed)
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(Self::CAPACITY)
    }
}
