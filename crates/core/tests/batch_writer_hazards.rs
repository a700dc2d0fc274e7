//! What one caller's write must not do to another's, nor an error to the truth.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use turnwise::sqlite::{Durability, Params, Value, Written};
use turnwise::writer::{BatchWriter, Call, Completed, Outbox, Pickup, Sink, Unit, WriterOptions};
use turnwise::{ErrorKind, Result};

struct Database {
    folder: tempfile::TempDir,
    writer: BatchWriter,
}

impl Database {
    fn path(&self) -> PathBuf {
        self.folder.path().join("app.db")
    }

    fn integers(&self, text: &str) -> Vec<i64> {
        integers(&self.writer, text)
    }
}

fn database(schema: &[&str]) -> Database {
    open(schema, WriterOptions::default())
}

fn open(schema: &[&str], options: WriterOptions) -> Database {
    let folder = tempfile::tempdir().unwrap();
    let writer = BatchWriter::open(folder.path().join("app.db"), options).unwrap();
    for statement in schema {
        writer.execute(sql(statement)).unwrap();
    }
    Database { folder, writer }
}

fn sql(text: &str) -> Unit {
    Unit::one(text, Params::NONE)
}

fn integers(writer: &BatchWriter, text: &str) -> Vec<i64> {
    let rows = writer.execute(sql(text)).unwrap().rows;
    rows.into_iter()
        .map(|row| match row[0] {
            Value::Integer(integer) => integer,
            ref other => panic!("{other:?}"),
        })
        .collect()
}

struct Channel(mpsc::Sender<(u64, Result<Written>)>);

impl Sink<Written> for Channel {
    fn deliver(&self, completed: Vec<Completed<Written>>, _pickup: Pickup) {
        for done in completed {
            // A test that has failed does not listen any more.
            let _ = self.0.send((done.token, done.outcome));
        }
    }
}

/// Runs the units as one group of the writer thread, and gives their outcomes in order.
fn as_a_group(writer: &BatchWriter, units: Vec<Unit>) -> Vec<Result<Written>> {
    let (sender, receiver) = mpsc::channel();
    let outbox = Outbox::new(Channel(sender));
    let groups = writer.stats().groups;
    let count = units.len();
    std::thread::scope(|scope| {
        let lane = writer.transaction(&Call::default()).unwrap();
        let submitter = scope.spawn(|| {
            for (token, unit) in (0..).zip(units) {
                writer.submit(unit, None, &outbox, token).unwrap();
            }
        });
        submitter.join().unwrap();
        lane.commit().unwrap();
    });
    let mut outcomes: Vec<_> = receiver.into_iter().take(count).collect();
    outcomes.sort_by_key(|(token, _)| *token);
    assert_eq!(writer.stats().groups, groups + 1, "they were to share a group");
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

#[test]
fn a_failed_write_leaves_nothing_in_its_group() {
    let database = database(&[
        "CREATE TABLE t(id INTEGER PRIMARY KEY)",
        "CREATE TABLE s(id INTEGER PRIMARY KEY)",
        "CREATE TRIGGER s_stops AFTER INSERT ON s WHEN new.id = 3
         BEGIN SELECT RAISE(FAIL, 'no third row'); END",
        "INSERT INTO t VALUES (3)",
    ]);
    let outcomes = as_a_group(
        &database.writer,
        vec![
            sql("INSERT INTO t VALUES (10)"),
            sql("INSERT OR FAIL INTO t VALUES (1), (2), (3), (4)"),
            sql("INSERT INTO s VALUES (1), (2), (3), (4)"),
            sql("INSERT INTO t VALUES (11)"),
        ],
    );
    let landed: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(landed, [true, false, false, true], "{outcomes:?}");
    assert_eq!(database.integers("SELECT id FROM t ORDER BY id"), [3, 10, 11]);
    assert_eq!(database.integers("SELECT count(*) FROM s"), [0]);
}

#[test]
fn a_failed_statement_leaves_nothing_in_its_transaction() {
    let database =
        database(&["CREATE TABLE t(id INTEGER PRIMARY KEY)", "INSERT INTO t VALUES (3)"]);
    let transaction = database.writer.transaction(&Call::default()).unwrap();
    transaction.execute(&sql("INSERT INTO t VALUES (10)")).unwrap();
    let failed = transaction.execute(&sql("INSERT OR FAIL INTO t VALUES (1), (2), (3)"));
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Constraint);
    transaction.execute(&sql("INSERT INTO t VALUES (11)")).unwrap();
    transaction.commit().unwrap();
    assert_eq!(database.integers("SELECT id FROM t ORDER BY id"), [3, 10, 11]);
}

