//! What an observer hears, what the histograms count, and how writers wait in a rehearsal.
#![cfg(all(feature = "private-copy", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use turnwise::ErrorKind;
use turnwise::classify::ErrorClass;
use turnwise::event::{Event, EventKind, Observer, fingerprint};
use turnwise::retry::StopReason;
use turnwise::sqlite::{Fault, FaultEffect, FaultPoint, Params};
use turnwise::writer::{
    BatchWriter, Call, Histogram, MakeObserver, Rehearsal, Unit, WriterOptions, rehearse,
};

const INSERT: &str = "INSERT INTO t VALUES (1)";
const BUSY: i32 = 5;
const IOERR: i32 = 10;

#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<Event>>>);

impl Heard {
    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

struct Database {
    _folder: tempfile::TempDir,
    writer: BatchWriter,
    heard: Heard,
}

fn database() -> Database {
    let heard = Heard::default();
    let notes = heard.clone();
    let make = MakeObserver::new(move |_| {
        let notes = notes.clone();
        let observer = move |event: &Event| notes.0.lock().unwrap().push(*event);
        Arc::new(observer) as Arc<dyn Observer>
    });
    let mut options = WriterOptions::default();
    options.observer = Some(make);
    let folder = tempfile::tempdir().unwrap();
    let writer = BatchWriter::open(folder.path().join("app.db"), options).unwrap();
    writer.execute(sql("CREATE TABLE t(id INTEGER PRIMARY KEY)")).unwrap();
    assert_eq!(heard.take(), [], "nothing has failed yet");
    Database { _folder: folder, writer, heard }
}

fn sql(text: &str) -> Unit {
    Unit::one(text, Params::NONE)
}

fn fault(point: FaultPoint, code: i32, times: u32) -> Fault {
    Fault { point, code, effect: FaultEffect::Refused, after: 0, times }
}

#[test]
fn a_wait_for_the_lock_is_told_from_the_first_try_to_the_recovery() {
    let Database { writer, heard, .. } = &database();
    writer.arm(fault(FaultPoint::Begin, BUSY, 3)).unwrap();
    writer.execute(sql(INSERT)).unwrap();
    let events = heard.take();
    let told: Vec<_> = events.iter().map(|event| (event.kind, event.attempt)).collect();
    assert_eq!(
        told,
        [
            (EventKind::Retry, 1),
            (EventKind::Retry, 2),
            (EventKind::Retry, 3),
            (EventKind::Recovery, 4)
        ]
    );
    assert!(events.iter().all(|event| event.code == BUSY));
    assert!(events.iter().all(|event| event.class == ErrorClass::Contention));
    assert!(events.iter().all(|event| event.deadline_left_ns > 20_000_000_000));
    assert_eq!(writer.stats().lock_retries, 3);
}

#[test]
fn a_commit_that_waits_is_told_too() {
    let Database { writer, heard, .. } = &database();
    writer.arm(fault(FaultPoint::Commit, BUSY, 2)).unwrap();
    writer.execute(sql(INSERT)).unwrap();
    let kinds: Vec<_> = heard.take().iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Retry, EventKind::Retry, EventKind::Recovery]);
}

#[test]
fn each_failure_is_told_once_with_its_statement() {
    let Database { writer, heard, .. } = &database();
    writer.execute(sql(INSERT)).unwrap();
    let error = writer.execute(sql(INSERT)).unwrap_err();
    let [event] = heard.take()[..] else { panic!("one failure, one event") };
    assert_eq!(event.kind, EventKind::Failure);
    assert_eq!(event.error, Some(ErrorKind::Constraint));
    assert_eq!((event.class, Some(event.code)), (ErrorClass::Constraint, error.code()));
    assert_eq!(event.statement, fingerprint(INSERT));
    assert_eq!(event.stop, Some(StopReason::NotRetryable));

    let transaction = writer.transaction(&Call::default()).unwrap();
    transaction.execute(&sql(INSERT)).unwrap_err();
    transaction.roll_back();
    let [event] = heard.take()[..] else { panic!("one failure, one event") };
    assert_eq!(event.error, Some(ErrorKind::Constraint));
}

#[test]
fn a_commit_in_doubt_is_told_as_such() {
    let Database { writer, heard, .. } = &database();
    writer.arm(fault(FaultPoint::Commit, IOERR, 1)).unwrap();
    writer.execute(sql(INSERT)).unwrap_err();
    let [event] = heard.take()[..] else { panic!("one failure, one event") };
    assert_eq!(event.error, Some(ErrorKind::CommitOutcomeUnknown));
    assert_eq!(event.stop, Some(StopReason::OutcomeUnknown));
}

