//! What a write allocates, in counts: the guard of the hot path.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]
#![allow(unsafe_code, reason = "the counting allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use turnwise::sqlite::{Params, Value};
use turnwise::writer::{BatchWriter, Unit, WriterOptions};

/// Counts the allocations of each thread. `SQLite`'s own are not among them.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn note() {
    // No destructor: there is a counter until the thread's very end.
    ALLOCATIONS.with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promises are the system's terms.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the system's terms.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: the caller's promises are the system's terms.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// What a write allocated when this was last looked at: the rest is of `rusqlite`'s statement cache.
const MOST: u64 = 4;

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations of each `execute`, its unit not counted.
fn allocations_of(writer: &BatchWriter, sql: &str, count: i64) -> Vec<u64> {
    let sql: Arc<str> = sql.into();
    (0..count)
        .map(|number| {
            let values = vec![Value::Integer(number), Value::Text(format!("topic {number}"))];
            let unit = Unit::one(Arc::clone(&sql), Params::Positional(values));
            let before = ALLOCATIONS.get();
            writer.execute(unit).unwrap();
            ALLOCATIONS.get() - before
        })
        .collect()
}

#[test]
fn allocations_of_an_uncontended_write() {
    let folder = tempfile::tempdir().unwrap();
    let writer = BatchWriter::open(folder.path().join("app.db"), WriterOptions::default()).unwrap();
    let create = "CREATE TABLE t(id INTEGER PRIMARY KEY, title TEXT)";
    writer.execute(Unit::one(create, Params::NONE)).unwrap();

    let each = allocations_of(&writer, "INSERT INTO t VALUES (?, ?)", 100);
    let stats = writer.stats();
    assert_eq!((stats.inline, stats.transactions), (101, 101));
    // The first ones prepare statements and grow what is kept.
    assert!(each[50..].iter().all(|&allocations| allocations <= MOST), "{each:?}");
}
