//! Database writes that take turns.

pub mod classify;
pub mod clock;
pub mod error;
pub mod event;
#[cfg(feature = "threads")]
#[cfg_attr(
    not(feature = "sqlite"),
    allow(
        dead_code,
        unreachable_pub,
        unused_imports,
        reason = "only the writer calls it; the model checker builds it alone"
    )
)]
mod handoff;
mod numbered;
pub mod retry;
pub mod rng;
#[cfg(feature = "threads")]
pub mod session;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(feature = "threads")]
mod sync;
#[cfg(feature = "threads")]
#[cfg_attr(
    not(feature = "sqlite"),
    allow(
        dead_code,
        unreachable_pub,
        unused_imports,
        reason = "only the side files use it; the model checker builds the queue alone"
    )
)]
pub mod turn;
#[cfg(feature = "sqlite")]
pub mod writer;

pub use error::{Error, ErrorKind, ErrorState, Result};
