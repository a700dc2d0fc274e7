//! The private copy across `fork`.
#![cfg(all(feature = "private-copy", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks, reason = "pipes between processes")]

mod private_copy_support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use private_copy_support::forking::{Engine, Forked};
use private_copy_support::{
    BUSY, MODES, arm, code_of, database, descriptors_in, in_own_process, other_process_can_write,
    ours, play, sound_rows, start_role, write_rows,
};
use turnwise::sqlite::fork::{self, Owned};

#[test]
fn role() {
    play(&[
        ("hold_and_fork", hold_and_fork),
        ("generations", generations),
        ("fork_storm", fork_storm),
        ("foreign_descriptors", foreign_descriptors),
    ]);
}

/// Two ends that a parent and its child use to wait for each other.
struct Signal {
    read: i32,
    write: i32,
}

impl Signal {
    fn new() -> Self {
        let mut ends = [0; 2];
        assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
        Self { read: ends[0], write: ends[1] }
    }

    fn send(&self) {
        assert_eq!(unsafe { libc::write(self.write, [1_u8].as_ptr().cast(), 1) }, 1);
    }

    fn wait(&self) {
        let mut poll = libc::pollfd { fd: self.read, events: libc::POLLIN, revents: 0 };
        assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 20_000) }, 1, "no signal for 20 s");
        let mut byte = 0_u8;
        assert_eq!(unsafe { libc::read(self.read, (&raw mut byte).cast(), 1) }, 1);
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        unsafe {
            libc::close(self.read);
            libc::close(self.write);
        }
    }
}

#[test]
fn a_child_that_leaves_does_not_free_the_parents_lock() {
    arm();
    for mode in MODES {
        let folder = tempfile::tempdir().unwrap();
        let path = database(folder.path(), "a.db", mode);
        let our = Owned::new(ours(&path));
        our.get().unwrap().execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (1)").unwrap();
        Forked::start(|| match our.get() {
            None if descriptors_in(folder.path()).is_empty() => Ok(()),
            other => Err(format!("{other:?}, {:?}", descriptors_in(folder.path()))),
        })
        .succeed();
        assert!(!other_process_can_write(&path), "{mode}");
        our.get().unwrap().execute_batch("COMMIT").unwrap();
        assert_eq!(sound_rows(&path), 1);
    }
}

#[test]
fn a_child_that_works_neither_frees_nor_extends_the_parents_lock() {
    arm();
    for mode in MODES {
        let folder = tempfile::tempdir().unwrap();
        let path = database(folder.path(), "a.db", mode);
        let mut our = Some(Owned::new(ours(&path)));
        our.as_ref().unwrap().get().unwrap().execute_batch("BEGIN IMMEDIATE").unwrap();
        let (worked, released, wrote) = (Signal::new(), Signal::new(), Signal::new());
        let child = Forked::start(|| {
            drop(our.take());
            let own = ours(&path);
            let code = code_of(own.execute_batch("BEGIN IMMEDIATE"));
            own.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0))
                .map_err(|error| format!("read: {error}"))?;
            drop(own);
            worked.send();
            released.wait();
            write_rows(&path, 1)?;
            wrote.send();
            released.wait();
            if code == BUSY { Ok(()) } else { Err(format!("the child got the lock: {code}")) }
        });
        worked.wait();
        assert!(!other_process_can_write(&path), "{mode}: the child freed the lock");
        let our = our.unwrap().take().unwrap();
        our.execute_batch("INSERT INTO t VALUES (2); COMMIT").unwrap();
        assert!(other_process_can_write(&path), "{mode}: the child extends the lock");
        released.send();
        wrote.wait();
        our.execute_batch("INSERT INTO t VALUES (3)").unwrap();
        released.send();
        child.succeed();
        drop(our);
        assert_eq!(sound_rows(&path), 3, "{mode}");
    }
}

