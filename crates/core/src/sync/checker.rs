//! What the scenes of the model checker share.
//!
//! `TURNWISE_MODEL_SEED` repeats a run, `TURNWISE_MODEL_ROUNDS` multiplies the number of executions.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use shuttle::rand::Rng as _;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, MaxSteps, Runner};

use super::model::{Condvar, Mutex, now};

pub(crate) fn chance(likely: f64) -> bool {
    likely > 0.0 && shuttle::rand::thread_rng().gen_bool(likely)
}

pub(crate) fn pick(count: usize) -> usize {
    shuttle::rand::thread_rng().gen_range(0..count)
}

/// Lets others run.
pub(crate) fn pause() {
    shuttle::thread::sleep(Duration::ZERO);
}

/// Sleeps by the model's clock.
pub(crate) fn sleep(time: Duration) {
    let (lock, never) = (Mutex::new(()), Condvar::new());
    let until = now() + time;
    let mut guard = lock.lock();
    while !never.wait_until(&mut guard, until).timed_out() {}
}

thread_local! {
    /// What happened in any execution of this test.
    static SEEN: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

/// Notes that `what` happened, so that a test can tell whether it tried what it is about.
pub(crate) fn note(what: impl Into<String>) {
    SEEN.with_borrow_mut(|seen| seen.insert(what.into()));
}

pub(crate) fn assert_seen(expected: &[&str]) {
    SEEN.with_borrow(|seen| {
        for what in expected {
            assert!(seen.contains(*what), "{what} never happened, only {seen:?}");
        }
    });
}

/// Plays `scene` in `rounds` orders of events drawn at random and as many with few pre-emptions.
pub(crate) fn check(rounds: usize, scene: fn()) {
    let from = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = from("TURNWISE_MODEL_SEED").unwrap_or_else(|| RandomState::new().hash_one(rounds));
    eprintln!("TURNWISE_MODEL_SEED={seed} repeats this run");
    let factor = usize::try_from(from("TURNWISE_MODEL_ROUNDS").unwrap_or(1)).unwrap();
    let mut config = Config::new();
    config.stack_size = 0x2_0000;
    config.max_steps = MaxSteps::FailAfter(100_000);
    config.silence_warnings = true;
    Runner::new(RandomScheduler::new_from_seed(seed, rounds * factor), config.clone()).run(scene);
    Runner::new(PctScheduler::new_from_seed(seed, 3, rounds * factor), config).run(scene);
}
