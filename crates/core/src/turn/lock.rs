//! The turn lock of one database, for whoever writes it.

use std::fmt;
use std::ops::Deref;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::claim::{Asker, Claim, Grant, Site, TurnStats};
use super::queue::TurnQueue;
use super::registry::{self, Shared};
use super::side::SideFiles;
use crate::error::{Error, ErrorKind, Result};
use crate::handoff::Patience;
use crate::sqlite::fork::Owned;

/// How a turn is waited for.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct TurnOptions<'a> {
    /// When to give up; `None` waits without end.
    pub timeout: Option<Duration>,
    /// How long the turn may stand still before the wait ends without one; `None` never.
    pub turn_timeout: Option<Duration>,
    /// How often `interrupted` is asked while the call waits; `None` never asks.
    pub slice: Option<Duration>,
    /// Whether the caller is wanted elsewhere (Ctrl-C).
    pub interrupted: &'a dyn Fn() -> bool,
}

/// How long the turn may stand still by default: a hung holder then costs its neighbours fairness,
/// not their writes.
pub const TURN_TIMEOUT: Duration = Duration::from_secs(2);

impl Default for TurnOptions<'_> {
    fn default() -> Self {
        Self {
            timeout: Some(Duration::from_secs(30)),
            turn_timeout: Some(TURN_TIMEOUT),
            slice: None,
            interrupted: &|| false,
        }
    }
}

impl fmt::Debug for TurnOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TurnOptions")
            .field("timeout", &self.timeout)
            .field("turn_timeout", &self.turn_timeout)
            .finish_non_exhaustive()
    }
}

/// Links that are followed to a database that is not there yet; Linux follows as many.
const LINKS: usize = 40;

/// The turn lock of one database.
///
/// ```
/// use turnwise::turn::{TurnLock, TurnOptions};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("app.db");
/// # std::fs::write(&path, "")?;
/// let lock = TurnLock::open(&path)?;
/// let turn = lock.acquire(&TurnOptions::default())?;
/// // BEGIN IMMEDIATE … COMMIT
/// drop(turn);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct TurnLock {
    shared: Owned<Arc<Shared>>,
    database: PathBuf,
    next: OnceLock<Box<TurnLock>>,
}

