#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::{
    FindingCode, LeaseId, LeaseState, Limits, Opening, Outcome, Owner, OwnerKind, Phase, Severity,
    Texts, Tracker, Use, Wrong, may_write, without_literals,
};

const SECOND: u64 = 1_000_000_000;

struct Numbers;

impl Texts for Numbers {
    fn site(&self, site: u64) -> String {
        format!("site {site}")
    }

    fn statement(&self, statement: u64) -> String {
        format!("statement {statement}")
    }
}

fn owner(number: u64, parent: Option<&Arc<Owner>>) -> Arc<Owner> {
    Arc::new(Owner::new(number, OwnerKind::Request, "GET /", "", parent.cloned(), 0))
}

fn tracker() -> Tracker {
    Tracker::new(Limits::default())
}

fn open(tracker: &Tracker, owner: Option<&Arc<Owner>>, now: u64) -> LeaseId {
    let opening = Opening { owner: owner.cloned(), site: 7, ..Opening::default() };
    tracker.open(opening, now).unwrap()
}

fn of(owner: Option<&Arc<Owner>>) -> Use<'_> {
    Use { thread: 1, owner, interleaves: false, writes: true, site: 8, statement: 9 }
}

fn run(tracker: &Tracker, id: LeaseId, owner: Option<&Arc<Owner>>, now: u64) {
    tracker.begin(id, &of(owner), now).unwrap();
    tracker.end(id, Outcome::Done, now);
}

fn code(result: Result<(), Wrong>) -> Option<(FindingCode, Severity)> {
    result.err().map(|wrong| (wrong.code, wrong.severity))
}

#[test]
fn a_lease_says_what_it_does() {
    let (tracker, request) = (tracker(), owner(1, None));
    let id = open(&tracker, Some(&request), SECOND);
    let state = |now| tracker.leases(now, &Numbers).first().map(|lease| lease.state);
    assert_eq!(state(SECOND), Some(LeaseState::CheckedOut));
    tracker.begin(id, &of(Some(&request)), SECOND).unwrap();
    assert_eq!(state(SECOND), Some(LeaseState::Active));
    tracker.end(id, Outcome::Done, 2 * SECOND);
    let lease = tracker.leases(5 * SECOND, &Numbers).pop().unwrap();
    assert_eq!(lease.state, LeaseState::IdleInTransaction);
    assert_eq!((lease.age_ns, lease.state_age_ns), (4 * SECOND, 3 * SECOND));
    assert_eq!(lease.write_age_ns, Some(4 * SECOND));
    assert_eq!(
        (&*lease.opened, &*lease.last, &*lease.statement),
        ("site 7", "site 8", "statement 9")
    );
    assert_eq!((lease.statements, lease.thread), (1, 1));
    tracker.begin(id, &of(Some(&request)), 5 * SECOND).unwrap();
    tracker.end(id, Outcome::Aborted, 5 * SECOND);
    assert_eq!(state(SECOND), Some(LeaseState::AbortedTransaction));
    tracker.end_transaction(id, 6 * SECOND);
    assert_eq!(state(SECOND), Some(LeaseState::CheckedOut));
    assert!(!tracker.has_transaction(id));
    tracker.reset(id, 6 * SECOND);
    assert_eq!(state(SECOND), Some(LeaseState::Resetting));
    tracker.close(id, 7 * SECOND, &Numbers).unwrap();
    assert_eq!(state(SECOND), None);
}

#[test]
fn an_id_stands_for_nothing_once_it_is_closed() {
    let tracker = tracker();
    let old = open(&tracker, None, 0);
    tracker.close(old, 1, &Numbers).unwrap();
    let new = open(&tracker, None, 2);
    assert_ne!(old, new);
    assert_eq!(LeaseId::from_number(new.number()), new);
    assert!(tracker.close(old, 3, &Numbers).is_none());
    assert_eq!(code(tracker.begin(old, &of(None), 3)), None);
    tracker.end(old, Outcome::Aborted, 3);
    assert_eq!(tracker.leases(3, &Numbers).len(), 1);
    assert!(!tracker.has_transaction(new));
}

#[test]
fn a_statement_within_one_of_the_same_thread_is_no_concurrent_use() {
    let tracker = tracker();
    let id = open(&tracker, None, 0);
    tracker.begin(id, &of(None), 0).unwrap();
    let other = Use { thread: 2, ..of(None) };
    let expected = Some((FindingCode::ConcurrentUse, Severity::Error));
    assert_eq!(code(tracker.begin(id, &other, 0)), expected);
    assert_eq!(tracker.check(id, &other).map(|wrong| wrong.code), Some(FindingCode::ConcurrentUse));
    let task = Use { interleaves: true, ..of(None) };
    assert_eq!(code(tracker.begin(id, &task, 0)), expected);
    assert_eq!(code(tracker.begin(id, &of(None), 0)), None);
    tracker.end(id, Outcome::Done, 0);
    assert_eq!(
        code(tracker.begin(id, &other, 0)),
        None,
        "one after the other is no concurrent use"
    );
}

