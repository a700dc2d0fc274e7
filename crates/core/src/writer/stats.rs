//! Counters of a file's writer since it was opened in this process.

use std::sync::atomic::{AtomicU64, Ordering};

use super::histogram::{Histogram, Recorder};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: AtomicU64,)+
        }

        /// What the writer of a file has done since it was opened in this process.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct WriterStats {
            $($(#[$doc])* pub $name: u64,)+
            /// Turns that were not to be had at once: another process, or another writer of this one,
            /// had it.
            pub turn_waits: u64,
            /// Turns that went to the next waiter of this process without being given back.
            pub turn_hand_offs: u64,
            /// Times that somebody went on without a turn: it stood still, or no side file could be
            /// had.
            pub turn_fall_throughs: u64,
            /// Times that a writer which knows nothing of turns held the lock in our turn.
            pub outsiders: u64,
            /// Rows in the queue now.
            pub queue_rows: u64,
            /// Bytes in the queue now, about.
            pub queue_bytes: u64,
            /// From accepting a write to its outcome.
            pub write_time: Histogram,
            /// How long the write lock was held, from BEGIN to the end of COMMIT.
            pub lock_time: Histogram,
        }

        impl WriterStats {
            /// Every counter with its name.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [
                    $((stringify!($name), self.$name),)+
                    ("turn_waits", self.turn_waits),
                    ("turn_hand_offs", self.turn_hand_offs),
                    ("turn_fall_throughs", self.turn_fall_throughs),
                    ("outsiders", self.outsiders),
                    ("queue_rows", self.queue_rows),
                    ("queue_bytes", self.queue_bytes),
                ]
                .into_iter()
            }
        }

        impl Counters {
            pub(super) fn read(&self) -> WriterStats {
                WriterStats {
                    $($name: self.$name.load(Ordering::Relaxed),)+
                    ..WriterStats::default()
                }
            }
        }
    };
}

counters! {
    /// Writes accepted, inline or into the queue.
    submitted,
    /// Writes committed.
    committed,
    /// Writes that ended in an error; those that were cancelled are counted apart.
    failed,
    /// Writes taken back before they had begun: cancelled or timed out.
    cancelled,
    /// Transactions committed.
    transactions,
    /// Writes that ran in their caller's thread.
    inline,
    /// Groups committed by the writer thread.
    groups,
    /// Writes in the largest group.
    max_group,
    /// Times that the database's lock was found taken.
    lock_retries,
    /// Groups that were rolled back and run again without the write that had spoilt them.
    recoveries,
    /// Checkpoints run.
    checkpoints,
}

pub(super) fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// The recorders behind the histograms of [`WriterStats`].
#[derive(Debug, Default)]
pub(super) struct Timings {
    pub(super) write: Recorder,
    pub(super) lock: Recorder,
}
