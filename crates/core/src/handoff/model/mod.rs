//! The hand-off under a model checker that tries out orders of events.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::similar_names,
    missing_docs
)]

mod base;
mod flush;
mod line;
mod plan;
mod play;
mod submit;

use std::time::Duration;

use self::base::{Odds, RETRY_AFTER};
use self::plan::{HOUR, Plan, Role, calm, cast, rough};
use self::play::{Fate, play};
use super::Limits;
use crate::error::ErrorKind;
use crate::handoff::groups::PAUSE;
use crate::sync::checker::{assert_seen, chance, check, note, pause, pick, sleep};
use crate::sync::model::elapsed;

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

#[test]
fn shuttle_only_the_turn_is_waited_for() {
    check(1000, || {
        let roles = [
            Role::Blocking,
            Role::Queued,
            Role::Submitting,
            Role::Calling,
            Role::Turning,
            Role::Flushing,
        ];
        let odds = Odds { queued: (0.7, HOUR), upkeep: 0.3, ..Odds::default() };
        let stage = play(Plan { cast: cast(4, &roles), odds, ..calm() });
        assert_eq!(elapsed(), Duration::ZERO, "the turn came and nobody was told");
        assert_eq!(stage.base.counts().forgone, 0, "forgone what was wanted");
    });
    assert_seen(&["queued", "the turn came", "Landed"]);
}

#[test]
fn shuttle_a_turn_comes_when_nobody_waits_any_more() {
    check(1000, || {
        let roles = [Role::Blocking, Role::Queued, Role::Submitting, Role::Turning, Role::Flushing];
        let after = if chance(0.5) { HOUR } else { Duration::from_millis(1) };
        let odds = Odds { queued: (0.8, after), slow: 0.7, locked: 0.2, ..Odds::default() };
        let deadline = (0.7, Duration::from_millis(2));
        let interrupted = (0.5, 0.5);
        let hurry = [0.0, 0.1][pick(2)];
        let cast = cast(3, &roles);
        play(Plan { cast, odds, deadline, interrupted, cancelled: 0.5, hurry, ..calm() });
        let late = Duration::from_millis(200);
        assert!(hurry > 0.0 || elapsed() < late, "a turn that came was not used");
    });
    assert_seen(&["forgone", "the turn came", "the turn came too late", "Landed", "inline"]);
    assert_seen(&["Failed(LockTimeout)", "Failed(WriteCancelled)"]);
}
