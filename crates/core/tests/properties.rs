//! What must hold for every policy, seed and sequence of failures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;
use turnwise::classify::{
    Conditions, Constraint, ConstraintKind, Dialect, ErrorClass, Fate, Journal, Override,
    Overrides, Phase, RetryKind, Scope, Verdict, classify, recognize, rules, sqlstate,
    sqlstate_text,
};
use turnwise::clock::{Clock as _, ManualClock};
use turnwise::retry::{
    Budget, Decision, Jitter, RetryPolicy, RetrySettings, RetryState, StopReason,
};

/// Of the adaptive kind.
const SHORTEST_MEAN_NS: u64 = 50_000;

const LONGEST_NS: u64 = 90 * 24 * 60 * 60 * 1_000_000_000;

fn policies() -> impl Strategy<Value = RetryPolicy> {
    let nanoseconds = || prop_oneof![0..=1_000u64, 0..=60_000_000_000u64, 0..=LONGEST_NS];
    (
        proptest::option::of(1..50u32),
        nanoseconds(),
        nanoseconds(),
        prop_oneof![Just(1.0), Just(2.0), 1.0..=1000.0f64],
        proptest::sample::select(Jitter::ALL),
        nanoseconds(),
    )
        .prop_map(|(max_attempts, one, other, backoff_factor, jitter, deadline)| {
            RetryPolicy::new(RetrySettings {
                max_attempts,
                initial_delay: Duration::from_nanos(one.min(other)),
                backoff_factor,
                max_delay: Duration::from_nanos(one.max(other)),
                jitter,
                deadline: Duration::from_nanos(deadline),
            })
            .unwrap()
        })
}

fn verdicts() -> impl Strategy<Value = Verdict> {
    use proptest::sample::select;
    let any = (select(Fate::ALL), select(Scope::ALL), select(RetryKind::ALL))
        .prop_map(|(fate, scope, retry)| Verdict::new(ErrorClass::Unlisted, fate, scope, retry));
    // Mostly verdicts that let a run go on.
    prop_oneof![1 => any, 4 => Just(wait()), 4 => Just(redo())]
}

fn codes() -> impl Strategy<Value = i32> {
    let listed = proptest::sample::select(listed_codes());
    prop_oneof![3 => listed, 1 => 0..30i32, 1 => 0..6_000i32, 1 => any::<i32>()]
}

fn listed_codes() -> Vec<i32> {
    Dialect::ALL
        .iter()
        .flat_map(|&dialect| rules(dialect))
        .flat_map(|rule| rule.codes)
        .copied()
        .collect()
}

fn conditions() -> impl Strategy<Value = Conditions> {
    let journal = proptest::option::of(proptest::sample::select(Journal::ALL));
    let flags = any::<(bool, bool, bool, bool, bool, bool, bool)>();
    let states = (any::<Option<bool>>(), any::<bool>());
    (journal, flags, states).prop_map(|(journal, flags, (was_in_transaction, is_check))| {
        let (has_read, is_read, is_ddl, is_user_lock, is_read_only, timeout, is_lost) = flags;
        Conditions {
            journal,
            has_read,
            is_read,
            was_in_transaction,
            is_ddl,
            is_user_lock,
            is_read_only,
            rolls_back_on_timeout: timeout,
            is_lost,
            sqlstate: if is_check { sqlstate("23000") } else { None },
        }
    })
}

fn wait() -> Verdict {
    Verdict::new(ErrorClass::Contention, Fate::None, Scope::Statement, RetryKind::Wait)
}

fn redo() -> Verdict {
    Verdict::new(ErrorClass::SnapshotStale, Fate::Stale, Scope::Transaction, RetryKind::Redo)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap()
}

fn flat(jitter: Jitter, delay: Duration) -> RetryPolicy {
    RetryPolicy::new(RetrySettings {
        initial_delay: delay / 10,
        max_delay: delay,
        jitter,
        ..RetrySettings::default()
    })
    .unwrap()
}

/// Of the adaptive kind, with a mean sleep of at most `mean`.
fn longest_sleep(mean: u64) -> u64 {
    let mean = mean.max(SHORTEST_MEAN_NS);
    mean + mean / 2
}

