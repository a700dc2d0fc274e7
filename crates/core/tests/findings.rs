//! Findings and leases as text and JSON, and the page that explains them.
#![cfg(feature = "threads")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::{Value, json};
use turnwise::session::{
    Finding, FindingCode, LeaseFacts, LeaseState, OwnerFacts, OwnerKind, Phase, Severity, table,
};

fn repository(path: &str) -> String {
    let path = format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn big(value: &Value) -> u64 {
    value.as_str().unwrap_or_else(|| panic!("not a string: {value}")).parse().unwrap()
}

fn words(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn owner(given: &Value) -> Option<OwnerFacts> {
    (!given.is_null()).then(|| OwnerFacts {
        number: big(&given["number"]),
        kind: OwnerKind::from_name(given["kind"].as_str().unwrap()).unwrap(),
        id: words(&given["id"]),
        name: words(&given["name"]),
        phase: Phase::from_name(given["phase"].as_str().unwrap()).unwrap(),
        age_ns: big(&given["age_ns"]),
    })
}

fn lease(given: &Value) -> Option<LeaseFacts> {
    (!given.is_null()).then(|| LeaseFacts {
        number: big(&given["number"]),
        pool: words(&given["pool"]),
        backend_pid: given["backend_pid"].as_i64().unwrap(),
        state: LeaseState::from_name(given["state"].as_str().unwrap()).unwrap(),
        age_ns: big(&given["age_ns"]),
        state_age_ns: big(&given["state_age_ns"]),
        write_age_ns: given["write_age_ns"].as_str().map(|ns| ns.parse().unwrap()),
        owner: owner(&given["owner"]),
        opened: words(&given["opened"]),
        last: words(&given["last"]),
        statement: words(&given["statement"]),
        statements: big(&given["statements"]),
        thread: big(&given["thread"]),
        task: big(&given["task"]),
    })
}

fn finding(given: &Value) -> Finding {
    let code = FindingCode::from_name(given["code"].as_str().unwrap()).unwrap();
    Finding {
        code,
        severity: match given["severity"].as_str() {
            Some(name) => Severity::from_name(name).unwrap(),
            None => code.severity(),
        },
        at_ns: big(&given["at_ns"]),
        age_ns: big(&given["age_ns"]),
        lease: lease(&given["lease"]),
        by: owner(&given["by"]),
        site: String::new(),
        detail: words(&given["detail"]),
    }
}

#[test]
fn vectors() {
    let content: Value = serde_json::from_str(&repository("tests/vectors/findings.json")).unwrap();
    let (mut findings, mut tables) = (0, 0);
    for vector in content["vectors"].as_array().unwrap() {
        let rule = vector["rule"].as_str().unwrap();
        if let Some(leases) = vector["leases"].as_array() {
            let leases: Vec<_> = leases.iter().map(|given| lease(given).unwrap()).collect();
            let expected: Vec<_> = vector["table"]
                .as_array()
                .unwrap()
                .iter()
                .map(|line| line.as_str().unwrap())
                .collect();
            assert_eq!(table(&leases).split('\n').collect::<Vec<_>>(), expected, "{rule}");
            let json: Vec<_> = leases.iter().map(LeaseFacts::json).collect();
            assert_eq!(json!(json), vector["json"], "{rule}");
            tables += 1;
            continue;
        }
        let finding = finding(&vector["finding"]);
        assert_eq!(finding.line(), vector["line"].as_str().unwrap(), "{rule}");
        assert_eq!(finding.json(), vector["json"].as_str().unwrap(), "{rule}");
        findings += 1;
    }
    assert_eq!((findings, tables), (11, 2));
}

/// The sentences of a page without their layout.
fn flat(text: &str) -> String {
    text.replace('`', "").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_code_has_its_section() {
    let page = repository("docs/findings.md");
    let sections: HashMap<_, _> =
        page.split("\n## ").skip(1).map(|section| section.split_once('\n').unwrap()).collect();
    let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| [`")).collect();
    assert_eq!(rows.len(), FindingCode::ALL.len());
    for (code, row) in FindingCode::ALL.iter().zip(rows) {
        let exact = if code.is_exact() { "exact" } else { "threshold" };
        let severity = code.severity();
        let start = format!("| [`{code}`](#{code}) | {} | {severity} | {exact} | ", code.code());
        assert!(row.starts_with(&start), "{code}: {row}\n{start}");
        let section = sections.get(code.name()).unwrap_or_else(|| panic!("{code}: no section"));
        let rule = format!("**Rule** ({severity}, {exact}): {} ", code.rule());
        assert!(flat(section).contains(&rule), "{code}: {rule}");
        let change = format!("**Change**: {}. ", code.hint());
        assert!(format!("{} ", flat(section)).contains(&change), "{code}: {change}");
    }
    let known = |name: &&str| FindingCode::from_name(name).is_some();
    let vectors: Value = serde_json::from_str(&repository("tests/vectors/findings.json")).unwrap();
    assert!(page.contains(vectors["vectors"][0]["line"].as_str().unwrap()), "the example");
    assert_eq!(sections.keys().filter(|name| known(name)).count(), FindingCode::ALL.len());
}

#[test]
fn rules_are_sentences_and_hints_are_lines() {
    for code in FindingCode::ALL {
        assert!(code.rule().ends_with('.'), "{code}");
        assert!(!code.hint().ends_with('.'), "{code}");
        for text in [code.rule(), code.hint()] {
            assert_eq!(text, flat(text), "{code}");
            assert!(text.is_ascii(), "{code}");
        }
    }
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just(String::new()),
        4 => proptest::collection::vec(any::<char>(), 0..300).prop_map(String::from_iter),
        2 => proptest::collection::vec(0_u32..0x2070, 0..300)
            .prop_map(|codes| codes.into_iter().filter_map(char::from_u32).collect()),
        2 => "[\"\\\\\n\r\t\u{7f}\u{85}\u{2028}\u{202e}]{0,300}",
    ]
}

fn one_of<T: Copy + std::fmt::Debug>(all: &'static [T]) -> impl Strategy<Value = T> {
    (0..all.len()).prop_map(move |index| all[index])
}

fn owners() -> impl Strategy<Value = OwnerFacts> {
    (any::<u64>(), one_of(OwnerKind::ALL), texts(), texts(), one_of(Phase::ALL), any::<u64>())
        .prop_map(|(number, kind, id, name, phase, age_ns)| OwnerFacts {
            number,
            kind,
            id,
            name,
            phase,
            age_ns,
        })
}

fn leases() -> impl Strategy<Value = LeaseFacts> {
    let numbers = (any::<u64>(), any::<i64>(), any::<[u64; 5]>(), any::<Option<u64>>());
    (
        numbers,
        one_of(LeaseState::ALL),
        proptest::option::of(owners()),
        texts(),
        texts(),
        texts(),
        texts(),
    )
        .prop_map(|(numbers, state, owner, pool, opened, last, statement)| {
            let (
                number,
                backend_pid,
                [age_ns, state_age_ns, statements, thread, task],
                write_age_ns,
            ) = numbers;
            LeaseFacts {
                number,
                pool,
                backend_pid,
                state,
                age_ns,
                state_age_ns,
                write_age_ns,
                owner,
                opened,
                last,
                statement,
                statements,
                thread,
                task,
            }
        })
}

fn findings() -> impl Strategy<Value = Finding> {
    (
        one_of(FindingCode::ALL),
        one_of(Severity::ALL),
        any::<[u64; 2]>(),
        proptest::option::of(leases()),
        proptest::option::of(owners()),
        texts(),
    )
        .prop_map(|(code, severity, [at_ns, age_ns], lease, by, detail)| Finding {
            code,
            severity,
            at_ns,
            age_ns,
            lease,
            by,
            site: String::new(),
            detail,
        })
}

fn known(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

/// Whether every reader of lines takes it for one, and a terminal for nothing else.
fn is_one_line(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'))
}

proptest! {
    #[test]
    fn json_says_what_it_was_given(finding in findings()) {
        let text = finding.json();
        prop_assert!(is_one_line(&text), "{}", text);
        let read: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(read.as_object().unwrap().len(), 21);
        prop_assert_eq!(known(&read["code"]), finding.code.name());
        prop_assert_eq!(known(&read["detail"]), &finding.detail);
        prop_assert_eq!(known(&read["hint"]), finding.hint());
        prop_assert_eq!(read["by"].is_null(), finding.by.is_none());
        if let Some(by) = &finding.by {
            prop_assert_eq!(known(&read["by"]["name"]), &by.name);
            prop_assert_eq!(known(&read["by"]["id"]), &by.id);
        }
        if let Some(lease) = &finding.lease {
            for (key, text) in [
                ("pool", &lease.pool),
                ("opened", &lease.opened),
                ("last", &lease.last),
                ("statement", &lease.statement),
            ] {
                prop_assert_eq!(known(&read[key]), text);
            }
            prop_assert_eq!(&read["statements"], lease.statements);
            let alone: Value = serde_json::from_str(&lease.json()).unwrap();
            for (key, value) in alone.as_object().unwrap() {
                if !["age_ms", "state_age_ms"].contains(&key.as_str()) {
                    prop_assert_eq!(&read[key], value, "{}", key);
                }
            }
        }
        // Nanoseconds are exact in the text, whatever a reader's floats make of them.
        let at = format!("\"at_ms\":{}", finding.at_ns / 1_000_000);
        prop_assert!(text.contains(&at));
    }

    #[test]
    fn a_line_is_one_line_of_bounded_length(finding in findings()) {
        let line = finding.line();
        prop_assert!(is_one_line(&line), "{:?}", line);
        prop_assert!(!line.contains(['\u{202e}', '\u{2066}', '\u{200f}']), "{:?}", line);
        prop_assert!(line.chars().count() <= 1_500, "{}", line);
        prop_assert!(line.starts_with(finding.code.name()));
        prop_assert!(line.ends_with(finding.hint()));
    }

    #[test]
    fn a_table_has_a_line_for_each_lease(leases in proptest::collection::vec(leases(), 1..6)) {
        let text = table(&leases);
        let lines: Vec<_> = text.split('\n').collect();
        prop_assert_eq!(lines.len(), leases.len() + 1);
        prop_assert!(lines.iter().all(|line| is_one_line(line)), "{:?}", text);
        prop_assert!(lines.iter().all(|line| line.chars().count() < 300), "{}", text);
        let youngest = leases.iter().map(|lease| lease.age_ns).min().unwrap();
        let last = lines.last().unwrap().split(' ').next().unwrap();
        let is_last = |lease: &LeaseFacts| format!("#{}", lease.number) == last;
        prop_assert!(leases.iter().any(|lease| lease.age_ns == youngest && is_last(lease)));
    }
}
