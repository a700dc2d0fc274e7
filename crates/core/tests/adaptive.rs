//! What must hold for a learner, whatever it is told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::time::Duration;

use proptest::prelude::*;
use turnwise::retry::{Jitter, RetryPolicy, RetrySettings};

const LONGEST_NS: u64 = 90 * 24 * 60 * 60 * 1_000_000_000;
const SHORTEST_MEAN_NS: u64 = 50_000;

/// What a learner is told: a time (a failure), or how long the lock was held.
#[derive(Debug, Clone, Copy)]
enum Told {
    Failed(u64),
    Held(u64),
}

fn events() -> impl Strategy<Value = Vec<Told>> {
    let extreme =
        || proptest::sample::select(vec![0, 1, 99_999, 3_600_000_000_000, LONGEST_NS, u64::MAX]);
    let number = || prop_oneof![0..=1_000_000u64, 0..=60_000_000_000u64, extreme()];
    let event =
        prop_oneof![3 => number().prop_map(Told::Failed), 1 => number().prop_map(Told::Held)];
    proptest::collection::vec(event, 1..300)
}

fn adaptive(max_delay_ns: u64) -> RetryPolicy {
    RetryPolicy::new(RetrySettings {
        initial_delay: Duration::ZERO,
        max_delay: Duration::from_nanos(max_delay_ns),
        jitter: Jitter::Adaptive,
        ..RetrySettings::default()
    })
    .unwrap()
}

proptest! {
    #[test]
    fn a_learner_stays_within_its_bounds(
        cap in prop_oneof![0..=1_000_000u64, 0..=LONGEST_NS],
        seed: u64,
        events in events(),
    ) {
        let mut learner = adaptive(cap).learner(seed).unwrap();
        for event in events {
            match event {
                Told::Failed(now) => {
                    let before = learner.mean_ns();
                    let delay = learner.failed(now);
                    let mean = learner.mean_ns();
                    prop_assert!(mean <= before + before / 10);
                    prop_assert!(mean / 2 <= delay && delay <= mean + mean / 2);
                }
                Told::Held(hold) => {
                    let before = learner.hold_ns();
                    learner.succeeded(hold);
                    let (mean, h) = (learner.mean_ns(), learner.hold_ns());
                    prop_assert!(before - before / 10 <= h && h <= before.saturating_mul(2));
                    let most = h.saturating_mul(8).max(learner.others_ns() / 2);
                    prop_assert!(mean >= (h / 2).min(cap) && mean <= most);
                }
            }
            prop_assert!(learner.mean_ns() >= SHORTEST_MEAN_NS);
            prop_assert!(learner.mean_ns() <= cap.max(SHORTEST_MEAN_NS));
            prop_assert!(learner.hold_ns() >= 2 * SHORTEST_MEAN_NS);
        }
    }

    /// However many fail in one hold, it is one piece of news.
    #[test]
    fn a_window_raises_once(seed: u64, start: u64, others in proptest::collection::vec(0..2_750_000u64, 0..200)) {
        let mut learner = adaptive(LONGEST_NS).learner(seed).unwrap();
        learner.failed(start);
        for later in others {
            learner.failed(start.saturating_add(later));
            prop_assert_eq!(learner.mean_ns(), 5_500_000);
        }
    }

    #[test]
    fn the_same_events_teach_the_same(cap in 0..=LONGEST_NS, seed: u64, events in events()) {
        let run = || {
            let mut learner = adaptive(cap).learner(seed).unwrap();
            let answers: Vec<_> = events.iter().map(|&event| match event {
                Told::Failed(now) => learner.failed(now),
                Told::Held(hold) => {
                    learner.succeeded(hold);
                    0
                }
            }).collect();
            (answers, learner.mean_ns(), learner.hold_ns(), learner.others_ns())
        };
        prop_assert_eq!(run(), run());
    }
}

/// What the controller is for: polls of a lock that others keep taken settle where about three of
/// four fail, however long it is held and however many ask.
#[test]
fn three_of_four_tries_fail() {
    for (hold, waiters, low, high) in [
        (300_000u64, 12u64, 2.2, 3.8),
        (5_000_000, 12, 2.2, 3.8),
        (50_000_000, 12, 2.2, 3.8),
        (50_000_000, 58, 2.2, 4.8),
    ] {
        let policy = adaptive(LONGEST_NS);
        let mut learners: Vec<_> = (0..waiters).map(|n| policy.learner(n).unwrap()).collect();
        let mut due: Vec<u64> = (0..waiters).collect();
        let (mut free_at, mut failed, mut succeeded) = (0, 0u32, 0u32);
        while succeeded < 4_000 {
            let first = (0..due.len()).min_by_key(|&n| due[n]).unwrap();
            let now = due[first];
            // The first successes bring everybody from 5 ms to the hold time.
            if now < free_at {
                failed += u32::from(succeeded >= 1_000);
                due[first] = now + learners[first].failed(now);
            } else {
                succeeded += 1;
                free_at = now + hold;
                learners[first].succeeded(hold);
                due[first] = free_at + learners[first].mean_ns();
            }
        }
        let ratio = f64::from(failed) / 3_000.0;
        assert!((low..high).contains(&ratio), "{hold} ns, {waiters}: {ratio} failures a success");
    }
}

#[test]
fn only_the_adaptive_kind_learns() {
    for &jitter in Jitter::ALL {
        let learner = RetryPolicy::new(RetrySettings { jitter, ..RetrySettings::default() })
            .unwrap()
            .learner(0);
        if jitter == Jitter::Adaptive {
            assert!(learner.is_ok());
        } else {
            let error = learner.unwrap_err();
            assert_eq!(error.kind(), turnwise::ErrorKind::InvalidPolicy);
            for part in [jitter.name(), "adaptive"] {
                assert!(error.message().contains(part), "{part} is not in: {error}");
            }
        }
    }
}
