//! The batch writer on real files.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

use turnwise::ErrorKind;
use turnwise::sqlite::{Params, Value};
use turnwise::writer::{BatchWriter, Call, Unit, WriterOptions};

struct Database {
    folder: tempfile::TempDir,
    writer: BatchWriter,
}

fn database() -> Database {
    let folder = tempfile::tempdir().unwrap();
    let writer = BatchWriter::open(folder.path().join("app.db"), WriterOptions::default()).unwrap();
    writer
        .execute(sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v INTEGER UNIQUE, w TEXT NOT NULL)"))
        .unwrap();
    Database { folder, writer }
}

fn sql(text: &str) -> Unit {
    Unit::one(text, Params::NONE)
}

fn insert(v: i64) -> Unit {
    let values = vec![Value::Integer(v), Value::Text(format!("row {v}"))];
    Unit::one("INSERT INTO t(v, w) VALUES (?, ?)", Params::Positional(values))
}

fn values(writer: &BatchWriter) -> Vec<i64> {
    let rows = writer.execute(sql("SELECT v FROM t ORDER BY v")).unwrap().rows;
    rows.into_iter()
        .map(|row| match row[0] {
            Value::Integer(v) => v,
            ref other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn every_thread_gets_its_own_outcome() {
    let database = database();
    let writer = &database.writer;
    let start = Barrier::new(64);
    std::thread::scope(|scope| {
        for thread in 0..64 {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                for round in 0..20 {
                    let v = thread * 100 + round;
                    let written = writer.execute(insert(v)).unwrap();
                    assert_eq!(written.rowcount, Some(1));
                    assert!(written.lastrowid.is_some());
                    let error = writer.execute(insert(v)).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Constraint);
                    assert_eq!(error.code(), Some(2067));
                }
            });
        }
    });
    assert_eq!(values(writer).len(), 64 * 20);
    let stats = writer.stats();
    assert!(stats.transactions < 64 * 20, "{stats:?}");
    assert!(stats.max_group > 8, "{stats:?}");
}

#[test]
fn uncontended_writes_run_inline() {
    let database = database();
    for v in 0..100 {
        database.writer.execute(insert(v)).unwrap();
    }
    let stats = database.writer.stats();
    assert_eq!((stats.inline, stats.groups), (101, 0), "{stats:?}");
}