#[test]
fn a_transaction_belongs_to_whoever_began_it_and_to_their_kin() {
    let (tracker, one, two) = (tracker(), owner(1, None), owner(2, None));
    let child = owner(3, Some(&one));
    let id = open(&tracker, Some(&one), 0);
    run(&tracker, id, Some(&one), 0);
    let expected = Some((FindingCode::CrossOwnerUse, Severity::Warning));
    assert_eq!(code(tracker.begin(id, &of(Some(&two)), 0)), expected);
    assert_eq!(code(tracker.begin(id, &of(None), 0)), expected);
    run(&tracker, id, Some(&child), 0);
    tracker.end_transaction(id, 0);
    run(&tracker, id, Some(&two), 0);
    let free = open(&tracker, None, 0);
    run(&tracker, free, None, 0);
    run(&tracker, free, Some(&one), 0);
}

#[test]
fn a_statement_after_the_response_is_found_and_a_commit_that_wrote() {
    for (phase, found) in [
        (Phase::Running, None),
        (Phase::Streaming, Some(Severity::Info)),
        (Phase::Responded, Some(Severity::Warning)),
        (Phase::Ended, Some(Severity::Warning)),
    ] {
        let (tracker, request) = (tracker(), owner(1, None));
        let id = open(&tracker, Some(&request), 0);
        run(&tracker, id, Some(&request), 0);
        request.advance(phase, 1);
        let wrong = code(tracker.begin(id, &of(Some(&request)), 1));
        assert_eq!(wrong, found.map(|severity| (FindingCode::SessionAfterResponse, severity)));
        let commit = tracker.check_commit(id, &of(Some(&request))).map(|wrong| wrong.code);
        let late = matches!(phase, Phase::Responded | Phase::Ended);
        assert_eq!(commit, late.then_some(FindingCode::CommitAfterResponse), "{phase}");
        tracker.end_transaction(id, 1);
        assert_eq!(code(tracker.begin(id, &of(Some(&request)), 1)), None, "one of its own");
    }
}

#[test]
fn a_transaction_is_as_old_as_its_session_says() {
    let (tracker, request) = (tracker(), owner(1, None));
    let id = open(&tracker, Some(&request), 0);
    request.advance(Phase::Responded, 1);
    tracker.announce(id, Phase::Running);
    run(&tracker, id, Some(&request), 1);
    let commit = tracker.check_commit(id, &of(Some(&request))).map(|wrong| wrong.code);
    assert_eq!(commit, Some(FindingCode::CommitAfterResponse));
    tracker.end_transaction(id, 1);
    run(&tracker, id, Some(&request), 1);
    assert_eq!(tracker.check_commit(id, &of(Some(&request))), None);
}

#[test]
fn a_commit_after_the_response_of_what_was_only_read_is_none() {
    let (tracker, request) = (tracker(), owner(1, None));
    let id = open(&tracker, Some(&request), 0);
    let read = Use { writes: false, ..of(Some(&request)) };
    tracker.begin(id, &read, 0).unwrap();
    tracker.end(id, Outcome::Done, 0);
    request.advance(Phase::Responded, 1);
    assert_eq!(tracker.check_commit(id, &of(Some(&request))), None);
}

#[test]
fn waiting_is_found_once_an_episode() {
    let (tracker, request) = (tracker(), owner(1, None));
    let id = open(&tracker, Some(&request), 0);
    run(&tracker, id, Some(&request), SECOND);
    let codes = |now| -> Vec<_> {
        tracker
            .overdue(now)
            .into_iter()
            .map(|(found, code)| {
                assert_eq!(found, id);
                code
            })
            .collect()
    };
    assert_eq!(codes(3 * SECOND - 1), []);
    assert_eq!(codes(3 * SECOND), [FindingCode::LockHeld]);
    assert_eq!(codes(6 * SECOND - 1), []);
    assert_eq!(codes(6 * SECOND), [FindingCode::IdleInTransaction]);
    assert_eq!(codes(9 * SECOND), []);
    run(&tracker, id, Some(&request), 10 * SECOND);
    assert_eq!(codes(10 * SECOND + SECOND / 2), []);
    assert_eq!(codes(16 * SECOND), [FindingCode::IdleInTransaction, FindingCode::LockHeld]);
    request.advance(Phase::Ended, 16 * SECOND);
    assert_eq!(codes(17 * SECOND), [FindingCode::HeldPastOwner]);
    let closed = tracker.close(id, 18 * SECOND, &Numbers).unwrap();
    assert_eq!(closed.codes.len(), 3);
    assert_eq!(closed.facts.unwrap().number, 1);
    assert_eq!(codes(99 * SECOND), []);
}

