//! A writer's engine, across forks.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::call::Call;
use super::engine::Engine;
use super::files;
use super::options::WriterOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::handoff::Patience;
use crate::sqlite::fork::Owned;

/// The engine of one process generation. In a child of fork the parent's is neither used nor
/// dropped, and the child's own comes behind it.
#[derive(Debug)]
pub(super) struct Bound {
    engine: Owned<Arc<Engine>>,
    path: PathBuf,
    next: OnceLock<Box<Bound>>,
}

impl Bound {
    pub(super) fn open(path: &Path, options: &WriterOptions, call: &Call<'_>) -> Result<Self> {
        let patience = Patience {
            deadline: Instant::now().checked_add(call.timeout.unwrap_or(options.policy.deadline())),
            slice: call.slice,
            interrupted: call.interrupted,
        };
        let engine = files::open(path, options, &patience)?;
        let path = engine.path().to_owned();
        Ok(Self { engine: Owned::new(engine), path, next: OnceLock::new() })
    }

    /// Opens the child's own engine.
    fn follow(&self, options: &WriterOptions, call: &Call<'_>) -> Result<&Self> {
        let opened = Self::open(&self.path, options, call)?;
        // Not while another thread forks: its child would find the cell half set for ever.
        if let Err(surplus) = files::steadily(|| self.next.set(Box::new(opened)))
            && let Some(engine) = surplus.engine.get()
        {
            engine.detach();
        }
        self.next.get().map(|next| &**next).ok_or_else(|| {
            Error::new(ErrorKind::Internal, "the writer lost its connection after a fork")
        })
    }

    /// The file, by its resolved path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// This process's engine, if it has one yet.
    pub(super) fn engine(&self) -> Option<&Arc<Engine>> {
        let mut bound = self;
        loop {
            if let Some(engine) = bound.engine.get() {
                return Some(engine);
            }
            bound = bound.next.get()?;
        }
    }

    /// This process's engine, opened if need be.
    pub(super) fn engine_or_open(
        &self,
        options: &WriterOptions,
        call: &Call<'_>,
    ) -> Result<&Arc<Engine>> {
        let mut bound = self;
        loop {
            if let Some(engine) = bound.engine.get() {
                return Ok(engine);
            }
            bound = match bound.next.get() {
                Some(next) => next,
                None => bound.follow(options, call)?,
            };
        }
    }
}
