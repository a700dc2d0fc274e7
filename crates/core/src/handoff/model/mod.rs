//! The hand-off under a model checker that tries out orders of events.
//!
//! `TURNWISE_MODEL_SEED` repeats a run, `TURNWISE_MODEL_ROUNDS` multiplies the number of executions.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::similar_names,
    missing_docs
)]

mod base;
mod flush;
mod plan;
mod play;
mod submit;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use shuttle::rand::Rng as _;
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, MaxSteps, Runner};

use self::base::{Odds, RETRY_AFTER};
use self::plan::{Plan, Role, calm, cast, rough};
use self::play::{Fate, play};
use super::Limits;
use crate::error::ErrorKind;
use crate::handoff::groups::PAUSE;
use crate::sync::model::elapsed;

fn chance(likely: f64) -> bool {
    likely > 0.0 && shuttle::rand::thread_rng().gen_bool(likely)
}

/// Lets others run.
fn pause() {
    shuttle::thread::sleep(Duration::ZERO);
}

fn pick(count: usize) -> usize {
    shuttle::rand::thread_rng().gen_range(0..count)
}

thread_local! {
    /// What happened in any execution of this test.
    static SEEN: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
}

/// Notes that `what` happened, so that a test can tell whether it tried what it is about.
fn note(what: impl Into<String>) {
    SEEN.with_borrow_mut(|seen| seen.insert(what.into()));
}

fn assert_seen(expected: &[&str]) {
    SEEN.with_borrow(|seen| {
        for what in expected {
            assert!(seen.contains(*what), "{what} never happened, only {seen:?}");
        }
    });
}