proptest! {
    /// Whatever the policy: a spent budget stops redone work, and no wait.
    #[test]
    fn waits_do_not_spend_the_budget(policy in policies(), seed: u64, tokens in 0..5u32) {
        let policy = RetryPolicy::new(RetrySettings {
            max_attempts: None,
            deadline: policy.deadline().max(Duration::from_nanos(1)),
            ..*policy.settings()
        }).unwrap();
        let budget = Budget::new(tokens);
        let mut state = RetryState::new(&policy, seed, 0);
        for waits in 1..50 {
            let waited = state.next(0, &wait(), Some(&budget));
            prop_assert!(matches!(waited, Decision::Retry { .. }), "{waited:?}");
            prop_assert_eq!((state.waits(), state.attempts()), (waits, 1));
            let redone = state.next(0, &redo(), Some(&budget));
            prop_assert_eq!(redone, Decision::Stop(StopReason::Budget));
            prop_assert_eq!((budget.tokens(), budget.denied()), (tokens, waits));
        }
    }

    #[test]
    fn delays_stay_within_their_bounds(policy in policies(), seed: u64) {
        let bare = RetryPolicy::new(RetrySettings { jitter: Jitter::None, ..*policy.settings() }).unwrap();
        let (base, cap) = (nanoseconds(policy.initial_delay()), nanoseconds(policy.max_delay()));
        let mut previous = base;
        for (delay, v) in policy.delays(seed).zip(bare.delays(seed)).take(200) {
            prop_assert!(base <= v && v <= cap);
            let (low, high) = match policy.jitter() {
                Jitter::Additive => (v, v + base),
                Jitter::Equal => (v / 2, v),
                Jitter::Full => (0, v),
                Jitter::Decorrelated => (base, cap.min(3 * previous)),
                Jitter::Adaptive => (SHORTEST_MEAN_NS / 2, longest_sleep(cap)),
                _ => (v, v),
            };
            prop_assert!(low <= delay && delay <= high, "{low} <= {delay} <= {high}");
            previous = delay;
        }
    }

    #[test]
    fn without_jitter_delays_never_shrink(policy in policies()) {
        let policy = RetryPolicy::new(RetrySettings { jitter: Jitter::None, ..*policy.settings() }).unwrap();
        prop_assert!(policy.delays(0).take(200).collect::<Vec<_>>().is_sorted());
    }

    #[test]
    fn the_same_seed_gives_the_same_delays(policy in policies(), seed: u64) {
        let draw = || policy.delays(seed).take(100).collect::<Vec<_>>();
        prop_assert_eq!(draw(), draw());
    }

    /// The work itself takes time too; the machine must neither sleep past the deadline nor start
    /// another try after it.
    #[test]
    fn no_sleep_ends_after_the_deadline(
        policy in policies(),
        seed: u64,
        started in 0..u64::MAX / 2,
        run in proptest::collection::vec((verdicts(), 0..100_000_000u64), 1..100),
    ) {
        let clock = ManualClock::new(started);
        let deadline = nanoseconds(policy.deadline());
        let mut state = RetryState::new(&policy, seed, started);
        let mut slept = 0;
        for (verdict, work) in run {
            clock.advance(work);
            let now = clock.now_ns();
            if let Decision::Retry { after_ns } = state.next(now, &verdict, None) {
                prop_assert!(now - started < deadline);
                prop_assert!(now + after_ns <= started + deadline);
                prop_assert!(verdict.scope != Scope::Never && verdict.scope != Scope::Resolve);
                prop_assert!(verdict.fate != Fate::Unknown && verdict.retry != RetryKind::None);
                clock.advance(after_ns);
                slept += after_ns;
            }
        }
        prop_assert!(slept <= deadline);
        prop_assert!(policy.max_attempts().is_none_or(|most| state.attempts() <= most));
    }

    #[test]
    fn waits_end_at_the_deadline_and_not_before(policy in policies(), seed: u64) {
        let policy = RetryPolicy::new(RetrySettings {
            initial_delay: policy.initial_delay().max(policy.deadline() / 100).min(policy.max_delay()),
            jitter: Jitter::Equal,
            ..*policy.settings()
        }).unwrap();
        let spent = Budget::new(0);
        let (mut state, mut now) = (RetryState::new(&policy, seed, 0), 0);
        for _ in 0..1_000 {
            match state.next(now, &wait(), Some(&spent)) {
                Decision::Retry { after_ns } => now += after_ns,
                Decision::Stop(reason) => {
                    prop_assert_eq!(reason, StopReason::Deadline);
                    prop_assert_eq!(now, nanoseconds(policy.deadline()));
                    return Ok(());
                }
            }
        }
        // So many waits use up the deadline, unless they last no time or are capped far below it.
        let first = nanoseconds(policy.initial_delay());
        prop_assert!(first == 0 || first < nanoseconds(policy.deadline()) / 100);
    }

    #[test]
    fn redone_work_is_bounded_by_the_attempts(policy in policies(), seed: u64) {
        let most = policy.max_attempts().unwrap_or(7);
        let policy = RetryPolicy::new(RetrySettings { max_attempts: Some(most), ..*policy.settings() }).unwrap();
        let mut state = RetryState::new(&policy, seed, 0);
        let mut retries = 0;
        while let Decision::Retry { .. } = state.next(0, &redo(), None) {
            retries += 1;
        }
        prop_assert_eq!(retries, if policy.deadline().is_zero() { 0 } else { most - 1 });
    }

    #[test]
    fn a_budget_is_never_overdrawn_or_overfilled(
        capacity in 0..600u32,
        operations in proptest::collection::vec(proptest::option::of(proptest::sample::select(RetryKind::ALL)), 0..300),
    ) {
        let budget = Budget::new(capacity);
        let mut denied = 0;
        for operation in operations {
            let before = budget.tokens();
            match operation {
                None => {
                    budget.succeed();
                    prop_assert_eq!(budget.tokens(), capacity.min(before + 1));
                }
                Some(kind) => {
                    let taken = budget.take(kind);
                    prop_assert_eq!(taken, before >= Budget::cost(kind));
                    prop_assert_eq!(budget.tokens(), if taken { before - Budget::cost(kind) } else { before });
                    denied += u64::from(!taken);
                }
            }
        }
        prop_assert_eq!(budget.denied(), denied);
    }

    /// The promises about verdicts, for codes listed and unlisted alike.
    #[test]
    fn verdicts_keep_their_promises(
        dialect in proptest::sample::select(Dialect::ALL),
        code in codes(),
        phase in proptest::sample::select(Phase::ALL),
        conditions in conditions(),
    ) {
        let judge = |observed| classify(dialect, code, phase, conditions, observed);
        let table = judge(None);
        for observed in [None, Some(true), Some(false)] {
            let verdict = judge(observed);
            if table.fate == Fate::Unknown {
                prop_assert_eq!(verdict.fate, Fate::Unknown, "observation must not lift the doubt");
            }
            prop_assert_eq!(verdict.fate == Fate::Unknown, verdict.scope == Scope::Resolve);
            if verdict.scope == Scope::Never || verdict.scope == Scope::Resolve {
                prop_assert_eq!(verdict.retry, RetryKind::None);
            }
            if matches!(verdict.fate, Fate::RolledBack | Fate::Stale | Fate::Aborted) {
                // Going back to a savepoint revives an aborted transaction of PostgreSQL.
                let revived = verdict.scope == Scope::Savepoint
                    && verdict.fate == Fate::Aborted
                    && dialect == Dialect::Postgresql;
                prop_assert!(
                    revived
                        || !matches!(
                            verdict.scope,
                            Scope::Statement | Scope::Savepoint | Scope::Commit
                        ),
                    "half a transaction would be repeated: {:?}", verdict
                );
            }
            if verdict.scope == Scope::Commit {
                prop_assert!(dialect == Dialect::Sqlite && phase == Phase::Commit);
                prop_assert_eq!(verdict.fate, Fate::Intact);
            }
            if observed == Some(false) {
                prop_assert!(!matches!(verdict.fate, Fate::Intact | Fate::Stale | Fate::Aborted));
            }
            if verdict.class == ErrorClass::Unlisted {
                prop_assert_eq!(verdict.retry, RetryKind::None);
            }
            if phase == Phase::Commit && dialect != Dialect::Sqlite {
                prop_assert!(
                    !matches!(verdict.fate, Fate::Intact | Fate::Stale),
                    "a COMMIT that failed would be sent again: {:?}", verdict
                );
            }
            if dialect == Dialect::Postgresql {
                prop_assert!(verdict.fate != Fate::Intact, "every error ends its transaction");
            }
        }
        if matches!(dialect, Dialect::Mysql | Dialect::Mariadb) {
            prop_assert_eq!(judge(Some(true)), table, "an open transaction proves nothing");
        }
    }

    /// What a lost connection leaves behind, whatever code came with it.
    #[test]
    fn a_lost_connection_is_in_doubt_where_something_may_have_been_committed(
        dialect in proptest::sample::select(vec![
            Dialect::Postgresql, Dialect::Mysql, Dialect::Mariadb,
        ]),
        code in codes(),
        conditions in conditions(),
        observed: Option<bool>,
    ) {
        let conditions = Conditions { is_lost: true, ..conditions };
        let judge = |phase| classify(dialect, code, phase, conditions, observed);
        let at_commit = judge(Phase::Commit);
        // It idled, so that COMMIT was never read.
        let idled = dialect == Dialect::Postgresql && Some(code) == sqlstate("25P03");
        prop_assert_eq!(at_commit.fate == Fate::Unknown, !idled, "{:?}", at_commit);
        let at_work = judge(Phase::Statement);
        let commits = conditions.was_in_transaction == Some(false) && !conditions.is_read
            || conditions.is_ddl
                && dialect != Dialect::Postgresql
                && conditions.was_in_transaction != Some(false);
        if commits && !idled {
            prop_assert_eq!(at_work.fate, Fate::Unknown, "{:?}", at_work);
        } else if conditions.was_in_transaction != Some(false) && !at_work.is_in_doubt() {
            prop_assert_eq!(at_work.fate, Fate::LostBeforeCommit, "{:?}", at_work);
            prop_assert_eq!(at_work.scope, Scope::Connection);
        }
        for phase in [Phase::Connect, Phase::Begin] {
            prop_assert!(!judge(phase).is_in_doubt());
        }
    }

    /// No part of a value gets into what is told of a constraint.
    #[test]
    fn values_never_become_names(
        dialect in proptest::sample::select(vec![Dialect::Mysql, Dialect::Mariadb]),
        value in prop_oneof![
            "[a-z'`., ()]{0,30}",
            Just("x' for key 'fake.key".to_owned()),
            Just("' for key '".to_owned()),
            Just("Duplicate entry '1' for key 'fake'".to_owned()),
            Just("a' because of unique constraint, to table 'fake".to_owned()),
            Just("duplicate key in table 'fake'".to_owned()),
            ".{0,64}",
        ],
        cut in 0..64usize,
    ) {
        let message = format!("Duplicate entry '{value}' for key 'users.email_key'");
        let kind = ConstraintKind::Unique;
        let constraint = Constraint::read(dialect, kind, &message);
        let (table, name) = match dialect {
            Dialect::Mysql => (Some("users"), "email_key"),
            _ => (None, "users.email_key"),
        };
        prop_assert_eq!(constraint.table.as_deref(), table);
        prop_assert_eq!(constraint.name.as_deref(), Some(name));
        prop_assert!(constraint.columns.is_empty());
        // A message of another form gives no names at all.
        let cut = message.floor_char_boundary(message.len().saturating_sub(cut + 1));
        let constraint = Constraint::read(dialect, kind, &message[..cut]);
        if !value.contains("' for key '") && !message[..cut].trim_end().ends_with('\'') {
            prop_assert_eq!(constraint, Constraint::new(kind));
        }
    }

    /// Whatever a server sends, reading it ends without a panic and keeps the kind.
    #[test]
    fn any_message_can_be_read(
        dialect in proptest::sample::select(Dialect::ALL),
        kind in proptest::sample::select(ConstraintKind::ALL),
        code in prop_oneof![Just(0i32), proptest::sample::select(listed_codes())],
        message in prop_oneof![
            ".{0,200}",
            "(Duplicate entry|CONSTRAINT|constraint failed: |[`'., (a)]| failed for | FOREIGN KEY){0,20}",
        ],
    ) {
        prop_assert_eq!(Constraint::read(dialect, kind, &message).kind, kind);
        let judged = recognize(dialect, code, &message);
        prop_assert!(judged == code || sqlstate_text(judged).is_some());
    }

    /// A number that is no SQLSTATE is told as none.
    #[test]
    fn a_sqlstate_is_read_back(text in "[0-9A-Z]{5}", number: i32) {
        let packed = sqlstate(&text).unwrap();
        prop_assert_eq!(sqlstate_text(packed), Some(text));
        if let Some(text) = sqlstate_text(number) {
            prop_assert_eq!(sqlstate(&text), Some(number));
        }
    }
}

