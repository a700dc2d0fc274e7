//! Who in this process has the turn, and who waits for it.

use std::collections::VecDeque;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::share;
use crate::error::{Error, ErrorKind, Result};
use crate::handoff::Patience;
use crate::sync::{Condvar, Mutex, MutexGuard, ThreadId, current, now, unlocked};

/// How long a process keeps the turn for its own waiters while other processes may be waiting.
pub(super) const BOUND: Duration = Duration::from_millis(2);

/// What asking for the side files' locks came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    /// Another process has it, or is next.
    Busy,
    /// There is no such lock to be had here, and why.
    Unavailable(String),
}

/// The lock between processes.
pub(super) trait SideLock: Send + Sync + 'static {
    /// Takes it, unless somebody else has it or is next.
    fn try_take(&self) -> Taken;
    /// Waits for it, however long that takes. Never [`Taken::Busy`].
    fn take(&self) -> Taken;
    fn give_back(&self);
    /// The time since it last passed from hand to hand, if that is known.
    fn stood_still(&self) -> Option<Duration>;
    /// Who has it, for an error message.
    fn describe_holder(&self) -> Option<String>;
    /// An outsider has been met.
    fn note_outsider(&self);
    /// The time since somebody last met an outsider.
    fn outsider_seen(&self) -> Option<Duration>;
}

/// Where a turn was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Site {
    /// A place in Rust code.
    Code(&'static Location<'static>),
    /// A place in another language, such as `app.py:12`.
    Text(Arc<str>),
    /// A part of turnwise.
    Ours(&'static str),
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(location) => write!(f, "{}:{}", location.file(), location.line()),
            Self::Text(text) => f.write_str(text),
            Self::Ours(text) => f.write_str(text),
        }
    }
}

/// Who asks for a turn.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    /// The thread that would wait for itself if it asked again; `None` for a turn that no
    /// application code runs in.
    pub(super) thread: Option<ThreadId>,
    pub(super) site: Site,
}

/// What asking for a turn gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grant {
    /// The turn, under this number.
    Held(u64),
    /// To go on without a turn.
    Without,
}

/// Gets the grant of a waiter that does not block. Runs outside the lock.
pub(super) type Then = Box<dyn FnOnce(Grant) + Send>;

enum Wake {
    Thread(Arc<Seat>),
    Call(Then),
}

#[derive(Default)]
struct Seat {
    bell: Condvar,
}

struct Waiter {
    id: u64,
    claim: Claim,
    wake: Wake,
}

struct Holder {
    id: u64,
    claim: Claim,
    since: Instant,
}

/// The side files' locks, as far as this process is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Not ours, and nobody here wants them.
    Free,
    /// The keeper waits for them, or is about to.
    Asked,
    /// Ours since then.
    Ours(Instant),
}

pub(super) struct State {
    waiting: VecDeque<Waiter>,
    holder: Option<Holder>,
    pub(super) side: Side,
    /// The database is left alone until then.
    pub(super) gap: Option<Instant>,
    /// Those whom the keeper has told to go on without a turn.
    sent_off: Vec<u64>,
    next: u64,
    /// When the turn last came to this process or went round in it.
    moved: Instant,
    pub(super) keeper: bool,
    /// Who has the queue open; the keeper ends without them.
    pub(super) users: usize,
    waits: u64,
    hand_offs: u64,
    fall_throughs: u64,
    outsiders: u64,
}

/// What the turn lock of a file has seen in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TurnStats {
    /// Turns that were not to be had at once.
    pub waits: u64,
    /// Turns that went to the next waiter of this process without being given back.
    pub hand_offs: u64,
    /// Times that somebody went on without a turn: it stood still, or no side file could be had.
    pub fall_throughs: u64,
    /// Times that a writer which knows nothing of the turn lock held SQLite's lock in our turn.
    pub outsiders: u64,
}

/// The queue of one process for one file.
pub(super) struct TurnQueue<L> {
    pub(super) state: Mutex<State>,
    /// The keeper waits here.
    pub(super) work: Condvar,
    pub(super) lock: L,
    /// The turn is a thread's, for who asks without the lock.
    pub(super) claimed: AtomicBool,
    start_keeper: fn(Arc<Self>) -> bool,
}

