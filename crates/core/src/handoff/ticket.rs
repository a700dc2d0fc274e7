//! One caller's place in a group, and how its outcome gets back to it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Condvar, Mutex, now};

/// The group number of an outcome whose caller nobody counts on.
pub(crate) const UNCOUNTED: u64 = 0;

/// What became of one job.
pub(crate) type Outcome<T> = Result<T>;

/// Where a blocked caller finds its outcome.
#[derive(Debug)]
pub(crate) struct Ticket<T> {
    slot: Mutex<Option<(Outcome<T>, u64)>>,
    done: Condvar,
    /// Stays when the outcome has been taken.
    #[cfg(all(test, shuttle))]
    told: std::sync::atomic::AtomicBool,
}

impl<T> Ticket<T> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            slot: Mutex::new(None),
            done: Condvar::new(),
            #[cfg(all(test, shuttle))]
            told: std::sync::atomic::AtomicBool::new(false),
        })
    }

    #[cfg(all(test, shuttle))]
    pub(super) fn is_told(&self) -> bool {
        self.told.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(crate) fn complete(&self, outcome: Outcome<T>, group: u64) {
        *self.slot.lock() = Some((outcome, group));
        #[cfg(all(test, shuttle))]
        self.told.store(true, std::sync::atomic::Ordering::Relaxed);
        self.done.notify_one();
    }

    /// The outcome and the number of its group, or `None` when `until` has come first.
    pub(crate) fn wait_until(&self, until: Option<Instant>) -> Option<(Outcome<T>, u64)> {
        let mut slot = self.slot.lock();
        loop {
            if let Some(outcome) = slot.take() {
                return Some(outcome);
            }
            match until {
                None => self.done.wait(&mut slot),
                Some(until) => {
                    if self.done.wait_until(&mut slot, until).timed_out() {
                        return slot.take();
                    }
                }
            }
        }
    }
}

/// How long a caller waits, and what may call it away.
pub(crate) struct Patience<'a> {
    /// When the caller gives up, unless its job has begun.
    pub(crate) deadline: Option<Instant>,
    /// How often `interrupted` is asked; `None` never asks.
    pub(crate) slice: Option<Duration>,
    /// Whether the caller is wanted elsewhere (Ctrl-C).
    pub(crate) interrupted: &'a dyn Fn() -> bool,
}

impl Patience<'_> {
    /// Without a deadline of its own, and called away by nothing.
    pub(crate) const UNDISTURBED: Patience<'static> =
        Patience { deadline: None, slice: None, interrupted: &|| false };

    pub(crate) fn next_stop(&self) -> Option<Instant> {
        let slice = self.slice.map(|slice| now() + slice);
        match (slice, self.deadline) {
            (Some(slice), Some(deadline)) => Some(slice.min(deadline)),
            (one, other) => one.or(other),
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| now() >= deadline)
    }
}

impl fmt::Debug for Patience<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Patience").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

/// The outcome of a write submitted with a [`Sink`].
#[derive(Debug)]
pub struct Completed<T> {
    /// The number that the submitter gave.
    pub token: u64,
    /// What became of the write.
    pub outcome: Result<T>,
}

/// Takes the outcomes of submitted writes, once per group.
///
/// Called on the writer thread, which other callers wait for: hand over, do not work.
pub trait Sink<T>: Send + Sync {
    /// Takes a group's outcomes. Drop `pickup` once the callers have been told.
    fn deliver(&self, completed: Vec<Completed<T>>, pickup: Pickup);
}

/// Where callers report that they are back.
pub(crate) trait Rendezvous: Send + Sync {
    /// `callers` of the group that ended as number `group` have their outcome.
    fn back(&self, group: u64, callers: usize);
}

/// Says, when dropped, that callers of the last group have their outcome and may come back with
/// the next write. The writer thread holds the next group open while they are on their way.
pub struct Pickup {
    at: Option<Arc<dyn Rendezvous>>,
    group: u64,
    callers: usize,
}

impl Pickup {
    pub(crate) fn new(at: Arc<dyn Rendezvous>, group: u64, callers: usize) -> Self {
        Self { at: Some(at), group, callers }
    }

    /// For a caller that nobody counts on.
    pub(crate) fn uncounted() -> Self {
        Self { at: None, group: 0, callers: 0 }
    }
}

impl Drop for Pickup {
    fn drop(&mut self) {
        if let Some(at) = self.at.take() {
            at.back(self.group, self.callers);
        }
    }
}

impl fmt::Debug for Pickup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pickup").field("group", &self.group).finish_non_exhaustive()
    }
}

/// Who is told.
pub(crate) enum Reply<T> {
    /// A caller that blocks.
    Ticket(Arc<Ticket<T>>),
    /// A delivery, with the submitter's token.
    Sink(Arc<dyn Sink<T>>, u64),
}

/// The duty to tell a caller. Dropping it unfulfilled tells the caller that turnwise failed, so
/// that nobody waits for ever.
pub(crate) struct Promise<T> {
    reply: Option<Reply<T>>,
}

impl<T> Promise<T> {
    pub(crate) fn new(reply: Reply<T>) -> Self {
        Self { reply: Some(reply) }
    }

    pub(crate) fn reply(&self) -> Option<&Reply<T>> {
        self.reply.as_ref()
    }

    /// Takes the sink out, for deliveries that are collected first.
    pub(crate) fn into_reply(mut self) -> Option<Reply<T>> {
        self.reply.take()
    }

    pub(crate) fn fulfil(mut self, outcome: Outcome<T>) {
        self.tell(outcome);
    }

    /// The caller has taken its job back and waits no longer.
    pub(crate) fn forget(mut self) {
        self.reply = None;
    }

    fn tell(&mut self, outcome: Outcome<T>) {
        match self.reply.take() {
            Some(Reply::Ticket(ticket)) => ticket.complete(outcome, UNCOUNTED),
            Some(Reply::Sink(sink, token)) => {
                sink.deliver(vec![Completed { token, outcome }], Pickup::uncounted());
            }
            None => {}
        }
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        if self.reply.is_some() {
            self.tell(Err(Error::new(
                ErrorKind::Internal,
                "the writer dropped this write without an outcome; it may or may not be in the \
                 file; please report this",
            )));
        }
    }
}

impl<T> fmt::Debug for Promise<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Promise").field("open", &self.reply.is_some()).finish_non_exhaustive()
    }
}