/// Decorrelated and additive must not collapse onto the cap, which they do if the cap comes last.
#[test]
fn delays_at_the_cap_stay_spread_out() {
    let cap = 1_000_000_000u64;
    for &jitter in Jitter::ALL {
        // Sixteen equal parts of the range that the kind draws from at the cap.
        let (low, width) = match jitter {
            Jitter::None => continue,
            Jitter::Additive => (cap, cap / 10),
            Jitter::Equal => (cap / 2, cap / 2),
            Jitter::Full => (0, cap),
            Jitter::Adaptive => (cap / 2, cap),
            _ => (cap / 10, cap - cap / 10),
        };
        let mut parts = [0u32; 16];
        let (mut sum, mut distinct) = (0, HashSet::new());
        for seed in 0..16 {
            let policy = flat(jitter, Duration::from_nanos(cap));
            for delay in policy.delays(seed).skip(60).take(1_000) {
                parts[usize::try_from((delay - low) * 16 / (width + 1)).unwrap()] += 1;
                distinct.insert(delay);
                sum += delay;
            }
        }
        assert!(distinct.len() > 15_900, "{jitter}: {} of 16,000 differ", distinct.len());
        if jitter == Jitter::Decorrelated {
            // Not uniform: short delays follow short ones. No part is empty, none has half.
            assert!(parts.iter().all(|&n| (200..8_000).contains(&n)), "{jitter}: {parts:?}");
        } else {
            // 1,000 are expected in each part, with a standard deviation of 31.
            assert!(parts.iter().all(|&n| (850..1_150).contains(&n)), "{jitter}: {parts:?}");
            let mean = sum / 16_000;
            assert!(mean.abs_diff(low + width / 2) < width / 100, "{jitter}: mean {mean}");
        }
    }
}

