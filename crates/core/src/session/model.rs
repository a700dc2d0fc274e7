//! The slots under a model checker: users, each with leases of its own, and the watchdog.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;

use shuttle::thread;

use super::{FindingCode, LeaseId, Limits, Opening, Outcome, Texts, Tracker, Use};
use crate::sync::checker::{check, pick};

struct Nothing;

impl Texts for Nothing {
    fn site(&self, _: u64) -> String {
        String::new()
    }

    fn statement(&self, _: u64) -> String {
        String::new()
    }
}

fn used(thread: u64) -> Use<'static> {
    Use { thread, owner: None, interleaves: false, writes: true, site: 0, statement: 0 }
}

fn open(tracker: &Tracker) -> LeaseId {
    tracker.open(Opening::default(), 0).unwrap()
}

#[test]
fn shuttle_leases_of_several_threads_do_not_mix() {
    check(300, || {
        let limits = Limits { idle_ns: 1, task_idle_ns: 1, lock_held_ns: 1, grace_ns: 1 };
        let tracker = Arc::new(Tracker::new(limits));
        let users: Vec<_> = (1..=3)
            .map(|number| {
                let tracker = Arc::clone(&tracker);
                thread::spawn(move || {
                    for _ in 0..2 {
                        let id = open(&tracker);
                        tracker.begin(id, &used(number), 0).unwrap();
                        tracker.end(id, Outcome::Done, 0);
                        assert!(tracker.has_transaction(id), "another's lease was ended");
                        tracker.end_transaction(id, 1);
                        tracker.close(id, 2, &Nothing).unwrap();
                    }
                })
            })
            .collect();
        let watchdog = {
            let tracker = Arc::clone(&tracker);
            thread::spawn(move || {
                for now in 0..3 {
                    for (id, code) in tracker.overdue(100 + now) {
                        // By now it may have been closed.
                        let facts =
                            tracker.finding(Some(id), (code, code.severity()), 100, &Nothing);
                        assert!(facts.lease.is_none_or(|lease| lease.number <= 6));
                        assert_ne!(code, FindingCode::HeldPastOwner);
                    }
                    let leases = tracker.leases(100, &Nothing);
                    assert!(leases.len() <= 3, "a closed lease is listed");
                    assert!(leases.is_sorted_by_key(|lease| lease.number));
                }
            })
        };
        for user in users {
            user.join().unwrap();
        }
        watchdog.join().unwrap();
        assert!(tracker.leases(0, &Nothing).is_empty());
    });
}

#[test]
fn shuttle_of_two_uses_at_a_time_one_is_found() {
    check(300, || {
        let tracker = Arc::new(Tracker::new(Limits::default()));
        let id = open(&tracker);
        let rounds = 1 + pick(2);
        let users: Vec<_> = (1..=2)
            .map(|number| {
                let tracker = Arc::clone(&tracker);
                thread::spawn(move || {
                    let mut refused = 0;
                    for _ in 0..rounds {
                        match tracker.begin(id, &used(number), 0) {
                            Ok(()) => tracker.end(id, Outcome::Done, 0),
                            Err(wrong) => {
                                assert_eq!(wrong.code, FindingCode::ConcurrentUse);
                                refused += 1;
                            }
                        }
                    }
                    refused
                })
            })
            .collect();
        let refused: usize = users.into_iter().map(|user| user.join().unwrap()).sum();
        let done = tracker.leases(0, &Nothing).pop().unwrap().statements;
        assert_eq!(done + refused as u64, 2 * rounds as u64, "a use was neither done nor found");
    });
}
