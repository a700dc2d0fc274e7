//! Who asks for a turn, where, and what comes of it.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::sync::{ThreadId, current};

/// Where a turn was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Site {
    /// A place in Rust code.
    Code(&'static Location<'static>),
    /// A place in another language, such as `app.py:12`.
    Text(Arc<str>),
    /// A part of turnwise.
    Ours(&'static str),
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(location) => write!(f, "{}:{}", location.file(), location.line()),
            Self::Text(text) => f.write_str(text),
            Self::Ours(text) => f.write_str(text),
        }
    }
}

/// Who asks for a turn, besides the calling thread.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Asker {
    /// Where.
    pub site: Site,
    /// The coroutine that asks, by a number that is its own while it lives; `None` outside of one.
    pub task: Option<u64>,
}

impl Asker {
    /// One that is not a coroutine if `task` is `None`.
    pub fn new(site: Site, task: Option<u64>) -> Self {
        Self { site, task }
    }
}

impl From<Site> for Asker {
    fn from(site: Site) -> Self {
        Self::new(site, None)
    }
}

/// Who asks for a turn.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    /// The thread that would wait for itself if it asked again; `None` for a turn in which no
    /// application code runs.
    pub(super) thread: Option<ThreadId>,
    /// The coroutine that would.
    pub(super) task: Option<u64>,
    pub(super) site: Site,
    /// Nobody has taken it up yet: its thread may still have it for itself.
    pub(super) offered: bool,
}

impl Claim {
    /// The claim of the calling thread.
    pub(super) fn of_this_thread(asker: impl Into<Asker>) -> Self {
        let Asker { site, task } = asker.into();
        Self { thread: Some(current().id()), task, site, offered: false }
    }

    /// The claim of a coroutine of this thread that takes the turn up when it runs.
    pub(super) fn of_an_offer(asker: impl Into<Asker>) -> Self {
        Self { offered: true, ..Self::of_this_thread(asker) }
    }

    /// The claim of somebody in whose turn no application code runs.
    pub(super) fn of_nobody(site: Site) -> Self {
        Self { thread: None, task: None, site, offered: false }
    }

    /// Whether who made this claim stands still while `other` waits: who blocks stops all
    /// coroutines of its thread, who `suspends` stops itself.
    pub(super) fn stops_with(&self, other: &Self, suspends: bool) -> bool {
        let same_thread = self.thread.is_some() && self.thread == other.thread;
        same_thread && (!suspends || (self.task.is_some() && self.task == other.task))
    }
}

/// What asking for a turn gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grant {
    /// The turn, under this number.
    Held(u64),
    /// To go on without a turn.
    Without,
}

/// What the turn lock of a file has seen in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TurnStats {
    /// Turns that were not to be had at once.
    pub waits: u64,
    /// Turns that went to the next waiter of this process without being given back.
    pub hand_offs: u64,
    /// Times that somebody went on without a turn: it stood still, or no side file could be had.
    pub fall_throughs: u64,
    /// Times that a writer which knows nothing of the turn lock held SQLite's lock in our turn.
    pub outsiders: u64,
}