#[test]
fn a_write_that_rolls_back_everything_spoils_nobody_elses() {
    let database = database();
    let writer = &database.writer;
    writer.execute(insert(-1)).unwrap();
    let start = Barrier::new(16);
    std::thread::scope(|scope| {
        for thread in 0..16_i64 {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                for round in 0..30 {
                    if thread % 4 == 0 {
                        let poison = "INSERT OR ROLLBACK INTO t(v, w) VALUES (-1, 'x')";
                        let error = writer.execute(sql(poison)).unwrap_err();
                        assert_eq!(error.kind(), ErrorKind::Constraint);
                    } else {
                        writer.execute(insert(thread * 100 + round)).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(values(writer).len(), 12 * 30 + 1);
    assert!(writer.stats().recoveries > 0);
}

#[test]
fn a_unit_of_many_rows_is_all_or_nothing() {
    let database = database();
    let writer = &database.writer;
    let row = |v: i64| Params::Positional(vec![Value::Integer(v), Value::Text("x".into())]);
    let many = |rows| Unit::many("INSERT INTO t(v, w) VALUES (?, ?)", rows);
    assert_eq!(writer.execute(many((0..10).map(row).collect())).unwrap().rowcount, Some(10));
    let error = writer.execute(many(vec![row(20), row(21), row(3)])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Constraint);
    assert!(error.message().starts_with("row 2: "), "{error}");
    assert_eq!(values(writer), (0..10).collect::<Vec<_>>());
}

#[test]
fn deferred_foreign_keys_fail_their_own_writer_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = WriterOptions::default();
    options.foreign_keys = true;
    let writer = BatchWriter::open(folder.path().join("fk.db"), options).unwrap();
    writer.execute(sql("CREATE TABLE p(id INTEGER PRIMARY KEY)")).unwrap();
    writer
        .execute(sql("CREATE TABLE c(p INTEGER REFERENCES p(id) DEFERRABLE INITIALLY DEFERRED)"))
        .unwrap();
    writer.execute(sql("INSERT INTO p VALUES (1)")).unwrap();
    let start = Barrier::new(16);
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let (start, writer) = (&start, &writer);
            scope.spawn(move || {
                start.wait();
                for _ in 0..20 {
                    let parent = if thread == 3 { 7 } else { 1 };
                    let outcome = writer.execute(sql(&format!("INSERT INTO c VALUES ({parent})")));
                    assert_eq!(outcome.is_ok(), parent == 1, "{outcome:?}");
                }
            });
        }
    });
    let rows = writer.execute(sql("SELECT count(*) FROM c")).unwrap().rows;
    assert_eq!(rows, vec![vec![Value::Integer(15 * 20)]]);
}

#[test]
fn control_statements_are_refused() {
    let database = database();
    for text in [
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT s",
        "ATTACH 'other.db' AS other",
        "PRAGMA journal_mode=delete",
        "PRAGMA synchronous=off",
        "PRAGMA wal_checkpoint",
    ] {
        let error = database.writer.execute(sql(text)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StatementNotAllowed, "{text}: {error}");
    }
    database.writer.execute(sql("PRAGMA user_version=7")).unwrap();
    let rows = database.writer.execute(sql("PRAGMA user_version")).unwrap().rows;
    assert_eq!(rows, vec![vec![Value::Integer(7)]]);
}

#[test]
fn a_transaction_owns_the_connection_and_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = WriterOptions::default();
    options.hold_limit = Duration::from_millis(200);
    let writer = BatchWriter::open(folder.path().join("app.db"), options).unwrap();
    writer.execute(sql("CREATE TABLE t(v)")).unwrap();
    let transaction = writer.transaction(&Call::default()).unwrap();
    transaction.execute(&sql("INSERT INTO t VALUES (1)")).unwrap();
    let error = writer.execute(sql("INSERT INTO t VALUES (2)")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WriterReentered);
    transaction.commit().unwrap();

    let transaction = writer.transaction(&Call::default()).unwrap();
    transaction.execute(&sql("INSERT INTO t VALUES (3)")).unwrap();
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| writer.execute(sql("INSERT INTO t VALUES (4)")).unwrap()).join().unwrap();
    });
    assert!(began.elapsed() < Duration::from_secs(2));
    let error = transaction.commit().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HoldLimitExceeded);
    drop(transaction);
    let rows = writer.execute(sql("SELECT v FROM t ORDER BY v")).unwrap().rows;
    assert_eq!(rows, vec![vec![Value::Integer(1)], vec![Value::Integer(4)]]);
}

/// Another process that holds the write lock until it reads something else.
fn locked_by_another_process(path: &Path, schema: &str) -> Child {
    let mut holder = Command::new("sqlite3")
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test needs Debian's package sqlite3");
    let stdin = holder.stdin.as_mut().unwrap();
    writeln!(stdin, "{schema}; BEGIN IMMEDIATE; SELECT 'held';").unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "held");
    holder
}

