//! Which findings are told, kept and counted.
#![cfg(feature = "threads")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::collections::HashMap;

use proptest::prelude::*;
use turnwise::session::{
    Finding, FindingCode, Journal, LeaseFacts, LeaseState, OwnerFacts, OwnerKind, Phase, Severity,
};

const MINUTE: u64 = 60_000_000_000;

fn at_site(code: FindingCode, opened: &str) -> Finding {
    let lease = LeaseFacts {
        number: 1,
        pool: String::new(),
        backend_pid: 0,
        state: LeaseState::CheckedOut,
        age_ns: 0,
        state_age_ns: 0,
        write_age_ns: None,
        owner: None,
        opened: opened.to_owned(),
        last: String::new(),
        statement: String::new(),
        statements: 0,
        thread: 0,
        task: 0,
    };
    Finding {
        code,
        severity: code.severity(),
        at_ns: 0,
        age_ns: 0,
        lease: Some(lease),
        by: None,
        site: String::new(),
        detail: String::new(),
    }
}

fn with_last(opened: &str, last: &str) -> Finding {
    let mut finding = at_site(FindingCode::GcReturned, opened);
    last.clone_into(&mut finding.lease.as_mut().unwrap().last);
    finding
}

#[test]
fn repeats_are_those_of_one_site() {
    let mut journal = Journal::new();
    let mut told = |finding| journal.note(finding, 0).reported.is_some();
    assert!(told(with_last("a", "x")));
    assert!(!told(with_last("a", "y")));
    assert!(told(with_last("", "x")));
    assert!(told(with_last("", "y")));
    assert!(!told(with_last("", "y")));
    let mut owned = with_last("", "");
    owned.lease.as_mut().unwrap().owner = Some(owner("GET /items"));
    assert!(told(owned.clone()));
    assert!(told(Finding { by: Some(owner("GET /users")), ..owned.clone() }));
    assert!(!told(Finding { lease: None, by: Some(owner("GET /users")), ..owned.clone() }));
    assert!(!told(owned.clone()));
    let nowhere = Finding { lease: None, ..owned };
    assert!(told(nowhere.clone()));
    assert!(!told(nowhere));
}

fn owner(name: &str) -> OwnerFacts {
    OwnerFacts {
        number: 1,
        kind: OwnerKind::Request,
        id: String::new(),
        name: name.to_owned(),
        phase: Phase::Running,
        age_ns: 0,
    }
}

#[test]
fn no_severity_keeps_another_back() {
    let mut journal = Journal::new();
    let warning = at_site(FindingCode::IdleInTransaction, "a");
    let info = Finding { severity: Severity::Info, ..warning.clone() };
    assert_eq!(journal.note(info.clone(), 0).reported, Some(0));
    assert_eq!(journal.note(warning.clone(), 0).reported, Some(0));
    assert_eq!(journal.note(warning, 1).reported, None);
    assert_eq!(journal.note(info, 1).reported, None);
}

#[test]
fn the_newest_thousand_are_kept_and_all_are_counted() {
    let mut journal = Journal::new();
    for site in 0..1_234 {
        journal.note(at_site(FindingCode::LockHeld, &site.to_string()), 0);
    }
    journal.note(at_site(FindingCode::DirtyReturn, ""), 0);
    let numbers: Vec<_> = journal.newest().map(|recorded| recorded.noted.number).collect();
    assert_eq!(numbers, (236..=1_235).collect::<Vec<_>>());
    assert_eq!(journal.newest().next_back().unwrap().finding.code, FindingCode::DirtyReturn);
    let counts: HashMap<_, _> = journal.counts().collect();
    assert_eq!(counts.len(), FindingCode::ALL.len());
    assert_eq!(counts[&FindingCode::LockHeld], 1_234);
    assert_eq!(counts[&FindingCode::DirtyReturn], 1);
    assert_eq!(counts[&FindingCode::GcReturned], 0);
}

#[test]
fn the_site_that_was_told_the_longest_ago_is_forgotten_first() {
    let mut journal = Journal::new();
    let note = |journal: &mut Journal, site: u64, now| {
        journal.note(at_site(FindingCode::LockHeld, &format!("{site:04}")), now).reported
    };
    for site in 0..1_024 {
        assert_eq!(note(&mut journal, site, 2_000 - site), Some(0));
    }
    assert_eq!(note(&mut journal, 1_023, 2_000), None);
    assert_eq!(note(&mut journal, 1_024, 2_000), Some(0), "1023 gives way");
    assert_eq!(note(&mut journal, 1_022, 2_000), None);
    assert_eq!(note(&mut journal, 0, 2_000), None);
    assert_eq!(note(&mut journal, 1_023, 2_000), Some(0));
}

#[test]
fn a_clear_journal_tells_again_and_goes_on_counting() {
    let mut journal = Journal::new();
    let finding = at_site(FindingCode::SyncOnLoop, "a");
    journal.note(finding.clone(), 5);
    journal.note(finding.clone(), 5);
    journal.clear();
    assert_eq!(journal.newest().len(), 0);
    let noted = journal.note(finding, 5);
    assert_eq!((noted.number, noted.reported), (3, Some(0)));
    assert_eq!(journal.counts().map(|(_, count)| count).sum::<u64>(), 3);
}

#[test]
fn a_clock_that_goes_back_tells_nothing_twice() {
    let mut journal = Journal::new();
    let finding = at_site(FindingCode::SyncOnLoop, "a");
    assert_eq!(journal.note(finding.clone(), 2 * MINUTE).reported, Some(0));
    assert_eq!(journal.note(finding.clone(), 0).reported, None);
    assert_eq!(journal.note(finding, 3 * MINUTE).reported, Some(1));
}

proptest! {
    #[test]
    fn what_is_told_and_what_is_not_add_up(
        steps in proptest::collection::vec((0..3_usize, 0..4_usize, 0..MINUTE / 2), 0..300),
    ) {
        let mut journal = Journal::new();
        let mut now = 0;
        let mut last_told: HashMap<(usize, usize), u64> = HashMap::new();
        let mut open: HashMap<(usize, usize), u64> = HashMap::new();
        let (mut told, mut counted) = (0, 0);
        for (number, &(code, site, passed)) in (1..).zip(&steps) {
            now += passed;
            let noted = journal.note(at_site(FindingCode::ALL[code], &format!("a.py:{site}")), now);
            prop_assert_eq!(noted.number, number);
            let key = (code, site);
            let due = last_told.get(&key).is_none_or(|&at| now - at >= MINUTE);
            prop_assert_eq!(noted.reported.is_some(), due);
            if let Some(repeats) = noted.reported {
                prop_assert_eq!(repeats, open.insert(key, 0).unwrap_or(0));
                last_told.insert(key, now);
                told += 1;
                counted += repeats;
            } else {
                *open.get_mut(&key).unwrap() += 1;
            }
        }
        let noted = u64::try_from(steps.len()).unwrap();
        prop_assert_eq!(told + counted + open.values().sum::<u64>(), noted);
        prop_assert_eq!(journal.counts().map(|(_, count)| count).sum::<u64>(), noted);
        prop_assert_eq!(journal.newest().len(), steps.len());
    }
}
