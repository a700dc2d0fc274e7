//! The turn lock: processes that write one SQLite file queue for it, first in, first out.
//!
//! SQLite lets those who find its write lock taken poll for it: whoever comes by when it is free
//! wins, and the longest waiter polls least. Here they queue *before* `BEGIN IMMEDIATE`. Within a
//! process waiters stand in a queue of their own, and one thread, the keeper, waits for all of them
//! in the kernel, at two side files of the database:
//!
//! | file | is locked by | |
//! |---|---|---|
//! | `<db>-turn` | the process that has the turn | holds its process id and the time |
//! | `<db>-turn-next` | the process that is next | who comes anew stands behind it: nobody can barge |
//!
//! The lock is advisory. A holder that dies releases it; one that hangs delays the others until
//! their own deadlines, or until they go on without a turn; where no side file can be had, everybody
//! goes on without; and a writer that knows nothing of it takes SQLite's lock as ever.

mod claim;
mod keeper;
#[cfg(feature = "sqlite")]
mod lock;
#[cfg(all(test, shuttle))]
mod model;
mod passing;
mod queue;
#[cfg(feature = "sqlite")]
mod record;
#[cfg(feature = "sqlite")]
mod registry;
mod share;
#[cfg(feature = "sqlite")]
mod side;
mod state;
#[cfg(all(test, not(shuttle)))]
mod tests;

pub use claim::{Asker, Site, TurnStats};
#[cfg(feature = "sqlite")]
pub use lock::{Pending, TURN_TIMEOUT, Turn, TurnLock, TurnOptions};
#[cfg(feature = "sqlite")]
pub(crate) use queue::SECOND_LOOK;
