//! The watchdog's look at the leases of a process.

use std::hint::black_box;
use std::time::Instant;

use serde_json::{Value, json};
use turnwise::session::{Limits, Opening, Outcome, Texts, Tracker, Use};

use crate::Outcome as Result;

/// Leases that are out, each with an open transaction in which nothing runs.
const LEASES: usize = 4_096;
const SECOND: u64 = 1_000_000_000;

struct Nothing;

impl Texts for Nothing {
    fn site(&self, _: u64) -> String {
        String::new()
    }

    fn statement(&self, _: u64) -> String {
        String::new()
    }
}

/// Seconds that a scan takes, the median of each round, and those of a statement and of a lease.
pub(crate) fn measure(rounds: usize, runs: usize) -> Result<Value> {
    let tracker = Tracker::new(Limits::default());
    let used =
        Use { thread: 1, owner: None, interleaves: false, writes: true, site: 0, statement: 0 };
    let mut ids = Vec::new();
    for _ in 0..LEASES {
        let id = tracker.open(Opening::default(), SECOND).ok_or("too many leases")?;
        tracker.begin_anyway(id, &used, SECOND);
        tracker.end(id, Outcome::Done, SECOND);
        ids.push(id);
    }
    let first = *ids.first().ok_or("no lease")?;
    let round = || {
        let scan = median(runs, || {
            assert!(black_box(&tracker).overdue(black_box(SECOND + 1)).is_empty());
        });
        let statement = median(runs, || {
            tracker.begin_anyway(black_box(first), &used, SECOND);
            tracker.end(first, Outcome::Done, SECOND);
        });
        let lease = median(runs, || {
            if let Some(id) = tracker.open(Opening::default(), SECOND) {
                drop(tracker.close(id, SECOND, &Nothing));
            }
        });
        json!({"scan": scan, "statement": statement, "lease": lease})
    };
    let rounds: Vec<_> = (0..rounds).map(|_| round()).collect();
    Ok(json!({"leases": LEASES, "runs": runs, "unit": "s", "rounds": rounds}))
}

fn median(runs: usize, mut run: impl FnMut()) -> f64 {
    let mut times: Vec<_> = (0..runs)
        .map(|_| {
            let started = Instant::now();
            for _ in 0..10 {
                run();
            }
            started.elapsed().as_secs_f64() / 10.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}
