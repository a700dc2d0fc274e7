//! A stand-in for the kernel: the locks of the two side files, shared by all processes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ledger::Ledger;
use super::plan::Plan;
use crate::sync::checker::{chance, note, pause};
use crate::sync::model::{Spawned, spawn};
use crate::sync::{Condvar, Mutex, now};
use crate::turn::queue::{SideLock, Taken, TurnQueue};

/// A process, by its number.
pub(super) type Pid = usize;

#[derive(Default)]
struct Locks {
    turn: Option<Pid>,
    next: Option<Pid>,
    /// When `turn` was last locked.
    since: Option<Instant>,
    dead: Vec<Pid>,
    outsider: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum File {
    Turn,
    Next,
}

impl Locks {
    fn of(&mut self, file: File) -> &mut Option<Pid> {
        match file {
            File::Turn => &mut self.turn,
            File::Next => &mut self.next,
        }
    }
}

pub(super) struct Kernel {
    locks: Mutex<Locks>,
    /// Who waits for `turn` or `next` waits here: a wake-up hands nothing over.
    freed: [Condvar; 2],
    pub(super) ledger: Ledger,
    pub(super) plan: Plan,
}

impl Kernel {
    pub(super) fn new(plan: Plan) -> Arc<Self> {
        let ledger = Ledger::new(plan.processes, plan.hurry == 0.0);
        let freed = [Condvar::new(), Condvar::new()];
        Arc::new(Self { locks: Mutex::default(), freed, ledger, plan })
    }

    /// `Err`: the process is dead.
    fn lock(&self, pid: Pid, file: File, waits: bool) -> Result<bool, ()> {
        pause();
        let mut locks = self.locks.lock();
        loop {
            if locks.dead.contains(&pid) {
                return Err(());
            }
            let owner = locks.of(file);
            assert_ne!(*owner, Some(pid), "{file:?} is locked twice by one process");
            if owner.is_none() {
                *owner = Some(pid);
                if file == File::Turn {
                    locks.since = Some(now());
                }
                return Ok(true);
            }
            if !waits {
                return Ok(false);
            }
            self.freed[file as usize].wait(&mut locks);
        }
    }

    fn unlock(&self, pid: Pid, file: File) {
        let mut locks = self.locks.lock();
        if locks.dead.contains(&pid) {
            return;
        }
        let owner = locks.of(file).take();
        assert_eq!(owner, Some(pid), "{file:?} is unlocked by a process that has not locked it");
        drop(locks);
        self.freed[file as usize].notify_one();
        pause();
    }

    /// The end of a process: its locks are released, and whatever its threads still do is nothing
    /// to anybody.
    pub(super) fn kill(&self, pid: Pid) {
        let mut locks = self.locks.lock();
        if locks.dead.contains(&pid) {
            return;
        }
        if locks.turn == Some(pid) {
            note("died with the turn");
            locks.turn = None;
        }
        if locks.next == Some(pid) {
            note("died while it was next");
            locks.next = None;
        }
        locks.dead.push(pid);
        self.ledger.forget(pid);
        // Its own waiters as well.
        self.freed.iter().for_each(Condvar::notify_all);
    }

    pub(super) fn is_dead(&self, pid: Pid) -> bool {
        self.locks.lock().dead.contains(&pid)
    }

    /// Who has the turn, and since when; and who is next.
    pub(super) fn standing(&self) -> (Option<Pid>, Option<Instant>, Option<Pid>) {
        let locks = self.locks.lock();
        (locks.turn, locks.since, locks.next)
    }

    pub(super) fn is_free(&self) -> bool {
        let locks = self.locks.lock();
        locks.turn.is_none() && locks.next.is_none()
    }

    /// Whether `pid` knows an outsider, is asked with the model's locks left alone.
    fn outsider(&self) -> Option<Instant> {
        self.locks.lock().outsider
    }
}

/// The side files of one process.
pub(super) struct SideFiles {
    pub(super) kernel: Arc<Kernel>,
    pub(super) pid: Pid,
    outsider: Mutex<Option<Instant>>,
    pub(super) keeper: Mutex<Option<Spawned>>,
}

pub(super) type Queue = TurnQueue<SideFiles>;

impl SideFiles {
    pub(super) fn queue(kernel: &Arc<Kernel>, pid: Pid) -> Arc<Queue> {
        let kernel = Arc::clone(kernel);
        let side = Self { kernel, pid, outsider: Mutex::default(), keeper: Mutex::default() };
        let queue = TurnQueue::new(side, |queue| {
            let plan = &queue.lock.kernel.plan;
            if chance(plan.no_thread) {
                note("no keeper");
                return false;
            }
            let keeper = spawn({
                let queue = Arc::clone(&queue);
                move || queue.keep()
            });
            let before = queue.lock.keeper.lock().replace(keeper);
            assert!(before.is_none(), "two keepers");
            true
        });
        queue.open();
        queue
    }

    fn fails(&self) -> bool {
        let fails = chance(self.kernel.plan.unavailable);
        if fails {
            note("unavailable");
        }
        fails
    }

    fn gone() -> Taken {
        Taken::Unavailable("no side files".into())
    }

    fn try_both(&self) -> Result<bool, ()> {
        if !self.kernel.lock(self.pid, File::Next, false)? {
            return Ok(false);
        }
        let taken = self.kernel.lock(self.pid, File::Turn, false);
        self.kernel.unlock(self.pid, File::Next);
        taken
    }

    fn wait_for_both(&self) -> Result<(), ()> {
        self.kernel.lock(self.pid, File::Next, true)?;
        let taken = self.kernel.lock(self.pid, File::Turn, true);
        self.kernel.unlock(self.pid, File::Next);
        taken.map(|_| ())
    }
}

impl SideLock for SideFiles {
    fn try_take(&self) -> Taken {
        if self.fails() {
            return Self::gone();
        }
        match self.try_both() {
            Ok(true) => Taken::Yes,
            Ok(false) => Taken::Busy,
            Err(()) => Self::gone(),
        }
    }

    fn take(&self) -> Taken {
        if self.fails() || self.wait_for_both().is_err() {
            return Self::gone();
        }
        let known = self.kernel.outsider();
        let mut outsider = self.outsider.lock();
        *outsider = known.max(*outsider);
        Taken::Yes
    }

    fn give_back(&self) {
        assert!(!self.kernel.ledger.is_held(self.pid), "given back during a turn");
        self.kernel.unlock(self.pid, File::Turn);
    }

    fn stood_still(&self) -> Option<Duration> {
        self.kernel.locks.lock().since.map(|since| now() - since)
    }

    fn describe_holder(&self) -> Option<String> {
        self.kernel.standing().0.map(|pid| format!("process {pid} has it"))
    }

    fn note_outsider(&self) {
        *self.outsider.lock() = Some(now());
        self.kernel.locks.lock().outsider = Some(now());
    }

    fn outsider_seen(&self) -> Option<Duration> {
        self.outsider.lock().map(|seen| now() - seen)
    }
}