#[test]
fn what_is_taken_after_the_owner_has_ended_is_not_held_past_it() {
    let (tracker, request) = (tracker(), owner(1, None));
    let before = open(&tracker, Some(&request), 1);
    request.advance(Phase::Ended, 2);
    open(&tracker, Some(&request), 3);
    assert_eq!(tracker.overdue(9 * SECOND), [(before, FindingCode::HeldPastOwner)]);
}

#[test]
fn a_task_may_wait_for_longer() {
    let tracker = tracker();
    let task = Arc::new(Owner::new(1, OwnerKind::Task, "send", "", None, 0));
    let id = open(&tracker, Some(&task), 0);
    let read = Use { writes: false, ..of(Some(&task)) };
    tracker.begin(id, &read, 0).unwrap();
    assert_eq!(tracker.overdue(999 * SECOND), [], "it runs");
    tracker.end(id, Outcome::Done, 0);
    assert_eq!(tracker.overdue(59 * SECOND), []);
    assert_eq!(tracker.overdue(60 * SECOND), [(id, FindingCode::IdleInTransaction)]);
}

#[test]
fn what_commits_itself_holds_nothing() {
    let tracker = tracker();
    let id = open(&tracker, None, 0);
    tracker.set_autocommit(id, true);
    run(&tracker, id, None, 0);
    assert_eq!(tracker.overdue(999 * SECOND), []);
    assert_eq!(tracker.leases(0, &Numbers).pop().unwrap().state, LeaseState::CheckedOut);
}

#[test]
fn many_leases_are_in_order_and_their_places_are_used_again() {
    let tracker = tracker();
    let ids: Vec<_> = (0..1_000).map(|_| open(&tracker, None, 0)).collect();
    for id in &ids {
        tracker.close(*id, 0, &Numbers).unwrap();
    }
    for _ in 0..1_000 {
        open(&tracker, None, 0);
    }
    let numbers: Vec<_> = tracker.leases(0, &Numbers).iter().map(|lease| lease.number).collect();
    assert_eq!(numbers, (1_001..=2_000).collect::<Vec<_>>());
}

#[test]
fn what_writes_is_told_by_its_text() {
    for text in [
        "INSERT INTO t VALUES (1)",
        "  update t set a = 1",
        "(delete from t)",
        "/* a */ DROP TABLE t",
        "-- a\n-- b\nREPLACE INTO t VALUES (1)",
        "with a as (select 1) insert into t select 1",
        "SELECT a FROM t FOR UPDATE",
        "select a from t for no key update skip locked",
        "TRUNCATE t",
        "CALL f()",
    ] {
        assert!(may_write(text), "{text}");
    }
    for text in [
        "SELECT 1",
        "select updated from t",
        "",
        "/* update",
        "WITH a AS (SELECT 1) SELECT 2",
        "SHOW TABLES",
        "-- insert",
        "EXPLAIN SELECT 1",
        "selecting",
        "ROLLBACK TO a",
    ] {
        assert!(!may_write(text), "{text}");
    }
}

#[test]
fn an_owner_goes_forward_only() {
    let request = owner(1, None);
    request.advance(Phase::Responded, 5);
    request.advance(Phase::Streaming, 6);
    assert_eq!((request.phase(), request.ended_ns()), (Phase::Responded, None));
    request.advance(Phase::Ended, 7);
    request.advance(Phase::Ended, 8);
    assert_eq!(request.ended_ns(), Some(7));
    request.rename("GET /items/{id}");
    request.add_blocked(3);
    assert_eq!((request.facts(9).name.as_str(), request.facts(9).age_ns), ("GET /items/{id}", 9));
    assert_eq!(request.blocked_ns(), 3);
}

#[test]
fn a_statement_is_told_without_its_literals() {
    for (text, told) in [
        (
            "SELECT a FROM t WHERE b = 'it''s' AND c = 12.5e3",
            "SELECT a FROM t WHERE b = ? AND c = ?",
        ),
        ("select\n  col1, $2, :p3, %(x_1)s\tfrom t2", "select col1, $2, :p3, %(x_1)s from t2"),
        ("insert into t values (1, -2, 'open", "insert into t values (?, -?, ?"),
        ("", ""),
        ("select \"it's\" ", "select \"it?"),
    ] {
        assert_eq!(without_literals(text), told);
    }
    assert_eq!(without_literals(&"a".repeat(400)).chars().count(), 301);
}