impl<L: SideLock> TurnQueue<L> {
    /// `start_keeper` has a thread run [`keep`](Self::keep), and tells whether there is one.
    pub(super) fn new(lock: L, start_keeper: fn(Arc<Self>) -> bool) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                holder: None,
                side: Side::Free,
                gap: None,
                sent_off: Vec::new(),
                next: 1,
                moved: now(),
                keeper: false,
                users: 0,
                waits: 0,
                hand_offs: 0,
                fall_throughs: 0,
                outsiders: 0,
            }),
            work: Condvar::new(),
            lock,
            claimed: AtomicBool::new(false),
            start_keeper,
        })
    }

    /// Takes the turn if nobody has it or waits for it. `None`: somebody does.
    pub(super) fn try_acquire(&self, claim: &Claim) -> Result<Option<Grant>> {
        let mut state = self.state.lock();
        check_reentry(&state, claim)?;
        Ok(self.try_now(&mut state, claim))
    }

    /// Waits for the turn: up to the patience's end, and up to `stuck` while nobody gets on.
    pub(super) fn acquire(
        self: &Arc<Self>,
        claim: &Claim,
        patience: &Patience<'_>,
        stuck: Option<Duration>,
    ) -> Result<Grant> {
        let mut state = self.state.lock();
        check_reentry(&state, claim)?;
        if let Some(grant) = self.try_now(&mut state, claim) {
            return Ok(grant);
        }
        if patience.is_over() {
            drop(state);
            return Err(self.not_in_time());
        }
        let seat = Arc::<Seat>::default();
        let Some(id) = self.line_up(&mut state, claim, Wake::Thread(Arc::clone(&seat))) else {
            return Ok(Grant::Without);
        };
        let mut look = stuck.map(|stuck| now() + stuck);
        loop {
            if let Some(grant) = state.grant_of(id) {
                return Ok(grant);
            }
            let stop = match (patience.next_stop(), look) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
            match stop {
                None => seat.bell.wait(&mut state),
                Some(stop) => {
                    if !seat.bell.wait_until(&mut state, stop).timed_out() {
                        continue;
                    }
                }
            }
            if let Some(grant) = state.grant_of(id) {
                return Ok(grant);
            }
            if patience.is_over() {
                state.leave(id);
                drop(state);
                return Err(self.not_in_time());
            }
            if let (Some(stuck), Some(at)) = (stuck, look)
                && now() >= at
            {
                match self.left_until_stuck(&state, stuck) {
                    Some(left) => look = Some(now() + left),
                    None => {
                        state.leave(id);
                        state.fall_throughs += 1;
                        return Ok(Grant::Without);
                    }
                }
            }
            if patience.slice.is_some() && unlocked(&mut state, || (patience.interrupted)()) {
                if let Some(grant) = state.grant_of(id) {
                    drop(state);
                    self.release(grant);
                } else {
                    state.leave(id);
                }
                return Err(Error::new(
                    ErrorKind::WriteCancelled,
                    "interrupted while waiting for the turn; nothing was written",
                ));
            }
        }
    }

    /// Lines up without blocking: `then` gets the grant, at once or later, on any thread.
    pub(super) fn request(self: &Arc<Self>, claim: &Claim, then: Then) -> Option<u64> {
        let mut state = self.state.lock();
        if let Some(grant) = self.try_now(&mut state, claim) {
            drop(state);
            then(grant);
            return None;
        }
        if !self.have_keeper(&mut state) {
            drop(state);
            then(Grant::Without);
            return None;
        }
        self.line_up(&mut state, claim, Wake::Call(then))
    }

    /// Takes a request back. `false`: its `then` has the grant, or is about to.
    pub(super) fn withdraw(&self, id: u64) -> bool {
        self.state.lock().leave(id)
    }

    /// Whether the turn has stood still for `stuck`: who waits may go on without it.
    pub(super) fn is_stuck(&self, stuck: Duration) -> bool {
        self.left_until_stuck(&self.state.lock(), stuck).is_none()
    }

    /// Somebody who waited went on without a turn.
    pub(super) fn note_fall_through(&self) {
        self.state.lock().fall_throughs += 1;
    }

    /// A writer that knows nothing of the turn lock had SQLite's lock in our turn.
    pub(super) fn note_outsider(&self) {
        self.state.lock().outsiders += 1;
        self.lock.note_outsider();
    }

    /// Fails for a thread that would wait for itself.
    pub(super) fn check_reentry(&self, claim: &Claim) -> Result<()> {
        check_reentry(&self.state.lock(), claim)
    }

    /// From here on the turn `id` is the claimant's.
    pub(super) fn hand_to(&self, id: u64, claim: Claim) {
        let mut state = self.state.lock();
        if let Some(holder) = state.holder.as_mut().filter(|holder| holder.id == id) {
            self.claimed.store(claim.thread.is_some(), Ordering::Relaxed);
            holder.claim = claim;
        }
    }

    /// Gives a turn back: to the next in line, after a gap where an outsider wants one.
    pub(super) fn release(self: &Arc<Self>, grant: Grant) {
        let Grant::Held(id) = grant else { return };
        let mut state = self.state.lock();
        let Some(holder) = state.holder.take_if(|holder| holder.id == id) else { return };
        self.claimed.store(false, Ordering::Relaxed);
        if let Some(ago) = self.lock.outsider_seen()
            && let Some(gap) = share::gap(ago, now() - holder.since)
            && self.have_keeper(&mut state)
        {
            state.gap = Some(now() + gap);
            self.work.notify_one();
            return;
        }
        self.pass_on(&mut state);
    }

    /// Who has the turn, for an error message.
    pub(super) fn describe_holder(&self) -> Option<String> {
        let state = self.state.lock();
        if let Some(holder) = &state.holder {
            let held = now() - holder.since;
            return Some(format!(
                "this process has had the turn since {:.1} s, from {}",
                held.as_secs_f64(),
                holder.claim.site
            ));
        }
        drop(state);
        self.lock.describe_holder()
    }

    pub(super) fn stats(&self) -> TurnStats {
        let state = self.state.lock();
        TurnStats {
            waits: state.waits,
            hand_offs: state.hand_offs,
            fall_throughs: state.fall_throughs,
            outsiders: state.outsiders,
        }
    }

    /// One user more.
    pub(super) fn open(&self) {
        self.state.lock().users += 1;
    }

    /// One user less.
    pub(super) fn close(&self) {
        self.state.lock().users -= 1;
        self.work.notify_one();
    }

    fn not_in_time(&self) -> Error {
        let holder = self.describe_holder();
        let holder = holder.unwrap_or_else(|| "another process has had the turn".into());
        Error::new(
            ErrorKind::LockTimeout,
            format!("database is locked: {holder}; nothing was written"),
        )
        .with_code(BUSY)
    }

    fn try_now(&self, state: &mut State, claim: &Claim) -> Option<Grant> {
        if state.side != Side::Free || !state.waiting.is_empty() {
            return None;
        }
        match self.lock.try_take() {
            Taken::Yes => {
                state.side = Side::Ours(now());
                let id = state.number();
                self.hold(state, id, claim.clone());
                Some(Grant::Held(id))
            }
            Taken::Busy => None,
            Taken::Unavailable(_) => {
                state.fall_throughs += 1;
                Some(Grant::Without)
            }
        }
    }

    /// Puts a waiter at the end of the line. `None`: no thread is to be had that would wait for it.
    fn line_up(self: &Arc<Self>, state: &mut State, claim: &Claim, wake: Wake) -> Option<u64> {
        if !self.have_keeper(state) {
            state.fall_throughs += 1;
            return None;
        }
        state.waits += 1;
        let id = state.number();
        state.waiting.push_back(Waiter { id, claim: claim.clone(), wake });
        if state.side == Side::Free {
            state.side = Side::Asked;
            self.work.notify_one();
        }
        Some(id)
    }

    fn left_until_stuck(&self, state: &State, stuck: Duration) -> Option<Duration> {
        let here = now() - state.moved;
        // Another process may be getting on where this one only waits.
        let stood = self.lock.stood_still().map_or(here, |there| here.min(there));
        stuck.checked_sub(stood).filter(|left| !left.is_zero())
    }

    /// Nobody here has the turn any more: the next in line gets it, or the side files are given
    /// back. Lets go of the lock while it tells a waiter that does not block.
    pub(super) fn pass_on(&self, state: &mut MutexGuard<'_, State>) {
        let Side::Ours(since) = state.side else { return };
        if state.waiting.is_empty() {
            self.lock.give_back();
            state.side = Side::Free;
            return;
        }
        if now() - since >= BOUND {
            self.lock.give_back();
            match self.lock.try_take() {
                Taken::Yes => state.side = Side::Ours(now()),
                Taken::Busy => {
                    state.side = Side::Asked;
                    self.work.notify_one();
                    return;
                }
                Taken::Unavailable(_) => return self.send_off(state),
            }
        }
        state.hand_offs += 1;
        self.grant(state);
    }

    /// The first in line gets the turn. There is one, and the side files are ours.
    pub(super) fn grant(&self, state: &mut MutexGuard<'_, State>) {
        let Some(Waiter { id, claim, wake }) = state.waiting.pop_front() else { return };
        self.hold(state, id, claim);
        match wake {
            Wake::Thread(seat) => seat.bell.notify_one(),
            Wake::Call(then) => unlocked(state, || then(Grant::Held(id))),
        }
    }

    /// Everybody in line goes on without a turn: there are no side files to be had.
    pub(super) fn send_off(&self, state: &mut MutexGuard<'_, State>) {
        state.side = Side::Free;
        let mut calls = Vec::new();
        for waiter in std::mem::take(&mut state.waiting) {
            state.fall_throughs += 1;
            match waiter.wake {
                Wake::Thread(seat) => {
                    state.sent_off.push(waiter.id);
                    seat.bell.notify_one();
                }
                Wake::Call(then) => calls.push(then),
            }
        }
        unlocked(state, || calls.into_iter().for_each(|then| then(Grant::Without)));
    }

    fn hold(&self, state: &mut State, id: u64, claim: Claim) {
        self.claimed.store(claim.thread.is_some(), Ordering::Relaxed);
        let since = now();
        state.moved = since;
        state.holder = Some(Holder { id, claim, since });
    }

    pub(super) fn has_waiters(state: &State) -> bool {
        !state.waiting.is_empty()
    }
}

