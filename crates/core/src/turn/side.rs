//! The side files: two locks of the kernel's (`flock`) next to the database.
//!
//! Who wants the turn locks `-turn-next`, then `-turn`, then unlocks `-turn-next`. The kernel wakes the
//! first waiter of a lock but does not hand it over, so whoever comes by at that moment could take
//! it first; here there is only one at `-turn` at a time. Who has just been through may come back
//! without `-turn-next` for as long as it might have kept the turn.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::passing::BOUND;
use super::queue::{SideLock, Taken};
use super::record::{self, Record};
use crate::sync::Mutex;

/// How long it is taken for granted that the side files are still the ones in the folder, by who
/// did not have to wait for them.
const TRUSTED: Duration = Duration::from_millis(100);

/// How old the record of a holder may be that has not had to wait: writing it each time would take
/// a third of the whole cost.
const RECORDED: Duration = Duration::from_millis(10);

/// Times that side files are opened anew because others have replaced them.
const REOPENINGS: usize = 3;

/// How long the side files are not looked for again after they could not be had.
const SULK: Duration = Duration::from_secs(1);

/// The side files of one database, for one process.
pub(super) struct SideFiles {
    database: PathBuf,
    turn: PathBuf,
    next: PathBuf,
    inner: Mutex<Inner>,
    /// When an outsider was last met, by any process, in nanoseconds since 1970.
    outsider: AtomicU64,
}

#[derive(Default)]
struct Inner {
    open: Option<Arc<Files>>,
    held: Option<Arc<Files>>,
    /// When the open files were last found to be those in the folder.
    checked: Option<Instant>,
    recorded: Option<Instant>,
    /// When the turnstile was last passed with nobody in it. Up to [`BOUND`] later this process may
    /// take the turn without it, which halves the cost of a lock that nobody else wants.
    passed: Option<Instant>,
    unavailable: Option<(Instant, String)>,
}

struct Files {
    turn: File,
    next: File,
    /// The record can be written.
    writable: bool,
}

impl Files {
    /// `false`: somebody has the turn, or is next. `passed`: who is next is not asked for.
    fn try_lock(&self, passed: bool) -> io::Result<bool> {
        if passed {
            return try_lock(&self.turn);
        }
        if !try_lock(&self.next)? {
            return Ok(false);
        }
        let taken = try_lock(&self.turn);
        self.next.unlock()?;
        taken
    }

    fn lock(&self) -> io::Result<()> {
        lock(&self.next)?;
        let taken = lock(&self.turn);
        self.next.unlock()?;
        taken
    }
}

impl SideFiles {
    /// For the database at its resolved path. Nothing is opened yet.
    pub(super) fn new(database: &Path) -> Self {
        Self {
            database: database.to_owned(),
            turn: beside(database, "-turn"),
            next: beside(database, "-turn-next"),
            inner: Mutex::default(),
            outsider: AtomicU64::new(0),
        }
    }

    /// Why there is no turn lock here, if there is none.
    pub(super) fn unavailable(&self) -> Option<String> {
        self.inner.lock().unavailable.as_ref().map(|(_, why)| why.clone())
    }

    fn files(&self, inner: &mut Inner) -> Result<Arc<Files>, String> {
        if let Some(files) = &inner.open {
            return Ok(Arc::clone(files));
        }
        if let Some((since, why)) = &inner.unavailable
            && since.elapsed() < SULK
        {
            return Err(why.clone());
        }
        let (turn, writable) = self.open(&self.turn)?;
        let (next, _) = self.open(&self.next)?;
        let files = Arc::new(Files { turn, next, writable });
        inner.open = Some(Arc::clone(&files));
        inner.checked = None;
        inner.unavailable = None;
        Ok(files)
    }

    fn open(&self, path: &Path) -> Result<(File, bool), String> {
        let shown = path.display();
        match fs::symlink_metadata(path) {
            Ok(found) if !found.is_file() => return Err(format!("{shown} is no regular file")),
            _ => {}
        }
        let attempt = kept_from_children(|| create(path, &self.database));
        let opened = match attempt {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                kept_from_children(|| OpenOptions::new().read(true).write(true).open(path))
            }
            other => other,
        };
        match opened {
            Ok(file) => Ok((file, true)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                // A lock needs no more than that; only the record is not written.
                kept_from_children(|| File::open(path))
                    .map(|file| (file, false))
                    .map_err(|error| format!("{shown} cannot be opened: {error}"))
            }
            Err(error) => Err(format!("{shown} cannot be opened: {error}")),
        }
    }

    /// Whether `files` are still the ones in the folder, where everybody else looks for them.
    fn are_current(&self, files: &Files) -> bool {
        is_at(&files.turn, &self.turn) && is_at(&files.next, &self.next)
    }

    /// Takes note of files that were locked, if they are the ones in the folder. `waited`: trust
    /// nothing that was known before.
    fn settle(&self, inner: &mut Inner, files: Arc<Files>, waited: bool, now: Instant) -> bool {
        let within = |since: Option<Instant>, time| since.is_some_and(|since| now - since < time);
        if waited || !within(inner.checked, TRUSTED) {
            if !self.are_current(&files) {
                inner.open = None;
                return false;
            }
            inner.checked = Some(now);
        }
        if files.writable && (waited || !within(inner.recorded, RECORDED)) {
            record::write(&files.turn, Record::of_this_process());
            inner.recorded = Some(now);
        }
        if waited {
            self.outsider.fetch_max(record::outsider(&files.turn), Ordering::Relaxed);
        }
        inner.held = Some(files);
        true
    }

    fn give_up(inner: &mut Inner, why: String) -> Taken {
        inner.open = None;
        inner.unavailable = Some((Instant::now(), why.clone()));
        Taken::Unavailable(why)
    }

    fn cannot_lock(&self, error: &io::Error) -> String {
        format!("{} cannot be locked: {error}", self.turn.display())
    }

    fn replaced_too_often(&self) -> String {
        format!("{} is replaced again and again", self.turn.display())
    }
}

