//! The same saves through the batch writer.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use turnwise::sqlite::{Durability, Params, Value, Written};
use turnwise::writer::{
    BatchWriter, Call, Completed, Outbox, Pickup, Sink, Submitted, Unit, WriterOptions,
};

use crate::Outcome;
use crate::topics::{SAVE, row};

pub(crate) fn open(path: &Path, durability: Durability) -> Outcome<BatchWriter> {
    let mut options = WriterOptions::default();
    options.durability = durability;
    open_with(path, options)
}

/// A writer that does not queue with other processes.
pub(crate) fn open_without_turns(path: &Path, durability: Durability) -> Outcome<BatchWriter> {
    let mut options = WriterOptions::default();
    options.durability = durability;
    options.turn_lock = false;
    open_with(path, options)
}

fn open_with(path: &Path, options: WriterOptions) -> Outcome<BatchWriter> {
    let writer = BatchWriter::open(path, options)?;
    // The first look at the settings applies them.
    writer.settings()?;
    Ok(writer)
}

/// Makes units of one statement, whose text is shared.
pub(crate) struct Save(Arc<str>);

impl Save {
    pub(crate) fn new() -> Self {
        Self(SAVE.into())
    }

    pub(crate) fn unit(&self, number: u64) -> Unit {
        let (id, title) = row(number);
        let values = vec![Value::Integer(id), Value::Text(title)];
        Unit::one(Arc::clone(&self.0), Params::Positional(values))
    }

    pub(crate) fn execute(&self, writer: &BatchWriter, number: u64) -> Outcome<()> {
        writer.execute(self.unit(number))?;
        Ok(())
    }
}

/// Counts outcomes until all have come.
pub(crate) struct Arrivals {
    landed: AtomicU64,
    failed: AtomicU64,
    wanted: u64,
    all_here: Mutex<bool>,
    told: Condvar,
}

/// Where the outcomes of submitted saves go.
struct Post(Arc<Arrivals>);

impl Sink<Written> for Post {
    fn deliver(&self, completed: Vec<Completed<Written>>, pickup: Pickup) {
        let landed = completed.iter().filter(|done| done.outcome.is_ok()).count() as u64;
        let failed = completed.len() as u64 - landed;
        let arrivals = &self.0;
        let before = arrivals.failed.fetch_add(failed, Ordering::AcqRel)
            + arrivals.landed.fetch_add(landed, Ordering::AcqRel);
        if before + landed + failed >= arrivals.wanted {
            *arrivals.all_here.lock().unwrap_or_else(PoisonError::into_inner) = true;
            arrivals.told.notify_all();
        }
        drop(pickup);
    }
}

/// Submits saves `0..saves` without waiting for any, then waits for all.
pub(crate) fn pipeline(writer: &BatchWriter, saves: u64) -> Outcome<()> {
    let arrivals = Arc::new(Arrivals {
        landed: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        wanted: saves,
        all_here: Mutex::new(false),
        told: Condvar::new(),
    });
    let outbox = Outbox::new(Post(Arc::clone(&arrivals)));
    let save = Save::new();
    for number in 0..saves {
        let mut unit = save.unit(number);
        while let Submitted::Full(back) = writer.submit(unit, None, &outbox, number)? {
            writer.await_room(&back, &Call::default())?;
            unit = back;
        }
    }
    let mut all_here = arrivals.all_here.lock().unwrap_or_else(PoisonError::into_inner);
    while !*all_here {
        all_here = arrivals.told.wait(all_here).unwrap_or_else(PoisonError::into_inner);
    }
    match arrivals.failed.load(Ordering::Acquire) {
        0 => Ok(()),
        failed => Err(format!("{failed} of {saves} submitted saves failed").into()),
    }
}
