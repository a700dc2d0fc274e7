//! Every lease of a process, in slots that are found without a search.

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;

use super::finding::{Finding, FindingCode, LeaseFacts, Severity};
use super::lease::{Lease, Limits, Opening, Outcome, Texts, Use, Wrong};
use super::state::{LeaseState, Phase};
use crate::sync::Mutex;

const CHUNK: usize = 256;
const CHUNKS: usize = 256;

/// The most leases at a time; more are not tracked.
pub const MOST: usize = CHUNK * CHUNKS;

/// A lease of a [`Tracker`]. Once it is closed, the id stands for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId {
    slot: u32,
    generation: u32,
}

impl LeaseId {
    /// As a number, and back: [`from_number`](Self::from_number).
    pub fn number(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    /// The id with this number.
    pub fn from_number(number: u64) -> Self {
        // Both halves of the number.
        #[allow(clippy::cast_possible_truncation)]
        Self { slot: number as u32, generation: (number >> 32) as u32 }
    }
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    lease: Option<Lease>,
}

/// The scan reads the marks alone: a line of the cache holds those of eight slots.
#[derive(Debug)]
struct Chunk {
    /// 0: free; else one more than the time since which it is in a state that may last too long,
    /// `RUNNING` in another one.
    marks: Box<[AtomicU64]>,
    slots: Box<[Mutex<Slot>]>,
}

/// A statement runs: nothing waits, but the owner may have ended.
const RUNNING: u64 = u64::MAX;

impl Chunk {
    fn new() -> Self {
        Self {
            marks: (0..CHUNK).map(|_| AtomicU64::new(0)).collect(),
            slots: (0..CHUNK).map(|_| Mutex::default()).collect(),
        }
    }
}

#[derive(Debug, Default)]
struct Free {
    slots: Vec<u32>,
    used: u32,
}

/// The leases of a process. All times are nanoseconds of one monotonic clock, which the caller reads.
#[derive(Debug)]
pub struct Tracker {
    chunks: Box<[OnceLock<Chunk>]>,
    free: Mutex<Free>,
    limits: Mutex<Limits>,
    number: AtomicU64,
}

impl Tracker {
    /// A tracker without leases.
    pub fn new(limits: Limits) -> Self {
        Self {
            chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect(),
            free: Mutex::default(),
            limits: Mutex::new(limits),
            number: AtomicU64::new(0),
        }
    }

    /// Changes when waiting becomes a finding.
    pub fn set_limits(&self, limits: Limits) {
        *self.limits.lock() = limits;
    }

    /// A connection was taken. `None`: [`MOST`] are out.
    pub fn open(&self, opening: Opening, now_ns: u64) -> Option<LeaseId> {
        let slot = {
            let mut free = self.free.lock();
            match free.slots.pop() {
                Some(slot) => slot,
                None if (free.used as usize) < MOST => {
                    free.used += 1;
                    free.used - 1
                }
                None => return None,
            }
        };
        let number = self.number.fetch_add(1, Ordering::Relaxed) + 1;
        let (chunk, at) = self.place(slot)?;
        let mut place = chunk.slots.get(at)?.lock();
        place.lease = Some(Lease::new(number, opening, now_ns));
        chunk.marks.get(at)?.store(now_ns.saturating_add(1), Ordering::Relaxed);
        Some(LeaseId { slot, generation: place.generation })
    }

    /// It was given back. What was found about its waiting is over.
    pub fn close(&self, id: LeaseId, now_ns: u64, texts: &dyn Texts) -> Option<Closed> {
        let closed = self.with(id, |slot| {
            let lease = slot.lease.take()?;
            slot.generation = slot.generation.wrapping_add(1);
            let codes: Vec<_> = lease.told().collect();
            let facts = (!codes.is_empty()).then(|| lease.facts(now_ns, texts));
            Some(Closed { codes, facts })
        })??;
        self.free.lock().slots.push(id.slot);
        Some(closed)
    }