#[test]
fn a_savepoint_prepared_in_a_transaction_is_refused_outside() {
    let database = database(&["CREATE TABLE t(id INTEGER PRIMARY KEY)"]);
    let transaction = database.writer.transaction(&Call::default()).unwrap();
    for text in ["SAVEPOINT mine", "ROLLBACK TO mine", "RELEASE mine"] {
        transaction.execute(&sql(text)).unwrap();
    }
    transaction.commit().unwrap();
    let outcomes = as_a_group(
        &database.writer,
        vec![sql("SAVEPOINT mine"), sql("INSERT INTO t VALUES (1)"), sql("ROLLBACK TO mine")],
    );
    assert!(outcomes[1].is_ok(), "{outcomes:?}");
    assert_eq!(database.integers("SELECT id FROM t"), [1], "{outcomes:?}");
    for at in [0, 2] {
        let error = outcomes[at].as_ref().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StatementNotAllowed);
    }
}

#[test]
fn the_writers_own_statements_are_not_to_be_had() {
    let database = database(&["CREATE TABLE t(id INTEGER PRIMARY KEY)"]);
    for text in ["/*turnwise*/COMMIT", "\n/*turnwise*/COMMIT", "\u{2003}/*turnwise*/ROLLBACK"] {
        let error = database.writer.execute(sql(text)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StatementNotAllowed, "{text:?}: {error}");
    }
}

#[test]
fn another_database_is_attached_by_no_spelling() {
    let database = database(&["CREATE TABLE t(id INTEGER PRIMARY KEY)"]);
    let other = database.folder.path().join("other.db").to_str().unwrap().to_owned();
    let units = [
        Unit::one("ATTACH ? AS other", Params::Positional(vec![Value::Text(other.clone())])),
        sql(&format!("ATTACH '{other}' AS other")),
        sql(&format!("ATTACH '{other}' || '' AS other")),
        sql("ATTACH '' AS other"),
        sql("ATTACH ':memory:' AS other"),
        Unit::one("DETACH ?", Params::Positional(vec![Value::Text("main".into())])),
    ];
    for unit in units {
        let error = database.writer.execute(unit).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StatementNotAllowed, "{error}");
    }
}

#[test]
fn temporary_objects_do_not_swallow_the_writes_of_others() {
    let database = database(&["CREATE TABLE t(id INTEGER PRIMARY KEY)"]);
    let temporary = [
        "CREATE TEMP TABLE t(id INTEGER PRIMARY KEY)",
        "CREATE TABLE temp.t(id INTEGER PRIMARY KEY)",
        "CREATE TEMP TABLE t AS SELECT 1 AS id",
        "CREATE TEMP VIEW t AS SELECT 1",
        "CREATE TEMP TRIGGER swallow BEFORE INSERT ON main.t BEGIN SELECT RAISE(IGNORE); END",
    ];
    for text in temporary {
        let error = database.writer.execute(sql(text)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StatementNotAllowed, "{text}: {error}");
    }
    database.writer.execute(sql("INSERT INTO t VALUES (1)")).unwrap();
    assert_eq!(database.integers("SELECT id FROM main.t"), [1]);
}

#[test]
fn a_write_that_inserts_nothing_has_no_row_id() {
    let database = database(&[
        "CREATE TABLE t(id INTEGER PRIMARY KEY, k TEXT UNIQUE, n INTEGER)",
        "CREATE TABLE w(k TEXT PRIMARY KEY) WITHOUT ROWID",
    ]);
    let lastrowid = |text: &str| database.writer.execute(sql(text)).unwrap().lastrowid;
    assert_eq!(lastrowid("INSERT INTO t(k, n) VALUES ('a', 1)"), Some(1));
    assert_eq!(lastrowid("INSERT INTO t(k, n) VALUES ('b', 1)"), Some(2));
    let upsert = "INSERT INTO t(k, n) VALUES ('a', 1) ON CONFLICT(k) DO UPDATE SET n = n + 1";
    assert_eq!(lastrowid(upsert), None);
    assert_eq!(lastrowid("INSERT INTO w VALUES ('x')"), None);
    // The same number as before, and yet inserted.
    assert_eq!(lastrowid("REPLACE INTO t(id, k) VALUES (2, 'c')"), Some(2));
}

