//! How writers wait while an application's tests run.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

static ON: AtomicBool = AtomicBool::new(false);
static MAX_ATTEMPTS: AtomicU32 = AtomicU32::new(0);
static SEED: AtomicU64 = AtomicU64::new(0);

/// Waiting for a lock without sleeping, for tests that hold the lock on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rehearsal {
    /// Times that a taken lock is asked for before the write fails; at least 1.
    pub max_attempts: u32,
    /// The seed of every jitter.
    pub seed: u64,
}

/// Sets how every writer of this process waits from now on; `None`: as its policy says. Gives what
/// was set before.
pub fn rehearse(rehearsal: Option<Rehearsal>) -> Option<Rehearsal> {
    let before = rehearsal_in_effect();
    if let Some(rehearsal) = rehearsal {
        MAX_ATTEMPTS.store(rehearsal.max_attempts.max(1), Ordering::Relaxed);
        SEED.store(rehearsal.seed, Ordering::Relaxed);
    }
    ON.store(rehearsal.is_some(), Ordering::Release);
    before
}

/// The rehearsal that is on.
pub(super) fn rehearsal_in_effect() -> Option<Rehearsal> {
    ON.load(Ordering::Acquire).then(|| Rehearsal {
        max_attempts: MAX_ATTEMPTS.load(Ordering::Relaxed),
        seed: SEED.load(Ordering::Relaxed),
    })
}