#[test]
fn whoever_opens_a_locked_file_waits_by_their_own_time_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    // Not in WAL mode yet: opening has to change that, and needs the lock for it.
    let mut holder = locked_by_another_process(&path, "CREATE TABLE t(v)");
    let open = |call: &Call<'_>| {
        let began = Instant::now();
        let opened = BatchWriter::open_with(&path, WriterOptions::default(), call);
        (opened, began.elapsed())
    };
    let (waits, has_waited) = mpsc::channel();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            let interrupted = move || waits.send(()).is_err();
            open(&Call {
                timeout: Some(Duration::from_secs(20)),
                interrupted: &interrupted,
                ..Call::default()
            })
        });
        has_waited.recv().unwrap();
        let (opened, took) =
            open(&Call { timeout: Some(Duration::from_millis(200)), ..Call::default() });
        assert_eq!(opened.unwrap_err().kind(), ErrorKind::LockTimeout);
        assert!(took < Duration::from_secs(10), "{took:?}");
        let (opened, took) = open(&Call { interrupted: &|| true, ..Call::default() });
        assert_eq!(opened.unwrap_err().kind(), ErrorKind::WriteCancelled);
        assert!(took < Duration::from_secs(10), "{took:?}");
        writeln!(holder.stdin.as_mut().unwrap(), "COMMIT;\n.quit").unwrap();
        let (opened, _) = first.join().unwrap();
        opened.unwrap().execute(sql("INSERT INTO t VALUES (1)")).unwrap();
    });
    holder.wait().unwrap();
}

#[test]
fn a_locked_database_is_waited_for_and_named() {
    let database = database();
    let path = database.folder.path().join("app.db");
    let mut holder = locked_by_another_process(&path, "");
    let call = Call { timeout: Some(Duration::from_millis(300)), ..Call::default() };
    let began = Instant::now();
    let error = database.writer.execute_with(insert(1), &call).outcome.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::LockTimeout, Some(5)));
    assert!(began.elapsed() < Duration::from_secs(1));
    std::thread::scope(|scope| {
        let late = scope.spawn(|| database.writer.execute(insert(2)));
        std::thread::sleep(Duration::from_millis(100));
        writeln!(holder.stdin.as_mut().unwrap(), "COMMIT;\n.quit").unwrap();
        late.join().unwrap().unwrap();
    });
    holder.wait().unwrap();
    assert_eq!(values(&database.writer), vec![2]);
}

#[test]
fn two_writers_share_a_file_and_must_agree() {
    let database = database();
    let path = database.folder.path().join("app.db");
    let link = database.folder.path().join("link.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let other = BatchWriter::open(&link, WriterOptions::default()).unwrap();
    other.execute(insert(1)).unwrap();
    let mut options = WriterOptions::default();
    options.max_batch = 7;
    let error = BatchWriter::open(&path, options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SettingsConflict);
    database.writer.close(&Call::default()).unwrap();
    other.execute(insert(2)).unwrap();
    assert_eq!(values(&other), vec![1, 2]);
    other.close(&Call::default()).unwrap();
    assert!(!path.with_extension("db-wal").exists());
    let again = BatchWriter::open(&path, WriterOptions::default()).unwrap();
    assert_eq!(values(&again), vec![1, 2]);
}

#[test]
fn dropping_the_last_writer_drains_it() {
    let database = database();
    let path = database.folder.path().join("app.db");
    let shared = Arc::new(database.writer);
    let threads: Vec<_> = (0..8)
        .map(|v| {
            let writer = Arc::clone(&shared);
            std::thread::spawn(move || writer.execute(insert(v)).unwrap())
        })
        .collect();
    drop(shared);
    for thread in threads {
        thread.join().unwrap();
    }
    let again = BatchWriter::open(&path, WriterOptions::default()).unwrap();
    assert_eq!(values(&again).len(), 8);
}

#[test]
fn the_story_takes_few_transactions() {
    let database = database();
    let writer = &database.writer;
    let before = writer.stats().transactions;
    let start = Barrier::new(58);
    std::thread::scope(|scope| {
        for thread in 0..58_i64 {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                for v in (thread..288).step_by(58) {
                    writer.execute(insert(v)).unwrap();
                }
            });
        }
    });
    let used = writer.stats().transactions - before;
    assert_eq!(values(writer).len(), 288);
    assert!(used <= 40, "{used} transactions for 288 writes");
}
