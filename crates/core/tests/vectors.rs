//! Runs the vectors that all languages share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Map, Value, json};
use turnwise::classify::{
    Conditions, Constraint, ConstraintKind, Dialect, ErrorClass, Fate, Journal, Override,
    Overrides, Phase, RetryKind, Rule, Scope, Verdict, When, classify, recognize, rules, sqlstate,
    sqlstate_text,
};
use turnwise::event::{EventKind, fingerprint};
use turnwise::retry::{
    Budget, Decision, Jitter, RetryPolicy, RetrySettings, RetryState, StopReason,
    duration_from_seconds,
};
use turnwise::rng::Rng;
#[cfg(feature = "threads")]
use turnwise::session::{FindingCode, LeaseState, OwnerKind, Phase as OwnerPhase, Severity};
use turnwise::{ErrorKind, ErrorState};

fn vectors(name: &str) -> Vec<Value> {
    let path = format!("{}/../../tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let content: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let vectors = content["vectors"].as_array().unwrap().clone();
    assert!(vectors.iter().all(|vector| vector["rule"].is_string()), "{name}: a rule is missing");
    vectors
}

/// A 64-bit number, which JSON holds as a string.
fn big(value: &Value) -> u64 {
    value.as_str().unwrap_or_else(|| panic!("not a string: {value}")).parse().unwrap()
}

/// A code: a number, a SQLSTATE, or none.
fn code(value: &Value) -> i32 {
    match value {
        Value::Null => 0,
        Value::String(text) => sqlstate(text).unwrap(),
        number => i32::try_from(number.as_i64().unwrap()).unwrap(),
    }
}

fn small(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

/// The enum value of a name, which must exist; `None` for null and for a key that is left out.
fn named<T>(value: &Value, from_name: fn(&str) -> Option<T>) -> Option<T> {
    value.as_str().map(|name| from_name(name).unwrap_or_else(|| panic!("unknown name {name}")))
}

fn overrides(vector: &Value) -> Overrides {
    let rules = vector["overrides"].as_array().cloned().unwrap_or_default();
    let rule = |rule: &Value| Override {
        dialect: named(&rule["dialect"], Dialect::from_name).unwrap(),
        code: code(&rule["code"]),
        phase: named(&rule["phase"], Phase::from_name),
        class: named(&rule["class"], ErrorClass::from_name).unwrap(),
        fate: named(&rule["fate"], Fate::from_name).unwrap(),
        scope: named(&rule["scope"], Scope::from_name).unwrap(),
        retry: named(&rule["retry"], RetryKind::from_name).unwrap(),
        constraint: named(&rule["constraint"], ConstraintKind::from_name),
    };
    Overrides::new(rules.iter().map(rule).collect()).unwrap()
}

#[test]
fn classification() {
    let mut proven = HashSet::new();
    for vector in vectors("classify") {
        let holds = |name: &str| vector[name].as_bool().unwrap_or(false);
        let conditions = Conditions {
            journal: named(&vector["journal"], Journal::from_name),
            has_read: holds("has_read"),
            is_read: holds("is_read"),
            was_in_transaction: vector["was_in_transaction"].as_bool(),
            is_ddl: holds("is_ddl"),
            is_user_lock: holds("is_user_lock"),
            is_read_only: holds("is_read_only"),
            rolls_back_on_timeout: holds("rolls_back_on_timeout"),
            is_lost: holds("is_lost"),
            sqlstate: named(&vector["sqlstate"], sqlstate),
        };
        let dialect = named(&vector["dialect"], Dialect::from_name).unwrap();
        let phase = named(&vector["phase"], Phase::from_name).unwrap();
        let (number, observed) = (code(&vector["code"]), vector["in_transaction"].as_bool());
        let overrides = overrides(&vector);
        let verdict = overrides.classify(dialect, number, phase, conditions, observed);
        let actual = json!({
            "class": verdict.class.name(),
            "fate": verdict.fate.name(),
            "scope": verdict.scope.name(),
            "retry": verdict.retry.name(),
            "constraint": verdict.constraint.map(ConstraintKind::name),
        });
        assert_eq!(actual, vector["expect"], "{vector}");
        assert_eq!(verdict.rule, vector["rule"], "{vector}");
        assert_eq!((verdict.code, verdict.dialect), (number, Some(dialect)));
        assert!(!verdict.why.is_empty(), "{vector}");
        if vector["overrides"].is_null() {
            assert_eq!(classify(dialect, number, phase, conditions, observed), verdict);
        }
        proven.insert(verdict.rule);
    }
    let mut ids = HashSet::new();
    for rule in every_rule() {
        assert!(ids.insert(rule.id), "two rules are called {}", rule.id);
        assert!(proven.contains(rule.id), "no vector proves {}", rule.id);
    }
    for id in ["default.begin", "default.statement", "default.commit", "default.rollback"] {
        assert!(proven.contains(id), "no vector proves {id}");
    }
}

fn every_rule() -> impl Iterator<Item = &'static Rule> {
    Dialect::ALL.iter().flat_map(|&dialect| rules(dialect))
}

#[test]
fn every_rule_tells_its_evidence() {
    for rule in every_rule() {
        let evidence = rule.why.split([' ', ':']).next().unwrap();
        assert!(
            ["measured", "source", "documentation", "not"].contains(&evidence)
                && rule.why.contains(':'),
            "{}: {}",
            rule.id,
            rule.why
        );
    }
}

#[test]
fn every_code_of_a_rule_is_proven() {
    let vectors = vectors("classify");
    let listed: HashSet<_> = vectors
        .iter()
        .map(|vector| (vector["rule"].as_str().unwrap(), code(&vector["code"])))
        .collect();
    for rule in every_rule() {
        for &number in rule.codes {
            assert!(listed.contains(&(rule.id, number)), "no vector for {number} of {}", rule.id);
        }
    }
}

#[test]
fn constraints() {
    for vector in vectors("constraint") {
        let dialect = named(&vector["dialect"], Dialect::from_name).unwrap();
        let message = vector["message"].as_str().unwrap();
        let number = recognize(dialect, code(&vector["code"]), message);
        let kind = classify(dialect, number, Phase::Statement, Conditions::default(), None)
            .constraint
            .unwrap_or_else(|| panic!("no constraint: {vector}"));
        let constraint = Constraint::read(dialect, kind, message);
        let actual = json!({
            "kind": constraint.kind.name(),
            "name": constraint.name,
            "table": constraint.table,
            "columns": constraint.columns,
        });
        assert_eq!(actual, vector["expect"], "{vector}");
    }
}

#[test]
fn messages() {
    for vector in vectors("message") {
        let dialect = named(&vector["dialect"], Dialect::from_name).unwrap();
        let phase = named(&vector["phase"], Phase::from_name).unwrap();
        let number = recognize(dialect, code(&vector["code"]), vector["message"].as_str().unwrap());
        let verdict = classify(dialect, number, phase, Conditions::default(), None);
        assert_eq!(verdict.rule, vector["rule"], "{vector}");
        if dialect == Dialect::Postgresql && vector["code"].is_null() {
            let at_commit = classify(dialect, number, Phase::Commit, Conditions::default(), None);
            assert!(at_commit.is_in_doubt(), "words prove nothing of a COMMIT: {vector}");
        }
    }
}

macro_rules! table {
    ($name:ident) => {{
        for value in $name::ALL {
            assert_eq!($name::from_code(value.code()), Some(*value));
            assert_eq!($name::from_name(value.name()), Some(*value));
            assert_eq!(value.to_string(), value.name());
        }
        assert_eq!($name::from_code(-1), None);
        assert_eq!($name::from_name("?"), None);
        $name::ALL.iter().map(|v| (v.name().to_owned(), json!(v.code()))).collect()
    }};
}

#[test]
fn enums() {
    let mut seen = 0;
    for vector in vectors("enums") {
        let name = vector["enum"].as_str().unwrap();
        if vector["feature"] == "threads" && !cfg!(feature = "threads") {
            continue;
        }
        let actual: Map<String, Value> = match name {
            "Dialect" => table!(Dialect),
            "Phase" => table!(Phase),
            "Fate" => table!(Fate),
            "Scope" => table!(Scope),
            "ErrorClass" => table!(ErrorClass),
            "RetryKind" => table!(RetryKind),
            "ConstraintKind" => table!(ConstraintKind),
            "Journal" => table!(Journal),
            "When" => table!(When),
            "Jitter" => table!(Jitter),
            "EventKind" => table!(EventKind),
            "StopReason" => table!(StopReason),
            "ErrorState" => table!(ErrorState),
            #[cfg(feature = "threads")]
            "OwnerKind" => table!(OwnerKind),
            #[cfg(feature = "threads")]
            "OwnerPhase" => table!(OwnerPhase),
            #[cfg(feature = "threads")]
            "LeaseState" => table!(LeaseState),
            #[cfg(feature = "threads")]
            "Severity" => table!(Severity),
            #[cfg(feature = "threads")]
            "FindingCode" => table!(FindingCode),
            "ErrorKind" => {
                for kind in ErrorKind::ALL {
                    assert_eq!(vector["states"][kind.name()], kind.state().name(), "{kind:?}");
                }
                ErrorKind::ALL.iter().map(|k| (k.name().to_owned(), json!(k.code()))).collect()
            }
            _ => panic!("unknown enum {name}"),
        };
        assert_eq!(Value::Object(actual), vector["values"], "{name}");
        seen += 1;
    }
    assert_eq!(seen, if cfg!(feature = "threads") { 19 } else { 14 });
}

fn policy(value: &Value) -> RetryPolicy {
    RetryPolicy::new(RetrySettings {
        max_attempts: value["max_attempts"].as_u64().map(|n| u32::try_from(n).unwrap()),
        initial_delay: Duration::from_nanos(big(&value["initial_delay_ns"])),
        backoff_factor: value["backoff_factor"].as_f64().unwrap(),
        max_delay: Duration::from_nanos(big(&value["max_delay_ns"])),
        jitter: named(&value["jitter"], Jitter::from_name).unwrap(),
        deadline: Duration::from_nanos(big(&value["deadline_ns"])),
    })
    .unwrap()
}

fn from_seconds(given: &Value) -> turnwise::Result<RetryPolicy> {
    let seconds = |name: &str, default: Duration| match given[name].as_f64() {
        Some(seconds) => duration_from_seconds(name, seconds),
        None => Ok(default),
    };
    let default = RetrySettings::default();
    RetryPolicy::new(RetrySettings {
        max_attempts: match given.get("max_attempts") {
            Some(value) => value.as_u64().map(|n| u32::try_from(n).unwrap()),
            None => default.max_attempts,
        },
        initial_delay: seconds("initial_delay", default.initial_delay)?,
        backoff_factor: given["backoff_factor"].as_f64().unwrap_or(default.backoff_factor),
        max_delay: seconds("max_delay", default.max_delay)?,
        jitter: named(&given["jitter"], Jitter::from_name).unwrap_or(default.jitter),
        deadline: seconds("deadline", default.deadline)?,
    })
}

#[test]
fn policies() {
    for vector in vectors("policy") {
        match from_seconds(&vector["settings"]) {
            Ok(actual) => assert_eq!(actual, policy(&vector["expect"]), "{vector}"),
            Err(error) => {
                assert_eq!(error.kind().name(), vector["error"]["kind"], "{vector}");
                for part in vector["error"]["names"].as_array().unwrap() {
                    let part = part.as_str().unwrap();
                    assert!(error.message().contains(part), "{part} is not in: {error}");
                }
            }
        }
    }
}

#[test]
fn draws() {
    for vector in vectors("rng") {
        let mut rng = Rng::new(big(&vector["seed"]));
        let limit = vector.get("below").map(big);
        for expected in vector["expect"].as_array().unwrap() {
            let draw = limit.map_or_else(|| rng.clone().next_u64(), |n| rng.clone().below(n));
            assert_eq!(draw, big(expected), "{vector}");
            rng.next_u64();
        }
    }
}

#[test]
fn delays() {
    for vector in vectors("delays") {
        let expected: Vec<u64> = vector["expect"].as_array().unwrap().iter().map(big).collect();
        let delays = policy(&vector["policy"]).delays(big(&vector["seed"]));
        assert_eq!(delays.take(expected.len()).collect::<Vec<_>>(), expected, "{vector}");
        assert_eq!(expected.len() as u64, vector["count"].as_u64().unwrap());
    }
}

#[test]
fn learning() {
    for vector in vectors("adaptive") {
        let mut learner = policy(&vector["policy"]).learner(big(&vector["seed"])).unwrap();
        let expected = vector["expect"].as_array().unwrap();
        let events = vector["events"].as_array().unwrap();
        assert_eq!(events.len(), expected.len());
        for (index, (event, expected)) in events.iter().zip(expected).enumerate() {
            let delay = event.get("failed").map(|now| learner.failed(big(now)));
            if delay.is_none() {
                learner.succeeded(big(&event["held"]));
            }
            let place = format!("{}, event {index}", vector["rule"]);
            assert_eq!(delay, expected.get("delay_ns").map(big), "{place}");
            assert_eq!(learner.mean_ns(), big(&expected["mean_ns"]), "{place}");
            assert_eq!(learner.hold_ns(), big(&expected["hold_ns"]), "{place}");
            assert_eq!(learner.others_ns(), big(&expected["others_ns"]), "{place}");
        }
    }
}

fn verdict(value: &Value) -> Verdict {
    Verdict::new(
        ErrorClass::Unlisted,
        named(&value["fate"], Fate::from_name).unwrap(),
        named(&value["scope"], Scope::from_name).unwrap(),
        named(&value["retry"], RetryKind::from_name).unwrap(),
    )
}

#[test]
fn retry_runs() {
    for vector in vectors("retry") {
        let rule = &vector["rule"];
        let policy = policy(&vector["policy"]);
        let seed = big(&vector["seed"]);
        let mut state = RetryState::new(&policy, seed, big(&vector["started_at_ns"]));
        let budget = vector.get("budget_capacity").map(|capacity| Budget::new(small(capacity)));
        for (index, step) in vector["steps"].as_array().unwrap().iter().enumerate() {
            let expected = if let Some(after) = step.get("retry_after_ns") {
                Decision::Retry { after_ns: big(after) }
            } else if let Some(delay) = step["retry_as_delay"].as_u64() {
                let delay = policy.delays(seed).nth(usize::try_from(delay).unwrap()).unwrap();
                Decision::Retry { after_ns: delay }
            } else {
                Decision::Stop(named(&step["stop"], StopReason::from_name).unwrap())
            };
            let actual =
                state.next(big(&step["now_ns"]), &verdict(&step["verdict"]), budget.as_ref());
            assert_eq!(actual, expected, "{rule}, step {index}");
            let read = json!({
                "attempts": state.attempts(),
                "waits": state.waits(),
                "tokens": budget.as_ref().map(Budget::tokens),
                "denied": budget.as_ref().map(Budget::denied),
            });
            for (key, value) in read.as_object().unwrap() {
                assert_eq!(step.get(key).unwrap_or(value), value, "{rule}, step {index}: {key}");
            }
        }
        if let (Some(budget), Some(tokens)) = (&budget, vector.get("tokens_after_success")) {
            state.succeed(budget);
            assert_eq!(budget.tokens(), small(tokens), "{rule}: after success");
        }
    }
}

#[test]
fn budgets() {
    for vector in vectors("budget") {
        let budget = vector["capacity"]
            .as_u64()
            .map_or_else(Budget::default, |n| Budget::new(u32::try_from(n).unwrap()));
        for (index, step) in vector["steps"].as_array().unwrap().iter().enumerate() {
            let place = format!("{}, step {index}", vector["rule"]);
            match step["do"].as_str().unwrap() {
                "read" => {}
                "success" => budget.succeed(),
                kind => {
                    let taken = budget.take(RetryKind::from_name(kind).unwrap());
                    assert_eq!(json!(taken), step["ok"], "{place}");
                }
            }
            if let Some(tokens) = step.get("tokens") {
                assert_eq!(budget.tokens(), small(tokens), "{place}");
            }
            if let Some(denied) = step.get("denied") {
                assert_eq!(budget.denied(), big(denied), "{place}");
            }
        }
    }
}

#[test]
fn fingerprints() {
    for vector in vectors("fingerprint") {
        assert_eq!(fingerprint(vector["sql"].as_str().unwrap()), big(&vector["expect"]));
    }
}

#[test]
fn sqlstates() {
    for vector in vectors("sqlstate") {
        let packed = sqlstate(vector["text"].as_str().unwrap());
        assert_eq!(json!(packed), vector["expect"], "{vector}");
        if let Some(packed) = packed {
            assert_eq!(json!(sqlstate_text(packed)), vector["text"]);
        }
    }
}