/// Plays `scene` in `rounds` orders of events drawn at random and as many with few pre-emptions.
fn check(rounds: usize, scene: fn()) {
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

fn all_landed(told: &[(u64, Fate)]) -> bool {
    told.iter().all(|(_, fate)| *fate == Fate::Landed)
}

#[test]
fn shuttle_no_wake_up_hangs_on_a_timer() {
    check(1500, || {
        let roles = [Role::Blocking, Role::Queued, Role::Submitting, Role::Calling, Role::Flushing];
        let stage = play(Plan { cast: cast(4, &roles), ..calm() });
        assert!(all_landed(&stage.told.lock()));
        assert_eq!(elapsed(), Duration::ZERO, "somebody slept though there was something to do");
    });
}

#[test]
fn shuttle_turns_end_without_a_timer() {
    check(1000, || {
        let mut cast = cast(2, &[Role::Blocking, Role::Queued, Role::Submitting, Role::Calling]);
        cast.extend([Role::Turning, Role::Turning]);
        let odds = Odds { upkeep: 0.3, ..Odds::default() };
        play(Plan { cast, odds, ..calm() });
        assert_eq!(elapsed(), Duration::ZERO, "somebody slept though there was something to do");
    });
}

#[test]
fn shuttle_only_the_lock_is_waited_for() {
    check(1000, || {
        let roles = [Role::Blocking, Role::Queued, Role::Submitting, Role::Calling, Role::Flushing];
        let odds = Odds { locked: 0.5, upkeep: 0.3, ..Odds::default() };
        let stage = play(Plan { cast: cast(4, &roles), odds, ..calm() });
        assert!(all_landed(&stage.told.lock()));
        assert!(elapsed() <= RETRY_AFTER * stage.base.counts().locked);
    });
}

#[test]
fn shuttle_callers_that_stay_away_cost_a_pause() {
    check(1000, || {
        let roles = [Role::Blocking, Role::Queued, Role::Submitting, Role::Calling, Role::Flushing];
        let stays_away = (0.4, 0.4);
        let stage = play(Plan { cast: cast(4, &roles), stays_away, ..calm() });
        assert!(all_landed(&stage.told.lock()));
        assert!(elapsed() <= PAUSE * 2 * stage.base.counts().transactions);
    });
}

#[test]
fn shuttle_full_queue() {
    check(1000, || {
        let roles = [
            Role::Blocking,
            Role::Queued,
            Role::Submitting,
            Role::Calling,
            Role::Offering,
            Role::Turning,
            Role::Flushing,
        ];
        let max_rows = 1 + pick(2);
        let limits = Limits { max_batch: 1 + pick(3), max_rows, max_bytes: 8 + 8 * pick(2) };
        let base = if chance(0.5) { calm() } else { rough() };
        play(Plan { limits, cast: cast(5, &roles), ..base });
    });
}

#[test]
fn shuttle_close_while_others_enter() {
    check(1000, || {
        let mut cast = cast(
            4,
            &[
                Role::Blocking,
                Role::Queued,
                Role::Submitting,
                Role::Calling,
                Role::Turning,
                Role::Flushing,
            ],
        );
        cast.insert(pick(5), Role::Closing);
        let limits = Limits { max_batch: 2, max_rows: 1 + pick(3), max_bytes: 1000 };
        let base = if chance(0.5) { calm() } else { rough() };
        let stage = play(Plan { limits, cast, ..base.clone() });
        if base.odds.locked == 0.0 {
            let fair = |fate| {
                matches!(fate, Fate::Landed | Fate::Dropped | Fate::Failed(ErrorKind::WriterClosed))
            };
            assert!(stage.told.lock().iter().all(|(_, fate)| fair(*fate)));
        }
    });
}

#[test]
fn shuttle_everything_at_once() {
    check(2000, || {
        let roles = [
            Role::Blocking,
            Role::Blocking,
            Role::Queued,
            Role::Submitting,
            Role::Calling,
            Role::Offering,
            Role::Turning,
            Role::Flushing,
        ];
        play(Plan { cast: cast(5, &roles), ..rough() });
    });
    assert_seen(&["inline", "locked", "evicted", "upkeep", "re-entered", "Landed", "Dropped"]);
    for kind in [
        ErrorKind::Constraint,
        ErrorKind::DiskFull,
        ErrorKind::Io,
        ErrorKind::Internal,
        ErrorKind::LockTimeout,
        ErrorKind::WriteTimeout,
        ErrorKind::WriteCancelled,
        ErrorKind::QueueFull,
    ] {
        assert_seen(&[&format!("Failed({kind:?})")]);
    }
}

#[test]
fn shuttle_submitters_before_a_full_queue_make_way() {
    check(1000, || {
        let limits = Limits { max_batch: 3, max_rows: 1, max_bytes: 1000 };
        play(Plan { limits, cast: vec![Role::Submitting; 3], ..calm() });
        assert_eq!(elapsed(), Duration::ZERO, "somebody slept though there was something to do");
    });
}

#[test]
fn shuttle_a_flush_comes_after_the_outcomes() {
    check(2000, || {
        let mut cast = cast(
            3,
            &[Role::Blocking, Role::Queued, Role::Submitting, Role::Turning, Role::Flushing],
        );
        cast.push(Role::Flushing);
        if chance(0.3) {
            cast.insert(pick(5), Role::Closing);
        }
        let limits = Limits { max_batch: 1 + pick(3), max_rows: 1 + pick(3), max_bytes: 1000 };
        let base = if chance(0.5) { calm() } else { rough() };
        play(Plan { limits, cast, ..base });
    });
    assert_seen(&["flushed", "nothing to flush", "withdrawn during a flush", "evicted", "inline"]);
    assert_seen(&["Failed(Internal)", "Failed(DiskFull)", "Failed(WriterClosed)"]);
}

#[test]
fn shuttle_nobody_waits_for_a_writer_that_died() {
    check(1000, || {
        let roles = [
            Role::Blocking,
            Role::Queued,
            Role::Submitting,
            Role::Calling,
            Role::Turning,
            Role::Flushing,
            Role::Closing,
        ];
        let limits = Limits { max_batch: 2, max_rows: 2, max_bytes: 1000 };
        let odds = Odds { locked: 0.3, dies: 0.3, ..Odds::default() };
        play(Plan { limits, cast: cast(5, &roles), odds, ..calm() });
    });
}

#[test]
fn shuttle_turns_end_as_their_limit_comes() {
    check(1500, || {
        let mut cast = cast(2, &[Role::Blocking, Role::Blocking, Role::Turning, Role::Calling]);
        cast.push(Role::Turning);
        let hold_limit = Duration::from_millis(5);
        let limits = Limits { max_batch: 3, max_rows: 2, max_bytes: 1000 };
        let interrupted = (0.5, 0.5);
        play(Plan { cast, limits, hold_limit, interrupted, hogs: 0.8, late: 0.7, ..calm() });
    });
    assert_seen(&["inline", "evicted", "re-entered"]);
}

#[test]
fn shuttle_callers_give_up_before_a_full_queue() {
    check(1500, || {
        let cast = vec![Role::Queued, Role::Queued, Role::Calling];
        let limits = Limits { max_batch: 1, max_rows: 1, max_bytes: 1000 };
        let interrupted = (1.0, 0.4);
        play(Plan { cast, limits, interrupted, hurry: 0.2, ..calm() });
    });
    assert_seen(&["Landed", "Failed(WriteCancelled)"]);
}