#[test]
fn ten_thousand_delays_do_not_overflow() {
    for &jitter in Jitter::ALL {
        let policy = RetryPolicy::new(RetrySettings {
            initial_delay: Duration::from_nanos(LONGEST_NS),
            max_delay: Duration::from_nanos(LONGEST_NS),
            backoff_factor: 1000.0,
            jitter,
            ..RetrySettings::default()
        })
        .unwrap();
        assert!(policy.delays(u64::MAX).take(10_000).all(|delay| delay <= 2 * LONGEST_NS));
    }
}

#[test]
fn a_shared_budget_loses_no_token() {
    let budget = Budget::new(5_000);
    let granted: u32 = std::thread::scope(|scope| {
        let take = || (0..1_000).map(|_| u32::from(budget.take(RetryKind::Redo))).sum::<u32>();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!((granted, budget.tokens(), budget.denied()), (1_000, 0, 3_000));
}

#[test]
fn not_a_number_is_no_factor() {
    for factor in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let settings = RetrySettings { backoff_factor: factor, ..RetrySettings::default() };
        assert!(RetryPolicy::new(settings).is_err(), "{factor}");
        assert!(turnwise::retry::duration_from_seconds("deadline", factor).is_err(), "{factor}");
    }
}

#[test]
fn contradictory_overrides_are_refused() {
    let rule = |fate, scope, retry| Override {
        dialect: Dialect::Sqlite,
        code: 10,
        phase: None,
        class: ErrorClass::Resource,
        fate,
        scope,
        retry,
        constraint: None,
    };
    for (fate, scope, retry) in [
        (Fate::Unknown, Scope::Commit, RetryKind::None),
        (Fate::Unknown, Scope::Resolve, RetryKind::Redo),
        (Fate::Intact, Scope::Resolve, RetryKind::Wait),
        (Fate::Intact, Scope::Never, RetryKind::Wait),
    ] {
        let error = Overrides::new(vec![rule(fate, scope, retry)]).unwrap_err();
        assert_eq!(error.kind(), turnwise::ErrorKind::InvalidPolicy);
        for part in ["sqlite", "10", fate.name(), scope.name(), retry.name()] {
            assert!(error.message().contains(part), "{part} is not in: {error}");
        }
    }
    assert!(Overrides::new(vec![rule(Fate::Unknown, Scope::Never, RetryKind::None)]).is_ok());
}
