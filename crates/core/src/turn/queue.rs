//! Who in this process has the turn, and who waits for it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::claim::{Claim, Grant, TurnStats};
use super::share::Owed;
use super::state::{Holder, Seat, Side, State, Then, Waiter, Wake};
use crate::error::{Error, ErrorKind, Result};
use crate::handoff::Patience;
use crate::sync::{Condvar, Mutex, now, unlocked};

/// How long a turn that seems to stand still is looked at: who has just got it may not have been
/// written down yet.
pub(crate) const SECOND_LOOK: Duration = Duration::from_millis(10);

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

/// The queue of one process for one file.
pub(super) struct TurnQueue<L> {
    pub(super) state: Mutex<State>,
    /// The keeper waits here.
    pub(super) work: Condvar,
    pub(super) lock: L,
    /// The turn is a thread's, for who asks without the lock.
    pub(super) claimed: AtomicBool,
    pub(super) start_keeper: fn(Arc<Self>) -> bool,
}

impl<L: SideLock> TurnQueue<L> {
    /// `start_keeper` has a thread run [`keep`](Self::keep), and tells whether there is one.
    pub(super) fn new(lock: L, start_keeper: fn(Arc<Self>) -> bool) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                holder: None,
                side: Side::Free,
                owed: Owed::default(),
                gap: None,
                sent_off: Vec::new(),
                next: 1,
                moved: now(),
                asked: now(),
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
        check_reentry(&state, claim, false)?;
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
        if let Some(grant) = take_over(&mut state, claim) {
            return Ok(grant);
        }
        check_reentry(&state, claim, false)?;
        if let Some(grant) = self.try_now(&mut state, claim) {
            return Ok(grant);
        }
        if patience.is_over() {
            drop(state);
            return Err(self.not_in_time());
        }
        let left = |stuck| self.left_until_stuck(&state, stuck).unwrap_or(SECOND_LOOK);
        let mut look = stuck.map(|stuck| now() + left(stuck));
        let seat = Arc::<Seat>::default();
        let wake = Wake::Thread(Arc::clone(&seat));
        let Some(id) = self.line_up(&mut state, claim, wake, false) else {
            return Ok(Grant::Without);
        };
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
                let Some(left) = self.left_until_stuck(&state, stuck) else {
                    state.leave(id);
                    state.fall_throughs += 1;
                    return Ok(Grant::Without);
                };
                look = Some(now() + left);
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

    /// Lines up without blocking: `then` gets the grant, at once or later, on any thread. `first` is
    /// somebody whose turn was taken over.
    pub(super) fn request(
        self: &Arc<Self>,
        claim: &Claim,
        then: Then,
        first: bool,
    ) -> Result<Option<u64>> {
        let mut state = self.state.lock();
        check_reentry(&state, claim, true)?;
        if let Some(grant) = self.try_now(&mut state, claim) {
            drop(state);
            then(grant);
            return Ok(None);
        }
        if !self.have_keeper(&mut state) {
            state.fall_throughs += 1;
            drop(state);
            then(Grant::Without);
            return Ok(None);
        }
        Ok(self.line_up(&mut state, claim, Wake::Call(then), first))
    }

    /// Takes a request back. `false`: its `then` has the grant, or is about to.
    pub(super) fn withdraw(&self, id: u64) -> bool {
        let left = self.state.lock().leave(id);
        left.is_some()
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

    /// Fails for a thread that would wait for itself, or a coroutine if it `suspends`.
    pub(super) fn check_reentry(&self, claim: &Claim, suspends: bool) -> Result<()> {
        check_reentry(&self.state.lock(), claim, suspends)
    }

    /// From here on the turn `id` is the claimant's.
    pub(super) fn hand_to(&self, id: u64, claim: Claim) {
        let mut state = self.state.lock();
        if let Some(holder) = state.holder.as_mut().filter(|holder| holder.id == id) {
            self.claimed.store(claim.thread.is_some(), Ordering::Relaxed);
            holder.claim = claim;
        }
    }

    /// From here on no thread would wait for itself if it asked for the turn `id`.
    pub(super) fn disclaim(&self, id: u64) {
        let mut state = self.state.lock();
        if let Some(holder) = state.holder.as_mut().filter(|holder| holder.id == id) {
            self.claimed.store(false, Ordering::Relaxed);
            holder.claim = Claim::of_nobody(holder.claim.site.clone());
        }
    }

    /// The turn `id` was offered, and is now its claimant's. `false`: its thread took it over.
    pub(super) fn take_up(&self, id: u64) -> bool {
        let mut state = self.state.lock();
        let holder = state.holder.as_mut().filter(|holder| holder.id == id);
        holder.map(|holder| holder.claim.offered = false).is_some()
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
                let now = now();
                state.side = Side::Ours(now);
                let id = state.number();
                self.hold(state, id, claim.clone(), now);
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
    fn line_up(
        self: &Arc<Self>,
        state: &mut State,
        claim: &Claim,
        wake: Wake,
        first: bool,
    ) -> Option<u64> {
        if !self.have_keeper(state) {
            state.fall_throughs += 1;
            return None;
        }
        state.waits += 1;
        let id = state.number();
        // A thread that blocks goes before its own coroutines: they could not give the turn back.
        let blocks = matches!(wake, Wake::Thread(_));
        let before = |waiter: &Waiter| first || blocks && waiter.claim.stops_with(claim, false);
        let place = state.waiting.iter().position(before).unwrap_or(state.waiting.len());
        state.waiting.insert(place, Waiter { id, claim: claim.clone(), wake });
        if state.side == Side::Free {
            state.side = Side::Asked;
            state.asked = now();
            self.work.notify_one();
        }
        Some(id)
    }

    fn left_until_stuck(&self, state: &State, stuck: Duration) -> Option<Duration> {
        let here = now() - state.moved;
        // Another process may be getting on where this one only waits.
        let stood = match self.lock.stood_still() {
            Some(there) => here.min(there),
            // Nobody knows: since somebody here began to wait.
            None => match state.side {
                Side::Free => Duration::ZERO,
                Side::Asked => here.min(now() - state.asked),
                Side::Ours(_) => here,
            },
        };
        stuck.checked_sub(stood).filter(|left| !left.is_zero())
    }
}

/// SQLITE_BUSY.
const BUSY: i32 = 5;

/// Who blocks its thread gets the turn of a coroutine of that thread which has not taken it up: it
/// could not before the thread goes on.
fn take_over(state: &mut State, claim: &Claim) -> Option<Grant> {
    let offered = |holder: &&Holder| holder.claim.offered && holder.claim.stops_with(claim, false);
    state.holder.as_ref().filter(offered)?;
    let id = state.number();
    state.hand_offs += 1;
    state.moved = now();
    state.holder = Some(Holder { id, claim: claim.clone(), since: state.moved });
    Some(Grant::Held(id))
}

fn check_reentry(state: &State, claim: &Claim, suspends: bool) -> Result<()> {
    match &state.holder {
        Some(holder) if holder.claim.stops_with(claim, suspends) => Err(Error::new(
            ErrorKind::TurnReentered,
            format!(
                "{} asks for the turn that this {} already has from {}, and would wait for itself: \
                 end that transaction first, or write on its connection",
                claim.site,
                if suspends { "task" } else { "thread" },
                holder.claim.site
            ),
        )),
        _ => Ok(()),
    }
}

impl<L> fmt::Debug for TurnQueue<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TurnQueue").finish_non_exhaustive()
    }
}
