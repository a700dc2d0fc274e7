//! The queue for the turn under a model checker that tries out orders of events.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod kernel;
mod ledger;
mod plan;
mod play;

use std::time::Duration;

use self::plan::{HOUR, Plan, Role, calm, cast, rough};
use self::play::play;
use crate::sync::checker::{assert_seen, chance, check, pick};
use crate::sync::model::elapsed;

const MILLISECOND: Duration = Duration::from_millis(1);

#[test]
fn shuttle_turns_pass_without_a_timer() {
    check(400, || {
        let cast = cast(5, &[Role::Waiting, Role::Waiting, Role::Asking]);
        let stuck = (0.3, HOUR);
        let kernel = play(Plan { processes: 2 + pick(2), cast, stuck, ..calm() });
        assert_eq!(kernel.ledger.held(), 10, "somebody went on without a turn");
        assert_eq!(elapsed(), Duration::ZERO, "somebody slept though there was something to do");
    });
}

#[test]
fn shuttle_a_process_passes_the_turn_on() {
    check(400, || {
        let cast = cast(5, &[Role::Waiting, Role::Waiting, Role::Asking]);
        let kernel = play(Plan { cast, turns: 3, hold: 2, ..calm() });
        assert_eq!(kernel.ledger.held(), 15, "somebody went on without a turn");
        assert!(elapsed() <= 15 * 2 * MILLISECOND, "the turn was nobody's for a while");
    });
}

#[test]
fn shuttle_requests_are_taken_back() {
    check(400, || {
        let cast = cast(4, &[Role::Asking, Role::Asking, Role::Waiting, Role::Trying]);
        let hold = pick(3);
        play(Plan { cast, hold, withdrawn: 0.7, surplus: 0.2, ..calm() });
        let most = MILLISECOND * 8 * (u32::try_from(hold).unwrap() + 1);
        assert!(elapsed() <= most, "a turn that came too late was kept");
    });
    assert_seen(&["withdrawn", "withdrawn too late", "surplus", "not at once"]);
}

#[test]
fn shuttle_waiters_give_up() {
    check(400, || {
        let cast = cast(5, &[Role::Waiting, Role::Waiting, Role::Trying, Role::Asking]);
        let deadline = (0.6, MILLISECOND * (1 + u32::try_from(pick(3)).unwrap()));
        let interrupted = (0.4, 0.4);
        play(Plan { cast, hold: 3, deadline, interrupted, ..calm() });
        assert!(elapsed() <= 10 * 3 * MILLISECOND, "a turn that came too late was kept");
    });
    assert_seen(&["LockTimeout", "WriteCancelled", "not at once"]);
}

#[test]
fn shuttle_a_turn_that_stands_still_is_gone_without() {
    check(400, || {
        let cast = cast(5, &[Role::Waiting, Role::Waiting, Role::Asking]);
        let stuck = (0.6, MILLISECOND * 3);
        play(Plan { cast, hold: 4, stops: 0.3, stuck, deadline: (0.2, HOUR), ..calm() });
    });
    assert_seen(&["stopped", "stuck", "without", "LockTimeout"]);
}

#[test]
fn shuttle_outsiders_get_gaps() {
    check(400, || {
        let cast = cast(5, &[Role::Waiting, Role::Asking, Role::Trying]);
        let withdrawn = [0.0, 0.5][pick(2)];
        play(Plan { cast, hold: 30, outsider: 0.4, withdrawn, ..calm() });
        // A ninth of each turn more, and what is slept before a request is taken back.
        assert!(elapsed() <= 10 * (30 + 4 + 1) * MILLISECOND, "a gap did not end");
    });
    assert_seen(&["outsider", "gap"]);
}

#[test]
fn shuttle_processes_die() {
    check(600, || {
        let mut cast = cast(4, &[Role::Waiting, Role::Waiting, Role::Asking, Role::Trying]);
        cast.insert(pick(2), Role::Dying);
        let withdrawn = [0.0, 0.5][pick(2)];
        play(Plan { cast, processes: 2 + pick(2), hold: 3, withdrawn, ..calm() });
    });
    assert_seen(&["died with the turn", "died while it was next"]);
}

#[test]
fn shuttle_no_side_files() {
    check(400, || {
        let cast = cast(5, &[Role::Waiting, Role::Waiting, Role::Asking, Role::Trying]);
        let (unavailable, no_thread) = [(0.3, 0.0), (0.0, 0.5), (0.2, 0.3)][pick(3)];
        let interrupted = (0.3, 0.3);
        let deadline = (0.5, MILLISECOND * 2);
        play(Plan { cast, hold: 2, unavailable, no_thread, interrupted, deadline, ..calm() });
    });
    assert_seen(&["unavailable", "no keeper", "without"]);
}

#[test]
fn shuttle_everybody_at_once() {
    check(600, || {
        let mut cast = cast(5, &[Role::Waiting, Role::Waiting, Role::Asking, Role::Trying]);
        if chance(0.3) {
            cast.insert(pick(3), Role::Dying);
        }
        play(Plan { cast, ..rough() });
    });
    let seen = ["LockTimeout", "WriteCancelled", "without", "stuck", "gap", "stopped", "surplus"];
    assert_seen(&seen);
    assert_seen(&["died with the turn", "withdrawn", "withdrawn too late", "no keeper"]);
}
