//! How a call waits, and what it comes to.

use std::sync::Arc;
use std::time::Duration;

use super::engine::Engine;
use super::unit::Unit;
use crate::error::{Error, Result};
use crate::handoff::{Pickup, Withdrawn};
use crate::sqlite::fork::Owned;

/// How one call waits.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// When to give up on a write that has not begun; `None` for the policy's deadline.
    pub timeout: Option<Duration>,
    /// Whether the write may run in the calling thread. Never on an event loop.
    pub inline: bool,
    /// How often `interrupted` is asked while the call waits; `None` never asks.
    pub slice: Option<Duration>,
    /// Whether the caller is wanted elsewhere (Ctrl-C).
    pub interrupted: &'a dyn Fn() -> bool,
    /// Where a transaction is begun, for whoever finds it in the way.
    pub site: &'a str,
    /// The coroutine that begins it, by a number that is its own while it lives.
    pub task: Option<u64>,
}

impl Default for Call<'_> {
    fn default() -> Self {
        Self {
            timeout: None,
            inline: true,
            slice: None,
            interrupted: &|| false,
            site: "a transaction()",
            task: None,
        }
    }
}

impl std::fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// What a blocking write came to.
#[derive(Debug)]
pub struct Landing<T> {
    /// The result, or the error.
    pub outcome: Result<T>,
    /// To be dropped once the caller is back in its own code.
    pub pickup: Pickup,
    /// The caller was called away after the write had begun; `outcome` says what became of it.
    pub interrupted: bool,
}

impl<T> Landing<T> {
    pub(super) fn refused(error: Error) -> Self {
        Self { outcome: Err(error), pickup: Pickup::uncounted(), interrupted: false }
    }
}

/// A submitted write's place in the queue.
#[derive(Debug)]
pub struct Place {
    engine: Owned<Arc<Engine>>,
    seq: u64,
}

impl Place {
    pub(super) fn new(engine: Arc<Engine>, seq: u64) -> Self {
        Self { engine: Owned::new(engine), seq }
    }

    /// Takes the write back. `false`: it has begun, and its outcome will be delivered.
    pub fn withdraw(&self) -> bool {
        self.engine
            .get()
            .is_some_and(|engine| engine.handoff.withdraw(self.seq) != Withdrawn::Begun)
    }
}

/// What submitting came to.
#[derive(Debug)]
pub enum Submitted {
    /// In the queue; the outcome goes to the sink.
    Queued(Place),
    /// The queue is full: here is the write back.
    Full(Unit),
}