impl TurnLock {
    /// The turn lock of the database at `path`, whose links are resolved. All turn locks of a
    /// process on one path share a queue. Its side files are made with the first turn.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::CannotOpen`] when the path leads nowhere.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let database = std::fs::canonicalize(path).map_err(|error| {
            Error::new(ErrorKind::CannotOpen, format!("{}: {error}", path.display()))
        })?;
        Self::of_resolved(database)
    }

    /// As [`open`](Self::open), for a database that may not be there yet.
    pub(crate) fn of_database(path: &Path) -> Result<Self> {
        let mut database = path.to_owned();
        for _ in 0..LINKS {
            match std::fs::canonicalize(&database) {
                Ok(resolved) => return Self::of_resolved(resolved),
                // SQLite makes the file that the link leads to, where others will look for it.
                Err(_) => match std::fs::read_link(&database) {
                    Ok(target) => database = registry::beside(&database, &target),
                    Err(_) => break,
                },
            }
        }
        Self::of_resolved(registry::resolved_folder(database))
    }

    fn of_resolved(database: PathBuf) -> Result<Self> {
        let shared = Owned::new(registry::open(&database)?);
        Ok(Self { shared, database, next: OnceLock::new() })
    }

    /// This process's queue: a child of fork has its own.
    fn queue(&self) -> Result<Queue<'_>> {
        let mut lock = self;
        loop {
            if let Some(shared) = lock.shared.get() {
                return Ok(Queue { owned: &lock.shared, shared });
            }
            if lock.next.get().is_none() {
                let next = Box::new(Self::of_resolved(self.database.clone())?);
                // Not while another thread forks: its child would find the cell half set for ever.
                let _ = registry::steadily(|| lock.next.set(next));
            }
            lock = match lock.next.get() {
                Some(next) => next,
                None => {
                    return Err(Error::new(ErrorKind::Internal, "the turn lock lost its queue"));
                }
            };
        }
    }

    /// The database, by its resolved path.
    pub fn database(&self) -> &Path {
        &self.database
    }

    /// Waits for the turn, for this thread.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::LockTimeout`] names who has the turn; [`ErrorKind::TurnReentered`] when this
    /// thread has it; [`ErrorKind::WriteCancelled`] when interrupted.
    #[track_caller]
    pub fn acquire(&self, options: &TurnOptions<'_>) -> Result<Turn> {
        self.acquire_at(Site::Code(Location::caller()), options)
    }

    /// As [`acquire`](Self::acquire), for a call site in another language.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire).
    pub fn acquire_at(&self, asker: impl Into<Asker>, options: &TurnOptions<'_>) -> Result<Turn> {
        let queue = self.queue()?;
        let patience = Patience {
            deadline: options.timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
            slice: options.slice,
            interrupted: options.interrupted,
        };
        let claim = Claim::of_this_thread(asker);
        let grant = queue.acquire(&claim, &patience, options.turn_timeout)?;
        Ok(queue.turn(grant))
    }

    /// The turn, if nobody has it or waits for it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TurnReentered`].
    #[track_caller]
    pub fn try_acquire(&self) -> Result<Option<Turn>> {
        let claim = Claim::of_this_thread(Site::Code(Location::caller()));
        self.try_acquire_as(&claim)
    }

    /// As [`try_acquire`](Self::try_acquire), for a call site in another language.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TurnReentered`].
    pub fn try_acquire_at(&self, asker: impl Into<Asker>) -> Result<Option<Turn>> {
        self.try_acquire_as(&Claim::of_this_thread(asker))
    }

    /// As [`try_acquire`](Self::try_acquire), for a turn in which no application code runs.
    pub(crate) fn try_acquire_for_nobody(&self, site: Site) -> Result<Option<Turn>> {
        self.try_acquire_as(&Claim::of_nobody(site))
    }

    fn try_acquire_as(&self, claim: &Claim) -> Result<Option<Turn>> {
        let queue = self.queue()?;
        Ok(queue.try_acquire(claim)?.map(|grant| queue.turn(grant)))
    }

    /// Lines up without blocking, for a coroutine of this thread: `then` gets the turn, at once or
    /// later, on any thread, and must not block it. While the coroutine has the turn, its thread
    /// fails to [`acquire`](Self::acquire) another, which the coroutine could never give back.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TurnReentered`] when this coroutine has it, and what [`open`](Self::open) meets
    /// in a child of fork.
    pub fn request(
        &self,
        asker: impl Into<Asker>,
        then: impl FnOnce(Turn) + Send + 'static,
    ) -> Result<Pending> {
        self.request_as(&Claim::of_this_thread(asker), false, then)
    }

    /// As [`request`](Self::request), for a coroutine that calls [`Turn::take_up`] when it runs. Until
    /// then its thread can [`acquire`](Self::acquire) that turn; then it asks again, as the `first`.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request).
    pub fn request_offer(
        &self,
        asker: impl Into<Asker>,
        first: bool,
        then: impl FnOnce(Turn) + Send + 'static,
    ) -> Result<Pending> {
        self.request_as(&Claim::of_an_offer(asker), first, then)
    }

    /// As [`request`](Self::request), for a turn in which no application code runs.
    pub(crate) fn request_for_nobody(
        &self,
        site: Site,
        then: impl FnOnce(Turn) + Send + 'static,
    ) -> Result<Pending> {
        self.request_as(&Claim::of_nobody(site), false, then)
    }

    fn request_as(
        &self,
        claim: &Claim,
        first: bool,
        then: impl FnOnce(Turn) + Send + 'static,
    ) -> Result<Pending> {
        let queue = self.queue()?;
        let owned = queue.owned();
        let then = Box::new(move |grant| then(Turn { shared: owned, grant }));
        let id = queue.request(claim, then, first)?;
        Ok(Pending { shared: queue.owned(), id })
    }

    /// Fails for a caller that has the turn and would wait for itself: a thread, or the coroutine
    /// if it `suspends` instead of blocking its thread.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TurnReentered`] names both places.
    pub fn check_reentry(&self, asker: impl Into<Asker>, suspends: bool) -> Result<()> {
        self.queue()?.check_reentry(&Claim::of_this_thread(asker), suspends)
    }

    /// Whether a thread of the process that opened the lock has the turn, and not only a writer's
    /// queue.
    pub(crate) fn is_claimed(&self) -> bool {
        self.shared.peek().is_some_and(|shared| shared.0.claimed.load(Ordering::Relaxed))
    }

    /// Whether nobody has got on for `turn_timeout`.
    pub fn is_stuck(&self, turn_timeout: Duration) -> bool {
        self.queue().is_ok_and(|queue| queue.is_stuck(turn_timeout))
    }

    /// Leave to go on without a turn, after [`is_stuck`](Self::is_stuck).
    ///
    /// # Errors
    ///
    /// What [`open`](Self::open) meets in a child of fork.
    pub fn fall_through(&self) -> Result<Turn> {
        let queue = self.queue()?;
        queue.note_fall_through();
        Ok(queue.turn(Grant::Without))
    }

    /// Who has the turn, in words, if anybody has.
    pub fn describe_holder(&self) -> Option<String> {
        self.queue().ok()?.describe_holder()
    }

    /// Why there is no turn lock for this database, if there is none: a folder that cannot be
    /// written, a file system without locks. Everybody then goes on without turns.
    pub fn unavailable(&self) -> Option<String> {
        self.queue().ok()?.lock.unavailable()
    }

    /// What it has seen in this process.
    pub fn stats(&self) -> TurnStats {
        self.queue().map(|queue| queue.stats()).unwrap_or_default()
    }
}

