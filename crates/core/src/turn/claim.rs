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

/// Who asks for a turn.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    /// The thread that would wait for itself if it asked again; `None` for a turn that no
    /// application code runs in.
    pub(super) thread: Option<ThreadId>,
    pub(super) site: Site,
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

/// The claim of this thread.
pub(super) fn claim_of_this_thread(site: Site) -> Claim {
    Claim { thread: Some(current().id()), site }
}
