//! Who was given the turn, and what must be true of it. Its lock is nobody's turn to be switched at.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::kernel::Pid;
use crate::sync::now;
use crate::turn::passing::BOUND;

#[derive(Default)]
struct Process {
    /// The last number that was granted.
    last: u64,
    /// When the turn last came to one of its threads.
    moved: Option<Instant>,
    /// When the turn came to the process, in which its threads pass it on.
    tenure: Option<Instant>,
    dead: bool,
    withouts: u64,
    called_away: u64,
}

#[derive(Default)]
struct Book {
    holder: Option<(Pid, u64)>,
    /// The database is left alone until then.
    quiet: Option<Instant>,
    processes: Vec<Process>,
    held: u64,
}

pub(super) struct Ledger {
    book: Mutex<Book>,
    /// Time stands still while somebody has something to do.
    exact: bool,
}

impl Ledger {
    pub(super) fn new(processes: usize, exact: bool) -> Self {
        let processes = (0..processes).map(|_| Process::default()).collect();
        Self { book: Mutex::new(Book { processes, ..Book::default() }), exact }
    }

    fn with<R>(&self, f: impl FnOnce(&mut Book) -> R) -> R {
        f(&mut self.book.lock().unwrap())
    }

    /// A thread of `pid` has turn `id`. `standing`: who has locked the side files, since when, and
    /// who is next.
    pub(super) fn enter(
        &self,
        pid: Pid,
        id: u64,
        standing: (Option<Pid>, Option<Instant>, Option<Pid>),
    ) {
        let (turn, since, next) = standing;
        self.with(|book| {
            let process = &mut book.processes[pid];
            if process.dead {
                return;
            }
            assert_eq!(book.holder, None, "two have the turn");
            assert_eq!(turn, Some(pid), "a turn without the side files");
            assert!(process.last < id, "somebody was overtaken");
            process.last = id;
            process.moved = Some(now());
            if process.tenure != since {
                process.tenure = since;
            } else if self.exact && next.is_some() {
                let kept = since.map_or(Duration::ZERO, |since| now() - since);
                assert!(kept < BOUND, "others wait, and the process keeps the turn for {kept:?}");
            }
            if self.exact
                && let Some(quiet) = book.quiet.take()
            {
                assert!(now() >= quiet, "an outsider was not left its gap");
            }
            book.holder = Some((pid, id));
            book.held += 1;
        });
    }

    /// The holder is about to give its turn back; the database is to be left alone until `quiet`.
    pub(super) fn leave(&self, pid: Pid, id: u64, quiet: Option<Instant>) {
        self.with(|book| {
            if book.processes[pid].dead {
                return;
            }
            assert_eq!(book.holder.take(), Some((pid, id)), "somebody took the turn away");
            book.quiet = quiet;
        });
    }

    pub(super) fn forget(&self, pid: Pid) {
        self.with(|book| {
            book.processes[pid].dead = true;
            book.holder.take_if(|(holder, _)| *holder == pid);
            book.quiet = None;
        });
    }

    pub(super) fn is_held(&self, pid: Pid) -> bool {
        self.with(|book| book.holder.is_some_and(|(holder, _)| holder == pid))
    }

    pub(super) fn note_without(&self, pid: Pid) {
        self.with(|book| book.processes[pid].withouts += 1);
    }

    pub(super) fn note_called_away(&self, pid: Pid) {
        self.with(|book| book.processes[pid].called_away += 1);
    }

    /// Those who went on without a turn, and those of whom nobody knows.
    pub(super) fn withouts(&self, pid: Pid) -> (u64, u64) {
        self.with(|book| (book.processes[pid].withouts, book.processes[pid].called_away))
    }

    /// When the turn last came to a thread of `pid`.
    pub(super) fn moved(&self, pid: Pid) -> Option<Instant> {
        self.with(|book| book.processes[pid].moved)
    }

    /// Turns that were had.
    pub(super) fn held(&self) -> u64 {
        self.with(|book| book.held)
    }

    pub(super) fn expect_over(&self) {
        self.with(|book| assert_eq!(book.holder, None, "a turn was kept"));
    }
}
