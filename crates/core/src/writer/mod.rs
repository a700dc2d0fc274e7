//! The batch writer: many small writes share one turn at the lock.
//!
//! ```
//! use turnwise::sqlite::{Params, Value};
//! use turnwise::writer::{BatchWriter, Unit, WriterOptions};
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("app.db");
//! let writer = BatchWriter::open(&path, WriterOptions::default())?;
//! writer.execute(Unit::one("CREATE TABLE topics(id INTEGER PRIMARY KEY, title TEXT)", Params::NONE))?;
//! let values = Params::Positional(vec![Value::Text("Lock contention".into())]);
//! let written = writer.execute(Unit::one("INSERT INTO topics(title) VALUES (?)", values))?;
//! assert_eq!(written.lastrowid, Some(1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bound;
mod call;
mod commit;
mod drain;
mod engine;
mod executor;
mod files;
mod group;
mod histogram;
mod inline;
mod options;
mod rehearsal;
mod stats;
mod transaction;
mod turns;
mod unit;
mod waiting;
mod watch;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bound::Bound;
use engine::Engine;
use stats::add;
use unit::{Done, Job};

use crate::error::{Error, ErrorKind, Result};
use crate::handoff::{Admission, Patience, Request, Withdrawn};
use crate::sqlite::{Fault, FileSettings, Written};
use crate::turn::{Asker, Site};

pub use crate::handoff::{Completed, Pickup, Sink};
pub use call::{Call, Landing, Place, Submitted};
pub use drain::drain_all;
pub use histogram::Histogram;
pub use options::WriterOptions;
pub use rehearsal::{Rehearsal, rehearse};
pub use stats::WriterStats;
pub use transaction::Transaction;
pub use unit::{Outbox, Unit};
pub use watch::MakeObserver;

/// Writes one SQLite file for many callers, each of which gets its own result or its own error.
///
/// Writers on one file in one process share a connection. After a fork, the child's first call
/// opens a connection of its own.
#[derive(Debug)]
pub struct BatchWriter {
    options: WriterOptions,
    first: Bound,
    closed: AtomicBool,
}

impl BatchWriter {
    /// Opens the file, which is created unless it exists.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidSetting`], [`ErrorKind::SettingsConflict`], or what is wrong with the
    /// file.
    pub fn open(path: impl AsRef<Path>, options: WriterOptions) -> Result<Self> {
        Self::open_with(path, options, &Call::default())
    }

