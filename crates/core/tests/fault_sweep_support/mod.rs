//! Callers' writes of every kind on a fresh file, and what must be true of the file afterwards.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

mod ledger;
mod template;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use turnwise::event::{Event, EventKind};
use turnwise::sqlite::{Durability, Params, Value, Written};
use turnwise::writer::{
    BatchWriter, Call, Completed, MakeObserver, Outbox, Pickup, Sink, Submitted, Transaction, Unit,
    WriterOptions,
};
use turnwise::{ErrorKind, Result};

use ledger::Ledger;
pub use template::Template;
use template::copy;

/// Nobody waits for so long unless for ever.
const WATCHDOG: Duration = Duration::from_secs(60);

const INSERT: &str = "INSERT INTO t(mark, body) VALUES (?, ?)";
const RETURNING: &str = "INSERT INTO t(mark, body) VALUES (?, ?) RETURNING id, body";
const POISON: &str = "INSERT INTO t(mark, k) VALUES (?, 1)";

/// Every unit of the mix: its mark and its rows. The poisoned one never lands.
const UNITS: &[(i64, i64)] = &[
    (1, 1),
    (2, 1),
    (3, 1),
    (4, 4),
    (10, 1),
    (11, 0),
    (12, 3),
    (13, 1),
    (14, 1),
    (15, 1),
    (16, 2),
    (20, 1),
    (21, 2),
    (30, 1),
    (31, 2),
    (40, 1),
    (41, 2),
    (42, 1),
    (99, 1),
];

