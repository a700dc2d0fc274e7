//! Both copies and another process on one file, all writing.
#![cfg(all(feature = "private-copy", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

mod private_copy_support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use private_copy_support::forking::Engine;
use private_copy_support::{BUSY, Host, MODES, arm, database, play, sound_rows, start_role};

const OURS: i64 = 2 * 400;
const HOST: i64 = 2 * 150;
const OTHER: i64 = 150;

#[test]
fn role() {
    play(&[]);
}

#[test]
fn a_storm_of_both_copies_loses_nothing() {
    arm();
    let host = Host::load();
    let soak = std::env::var("TURNWISE_SOAK").is_ok_and(|value| !value.is_empty() && value != "0");
    let runs = if soak { 50 } else { 1 };
    for mode in MODES.iter().cycle().take(runs * MODES.len()) {
        let folder = tempfile::tempdir().unwrap();
        let path = database(folder.path(), "a.db", mode);
        let engine = Engine::start(&path);
        let mut other = start_role("write", &path, &OTHER.to_string());
        let (start, stop) = (Instant::now(), AtomicBool::new(false));
        thread::scope(|scope| {
            let writers: Vec<_> = (0..2)
                .map(|_| scope.spawn(|| (0..OURS / 2).for_each(|row| engine.insert(row))))
                .chain((0..2).map(|_| {
                    scope.spawn(|| {
                        for _ in 0..HOST / 2 {
                            let their = host.connect(&path);
                            their.busy_timeout(5_000);
                            while let Err(code) = their.execute("INSERT INTO t VALUES (1)") {
                                assert_eq!(code, BUSY);
                                assert!(start.elapsed() < Duration::from_secs(60), "starved");
                            }
                        }
                    })
                }))
                .collect();
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let their = host.connect(&path);
                    their.busy_timeout(60_000);
                    their.execute("SELECT count(*) FROM t").unwrap();
                    drop(their);
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let panicked = writers.into_iter().filter_map(|writer| writer.join().err()).count();
            stop.store(true, Ordering::Relaxed);
            assert_eq!(panicked, 0);
        });
        assert!(other.wait().unwrap().code() == Some(20), "{mode}: the other process failed");
        drop(engine);
        assert_eq!(sound_rows(&path), OURS + HOST + OTHER, "{mode}");
    }
}