    /// Opens the file, and waits as `call` says while others keep it locked.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with(
        path: impl AsRef<Path>,
        options: WriterOptions,
        call: &Call<'_>,
    ) -> Result<Self> {
        options.check()?;
        let first = Bound::open(path.as_ref(), &options, call)?;
        Ok(Self { options, first, closed: AtomicBool::new(false) })
    }

    /// Runs a unit of work and returns once it is committed.
    ///
    /// # Errors
    ///
    /// The unit's own error; nothing of the unit is then in the file, unless the error is
    /// [`ErrorKind::CommitOutcomeUnknown`].
    pub fn execute(&self, unit: Unit) -> Result<Written> {
        self.execute_with(unit, &Call::default()).outcome
    }

    /// Runs a unit of work, and waits as `call` says.
    pub fn execute_with(&self, unit: Unit, call: &Call<'_>) -> Landing<Written> {
        let request = Job::Write(unit).request(self.options.durability);
        let landing = self.run(request, call);
        Landing {
            outcome: landing.outcome.map(Done::into_written),
            pickup: landing.pickup,
            interrupted: landing.interrupted,
        }
    }

    /// Leaves a unit of work in the queue; its outcome goes to `outbox` with `token`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::WriterClosed`], [`ErrorKind::WriterReentered`] or [`ErrorKind::UnitTooLarge`].
    pub fn submit(
        &self,
        unit: Unit,
        timeout: Option<Duration>,
        outbox: &Outbox,
        token: u64,
    ) -> Result<Submitted> {
        let statement = Arc::clone(&unit.sql);
        self.try_submit(unit, timeout, outbox, token)
            .inspect_err(|error| self.refused(Some(&statement), error))
    }

    fn try_submit(
        &self,
        unit: Unit,
        timeout: Option<Duration>,
        outbox: &Outbox,
        token: u64,
    ) -> Result<Submitted> {
        let engine = self.engine(&Call::default())?;
        // Before the queue: a write that nobody serves must not be accepted.
        engine.serve()?;
        let request = Job::Write(unit).request(self.options.durability);
        match engine.handoff.offer(request, self.deadline(timeout), outbox.reply(token))? {
            Ok(seq) => {
                add(&engine.counters.submitted, 1);
                Ok(Submitted::Queued(Place::new(Arc::clone(engine), seq)))
            }
            Err(Request { job: Job::Write(unit), .. }) => Ok(Submitted::Full(unit)),
            Err(_) => Err(Error::new(ErrorKind::Internal, "another job came back than was given")),
        }
    }

    /// Blocks until the queue has room for `unit`. Nothing is reserved.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::QueueFull`] at the deadline.
    pub fn await_room(&self, unit: &Unit, call: &Call<'_>) -> Result<()> {
        let engine = self.engine(call)?;
        let room = engine.handoff.await_room(unit.extent(), &self.patience(call));
        room.inspect_err(|error| self.refused(Some(&unit.sql), error))
    }

    /// Calls `then` once the queue has room for `unit`, or the writer closes. Nothing is reserved.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::WriterClosed`].
    pub fn when_room(&self, unit: &Unit, then: impl FnOnce() + Send + 'static) -> Result<()> {
        self.engine(&Call::default())?.handoff.when_room(unit.extent(), Box::new(then));
        Ok(())
    }

    /// Begins an interactive transaction, which owns the connection up to the hold limit.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::WriterReentered`] in a thread that has one open already, and the errors of
    /// waiting.
    pub fn transaction(&self, call: &Call<'_>) -> Result<Transaction> {
        let asker = Asker::new(Site::Text(call.site.into()), call.task);
        let owner = crate::sync::current().id();
        let mut request = Job::Turn.request(self.options.durability);
        request.turn = Some((owner, self.options.hold_limit));
        // Before the wait: a turn that was granted must not be left behind for a closed writer.
        let engine = self.engine(call)?;
        let landing = self.run(request, call);
        match landing.outcome? {
            Done::Turn(id) => {
                engine.turns.claim(asker);
                let transaction = Transaction::new(Arc::clone(engine), id);
                if landing.interrupted {
                    transaction.roll_back();
                    return Err(Error::new(
                        ErrorKind::WriteCancelled,
                        "interrupted before the transaction's first statement",
                    ));
                }
                Ok(transaction)
            }
            Done::Written(_) => {
                Err(Error::new(ErrorKind::Internal, "a turn was asked for and not given"))
            }
        }
    }

    /// Fails for a coroutine of this thread that would wait for itself if it awaited a write.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TurnReentered`] when it has the turn.
    pub fn check_task(&self, task: u64) -> Result<()> {
        let asker = Asker::new(Site::Ours("a batch writer of this task"), Some(task));
        self.engine(&Call::default())?.turns.check_reentry(asker, true)
    }

    /// Returns once everything that was accepted before is committed or has failed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::WriteTimeout`] at the deadline; the writes go on all the same.
    /// [`ErrorKind::TurnReentered`] in a thread that has the turn they wait for.
    pub fn flush(&self, call: &Call<'_>) -> Result<()> {
        let engine = self.engine(call)?;
        engine.check_drain()?;
        drain::drain(engine, &self.patience(call))
    }

    /// Drains what was accepted, and closes the connection with the last writer on the file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::WriterReentered`] inside a transaction of this thread;
    /// [`ErrorKind::WriteTimeout`] at the deadline: what is queued goes on being tried.
    /// [`ErrorKind::TurnReentered`] in a thread that has the turn which queued writes wait for.
    pub fn close(&self, call: &Call<'_>) -> Result<()> {
        let Some(bound) = self.bound() else {
            self.closed.store(true, Ordering::Release);
            return Ok(());
        };
        bound.handoff.check_reentry()?;
        bound.check_drain()?;
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let patience = self.patience(call);
        let drained = match drain::drain(bound, &patience) {
            // Its thread has failed: nothing is left to drain.
            Err(error) if error.kind() == ErrorKind::WriterClosed => Ok(()),
            drained => drained,
        };
        bound.detach();
        drained?;
        if bound.is_closing() { bound.wait_closed(&patience) } else { Ok(()) }
    }

    /// Whether [`close`](Self::close) was called.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Whether the next call finds a connection. After a fork a child's first call opens one, and
    /// may wait for the disk or for others.
    pub fn is_connected(&self) -> bool {
        self.bound().is_some()
    }

    /// The settings in effect on the file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::WriterClosed`].
    pub fn settings(&self) -> Result<FileSettings> {
        let call = Call::default();
        self.engine(&call)?.settings(&self.patience(&call))
    }

    /// The writer's own settings.
    pub fn options(&self) -> &WriterOptions {
        &self.options
    }

    /// The file, by its resolved path.
    pub fn path(&self) -> &Path {
        self.first.path()
    }

    /// What the file's writer has done since it was opened in this process. Zeroes in a child that
    /// has not written yet.
    pub fn stats(&self) -> WriterStats {
        self.bound().map(|engine| engine.stats()).unwrap_or_default()
    }

    /// Has `fault` strike the file's connection, in a test of what an application does then. All
    /// writers on the file meet it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::WriterClosed`].
    pub fn arm(&self, fault: Fault) -> Result<()> {
        self.engine(&Call::default())?.faults().arm(fault);
        Ok(())
    }

    /// Calls off the faults that have not struck as often as they should; gives their number.
    pub fn disarm(&self) -> usize {
        self.bound().map_or(0, |engine| engine.faults().disarm())
    }

    /// A write has failed before it was accepted.
    fn refused(&self, statement: Option<&str>, error: &Error) {
        if let Some(engine) = self.bound() {
            engine.watch.failure(statement, error);
        }
    }

    fn run(&self, request: Request<Job>, call: &Call<'_>) -> Landing<Done> {
        let statement = match &request.job {
            Job::Write(unit) => Some(Arc::clone(&unit.sql)),
            Job::Turn | Job::Barrier => None,
        };
        match self.try_run(request, call) {
            Ok(landing) => landing,
            Err(error) => {
                self.refused(statement.as_deref(), &error);
                Landing::refused(error)
            }
        }
    }

    fn try_run(&self, request: Request<Job>, call: &Call<'_>) -> Result<Landing<Done>> {
        let engine = self.engine(call)?;
        engine.turns.check_reentry(Site::Ours("a batch writer of this thread"), false)?;
        let patience = self.patience(call);
        let admission = engine.handoff.enter(request, call.inline, &patience)?;
        add(&engine.counters.submitted, 1);
        let (ticket, seq) = match admission {
            Admission::Queued(ticket, seq) => (ticket, seq),
            Admission::Inline(request) => {
                match inline::run(engine, &self.options, request, &patience) {
                    Ok(landing) => return Ok(landing),
                    Err(place) => place,
                }
            }
        };
        if let Err(error) = engine.serve()
            && engine.handoff.withdraw(seq) != Withdrawn::Begun
        {
            return Err(error);
        }
        let (outcome, pickup, interrupted) = engine.handoff.wait(&ticket, seq, &patience);
        Ok(Landing { outcome, pickup, interrupted })
    }

    fn engine(&self, call: &Call<'_>) -> Result<&Arc<Engine>> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(
                ErrorKind::WriterClosed,
                "the writer is closed: open a new BatchWriter",
            ));
        }
        self.first.engine_or_open(&self.options, call)
    }

    /// This process's engine, if it has one yet.
    fn bound(&self) -> Option<&Arc<Engine>> {
        self.first.engine()
    }

    fn deadline(&self, timeout: Option<Duration>) -> Option<Instant> {
        Instant::now().checked_add(timeout.unwrap_or(self.options.policy.deadline()))
    }

    fn patience<'a>(&self, call: &Call<'a>) -> Patience<'a> {
        Patience {
            deadline: self.deadline(call.timeout),
            slice: call.slice,
            interrupted: call.interrupted,
        }
    }
}

impl Drop for BatchWriter {
    fn drop(&mut self) {
        // What was accepted is still written: the writer thread drains before it closes.
        if !self.closed.swap(true, Ordering::AcqRel)
            && let Some(engine) = self.bound()
        {
            engine.detach();
        }
    }
}