fn rows_of(mark: i64) -> i64 {
    UNITS.iter().find(|(unit, _)| *unit == mark).unwrap().1
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

/// A writer on a file of its own, and what its callers were told.
pub struct Round {
    folder: tempfile::TempDir,
    path: PathBuf,
    options: WriterOptions,
    pub writer: BatchWriter,
    failures: Arc<AtomicU64>,
    pub ledger: Ledger,
}

fn params(mark: i64, bytes: usize) -> Params {
    Params::Positional(vec![Value::Integer(mark), Value::Blob(vec![7; bytes])])
}

fn one(mark: i64, bytes: usize) -> Unit {
    Unit::one(INSERT, params(mark, bytes))
}

fn many(mark: i64) -> Unit {
    let rows = (0..rows_of(mark)).map(|_| params(mark, 100)).collect();
    Unit::many(INSERT, rows)
}

fn poison(mark: i64) -> Unit {
    Unit::one(POISON, Params::Positional(vec![Value::Integer(mark)]))
}

impl Round {
    /// A writer on a copy of its own.
    pub fn open(template: &Template, durability: Durability) -> Self {
        let folder = template.copied();
        let path = folder.path().join("app.db");
        let failures = Arc::new(AtomicU64::new(0));
        let mut options = WriterOptions::default();
        options.journal_mode = template.journal;
        options.durability = durability;
        let counter = Arc::clone(&failures);
        options.observer = Some(MakeObserver::new(move |_| {
            let counter = Arc::clone(&counter);
            Arc::new(move |event: &Event| {
                if event.kind == EventKind::Failure {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            })
        }));
        let writer = BatchWriter::open(&path, options.clone()).unwrap();
        Self { folder, path, options, writer, failures, ledger: Ledger::default() }
    }

    /// Every kind of write, and a flush.
    pub fn mix(&self) {
        self.large();
        self.execute(2, Unit::one(RETURNING, params(2, 10)));
        self.execute(3, one(3, 3_000));
        self.execute(4, many(4));
        let (sender, outcomes) = mpsc::channel();
        let outbox = Outbox::new(Channel(sender));
        for mark in [20, 21] {
            self.ledger.ask(mark);
        }
        self.group(&outbox);
        for (mark, unit) in [(30, one(30, 10)), (31, many(31))] {
            self.submit(mark, unit, &outbox);
        }
        let flushed = self.writer.flush(&Call::default());
        drop(outbox);
        self.collect(&outcomes);
        flushed.unwrap();
    }

    /// Writes that are queued while the writer closes.
    pub fn closing(&self) {
        let (sender, outcomes) = mpsc::channel();
        let outbox = Outbox::new(Channel(sender));
        let lane = self.writer.transaction(&Call::default());
        std::thread::scope(|scope| {
            let submitting = scope.spawn(|| {
                for (mark, unit) in [(40, one(40, 3_000)), (41, many(41)), (42, one(42, 10))] {
                    self.submit(mark, unit, &outbox);
                }
            });
            submitting.join().unwrap();
        });
        match lane {
            Ok(lane) => lane.roll_back(),
            Err(error) => self.ledger.errors.lock().unwrap().push(error.kind()),
        }
        let closed = self.writer.close(&Call::default());
        drop(outbox);
        self.collect(&outcomes);
        closed.unwrap();
    }

    fn collect(&self, outcomes: &mpsc::Receiver<(u64, Result<Written>)>) {
        for (token, outcome) in outcomes {
            self.ledger.tell(i64::try_from(token).unwrap(), &outcome);
        }
    }

    /// Large enough for a new page of the log's index where the template's log is long.
    pub fn large(&self) {
        self.execute(1, one(1, 20_000));
    }

    /// A transaction, and behind it callers whose writes are held together.
    fn group(&self, outbox: &Outbox) {
        let transaction = self.writer.transaction(&Call::default());
        std::thread::scope(|scope| {
            let before = self.writer.stats().submitted;
            scope.spawn(|| {
                let waiting = [
                    (10, one(10, 10)),
                    (11, poison(11)),
                    (12, many(12)),
                    (13, one(13, 3_000)),
                    (14, Unit::one(RETURNING, params(14, 10))),
                ];
                for (mark, unit) in waiting {
                    self.submit(mark, unit, outbox);
                }
            });
            scope.spawn(|| self.execute(15, one(15, 10)));
            scope.spawn(|| self.execute(16, many(16)));
            let until = Instant::now() + WATCHDOG;
            while self.writer.stats().submitted < before + 7 {
                assert!(Instant::now() < until, "a write was not accepted");
                std::thread::sleep(Duration::from_micros(50));
            }
            match transaction {
                Ok(transaction) => self.steps(&transaction),
                Err(error) => {
                    self.ledger.count(Some(error.kind()));
                    self.ledger.note(20, Some(error.kind()));
                    self.ledger.note(21, Some(error.kind()));
                }
            }
        });
    }

    /// Goes on after an error, as an application may that has caught it.
    fn steps(&self, transaction: &Transaction) {
        let steps = [(20, one(20, 10)), (21, many(21))].map(|(mark, unit)| {
            let error = transaction.execute(&unit).err().map(|error| error.kind());
            if error.is_some() {
                self.ledger.count(error);
            }
            (mark, error)
        });
        let commit = transaction.commit().err().map(|error| error.kind());
        self.ledger.count(commit);
        for (mark, error) in steps {
            self.ledger.note(mark, error.or(commit));
        }
    }

    fn execute(&self, mark: i64, unit: Unit) {
        self.ledger.ask(mark);
        self.ledger.tell(mark, &self.writer.execute(unit));
    }

    fn submit(&self, mark: i64, unit: Unit, outbox: &Outbox) {
        self.ledger.ask(mark);
        match self.writer.submit(unit, None, outbox, mark.unsigned_abs()) {
            Ok(Submitted::Queued(_)) => {}
            Ok(Submitted::Full(_)) => panic!("the queue is full"),
            Err(error) => self.ledger.tell(mark, &Err(error)),
        }
    }

    /// What is true of the file and the counters once the faults are gone. A writer that is still
    /// open works on; one that is closed leaves the file to another.
    pub fn check(mut self) {
        if self.writer.is_closed() {
            self.check_counters();
            self.writer = BatchWriter::open(&self.path, self.options.clone()).unwrap();
            self.execute(99, one(99, 10));
        } else {
            self.execute(99, one(99, 10));
            self.check_counters();
        }
        assert_eq!(self.ledger.units.lock().unwrap().last(), Some(&(99, None)), "it works on");
        self.writer.close(&Call::default()).unwrap();
        self.check_file(&self.path);
    }

    /// What is true of the file if the process is killed now.
    pub fn check_crash(&self) {
        let left = self.folder.path().join("left.db");
        copy(&self.path, &left);
        self.check_file(&left);
    }

    fn check_counters(&self) {
        let stats = self.writer.stats();
        assert_eq!(stats.committed, self.ledger.committed.load(Ordering::Relaxed), "{stats:?}");
        assert_eq!((stats.queue_rows, stats.queue_bytes, stats.cancelled), (0, 0, 0), "{stats:?}");
        let asked = self.ledger.asked.lock().unwrap();
        let steps = asked.iter().filter(|mark| [20, 21].contains(*mark)).count();
        let transactions = steps / 2 + usize::from(asked.contains(&40));
        let submitted = (asked.len() - steps + transactions) as u64;
        assert_eq!(stats.submitted, submitted, "{stats:?}");
        let errors = self.ledger.errors.lock().unwrap().len() as u64;
        assert!(stats.failed <= errors, "{errors} errors, {stats:?}");
        assert_eq!(self.failures.load(Ordering::Relaxed), errors, "the observer was told");
    }

    fn check_file(&self, path: &Path) {
        let connection = Connection::open(path).unwrap();
        let check: String =
            connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        let mut statement = connection.prepare("SELECT mark, count(*) FROM t GROUP BY 1").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let mut found: BTreeMap<i64, i64> = rows.collect::<rusqlite::Result<_>>().unwrap();
        drop(statement);
        connection.close().unwrap();
        assert_eq!(found.remove(&0), Some(1));
        let mut told = BTreeMap::new();
        for &(mark, outcome) in &*self.ledger.units.lock().unwrap() {
            assert!(told.insert(mark, outcome).is_none(), "unit {mark} was told twice");
        }
        for (mark, outcome) in &told {
            let found = found.remove(mark).unwrap_or_default();
            let all = rows_of(*mark);
            match outcome {
                None => assert_eq!(found, all, "rows of unit {mark}, which was told done"),
                Some(ErrorKind::FlushFailed) => {
                    assert_eq!(found, all, "rows of unit {mark}, which others see");
                }
                Some(ErrorKind::CommitOutcomeUnknown) => {
                    assert!(found == 0 || found == all, "{found} rows of unit {mark}, in doubt");
                }
                Some(kind) => assert_eq!(found, 0, "rows of unit {mark}, which was told {kind:?}"),
            }
        }
        assert_eq!(found, BTreeMap::new(), "rows of units that nobody was told of");
        let asked: BTreeSet<i64> = self.ledger.asked.lock().unwrap().iter().copied().collect();
        assert_eq!(told.into_keys().collect::<BTreeSet<_>>(), asked, "each has an outcome");
    }
}

/// Fails a round that does not come to its end.
pub fn watched<R: Send + 'static>(what: &str, round: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || drop(done.send(round())));
    match ended.recv_timeout(WATCHDOG) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what}: a caller is left waiting"),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            drop(thread.join());
            panic!("{what}: see above");
        }
    }
}

/// Whether the long counts are wanted (`make soak`).
pub fn soak() -> bool {
    std::env::var("TURNWISE_SOAK").is_ok_and(|value| !value.is_empty() && value != "0")
}