impl SideLock for SideFiles {
    fn try_take(&self) -> Taken {
        let mut inner = self.inner.lock();
        for _ in 0..REOPENINGS {
            let files = match self.files(&mut inner) {
                Ok(files) => files,
                Err(why) => return Self::give_up(&mut inner, why),
            };
            let now = Instant::now();
            let passed = inner.passed.filter(|passed| now - *passed < BOUND);
            inner.passed = None;
            match files.try_lock(passed.is_some()) {
                Ok(true) => {}
                Ok(false) => return Taken::Busy,
                Err(error) => return Self::give_up(&mut inner, self.cannot_lock(&error)),
            }
            if self.settle(&mut inner, files, false, now) {
                inner.passed = Some(passed.unwrap_or(now));
                return Taken::Yes;
            }
        }
        Self::give_up(&mut inner, self.replaced_too_often())
    }

    fn take(&self) -> Taken {
        for _ in 0..REOPENINGS {
            let mut inner = self.inner.lock();
            let files = match self.files(&mut inner) {
                Ok(files) => files,
                Err(why) => return Self::give_up(&mut inner, why),
            };
            drop(inner);
            let locked = files.lock();
            let mut inner = self.inner.lock();
            if let Err(error) = locked {
                return Self::give_up(&mut inner, self.cannot_lock(&error));
            }
            inner.passed = None;
            if self.settle(&mut inner, files, true, Instant::now()) {
                return Taken::Yes;
            }
        }
        Self::give_up(&mut self.inner.lock(), self.replaced_too_often())
    }

    fn give_back(&self) {
        if let Some(files) = self.inner.lock().held.take() {
            // What cannot fail on a lock that is held; the end of the process would release it.
            let _ = files.turn.unlock();
        }
    }

    fn stood_still(&self) -> Option<Duration> {
        let files = self.files(&mut self.inner.lock()).ok()?;
        record::read(&files.turn)?.age()
    }

    fn describe_holder(&self) -> Option<String> {
        let files = self.files(&mut self.inner.lock()).ok()?;
        record::describe(&files.turn, &files.next)
    }

    fn note_outsider(&self) {
        let seen = nanoseconds_since_1970();
        self.outsider.store(seen, Ordering::Relaxed);
        if let Some(files) = &self.inner.lock().held
            && files.writable
        {
            record::write_outsider(&files.turn, seen);
        }
    }

    fn outsider_seen(&self) -> Option<Duration> {
        match self.outsider.load(Ordering::Relaxed) {
            0 => None,
            seen => record::age(seen),
        }
    }
}

fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn lock(file: &File) -> io::Result<()> {
    loop {
        match file.lock() {
            // A handler without SA_RESTART, such as Python's.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Makes a side file that whoever may write the database may write.
fn create(path: &Path, database: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
        let Ok(model) = fs::metadata(database) else { return options.mode(0o600).open(path) };
        let mode = model.mode() & 0o666;
        let file = options.mode(mode).open(path)?;
        // The umask has its say in open; SQLite does the same for its -wal.
        let _ = file.set_permissions(fs::Permissions::from_mode(mode));
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (model.uid(), model.gid()) {
            let _ = std::os::unix::fs::fchown(&file, Some(model.uid()), Some(model.gid()));
        }
        Ok(file)
    }
    #[cfg(not(unix))]
    {
        let _ = database;
        options.open(path)
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    // Not through a link: what it leads to is not ours to write to.
    let (Ok(open), Ok(found)) = (file.metadata(), fs::symlink_metadata(path)) else { return false };
    found.is_file() && (open.dev(), open.ino()) == (found.dev(), found.ino())
}

#[cfg(not(unix))]
fn is_at(_file: &File, path: &Path) -> bool {
    path.is_file()
}

/// Opens a file so that a child of fork closes it: an inherited descriptor would keep a lock alive
/// after its holder's death.
fn kept_from_children(open: impl FnOnce() -> io::Result<File>) -> io::Result<File> {
    #[cfg(all(feature = "private-copy", target_os = "linux"))]
    return crate::sqlite::private::kept_from_children(open);
    #[cfg(not(all(feature = "private-copy", target_os = "linux")))]
    open()
}

impl Drop for Files {
    fn drop(&mut self) {
        #[cfg(all(feature = "private-copy", target_os = "linux"))]
        crate::sqlite::private::no_longer_kept([&self.turn, &self.next]);
    }
}

pub(super) fn nanoseconds_since_1970() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