/// The queue of this process.
struct Queue<'a> {
    owned: &'a Owned<Arc<Shared>>,
    shared: &'a Arc<Shared>,
}

impl Queue<'_> {
    fn owned(&self) -> Owned<Arc<Shared>> {
        self.owned.bind(Arc::clone(self.shared))
    }

    fn turn(&self, grant: Grant) -> Turn {
        Turn { shared: self.owned(), grant }
    }
}

impl Deref for Queue<'_> {
    type Target = Arc<TurnQueue<SideFiles>>;

    fn deref(&self) -> &Self::Target {
        &self.shared.0
    }
}

/// A turn, given back when it is dropped; or leave to go on without one.
#[derive(Debug)]
pub struct Turn {
    shared: Owned<Arc<Shared>>,
    grant: Grant,
}

impl Turn {
    /// Whether it is one. `false`: the turn stood still, or there is no turn lock here; wait for
    /// SQLite's own lock as ever.
    pub fn is_held(&self) -> bool {
        matches!(self.grant, Grant::Held(_)) && !self.shared.is_inherited()
    }

    /// From here on the turn is the calling thread's.
    pub fn claim(&self, asker: impl Into<Asker>) {
        if let (Some(shared), Grant::Held(id)) = (self.shared.get(), self.grant) {
            shared.0.hand_to(id, Claim::of_this_thread(asker));
        }
    }

    /// From here on the turn is no thread's: any may give it back, and whoever asks again waits.
    pub fn disclaim(&self) {
        if let (Some(shared), Grant::Held(id)) = (self.shared.get(), self.grant) {
            shared.0.disclaim(id);
        }
    }

    /// Begins a turn that was [offered](TurnLock::request_offer). `false`: its thread has had it.
    pub fn take_up(&self) -> bool {
        let (Some(shared), Grant::Held(id)) = (self.shared.get(), self.grant) else { return true };
        shared.0.take_up(id)
    }

    /// SQLite's own lock was taken: a writer that knows nothing of turns has it.
    pub fn note_outsider(&self) {
        if self.is_held()
            && let Some(shared) = self.shared.get()
        {
            shared.0.note_outsider();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.0.release(self.grant);
        }
    }
}

/// A request for a turn.
#[derive(Debug)]
pub struct Pending {
    shared: Owned<Arc<Shared>>,
    id: Option<u64>,
}

impl Pending {
    /// Takes the request back. `false`: the turn was given, or is being given.
    pub fn withdraw(&self) -> bool {
        match (self.shared.get(), self.id) {
            (Some(shared), Some(id)) => shared.0.withdraw(id),
            _ => false,
        }
    }
}