#[test]
fn a_child_does_not_keep_a_killed_parents_lock() {
    for mode in MODES {
        let folder = tempfile::tempdir().unwrap();
        let path = database(folder.path(), "a.db", mode);
        let note = folder.path().join("child");
        let mut parent = start_role("hold_and_fork", &path, note.to_str().unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        let orphan: i32 = loop {
            let text = std::fs::read_to_string(&note).unwrap_or_default();
            if let Some(pid) = text.strip_suffix('\n') {
                break pid.parse().unwrap();
            }
            assert!(Instant::now() < deadline, "no child");
            thread::sleep(Duration::from_millis(5));
        };
        assert!(!other_process_can_write(&path), "{mode}");
        parent.kill().unwrap();
        parent.wait().unwrap();
        let free = other_process_can_write(&path);
        let lives = unsafe { libc::kill(orphan, libc::SIGKILL) } == 0;
        assert!(lives, "the child was to outlive the check");
        assert!(free, "{mode}: the child keeps the lock of its dead parent");
    }
}

fn hold_and_fork(path: &Path, note: &str) {
    arm();
    let our = ours(path);
    our.execute_batch("PRAGMA mmap_size = 1048576; BEGIN IMMEDIATE; INSERT INTO t VALUES (1)")
        .unwrap();
    let _child = Forked::start(|| {
        let draft = format!("{note}.draft");
        std::fs::write(&draft, format!("{}\n", std::process::id())).map_err(|e| e.to_string())?;
        std::fs::rename(&draft, note).map_err(|e| e.to_string())?;
        thread::sleep(Duration::from_secs(30));
        Ok(())
    });
    thread::sleep(Duration::from_secs(30));
}

#[test]
fn three_generations_write_at_once() {
    for mode in MODES {
        let folder = tempfile::tempdir().unwrap();
        let path = database(folder.path(), "a.db", mode);
        in_own_process("generations", &path, mode);
        assert_eq!(sound_rows(&path), 3 * 200 + 3, "{mode}");
    }
}

fn generations(path: &Path, _: &str) {
    arm();
    let before = fork::generation();
    let our = Owned::new(private_copy_support::patient(path).unwrap());
    our.get().unwrap().execute("INSERT INTO t VALUES (0)", []).unwrap();
    let child = Forked::start(|| {
        let own = Owned::new(private_copy_support::patient(path).map_err(|e| e.to_string())?);
        own.get().unwrap().execute("INSERT INTO t VALUES (0)", []).map_err(|e| e.to_string())?;
        let grandchild = Forked::start(|| {
            if (our.is_inherited(), own.is_inherited()) != (true, true) {
                return Err("not recognised as inherited".to_owned());
            }
            if fork::generation() != before + 2 {
                return Err(format!("generation {}", fork::generation()));
            }
            write_rows(path, 1)?;
            write_rows(path, 200)
        });
        for row in 0..200 {
            own.get()
                .unwrap()
                .execute("INSERT INTO t VALUES (?1)", [row])
                .map_err(|e| e.to_string())?;
        }
        grandchild.succeed();
        Ok(())
    });
    for row in 0..200 {
        our.get().unwrap().execute("INSERT INTO t VALUES (?1)", [row]).unwrap();
    }
    child.succeed();
    assert_eq!(fork::generation(), before);
}

#[test]
fn a_fork_inside_an_open_transaction_returns() {
    arm();
    let folder = tempfile::tempdir().unwrap();
    let path = database(folder.path(), "a.db", "wal");
    let engine = Engine::start(&path);
    engine.run(|db| db.execute_batch("BEGIN IMMEDIATE")).unwrap();
    Forked::start(|| match descriptors_in(folder.path()).len() {
        0 => Ok(()),
        left => Err(format!("{left} inherited descriptors")),
    })
    .succeed();
    assert!(!other_process_can_write(&path));
    engine.run(|db| db.execute_batch("INSERT INTO t VALUES (1); COMMIT")).unwrap();
    assert_eq!(sound_rows(&path), 1);
}

#[test]
fn forks_amid_writing_threads_lose_nothing() {
    for mode in MODES {
        let folder = tempfile::tempdir().unwrap();
        let path = database(folder.path(), "a.db", mode);
        let acknowledged = folder.path().join("acknowledged");
        in_own_process("fork_storm", &path, acknowledged.to_str().unwrap());
        let acknowledged: i64 = std::fs::read_to_string(acknowledged).unwrap().parse().unwrap();
        assert_eq!(sound_rows(&path), acknowledged, "{mode}");
    }
}

const CHILDREN: i64 = 24;
const ROWS_PER_CHILD: i64 = 10;

fn fork_storm(path: &Path, note: &str) {
    arm();
    let engine = Engine::start(path);
    let (stop, written) = (AtomicBool::new(false), AtomicI64::new(0));
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    engine.insert(written.fetch_add(1, Ordering::Relaxed));
                }
            });
        }
        // Connections outside any engine: opened, closed, drawing temporary names and random numbers.
        for number in 0..3 {
            let (stop, folder) = (&stop, path.parent().unwrap());
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let db = ours(&folder.join(format!("other-{number}.db")));
                    db.execute_batch(
                        "PRAGMA synchronous = off; CREATE TABLE IF NOT EXISTS o(x);
                         INSERT INTO o VALUES (randomblob(100)); PRAGMA temp_store = file;
                         CREATE TEMP TABLE f AS SELECT randomblob(1000) FROM o LIMIT 10",
                    )
                    .unwrap();
                }
            });
        }
        for _ in 0..CHILDREN / 2 {
            let children = [0, 1].map(|_| Forked::start(|| write_rows(path, ROWS_PER_CHILD)));
            children.into_iter().for_each(Forked::succeed);
        }
    });
    let rows = written.load(Ordering::Relaxed) + CHILDREN * ROWS_PER_CHILD;
    std::fs::write(note, rows.to_string()).unwrap();
}

