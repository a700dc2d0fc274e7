//! The files that are open in this process: one engine, and so one connection, for each.

use std::cell::RefCell;
use std::collections::HashMap;
use std::mem::{self, ManuallyDrop};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use super::engine::{Engine, SharedStore};
use super::options::WriterOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::handoff::Patience;
use crate::sqlite::fork::{self, Quiesce};
use crate::sqlite::{Failure, Store};
use crate::turn::TurnLock;

type OpenFiles = Mutex<HashMap<FileId, OpenFile>>;

static FILES: LazyLock<Arc<Files>> = LazyLock::new(Arc::default);

#[derive(Default)]
struct Files {
    open: OpenFiles,
    /// The process generation in which this registry was made known to the fork handlers, plus 1.
    registered: AtomicU64,
}

struct OpenFile {
    engine: Weak<Engine>,
    store: SharedStore,
}

/// What a file is, whatever its path: device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileId(u64, u64);

impl FileId {
    /// Whether `path` leads to another file by now, or to none. What cannot be told is not held
    /// against it.
    pub(super) fn has_left(self, path: &Path) -> bool {
        match Self::of(path) {
            Ok(id) => id != self,
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        }
    }

    #[cfg(unix)]
    fn of(path: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(path)?;
        Ok(Self(metadata.dev(), metadata.ino()))
    }

    #[cfg(not(unix))]
    fn of(path: &Path) -> std::io::Result<Self> {
        use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        Ok(Self(0, hasher.hash_one(std::fs::canonicalize(path)?)))
    }
}

/// Finds or opens the engine of a file, and counts one more handle on it.
pub(super) fn open(
    path: &Path,
    options: &WriterOptions,
    patience: &Patience<'_>,
) -> Result<Arc<Engine>> {
    let path = resolve(path)?;
    prepare_process()?;
    // Before the files are locked: a fork locks what this may need first.
    let turns = if options.turn_lock { Some(TurnLock::of_database(&path)?) } else { None };
    loop {
        let mut files = lock();
        if let Ok(id) = FileId::of(&path)
            && let Some(known) = files.get(&id)
            && let Some(engine) = known.engine.upgrade()
        {
            if !engine.attach() {
                // Its last handle has been closed; it must let go of the file first.
                drop(files);
                engine.wait_closed(patience)?;
                continue;
            }
            drop(files);
            if let Some(conflict) = engine.options().conflict(options) {
                engine.detach();
                return Err(Error::new(
                    ErrorKind::SettingsConflict,
                    format!(
                        "{} is open in this process already, with other settings ({conflict}): \
                         open it with the same",
                        path.display()
                    ),
                ));
            }
            engine.settings(patience).inspect_err(|_| engine.detach())?;
            return Ok(engine);
        }
        let store = Store::open(&path).map_err(|failure| name_file(&failure, &path))?;
        let id = FileId::of(&path).map_err(|error| {
            Error::new(ErrorKind::CannotOpen, format!("{}: {error}", path.display()))
        })?;
        let engine = Engine::new(id, path.clone(), options.clone(), store, turns);
        let known = OpenFile { engine: Arc::downgrade(&engine), store: engine.store() };
        files.insert(id, known);
        drop(files);
        engine.settings(patience).inspect_err(|_| engine.detach())?;
        return Ok(engine);
    }
}

/// Runs `f` while no process is forked and no file is opened or forgotten.
pub(super) fn steadily<R>(f: impl FnOnce() -> R) -> R {
    let _files = lock();
    f()
}

/// The engine has closed its connection.
pub(super) fn forget(id: FileId, store: &SharedStore) {
    let mut files = lock();
    if files.get(&id).is_some_and(|known| Arc::ptr_eq(&known.store, store)) {
        files.remove(&id);
    }
}

/// Every engine that is open, to be closed at the end of the process.
pub(super) fn engines() -> Vec<Arc<Engine>> {
    lock().values().filter_map(|known| known.engine.upgrade()).collect()
}

fn lock() -> MutexGuard<'static, HashMap<FileId, OpenFile>> {
    FILES.open.lock().unwrap_or_else(PoisonError::into_inner)
}

fn prepare_process() -> Result<()> {
    #[cfg(all(feature = "private-copy", target_os = "linux"))]
    crate::sqlite::private::arm()?;
    #[cfg(all(feature = "private-copy", not(target_os = "linux")))]
    return Err(Error::new(
        ErrorKind::UnsupportedPlatform,
        "BatchWriter needs open-file-description locks beside the host's own SQLite, which \
         turnwise uses on Linux only; everything else of turnwise works here",
    ));
    let generation = fork::generation() + 1;
    if FILES.registered.swap(generation, Ordering::AcqRel) != generation {
        let files: Arc<dyn Quiesce> = Arc::clone(&*FILES) as _;
        fork::register(Arc::downgrade(&files))?;
    }
    Ok(())
}

/// The absolute path with its folder's links resolved, so that SQLite never takes it for a URI and
/// a later change of directory changes nothing.
fn resolve(path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    if path.as_os_str().is_empty() || path == Path::new(":memory:") {
        return Err(Error::new(
            ErrorKind::CannotOpen,
            "a batch writer needs a database file: a database in memory belongs to one connection",
        ));
    }
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(Error::new(ErrorKind::CannotOpen, "the path holds a NUL character"));
    }
    if path.is_dir() {
        return Err(Error::new(
            ErrorKind::IsADirectory,
            format!("{shown} is a directory: name the database file"),
        ));
    }
    if path.exists() && !path.is_file() {
        return Err(Error::new(
            ErrorKind::CannotOpen,
            format!("{shown} is no regular file: name a database file"),
        ));
    }
    let name = path.file_name().ok_or_else(|| {
        Error::new(ErrorKind::CannotOpen, format!("{shown} does not name a file"))
    })?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let folder = std::fs::canonicalize(folder).map_err(|error| {
        Error::new(ErrorKind::CannotOpen, format!("{shown}: the folder cannot be opened: {error}"))
    })?;
    Ok(folder.join(name))
}

pub(super) fn name_file(failure: &Failure, path: &Path) -> Error {
    let message = format!("{}: {}", path.display(), failure.message);
    Failure { message, ..*failure }.into_error()
}

/// What the forking thread holds while it forks.
struct Held {
    files: MutexGuard<'static, HashMap<FileId, OpenFile>>,
    stores: Vec<SharedStore>,
}

thread_local! {
    /// Never dropped by itself: in a child the connections belong to the parent.
    static HELD: RefCell<Option<ManuallyDrop<Held>>> = const { RefCell::new(None) };
}

impl Quiesce for Files {
    fn pause(&self) {
        HELD.with_borrow_mut(|held| {
            if held.is_none() {
                let files = lock();
                let stores: Vec<_> = files.values().map(|known| Arc::clone(&known.store)).collect();
                for store in &stores {
                    store.shut();
                }
                *held = Some(ManuallyDrop::new(Held { files, stores }));
            }
        });
    }

    fn resume(&self) {
        if let Some(held) = HELD.with_borrow_mut(Option::take) {
            for store in &held.stores {
                store.open();
            }
            drop(ManuallyDrop::into_inner(held));
        }
    }

    fn forked(&self) {
        let Some(held) = HELD.with_borrow_mut(Option::take) else { return };
        let Held { mut files, stores } = ManuallyDrop::into_inner(held);
        // The parent's: neither closed nor dropped here.
        mem::forget(stores);
        mem::forget(mem::take(&mut *files));
    }
}
