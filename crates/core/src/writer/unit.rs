//! Units of work and what they come to.

use std::fmt;
use std::sync::Arc;

use crate::handoff::{Completed, Pickup, Reply, Request, Sink};
use crate::sqlite::{Durability, Params, Written};

/// What one caller wants written: all of it or nothing.
#[derive(Debug, Clone)]
pub struct Unit {
    pub(super) sql: Arc<str>,
    pub(super) rows: Rows,
}

#[derive(Debug, Clone)]
pub(super) enum Rows {
    One(Params),
    Many(Vec<Params>),
}

impl Unit {
    /// One statement, run once.
    pub fn one(sql: impl Into<Arc<str>>, params: Params) -> Self {
        Self { sql: sql.into(), rows: Rows::One(params) }
    }

    /// One statement, run for every row.
    pub fn many(sql: impl Into<Arc<str>>, rows: Vec<Params>) -> Self {
        Self { sql: sql.into(), rows: Rows::Many(rows) }
    }

    /// Rows, and bytes in the queue, about.
    pub(super) fn extent(&self) -> (usize, usize) {
        let (rows, values) = match &self.rows {
            Rows::One(params) => (1, params.size()),
            Rows::Many(rows) => {
                (rows.len(), rows.iter().map(|row| size_of::<Params>() + row.size()).sum())
            }
        };
        (rows, self.sql.len() + values)
    }
}

/// A job in the queue.
#[derive(Debug)]
pub(super) enum Job {
    Write(Unit),
    /// The lane, for an interactive transaction.
    Turn,
    /// Nothing: its outcome says that everything before it is committed.
    Barrier,
}

/// What a job came to.
#[derive(Debug)]
pub(super) enum Done {
    Written(Written),
    /// The lane and an open transaction, under this number.
    Turn(u64),
}

impl Done {
    pub(super) fn into_written(self) -> Written {
        match self {
            Self::Written(written) => written,
            Self::Turn(_) => Written::default(),
        }
    }
}

/// Where the outcomes of submitted writes go: make one, and submit with it, so that a group's
/// outcomes come together.
#[derive(Clone)]
pub struct Outbox(Arc<Unwrapped>);

impl Outbox {
    /// Leads to `sink`.
    pub fn new(sink: impl Sink<Written> + 'static) -> Self {
        Self(Arc::new(Unwrapped(Box::new(sink))))
    }

    pub(super) fn reply(&self, token: u64) -> Reply<Done> {
        Reply::Sink(Arc::clone(&self.0) as Arc<dyn Sink<Done>>, token)
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}

/// Passes outcomes on to a sink that knows writes only.
struct Unwrapped(Box<dyn Sink<Written>>);

impl Sink<Done> for Unwrapped {
    fn deliver(&self, completed: Vec<Completed<Done>>, pickup: Pickup) {
        let written = completed.into_iter().map(|done| Completed {
            token: done.token,
            outcome: done.outcome.map(Done::into_written),
        });
        self.0.deliver(written.collect(), pickup);
    }
}

impl Job {
    /// The SQL text, if there is one.
    pub(super) fn statement(&self) -> Option<&str> {
        match self {
            Self::Write(unit) => Some(&unit.sql),
            Self::Turn | Self::Barrier => None,
        }
    }

    /// What the job comes to where it wants nothing of the database: no error of others is its own.
    pub(super) fn passes(&self) -> Option<Done> {
        matches!(self, Self::Barrier).then(|| Done::Written(Written::default()))
    }

    pub(super) fn request(self, durability: Durability) -> Request<Self> {
        let (rows, bytes) = match &self {
            Self::Write(unit) => unit.extent(),
            Self::Turn | Self::Barrier => (0, 0),
        };
        Request { job: self, rows, bytes, strict: durability.strictness(), turn: None }
    }
}