#[test]
fn a_write_that_never_began_is_told_with_its_statement() {
    let Database { writer, heard, .. } = &database();
    let transaction = writer.transaction(&Call::default()).unwrap();
    let error = std::thread::scope(|scope| {
        let late = || {
            let call = Call { timeout: Some(Duration::from_millis(20)), ..Call::default() };
            writer.execute_with(sql(INSERT), &call).outcome.unwrap_err()
        };
        scope.spawn(late).join().unwrap()
    });
    assert_eq!(error.kind(), ErrorKind::WriteTimeout);
    transaction.roll_back();
    let [event] = heard.take()[..] else { panic!("one failure, one event") };
    assert_eq!(event.error, Some(ErrorKind::WriteTimeout));
    assert_eq!((event.class, event.stop), (ErrorClass::Timeout, Some(StopReason::Deadline)));
    assert_eq!(event.statement, fingerprint(INSERT));
}

#[test]
fn a_refused_write_is_told() {
    let Database { writer, heard, .. } = &database();
    writer.close(&Call::default()).unwrap();
    writer.execute(sql(INSERT)).unwrap_err();
    let [event] = heard.take()[..] else { panic!("one failure, one event") };
    assert_eq!(event.error, Some(ErrorKind::WriterClosed));
}

#[test]
fn an_observer_that_panics_costs_nobody_a_write() {
    let mut options = WriterOptions::default();
    options.observer = Some(MakeObserver::new(|_| {
        Arc::new(|_: &Event| std::panic::resume_unwind(Box::new("an observer that panics")))
    }));
    let folder = tempfile::tempdir().unwrap();
    let writer = BatchWriter::open(folder.path().join("app.db"), options).unwrap();
    writer.execute(sql("CREATE TABLE t(id INTEGER PRIMARY KEY)")).unwrap();
    writer.arm(fault(FaultPoint::Begin, BUSY, 3)).unwrap();
    writer.execute(sql(INSERT)).unwrap();
    assert_eq!(writer.execute(sql(INSERT)).unwrap_err().kind(), ErrorKind::Constraint);
}

#[test]
fn the_histograms_count_every_write_and_every_transaction() {
    let Database { writer, .. } = &database();
    let before = writer.stats();
    for id in 0..20 {
        writer.execute(sql(&format!("INSERT INTO t VALUES ({id})"))).unwrap();
    }
    writer.execute(sql("INSERT INTO t VALUES (7)")).unwrap_err();
    let after = writer.stats();
    let count = |histogram: &Histogram| histogram.counts.iter().sum::<u64>();
    assert_eq!(count(&after.write_time) - count(&before.write_time), 21);
    assert_eq!(count(&after.lock_time) - count(&before.lock_time), 20);
    assert!(
        after.write_time.sum > before.write_time.sum && after.lock_time.sum > before.lock_time.sum
    );
}

#[test]
fn a_wait_is_counted_where_it_was() {
    let Database { writer, .. } = &database();
    let held = Duration::from_millis(60);
    let before = writer.stats();
    let transaction = writer.transaction(&Call::default()).unwrap();
    let took = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let start = Instant::now();
            writer.execute(sql(INSERT)).unwrap();
            start.elapsed()
        });
        std::thread::sleep(held);
        transaction.commit().unwrap();
        waiting.join().unwrap()
    });
    let after = writer.stats();
    let long = |histogram: &Histogram| -> u64 {
        let bounds = Histogram::bounds().map(Some).chain([None]);
        let long = |bound: &Option<Duration>| bound.is_none_or(|bound| bound >= held / 2);
        let counts = histogram.counts.iter().zip(bounds);
        counts.filter(|(_, bound)| long(bound)).map(|(count, _)| count).sum()
    };
    assert!(took >= held / 2, "it did wait");
    assert!(long(&after.write_time) > long(&before.write_time), "the write waited for so long");
    assert!(
        long(&after.lock_time) > long(&before.lock_time),
        "the transaction held the lock for so long"
    );
}

#[test]
fn a_rehearsal_asks_so_often_and_never_sleeps() {
    let Database { writer, heard, .. } = &database();
    // More tries than the other tests need, which run beside this one.
    let before = rehearse(Some(Rehearsal { max_attempts: 9, seed: 7 }));
    writer.arm(fault(FaultPoint::Begin, BUSY, u32::MAX)).unwrap();
    let start = Instant::now();
    let error = writer.execute(sql(INSERT)).unwrap_err();
    let took = start.elapsed();
    rehearse(before);
    assert_eq!(writer.disarm(), 1);
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::LockTimeout, 9));
    assert!(took < Duration::from_secs(10), "the policy would have waited for 30 s");
    let events = heard.take();
    assert_eq!(events.last().unwrap().error, Some(ErrorKind::LockTimeout));
    assert_eq!(events.len(), 9, "eight retries and the failure: {events:?}");
    assert!(events.iter().all(|event| event.delay_ns == 0));
    writer.execute(sql(INSERT)).unwrap();
}
