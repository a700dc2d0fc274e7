//! What writes one file: the hand-off, the connection, and the thread that serves them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, Instant};

use super::files::{FileId, name_file};
use super::options::WriterOptions;
use super::stats::{Counters, Timings, WriterStats, add};
use super::turns::Turns;
use super::unit::{Done, Job};
use super::waiting::{SLICE, Waiting, nanoseconds};
use super::watch::Watch;
use crate::classify::{Conditions, Dialect, Journal, Phase, RetryKind, Verdict, classify};
use crate::error::{Error, ErrorKind, Result};
use crate::handoff::worker::{self, Begin, Executor as _};
use crate::handoff::{Handoff, Patience};
use crate::retry::Jitter;
use crate::sqlite::{Durability, Failure, Faults, FileSettings, Gate, Store};
use crate::sync::Mutex;
use crate::turn::TurnLock;

/// The connection behind its gate; `None` once it is closed.
pub(super) type SharedStore = Arc<Gate<Option<Store>>>;

pub(super) struct Engine {
    pub(super) id: FileId,
    path: PathBuf,
    options: WriterOptions,
    pub(super) handoff: Arc<Handoff<Job, Done>>,
    /// Shared with the hand-off, which asks who has the turn.
    pub(super) turns: Arc<Turns>,
    pub(super) store: SharedStore,
    pub(super) interrupt: rusqlite::InterruptHandle,
    faults: Faults,
    settings: StdMutex<Option<FileSettings>>,
    handles: AtomicUsize,
    serving: AtomicBool,
    starting: StdMutex<()>,
    pub(super) upkeep: AtomicBool,
    /// The wait for the write lock, and whether there is one.
    pacing: Mutex<Waiting>,
    waits: AtomicBool,
    /// When the lock was last asked for, in nanoseconds since `opened`.
    begun: AtomicU64,
    opened: Instant,
    pub(super) watch: Watch,
    pub(super) counters: Arc<Counters>,
    pub(super) timings: Timings,
}

impl Engine {
    pub(super) fn new(
        id: FileId,
        path: PathBuf,
        options: WriterOptions,
        store: Store,
        turn_lock: Option<TurnLock>,
    ) -> Arc<Self> {
        let turns = Arc::new(Turns::new(turn_lock, options.turn_timeout));
        let whose = Arc::clone(&turns);
        let watch = Watch::new(options.observer.as_ref(), &path);
        let counters = Arc::new(Counters::default());
        let name = path.display().to_string();
        let (counts, hears) = (Arc::clone(&counters), watch.clone());
        Arc::new(Self {
            id,
            path,
            handoff: Handoff::watched(
                options.limits(),
                name,
                move || whose.holder(),
                move |job: &Job, error| {
                    if !matches!(job, Job::Barrier) {
                        add(&counts.cancelled, 1);
                        if let Some(error) = error {
                            hears.failure(job.statement(), error);
                        }
                    }
                },
            ),
            turns,
            interrupt: store.interrupt_handle(),
            faults: store.faults(),
            store: Arc::new(Gate::new(Some(store))),
            settings: StdMutex::new(None),
            handles: AtomicUsize::new(1),
            serving: AtomicBool::new(false),
            starting: StdMutex::new(()),
            upkeep: AtomicBool::new(false),
            pacing: Mutex::new(Waiting::learning(options.policy)),
            waits: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            opened: Instant::now(),
            watch,
            counters,
            timings: Timings::default(),
            options,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the last handle is gone.
    pub(super) fn is_closing(&self) -> bool {
        self.handles.load(Ordering::Acquire) == 0
    }

    pub(super) fn options(&self) -> &WriterOptions {
        &self.options
    }

    pub(super) fn store(&self) -> SharedStore {
        Arc::clone(&self.store)
    }

    /// Counts one more handle, unless the last one is gone.
    pub(super) fn attach(&self) -> bool {
        self.handles
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |handles| {
                (handles > 0).then_some(handles + 1)
            })
            .is_ok()
    }

    /// Counts one handle less; with the last one the writer thread drains the queue and closes.
    pub(super) fn detach(self: &Arc<Self>) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.handoff.close();
            if self.serve().is_err() {
                // No thread is to be had: nothing is queued without one, so close here.
                self.close();
                self.handoff.finish_close();
            }
        }
    }

