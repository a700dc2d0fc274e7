//! What happens around `fork`.
//!
//! An inherited descriptor shares its open file description, and so its locks, with the parent: it keeps
//! the parent's lock alive, and an unlock in the child frees it. Hence:
//!
//! - **prepare** takes the registry, pauses every registered engine, then SQLite's static mutexes
//!   (connections that are being opened or closed run outside any engine), then the descriptor table;
//! - **parent** undoes that in reverse;
//! - **child** counts up the generation, closes every descriptor of ours (it holds no POSIX locks yet, so
//!   none can be dropped; the parent's descriptors keep the OFD locks) and empties the tables. It touches
//!   no mutex but those that the forking thread itself took in prepare.
//!
//! SQLite's global state in the child is consistent, because nobody was changing it, but its list of inode
//! records still holds the parent's, with lock counts and descriptors that are not the child's. They stay
//! there unused: the child's `fstat` gives another device number (see `syscalls`), so that no lookup ever
//! finds them.

use std::cell::UnsafeCell;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rusqlite::ffi;

use super::descriptors::{self, Table};
use crate::sqlite::fork::Quiesce;
use crate::{Error, ErrorKind, Result};

static GENERATION: AtomicU64 = AtomicU64::new(0);
static REGISTRY: Mutex<Registry> = Mutex::new(Registry { handlers: false, engines: Vec::new() });
static FORKING: Forking = Forking(UnsafeCell::new(None));

struct Registry {
    handlers: bool,
    engines: Vec<Weak<dyn Quiesce>>,
}

/// What the forking thread holds between `prepare` and `parent` or `child`.
struct Paused {
    registry: MutexGuard<'static, Registry>,
    engines: Vec<Arc<dyn Quiesce>>,
    sqlite: StaticMutexes,
    table: MutexGuard<'static, Table>,
}

struct Forking(UnsafeCell<Option<Paused>>);

// SAFETY: the cell is accessed only by the thread that holds `REGISTRY`, whose guard is inside the value.
unsafe impl Sync for Forking {}

/// How many forks lie between the process that armed or registered first and this one.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Acquire)
}

/// See [`crate::sqlite::fork::register`].
pub(in crate::sqlite) fn register(engine: Weak<dyn Quiesce>) -> Result<()> {
    let mut registry = lock_registry();
    install_handlers(&mut registry)?;
    registry.engines.retain(|known| known.strong_count() > 0);
    registry.engines.push(engine);
    Ok(())
}

/// Runs `arm` while no other thread arms and no fork happens.
pub(super) fn exclusively(arm: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut registry = lock_registry();
    install_handlers(&mut registry)?;
    arm()
}

fn lock_registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

fn install_handlers(registry: &mut Registry) -> Result<()> {
    if registry.handlers {
        return Ok(());
    }
    // SAFETY: the handlers are functions of this library with the signature that is asked for; libc
    // removes them when the library is unloaded.
    let rc = unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
    if rc != 0 {
        return Err(Error::new(ErrorKind::OutOfMemory, "no memory for the fork handlers"));
    }
    registry.handlers = true;
    Ok(())
}

extern "C" fn prepare() {
    let registry = lock_registry();
    let engines: Vec<_> = registry.engines.iter().filter_map(Weak::upgrade).collect();
    for engine in &engines {
        engine.pause();
    }
    let sqlite = StaticMutexes::enter();
    let table = descriptors::lock();
    // SAFETY: this thread holds `REGISTRY`.
    unsafe { *FORKING.0.get() = Some(Paused { registry, engines, sqlite, table }) };
}

extern "C" fn parent() {
    // SAFETY: this thread has held `REGISTRY` since `prepare`.
    let Some(paused) = (unsafe { (*FORKING.0.get()).take() }) else { return };
    let Paused { registry, engines, sqlite, table } = paused;
    drop(table);
    sqlite.leave();
    for engine in engines.iter().rev() {
        engine.resume();
    }
    drop(registry);
    // The last reference to an engine may die here; its destructor may want the registry.
    drop(engines);
}

extern "C" fn child() {
    // SAFETY: the only thread of the child is the copy of the one that has held `REGISTRY` since `prepare`.
    let Some(paused) = (unsafe { (*FORKING.0.get()).take() }) else { return };
    let Paused { mut registry, engines, sqlite, mut table } = paused;
    GENERATION.fetch_add(1, Ordering::AcqRel);
    table.close_inherited();
    drop(table);
    sqlite.leave();
    for engine in &engines {
        engine.forked();
    }
    // Dropping an engine would run its destructor on the parent's connection.
    mem::forget(engines);
    mem::forget(mem::take(&mut registry.engines));
    drop(registry);
}

/// SQLite's static mutexes, all entered by this thread.
///
/// They guard the allocator's counters, the page allocator, the random numbers, the list of inode records:
/// a thread that a fork leaves behind inside one of them would lock the child out for ever.
struct StaticMutexes([*mut ffi::sqlite3_mutex; Self::ORDER.len()]);

impl StaticMutexes {
    /// The order in which SQLite nests them: a temporary file's name (VFS1) draws random numbers (PRNG),
    /// whose first draw looks for the default VFS (MAIN); all of them may allocate (LRU, PMEM, MEM).
    const ORDER: [i32; 7] = [
        ffi::SQLITE_MUTEX_STATIC_OPEN,
        ffi::SQLITE_MUTEX_STATIC_VFS1,
        ffi::SQLITE_MUTEX_STATIC_PRNG,
        ffi::SQLITE_MUTEX_STATIC_MAIN,
        ffi::SQLITE_MUTEX_STATIC_LRU,
        ffi::SQLITE_MUTEX_STATIC_PMEM,
        ffi::SQLITE_MUTEX_STATIC_MEM,
    ];

    fn enter() -> Self {
        // SAFETY: asking for a static mutex allocates nothing and gives the same pointer, or null where
        // SQLite runs without mutexes, every time; entering null is a no-op.
        Self(Self::ORDER.map(|id| unsafe {
            let mutex = ffi::sqlite3_mutex_alloc(id);
            ffi::sqlite3_mutex_enter(mutex);
            mutex
        }))
    }

    fn leave(self) {
        for mutex in self.0.into_iter().rev() {
            // SAFETY: entered by this thread in `enter`; after a fork, by the thread that this one copies.
            unsafe { ffi::sqlite3_mutex_leave(mutex) };
        }
    }
}