#[test]
fn durability_is_in_effect_whenever_it_changes() {
    let database = database(&["CREATE TABLE t(id INTEGER PRIMARY KEY)"]);
    let mut options = WriterOptions::default();
    options.durability = Durability::Normal;
    let normal = BatchWriter::open(database.path(), options).unwrap();
    for round in 0..3 {
        // Spelt anew each time: nothing remembered is to answer.
        let spelling = format!("PRAGMA {}synchronous", " ".repeat(round));
        assert_eq!(integers(&normal, &spelling), [1], "round {round}");
        assert_eq!(database.integers(&spelling), [2], "round {round}");
    }
}

#[test]
fn an_evicted_transaction_has_no_part_in_the_next() {
    let mut options = WriterOptions::default();
    options.hold_limit = Duration::from_millis(100);
    let database = open(&["CREATE TABLE t(id INTEGER PRIMARY KEY)"], options);
    let writer = &database.writer;
    let late = writer.transaction(&Call::default()).unwrap();
    late.execute(&sql("INSERT INTO t VALUES (1)")).unwrap();
    let (begun, has_begun) = mpsc::channel();
    let (end, may_end) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let next = writer.transaction(&Call::default()).unwrap();
            next.execute(&sql("INSERT INTO t VALUES (2)")).unwrap();
            begun.send(()).unwrap();
            may_end.recv().unwrap();
            next.roll_back();
        });
        has_begun.recv().unwrap();
        let executed = late.execute(&sql("INSERT INTO t VALUES (3)"));
        let commit = late.commit();
        end.send(()).unwrap();
        assert_eq!(executed.unwrap_err().kind(), ErrorKind::HoldLimitExceeded);
        assert_eq!(commit.unwrap_err().kind(), ErrorKind::HoldLimitExceeded);
    });
    assert_eq!(database.integers("SELECT id FROM t"), [] as [i64; 0]);
}

#[test]
fn the_hold_limit_ends_a_transaction_that_never_pauses() {
    let mut options = WriterOptions::default();
    options.hold_limit = Duration::from_millis(100);
    let database = open(&["CREATE TABLE t(id INTEGER PRIMARY KEY)"], options);
    let begun = Instant::now();
    let transaction = database.writer.transaction(&Call::default()).unwrap();
    let error = loop {
        if let Err(error) = transaction.execute(&sql("SELECT count(*) FROM t")) {
            break error;
        }
        assert!(begun.elapsed() < Duration::from_secs(3), "the transaction goes on and on");
    };
    assert_eq!(error.kind(), ErrorKind::HoldLimitExceeded);
    drop(transaction);
    database.writer.execute(sql("INSERT INTO t VALUES (1)")).unwrap();
}

#[test]
fn columns_that_come_and_go_between_two_runs_are_seen() {
    let database = database(&[
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b)",
        "INSERT INTO t VALUES (1, 2, 3)",
    ]);
    let returning = "INSERT INTO t(a) VALUES (7) RETURNING *";
    assert_eq!(database.writer.execute(sql(returning)).unwrap().rows[0].len(), 3);
    database.writer.execute(sql("ALTER TABLE t ADD COLUMN c")).unwrap();
    assert_eq!(database.writer.execute(sql(returning)).unwrap().rows[0].len(), 4);
    for column in ["b", "c"] {
        database.writer.execute(sql(&format!("ALTER TABLE t DROP COLUMN {column}"))).unwrap();
    }
    let outcomes = as_a_group(&database.writer, vec![sql(returning), sql("SELECT 1")]);
    assert_eq!(outcomes[0].as_ref().unwrap().rows[0].len(), 2);
    assert_eq!(database.integers("SELECT count(*) FROM t"), [4]);
}