#[test]
fn a_descriptor_that_the_host_closed_is_not_ours_any_more() {
    for first in ["0", "20", "39"] {
        let folder = tempfile::tempdir().unwrap();
        in_own_process("foreign_descriptors", folder.path(), first);
    }
}

/// A host that closes every descriptor it does not know, and opens its own on the same numbers.
fn foreign_descriptors(folder: &Path, first: &str) {
    arm();
    let paths: Vec<_> = (0..40).map(|number| folder.join(format!("{number}.db"))).collect();
    for path in &paths {
        ours(path).execute_batch("PRAGMA synchronous = off; CREATE TABLE t(x)").unwrap();
    }
    let taken: Vec<_> = descriptors_in(folder).into_iter().map(|(fd, _)| fd).collect();
    assert_eq!(taken.len(), paths.len());
    for &fd in &taken {
        unsafe { libc::close(fd) };
        assert_eq!(unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY) }, fd);
    }
    let all_open = || taken.iter().all(|&fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } != -1);
    Forked::start(|| if all_open() { Ok(()) } else { Err("closed in the child".to_owned()) })
        .succeed();
    let first: usize = first.parse().unwrap();
    for path in paths.iter().cycle().skip(first).take(paths.len()) {
        ours(path).execute_batch("INSERT INTO t VALUES (1)").unwrap();
    }
    assert!(all_open(), "closed in the parent");
}

/// Ends the writing threads also when the test fails.
struct Stop<'flag>(&'flag AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_fork_waits_for_the_call_that_runs() {
    arm();
    let folder = tempfile::tempdir().unwrap();
    let engine = Engine::start(&database(folder.path(), "a.db", "wal"));
    let (inside, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let _stop = Stop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                engine.run(|_| {
                    inside.store(true, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(2));
                    inside.store(false, Ordering::SeqCst);
                });
            }
        });
        for _ in 0..10 {
            let running = || {
                if inside.load(Ordering::SeqCst) { Err("a call runs".to_owned()) } else { Ok(()) }
            };
            Forked::start(running).succeed();
        }
    });
}

#[test]
fn an_engine_that_ended_is_not_paused() {
    arm();
    let folder = tempfile::tempdir().unwrap();
    let path = database(folder.path(), "a.db", "wal");
    let engine = Engine::start(&path);
    assert_eq!(Arc::strong_count(&engine), 1);
    drop(engine);
    Forked::start(|| write_rows(&path, 1)).succeed();
}
