//! The turn locks of this process: one queue for each database.

use std::cell::RefCell;
use std::collections::HashMap;
use std::mem::{self, ManuallyDrop};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use super::queue::TurnQueue;
use super::side::SideFiles;
use crate::error::Result;
use crate::sqlite::fork::{self, Quiesce};

pub(super) type Queue = TurnQueue<SideFiles>;

/// A queue that ends with its last user.
#[derive(Debug)]
pub(super) struct Shared(pub(super) Arc<Queue>);

impl Shared {
    fn new(queue: Arc<Queue>) -> Arc<Self> {
        queue.open();
        Arc::new(Self(queue))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The queue too: its keeper may wait in the kernel for long after its last user has gone, and two
/// of a process would wait in line.
type Known = HashMap<PathBuf, (Weak<Shared>, Weak<Queue>)>;

static QUEUES: LazyLock<Arc<Queues>> = LazyLock::new(Arc::default);

#[derive(Default)]
struct Queues {
    known: Mutex<Known>,
    /// The process generation in which this registry was made known to the fork handlers, plus 1.
    registered: AtomicU64,
}

/// The queue of the database at its resolved path.
pub(super) fn open(database: &Path) -> Result<Arc<Shared>> {
    let generation = fork::generation() + 1;
    if QUEUES.registered.swap(generation, Ordering::AcqRel) != generation {
        let queues: Arc<dyn Quiesce> = Arc::clone(&*QUEUES) as _;
        fork::register(Arc::downgrade(&queues))?;
    }
    let mut known = lock();
    let queue = match known.get(database) {
        Some((shared, queue)) => {
            if let Some(shared) = shared.upgrade() {
                return Ok(shared);
            }
            queue.upgrade()
        }
        None => None,
    };
    known.retain(|_, (_, queue)| queue.strong_count() > 0);
    let queue = queue.unwrap_or_else(|| {
        TurnQueue::new(SideFiles::new(database), |queue| {
            let keeper = std::thread::Builder::new().name("turnwise-keeper".into());
            keeper.spawn(move || queue.keep()).is_ok()
        })
    });
    let shared = Shared::new(queue);
    let known_as = (Arc::downgrade(&shared), Arc::downgrade(&shared.0));
    known.insert(database.to_owned(), known_as);
    Ok(shared)
}

/// Runs `f` while no process is forked.
pub(super) fn steadily<R>(f: impl FnOnce() -> R) -> R {
    let _known = lock();
    f()
}

fn lock() -> MutexGuard<'static, Known> {
    QUEUES.known.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// What the forking thread holds while it forks.
    static HELD: RefCell<Option<ManuallyDrop<MutexGuard<'static, Known>>>> =
        const { RefCell::new(None) };
}

impl Quiesce for Queues {
    fn pause(&self) {
        HELD.with_borrow_mut(|held| {
            if held.is_none() {
                *held = Some(ManuallyDrop::new(lock()));
            }
        });
    }

    fn resume(&self) {
        if let Some(held) = HELD.with_borrow_mut(Option::take) {
            drop(ManuallyDrop::into_inner(held));
        }
    }

    fn forked(&self) {
        let Some(held) = HELD.with_borrow_mut(Option::take) else { return };
        // The parent's: neither given back nor dropped here.
        mem::forget(mem::take(&mut *ManuallyDrop::into_inner(held)));
    }
}

/// What a link at `link` leads to.
pub(super) fn beside(link: &Path, target: &Path) -> PathBuf {
    link.parent().map_or_else(|| target.to_owned(), |folder| folder.join(target))
}

/// The path, with the links of its folder resolved.
pub(super) fn resolved_folder(path: PathBuf) -> PathBuf {
    let resolved = path.parent().and_then(|folder| std::fs::canonicalize(folder).ok());
    match (resolved, path.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => path,
    }
}