#[test]
fn a_replaced_file_is_not_written_in_silence() {
    let database = database(&["CREATE TABLE t(id INTEGER PRIMARY KEY)"]);
    database.writer.execute(sql("INSERT INTO t VALUES (1)")).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", database.path().display()));
    }
    let error = database.writer.execute(sql("INSERT INTO t VALUES (2)")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FileReplaced, "{error}");
    // Its successor can be opened beside it.
    let next = BatchWriter::open(database.path(), WriterOptions::default()).unwrap();
    next.execute(sql("CREATE TABLE t(id INTEGER PRIMARY KEY)")).unwrap();
    let error = database.writer.execute(sql("INSERT INTO t VALUES (2)")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FileReplaced, "{error}");
}

#[test]
fn a_flush_comes_after_the_outcomes() {
    let database = database(&["CREATE TABLE t(id INTEGER PRIMARY KEY)"]);
    let (sender, receiver) = mpsc::channel();
    let outbox = Outbox::new(Channel(sender));
    for round in 0..3_000 {
        database.writer.submit(sql("SELECT 1"), None, &outbox, round).unwrap();
        database.writer.flush(&Call::default()).unwrap();
        assert!(receiver.try_recv().is_ok(), "round {round}: flush was faster than the outcome");
    }
}

#[test]
fn the_end_of_the_process_waits_for_writers_that_are_gone() {
    let database = database(&["CREATE TABLE t(id INTEGER PRIMARY KEY)"]);
    let path = database.path();
    let (sender, receiver) = mpsc::channel();
    let outbox = Outbox::new(Channel(sender));
    for token in 0..500 {
        let insert = Unit::many("INSERT INTO t(id) VALUES (NULL)", vec![Params::NONE; 100]);
        database.writer.submit(insert, None, &outbox, token).unwrap();
    }
    let Database { folder, writer } = database;
    drop(writer);
    turnwise::writer::drain_all(Duration::from_secs(30)).unwrap();
    assert_eq!(receiver.try_iter().filter(|(_, outcome)| outcome.is_ok()).count(), 500);
    drop((folder, path));
}

#[test]
fn a_write_that_spoils_half_a_group_spoils_nobody_elses() {
    let mut options = WriterOptions::default();
    options.foreign_keys = true;
    let schema = [
        "CREATE TABLE t(id INTEGER PRIMARY KEY)",
        "CREATE TABLE c(t INTEGER REFERENCES t(id) DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TRIGGER t_leaves AFTER DELETE ON t BEGIN INSERT INTO c VALUES (999); END",
        "INSERT INTO t VALUES (5)",
    ];
    let database = open(&schema, options);
    let outcomes = as_a_group(
        &database.writer,
        vec![
            // Breaks a foreign key, which only COMMIT sees; and makes room for the next.
            sql("DELETE FROM t WHERE id = 5"),
            sql("INSERT OR ROLLBACK INTO t VALUES (5)"),
            sql("INSERT INTO t VALUES (6)"),
        ],
    );
    let landed: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(landed, [false, false, true], "{outcomes:?}");
    assert_eq!(database.integers("SELECT id FROM t ORDER BY id"), [5, 6]);
}

struct Panicking;

impl Sink<Written> for Panicking {
    fn deliver(&self, _completed: Vec<Completed<Written>>, _pickup: Pickup) {
        panic!("a sink that panics");
    }
}

#[test]
fn a_panicking_sink_leaves_a_file_that_can_be_opened_again() {
    let database = database(&["CREATE TABLE t(id INTEGER PRIMARY KEY)"]);
    let outbox = Outbox::new(Panicking);
    database.writer.submit(sql("INSERT INTO t VALUES (1)"), None, &outbox, 1).unwrap();
    let error = loop {
        match database.writer.execute(sql("SELECT 1")) {
            Ok(_) => std::thread::sleep(Duration::from_millis(5)),
            // It was in the queue when the writer thread panicked.
            Err(error) if error.kind() == ErrorKind::Internal => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::WriterClosed);
    let (done, opened) = mpsc::channel();
    let path = database.path();
    std::thread::spawn(move || {
        done.send(BatchWriter::open(path, WriterOptions::default())).unwrap();
    });
    let again = opened.recv_timeout(Duration::from_secs(5)).expect("opening never ends").unwrap();
    assert_eq!(integers(&again, "SELECT id FROM t"), [1]);
}

#[test]
fn a_path_with_a_nul_character_is_named_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let error = BatchWriter::open(folder.path().join("a\0b.db"), WriterOptions::default());
    assert_eq!(error.unwrap_err().kind(), ErrorKind::CannotOpen);
}