    pub(super) fn wait_closed(&self, patience: &Patience<'_>) -> Result<()> {
        if self.handoff.wait_closed(patience) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::WriteTimeout,
            format!(
                "{} was not closed in time; the writes that are still queued go on being tried \
                 until their own deadlines",
                self.path.display()
            ),
        ))
    }

    /// The settings in effect; the first caller whom nothing stops applies them.
    ///
    /// A failure is its caller's own: another may have more time, or not have been interrupted.
    pub(super) fn settings(&self, patience: &Patience<'_>) -> Result<FileSettings> {
        let mut waiting = Waiting::new(self.options.policy);
        loop {
            let failure = match self.try_settings() {
                Ok(settings) => {
                    waiting.end(&self.watch);
                    return Ok(settings);
                }
                Err(failure) => failure,
            };
            let verdict = judge(&failure, Phase::Begin, self.options.journal_mode, None);
            if verdict.retry != RetryKind::Wait || patience.is_over() {
                return Err(name_file(&failure, &self.path));
            }
            if (patience.interrupted)() {
                return Err(Error::new(
                    ErrorKind::WriteCancelled,
                    format!("{} was not opened: interrupted", self.path.display()),
                ));
            }
            add(&self.counters.lock_retries, 1);
            waiting.sleep(&self.watch, verdict, SLICE)?;
        }
    }

    fn try_settings(&self) -> std::result::Result<FileSettings, Failure> {
        // Held for one try, not while its caller waits: the others have time-outs of their own.
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*settings {
            return Ok(known.clone());
        }
        let (journal_mode, foreign_keys) = (self.options.journal_mode, self.options.foreign_keys);
        let mut known =
            self.with_store(|store| store.configure(&self.path, journal_mode, foreign_keys))?;
        known.turn_lock_missing = self.turns.probe();
        known.turn_lock = self.options.turn_lock && known.turn_lock_missing.is_none();
        if known.turn_lock_missing.is_some() {
            self.watch.missing_turn_lock();
        }
        *settings = Some(known.clone());
        Ok(known)
    }

    /// Starts the writer thread, unless it runs.
    pub(super) fn serve(self: &Arc<Self>) -> Result<()> {
        if self.serving.load(Ordering::Acquire) {
            return Ok(());
        }
        // Whoever comes second must know whether it started: a write that nobody serves waits for ever.
        let _starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.serving.load(Ordering::Acquire) {
            return Ok(());
        }
        let engine = Arc::clone(self);
        let thread = std::thread::Builder::new().name("turnwise-writer".into());
        let started = thread.spawn(move || worker::work(&engine.handoff, &*engine));
        if let Err(error) = started {
            return Err(Error::new(
                ErrorKind::OutOfMemory,
                format!("the writer thread could not be started: {error}"),
            ));
        }
        self.serving.store(true, Ordering::Release);
        Ok(())
    }

    /// Runs `f` on the connection, while no fork happens.
    pub(super) fn with_store<R>(
        &self,
        f: impl FnOnce(&mut Store) -> std::result::Result<R, Failure>,
    ) -> std::result::Result<R, Failure> {
        match &mut *self.store.enter() {
            Some(store) => f(store),
            None => Err(Failure::new(ErrorKind::WriterClosed, "the writer is closed")),
        }
    }

    /// Takes the turn and the write lock, without waiting. `queues`: stands in line for the turn.
    pub(super) fn try_begin(&self, durability: Durability, first: bool, queues: bool) -> Begin {
        let handoff = Arc::clone(&self.handoff);
        if let Err(after) = self.turns.take(queues.then_some(move || handoff.turn_came())) {
            return Begin::Queued(after);
        }
        let begun = self.begin_in_turn(durability, first);
        if matches!(begun, Begin::Failed(_)) {
            self.turns.end();
        }
        begun
    }

    fn begin_in_turn(&self, durability: Durability, first: bool) -> Begin {
        // In WAL mode SQLite goes on writing a file that has lost its name, where nobody finds it.
        if self.id.has_left(&self.path) {
            return Begin::Failed(Error::new(
                ErrorKind::FileReplaced,
                format!(
                    "{} was deleted or replaced while it was open; the write is in neither file: \
                     close this writer and open another, once no -wal of the old file is left that \
                     SQLite would apply to the new one",
                    self.path.display()
                ),
            ));
        }
        let begun = self.age();
        match self.with_store(|store| store.begin(durability)) {
            Ok(()) => {
                self.begun.store(begun, Ordering::Relaxed);
                if self.waits.load(Ordering::Relaxed) {
                    self.waits.store(false, Ordering::Relaxed);
                    self.pacing.lock().end(&self.watch);
                }
                Begin::Ready
            }
            Err(failure) => {
                let verdict = judge(&failure, Phase::Begin, self.options.journal_mode, None);
                if verdict.retry != RetryKind::Wait {
                    return Begin::Failed(name_file(&failure, &self.path));
                }
                add(&self.counters.lock_retries, 1);
                if !self.waits.load(Ordering::Relaxed) {
                    self.turns.note_outsider();
                }
                let mut pacing = self.pacing.lock();
                if first {
                    pacing.restart();
                }
                match pacing.again(&self.watch, verdict) {
                    Ok(delay) => {
                        self.waits.store(true, Ordering::Relaxed);
                        Begin::Locked(delay)
                    }
                    Err(error) => Begin::Failed(error),
                }
            }
        }
    }

    /// The open transaction has ended in COMMIT.
    pub(super) fn committed(&self) {
        add(&self.counters.transactions, 1);
        let held = self.age().saturating_sub(self.begun.load(Ordering::Relaxed));
        self.timings.lock.add(Duration::from_nanos(held));
        if self.options.policy.jitter() == Jitter::Adaptive {
            self.pacing.lock().held(held);
        }
    }

    /// Nanoseconds since the file was opened.
    fn age(&self) -> u64 {
        nanoseconds(self.opened.elapsed())
    }

    /// Notes after a commit whether a checkpoint is due, and tells.
    pub(super) fn note_upkeep(&self, store: &Store) -> bool {
        let due = store.checkpoint_due();
        self.upkeep.store(due, Ordering::Relaxed);
        due
    }

    pub(super) fn stats(&self) -> WriterStats {
        let state = self.handoff.lock();
        let (rows, bytes) = state.load();
        drop(state);
        let turns = self.turns.stats();
        WriterStats {
            turn_waits: turns.waits,
            turn_hand_offs: turns.hand_offs,
            turn_fall_throughs: turns.fall_throughs,
            outsiders: turns.outsiders,
            queue_rows: rows as u64,
            queue_bytes: bytes as u64,
            write_time: self.timings.write.read(),
            lock_time: self.timings.lock.read(),
            ..self.counters.read()
        }
    }

    pub(super) fn faults(&self) -> &Faults {
        &self.faults
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("path", &self.path).finish_non_exhaustive()
    }
}

pub(super) fn judge(
    failure: &Failure,
    phase: Phase,
    journal: Journal,
    in_transaction: Option<bool>,
) -> Verdict {
    let conditions = Conditions { journal: Some(journal), ..Conditions::default() };
    classify(Dialect::Sqlite, failure.code.unwrap_or_default(), phase, conditions, in_transaction)
}
