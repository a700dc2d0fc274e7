//! SQLite gets no memory: at the first allocation, the second, the third …, until a run of the mix
//! passes clean.
#![cfg(all(feature = "private-copy", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]
#![allow(clippy::print_stdout, reason = "says how much was swept")]
#![allow(unsafe_code, reason = "SQLite's allocator is replaced before SQLite is initialised")]

mod fault_sweep_support;

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use fault_sweep_support::{Round, Template, soak, watched};
use rusqlite::ffi;
use turnwise::classify::Journal::{Delete, Wal};
use turnwise::sqlite::Durability;

type Allocate = unsafe extern "C" fn(c_int) -> *mut c_void;
type Reallocate = unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void;

/// SQLite's own allocator.
static REAL: OnceLock<(Allocate, Reallocate)> = OnceLock::new();

/// Allocations that pass before one fails, while armed.
static LEFT: AtomicI64 = AtomicI64::new(0);
static ARMED: AtomicBool = AtomicBool::new(false);
static LASTING: AtomicBool = AtomicBool::new(false);
static STRUCK: AtomicU64 = AtomicU64::new(0);

/// The allocator belongs to the process: one sweep at a time.
static SWEEP: Mutex<()> = Mutex::new(());

fn strikes() -> bool {
    if !ARMED.load(Ordering::Relaxed) {
        return false;
    }
    let left = LEFT.fetch_sub(1, Ordering::Relaxed);
    let strikes = left == 0 || left < 0 && LASTING.load(Ordering::Relaxed);
    if strikes {
        STRUCK.fetch_add(1, Ordering::Relaxed);
    }
    strikes
}

unsafe extern "C" fn allocate(bytes: c_int) -> *mut c_void {
    if strikes() {
        return std::ptr::null_mut();
    }
    // SAFETY: SQLite's own function, with its own argument.
    unsafe { REAL.get().unwrap().0(bytes) }
}

unsafe extern "C" fn reallocate(memory: *mut c_void, bytes: c_int) -> *mut c_void {
    if strikes() {
        return std::ptr::null_mut();
    }
    // SAFETY: SQLite's own function, with its own arguments.
    unsafe { REAL.get().unwrap().1(memory, bytes) }
}

fn replace_allocator() {
    REAL.get_or_init(|| {
        let mut real = std::mem::MaybeUninit::<ffi::sqlite3_mem_methods>::zeroed();
        // SAFETY: each option is given the arguments that it takes; GETMALLOC fills the structure;
        // SQLite copies what it is given, and is not initialised before the first `Template`.
        unsafe {
            let got = ffi::sqlite3_config(ffi::SQLITE_CONFIG_GETMALLOC, real.as_mut_ptr());
            assert_eq!(got, ffi::SQLITE_OK);
            let real = real.assume_init();
            let mut ours = real;
            ours.xMalloc = Some(allocate);
            ours.xRealloc = Some(reallocate);
            let set = ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw const ours);
            assert_eq!(set, ffi::SQLITE_OK);
            // Memory that a connection sets aside would hide most allocations.
            let none: c_int = 0;
            let set = ffi::sqlite3_config(ffi::SQLITE_CONFIG_LOOKASIDE, none, none);
            assert_eq!(set, ffi::SQLITE_OK);
            (real.xMalloc.unwrap(), real.xRealloc.unwrap())
        }
    });
}

/// Runs `act` with the allocation after `after` others failing; gives how many failed.
fn starved(round: &Round, after: i64, lasting: bool, act: fn(&Round)) -> u64 {
    STRUCK.store(0, Ordering::Relaxed);
    LEFT.store(after, Ordering::Relaxed);
    LASTING.store(lasting, Ordering::Relaxed);
    ARMED.store(true, Ordering::Release);
    act(round);
    ARMED.store(false, Ordering::Release);
    STRUCK.load(Ordering::Relaxed)
}

/// Sweeps `act`, `step` allocations at a time; gives what callers were told, and how often.
fn sweep(
    what: &'static str,
    template: &Arc<Template>,
    lasting: bool,
    act: fn(&Round),
) -> BTreeMap<&'static str, u64> {
    // While no memory is to be had at all, neighbouring allocations end alike.
    let step = if lasting && !soak() { 3 } else { 1 };
    let mut told: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut after, mut rounds, mut strikes) = (0, 0, 0);
    loop {
        let round = format!("{what}, allocation {after}, lasting: {lasting}");
        let template = Arc::clone(template);
        let (struck, errors) = watched(&round, move || {
            let round = Round::open(&template, Durability::Full);
            let struck = starved(&round, after, lasting, act);
            let errors = round.ledger.errors();
            round.check_crash();
            round.check();
            (struck, errors)
        });
        for kind in errors {
            *told.entry(kind.name()).or_default() += 1;
        }
        rounds += 1;
        strikes += struck;
        if struck == 0 {
            break;
        }
        after += step;
    }
    assert!(after > 20, "{what}: {after} allocations only");
    assert!(told.contains_key("OutOfMemory"), "{what}: {told:?}");
    let known = ["OutOfMemory", "RolledBack", "Io", "CommitOutcomeUnknown"];
    assert!(told.keys().all(|kind| known.contains(kind)), "{what}: {told:?}");
    println!(
        "{what}, lasting: {lasting}: {after} allocations, {strikes} of them failed in {rounds} \
         rounds; told: {told:?}"
    );
    told
}

fn alone() -> MutexGuard<'static, ()> {
    let alone = SWEEP.lock().unwrap_or_else(PoisonError::into_inner);
    replace_allocator();
    alone
}

#[test]
fn no_memory_in_wal() {
    let _alone = alone();
    // Few frames until a checkpoint is due.
    let template = Arc::new(Template::new(Wal, 970));
    for lasting in [false, true] {
        sweep("wal", &template, lasting, Round::mix);
        sweep("wal, closing", &template, lasting, Round::closing);
    }
}

#[test]
fn no_memory_in_a_delete_journal() {
    let _alone = alone();
    let template = Arc::new(Template::new(Delete, 0));
    for lasting in [false, true] {
        for act in [Round::mix, Round::closing] {
            let told = sweep("delete", &template, lasting, act);
            assert!(!told.contains_key("CommitOutcomeUnknown"), "{told:?}");
        }
    }
}

#[test]
fn no_memory_for_the_index_of_a_long_log() {
    let _alone = alone();
    // The first page of the index takes 4,062 frames (`HASHTABLE_NPAGE_ONE`); the next one is asked
    // for when the frames of a COMMIT are in the log already.
    let template = Arc::new(Template::new(Wal, 4_030));
    for lasting in [false, true] {
        let told = sweep("long log", &template, lasting, Round::large);
        assert!(told.contains_key("CommitOutcomeUnknown"), "{told:?}");
    }
}