    /// What is wrong with a use that is about to begin.
    pub fn check(&self, id: LeaseId, r#use: &Use<'_>) -> Option<Wrong> {
        self.with_lease(id, |lease| lease.check(r#use))?
    }

    /// What is wrong with a COMMIT that is about to begin.
    pub fn check_commit(&self, id: LeaseId, r#use: &Use<'_>) -> Option<Wrong> {
        self.with_lease(id, |lease| lease.check_commit(r#use))?
    }

    /// A statement is about to be sent.
    ///
    /// # Errors
    ///
    /// What is wrong with it; it has not begun.
    pub fn begin(&self, id: LeaseId, r#use: &Use<'_>, now_ns: u64) -> Result<(), Wrong> {
        let begun = self.with_lease(id, |lease| {
            if let Some(wrong) = lease.check(r#use) {
                return Err(wrong);
            }
            lease.begin(r#use, now_ns);
            Ok(())
        });
        begun.unwrap_or(Ok(()))
    }

    /// A statement is about to be sent, whatever is wrong with it.
    pub fn begin_anyway(&self, id: LeaseId, r#use: &Use<'_>, now_ns: u64) {
        self.with_lease(id, |lease| lease.begin(r#use, now_ns));
    }

    /// The statement has come back.
    pub fn end(&self, id: LeaseId, outcome: Outcome, now_ns: u64) {
        self.with_lease(id, |lease| lease.end(outcome, now_ns));
    }

    /// COMMIT or ROLLBACK has come back, and no transaction is open.
    pub fn end_transaction(&self, id: LeaseId, now_ns: u64) {
        self.end(id, Outcome::Ended, now_ns);
    }

    /// A session has begun a transaction in this phase of its owner; the next statement opens it.
    pub fn announce(&self, id: LeaseId, phase: Phase) {
        self.with_lease(id, |lease| lease.announce(phase));
    }

    /// Whether statements commit themselves from now on.
    pub fn set_autocommit(&self, id: LeaseId, autocommit: bool) {
        self.with_lease(id, |lease| lease.set_autocommit(autocommit));
    }

    /// The pool is about to end what the user has left open.
    pub fn reset(&self, id: LeaseId, now_ns: u64) {
        self.with_lease(id, |lease| lease.resets(now_ns));
    }

    /// Whether the lease has a transaction open.
    pub fn has_transaction(&self, id: LeaseId) -> bool {
        self.with_lease(id, |lease| lease.has_transaction()).unwrap_or_default()
    }

    /// Leases that wait for too long, with what was not found about them before.
    pub fn overdue(&self, now_ns: u64) -> Vec<(LeaseId, FindingCode)> {
        let limits = *self.limits.lock();
        let shortest =
            limits.idle_ns.min(limits.task_idle_ns).min(limits.lock_held_ns).min(limits.grace_ns);
        let until = now_ns.saturating_sub(shortest).saturating_add(1);
        let mut found = Vec::new();
        let used = self.free.lock().used as usize;
        for (number, chunk) in self.chunks.iter().enumerate().take(used.div_ceil(CHUNK)) {
            let Some(chunk) = chunk.get() else { continue };
            for (at, mark) in chunk.marks.iter().enumerate() {
                let mark = mark.load(Ordering::Relaxed);
                if mark == 0 || mark > until {
                    continue;
                }
                let Some(place) = chunk.slots.get(at) else { continue };
                let mut place = place.lock();
                let generation = place.generation;
                let Some(lease) = &mut place.lease else { continue };
                let slot = u32::try_from(number * CHUNK + at).unwrap_or_default();
                for code in lease.overdue(&limits, now_ns) {
                    found.push((LeaseId { slot, generation }, code));
                }
            }
        }
        found
    }

    /// A finding about a lease, which may be closed already.
    pub fn finding(
        &self,
        id: Option<LeaseId>,
        (code, severity): (FindingCode, Severity),
        now_ns: u64,
        texts: &dyn Texts,
    ) -> Finding {
        let known = id.and_then(|id| {
            self.with_lease(id, |lease| (lease.facts(now_ns, texts), lease.age_of(code, now_ns)))
        });
        let (lease, age_ns) = known.map_or((None, 0), |(facts, age)| (Some(facts), age));
        Finding {
            code,
            severity,
            at_ns: now_ns,
            age_ns,
            lease,
            by: None,
            site: String::new(),
            detail: String::new(),
        }
    }

    /// Every lease that is out, the oldest first.
    pub fn leases(&self, now_ns: u64, texts: &dyn Texts) -> Vec<LeaseFacts> {
        let used = self.free.lock().used as usize;
        let mut leases: Vec<_> = self
            .chunks
            .iter()
            .filter_map(OnceLock::get)
            .flat_map(|chunk| chunk.slots.iter())
            .take(used)
            .filter_map(|slot| slot.lock().lease.as_ref().map(|lease| lease.facts(now_ns, texts)))
            .collect();
        leases.sort_by_key(|lease| lease.number);
        leases
    }

    fn place(&self, slot: u32) -> Option<(&Chunk, usize)> {
        let slot = slot as usize;
        let chunk = self.chunks.get(slot / CHUNK)?.get_or_init(Chunk::new);
        Some((chunk, slot % CHUNK))
    }

    fn with<T>(&self, id: LeaseId, run: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        let slot = id.slot as usize;
        let chunk = self.chunks.get(slot / CHUNK)?.get()?;
        let mut place = chunk.slots.get(slot % CHUNK)?.lock();
        if place.generation != id.generation {
            return None;
        }
        let result = run(&mut place);
        let mark = match &place.lease {
            None => 0,
            Some(lease) if lease.state() == LeaseState::Active => RUNNING,
            Some(lease) => lease.state_ns().saturating_add(1).min(RUNNING - 1),
        };
        chunk.marks.get(slot % CHUNK)?.store(mark, Ordering::Relaxed);
        Some(result)
    }

    fn with_lease<T>(&self, id: LeaseId, run: impl FnOnce(&mut Lease) -> T) -> Option<T> {
        self.with(id, |slot| slot.lease.as_mut().map(run)).flatten()
    }
}

/// What came to an end with a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// What was found about its waiting.
    pub codes: Vec<FindingCode>,
    /// The lease, if anything was.
    pub facts: Option<LeaseFacts>,
}
