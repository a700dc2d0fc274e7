//! What the end of the process waits for, and tells. It drains every writer: one test at a time.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use turnwise::sqlite::{Params, Written};
use turnwise::writer::{
    BatchWriter, Call, Completed, Outbox, Pickup, Sink, Unit, WriterOptions, drain_all,
};
use turnwise::{ErrorKind, Result};

static ALONE: Mutex<()> = Mutex::new(());

struct Channel(mpsc::Sender<Result<Written>>);

impl Sink<Written> for Channel {
    fn deliver(&self, completed: Vec<Completed<Written>>, _pickup: Pickup) {
        for done in completed {
            let _ = self.0.send(done.outcome);
        }
    }
}

fn open(folder: &tempfile::TempDir) -> BatchWriter {
    let writer = BatchWriter::open(folder.path().join("app.db"), WriterOptions::default()).unwrap();
    writer.execute(Unit::one("CREATE TABLE t(id INTEGER PRIMARY KEY)", Params::NONE)).unwrap();
    writer
}

#[test]
fn the_end_of_the_process_waits_for_writers_that_are_gone() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let writer = open(&folder);
    let (sender, receiver) = mpsc::channel();
    let outbox = Outbox::new(Channel(sender));
    for token in 0..500 {
        let insert = Unit::many("INSERT INTO t(id) VALUES (NULL)", vec![Params::NONE; 100]);
        writer.submit(insert, None, &outbox, token).unwrap();
    }
    drop(writer);
    drain_all(Duration::from_secs(30)).unwrap();
    assert_eq!(receiver.try_iter().flatten().count(), 500);
}

#[test]
fn the_end_of_the_process_names_writes_that_could_not_begin() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let writer = open(&folder);
    let (sender, receiver) = mpsc::channel();
    let outbox = Outbox::new(Channel(sender));
    let lane = writer.transaction(&Call::default()).unwrap();
    let ended = std::thread::scope(|scope| {
        let insert = Unit::one("INSERT INTO t VALUES (1)", Params::NONE);
        let submitted = || writer.submit(insert, None, &outbox, 1).map(|_| ());
        scope.spawn(submitted).join().unwrap().unwrap();
        let end = scope.spawn(|| drain_all(Duration::from_secs(30)));
        // Time for the end to begin to wait.
        std::thread::sleep(Duration::from_millis(200));
        std::fs::remove_file(writer.path()).unwrap();
        lane.roll_back();
        end.join().unwrap()
    });
    assert_eq!(receiver.recv().unwrap().unwrap_err().kind(), ErrorKind::FileReplaced);
    let error = ended.unwrap_err();
    assert!(error.to_string().contains("1 writes failed"), "{error}");
}
