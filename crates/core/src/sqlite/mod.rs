//! One connection to one SQLite file, and what its errors mean.

mod failure;
mod fault;
pub mod fork;
mod gate;
mod guard;
mod last_insert;
mod log;
mod log_sync;
#[cfg(all(feature = "private-copy", target_os = "linux"))]
pub mod private;
mod run;
mod settings;
mod statement;
mod store;

pub(crate) use failure::Failure;
pub(crate) use fault::Faults;
pub use fault::{Fault, FaultEffect, FaultPoint};
pub(crate) use gate::Gate;
pub use settings::{Durability, FileSettings};
pub use statement::{Params, Value, Written};
pub(crate) use store::Store;