/// SQLITE_BUSY.
const BUSY: i32 = 5;

fn check_reentry(state: &State, claim: &Claim) -> Result<()> {
    match &state.holder {
        Some(holder) if claim.thread.is_some() && holder.claim.thread == claim.thread => {
            Err(Error::new(
                ErrorKind::TurnReentered,
                format!(
                    "{} asks for the turn that this thread already has from {}, and would wait for \
                     itself: end that transaction first, or write on its connection",
                    claim.site, holder.claim.site
                ),
            ))
        }
        _ => Ok(()),
    }
}

impl State {
    fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    fn grant_of(&mut self, id: u64) -> Option<Grant> {
        if self.holder.as_ref().is_some_and(|holder| holder.id == id) {
            return Some(Grant::Held(id));
        }
        let at = self.sent_off.iter().position(|other| *other == id)?;
        self.sent_off.swap_remove(at);
        Some(Grant::Without)
    }

    fn leave(&mut self, id: u64) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiter| waiter.id != id);
        self.waiting.len() != before
    }
}

impl<L: SideLock> TurnQueue<L> {
    /// Whether there is a keeper, started now if need be.
    fn have_keeper(self: &Arc<Self>, state: &mut State) -> bool {
        if !state.keeper {
            state.keeper = (self.start_keeper)(Arc::clone(self));
        }
        state.keeper
    }
}

impl<L> fmt::Debug for TurnQueue<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TurnQueue").finish_non_exhaustive()
    }
}

/// The claim of this thread.
pub(super) fn claim_of_this_thread(site: Site) -> Claim {
    Claim { thread: Some(current().id()), site }
}
