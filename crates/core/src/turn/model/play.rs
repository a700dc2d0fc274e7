//! The threads of the model, and what must be true of what they were given.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::kernel::{Kernel, Pid, Queue, SideFiles};
use super::plan::{HOUR, Plan, Role};
use crate::error::ErrorKind;
use crate::handoff::Patience;
use crate::sync::checker::{chance, note, pause, pick, sleep};
use crate::sync::model::{self, Spawned};
use crate::sync::{Condvar, Mutex, now};
use crate::turn::claim::{Claim, Grant, Site};
use crate::turn::queue::{SECOND_LOOK, SideLock as _};
use crate::turn::state::Side;

const SITE: Site = Site::Ours("the model");
const SLICE: Duration = Duration::from_millis(1);

/// A thread's view of its process.
#[derive(Clone)]
pub(super) struct Stage {
    kernel: Arc<Kernel>,
    queue: Arc<Queue>,
    pid: Pid,
}

/// What a request came to.
enum Got {
    Turn(u64),
    Without,
    /// A turn that was given back as it came.
    Surplus,
}

struct Mailbox {
    got: Mutex<Option<Got>>,
    came: Condvar,
    grants: AtomicU32,
}

/// Looks at the queue when the request is dropped: not with the lock held.
struct Looks(Weak<Queue>);

impl Drop for Looks {
    fn drop(&mut self) {
        if let Some(queue) = self.0.upgrade() {
            queue.stats();
        }
    }
}

impl Stage {
    fn perform(&self, role: Role) {
        for _ in 0..self.kernel.plan.turns {
            match role {
                Role::Waiting => self.wait(),
                Role::Trying => self.attempt(),
                Role::Asking => self.ask(),
                Role::Dying => {
                    sleep(Duration::from_millis(pick(4) as u64));
                    (0..pick(60)).for_each(|_| pause());
                    return self.kernel.kill(self.pid);
                }
            }
        }
    }

    fn is_alive(&self) -> bool {
        !self.kernel.is_dead(self.pid)
    }

    fn is_exact(&self) -> bool {
        self.kernel.plan.hurry == 0.0 && self.is_alive()
    }

    fn wait(&self) {
        let plan = &self.kernel.plan;
        let called = now();
        let deadline = chance(plan.deadline.0).then(|| called + plan.deadline.1);
        let slice = chance(plan.interrupted.0).then_some(SLICE);
        let stuck = chance(plan.stuck.0).then_some(plan.stuck.1);
        let interrupted = || {
            pause();
            chance(plan.interrupted.1)
        };
        let patience = Patience { deadline, slice, interrupted: &interrupted };
        let claim = Claim::of_this_thread(SITE);
        let outcome = self.queue.acquire(&claim, &patience, stuck);
        if self.is_exact()
            && let Some(deadline) = deadline
        {
            assert!(now() <= deadline, "waited beyond the deadline");
        }
        match outcome {
            Ok(Grant::Held(id)) => {
                self.enter(id);
                self.re_enter(&claim);
                self.hold(id);
            }
            Ok(Grant::Without) => {
                self.expect_stuck(called, stuck);
                self.without();
            }
            Err(error) => {
                note(format!("{:?}", error.kind()));
                match error.kind() {
                    ErrorKind::LockTimeout => {
                        assert!(deadline.is_some_and(|at| now() >= at), "told too early");
                    }
                    ErrorKind::WriteCancelled => {
                        self.kernel.ledger.note_called_away(self.pid);
                        assert!(slice.is_some(), "nobody wanted it elsewhere");
                    }
                    kind => panic!("a fault of our own: {kind:?}"),
                }
            }
        }
    }

    fn attempt(&self) {
        let called = now();
        match self.queue.try_acquire(&Claim::of_this_thread(SITE)).unwrap() {
            Some(Grant::Held(id)) => {
                self.enter(id);
                self.hold(id);
            }
            Some(Grant::Without) => {
                self.expect_stuck(called, None);
                self.without();
            }
            None => note("not at once"),
        }
        assert!(!self.is_exact() || self.kernel.plan.hold > 0 || now() == called, "it blocked");
    }

    fn ask(&self) {
        let mailbox = Arc::new(Mailbox {
            got: Mutex::new(None),
            came: Condvar::new(),
            grants: AtomicU32::new(0),
        });
        let looks = Looks(Arc::downgrade(&self.queue));
        let then = {
            let (stage, mailbox) = (self.clone(), Arc::clone(&mailbox));
            move |grant| {
                let _looks = looks;
                stage.take_delivery(&mailbox, grant);
            }
        };
        let claim = Claim::of_nobody(SITE);
        let called = now();
        let id = self.queue.request(&claim, Box::new(then), false).unwrap();
        if let Some(id) = id
            && chance(self.kernel.plan.withdrawn)
        {
            (0..pick(20)).for_each(|_| pause());
            if chance(0.5) {
                sleep(SLICE);
            }
            if self.queue.withdraw(id) {
                note("withdrawn");
                assert_eq!(mailbox.grants.load(Ordering::Relaxed), 0, "taken back, yet granted");
                assert_eq!(Arc::strong_count(&mailbox), 1, "a request was kept");
                return;
            }
            note("withdrawn too late");
        }
        let mut got = mailbox.got.lock();
        while got.is_none() {
            mailbox.came.wait(&mut got);
        }
        match got.take().unwrap() {
            Got::Turn(given) => {
                assert!(id.is_none_or(|id| id == given), "somebody else's turn");
                self.queue.hand_to(given, Claim::of_this_thread(SITE));
                self.hold(given);
            }
            Got::Without => self.expect_stuck(called, None),
            Got::Surplus => note("surplus"),
        }
        pause();
        assert_eq!(mailbox.grants.load(Ordering::Relaxed), 1, "granted more than once");
    }

    fn take_delivery(&self, mailbox: &Mailbox, grant: Grant) {
        mailbox.grants.fetch_add(1, Ordering::Relaxed);
        let got = match grant {
            Grant::Held(id) => {
                self.enter(id);
                if chance(self.kernel.plan.surplus) {
                    self.leave(id);
                    Got::Surplus
                } else {
                    Got::Turn(id)
                }
            }
            Grant::Without => {
                self.without();
                Got::Without
            }
        };
        *mailbox.got.lock() = Some(got);
        mailbox.came.notify_one();
    }

    fn without(&self) {
        note("without");
        self.kernel.ledger.note_without(self.pid);
    }

    /// Nobody goes on without a turn for nothing.
    fn expect_stuck(&self, called: Instant, stuck: Option<Duration>) {
        let plan = &self.kernel.plan;
        let unlucky = plan.unavailable > 0.0 || plan.no_thread > 0.0;
        if unlucky || !self.is_exact() {
            return;
        }
        let stuck = stuck.expect("it would have waited");
        let passed = self.kernel.standing().1;
        let moved = passed.max(self.kernel.ledger.moved(self.pid)).expect("nobody had it");
        // It may move on at the very moment.
        assert!(now() == moved || now() >= moved + stuck, "the turn had not stood still");
        let latest = (moved + stuck).max(called + SECOND_LOOK);
        assert!(now() <= latest, "the turn stood still for longer");
        note("stuck");
    }

    fn enter(&self, id: u64) {
        self.kernel.ledger.enter(self.pid, id, self.kernel.standing());
    }

    fn re_enter(&self, claim: &Claim) {
        let again = self.queue.try_acquire(claim);
        let refused = again.is_err_and(|error| error.kind() == ErrorKind::TurnReentered);
        assert!(refused, "the holder was let in");
    }

    fn hold(&self, id: u64) {
        let plan = &self.kernel.plan;
        pause();
        let known = self.queue.claimed.load(Ordering::Relaxed);
        assert!(known || !self.is_alive(), "the turn is a thread's");
        if chance(plan.outsider) {
            note("outsider");
            self.queue.note_outsider();
        }
        if chance(plan.stops) {
            note("stopped");
            sleep(HOUR);
        } else if plan.hold > 0 {
            sleep(Duration::from_millis(pick(plan.hold + 1) as u64));
        }
        self.leave(id);
    }

    fn leave(&self, id: u64) {
        let quiet = (|| {
            let state = self.queue.state.lock();
            let since = state.holder.as_ref()?.since;
            let mut owed = state.owed.clone();
            drop(state);
            let ago = self.queue.lock.outsider_seen()?;
            Some(now() + owed.gap(ago, now() - since)?)
        })();
        let quiet = quiet.filter(|_| self.kernel.plan.no_thread == 0.0);
        if quiet.is_some() {
            note("gap");
        }
        self.kernel.ledger.leave(self.pid, id, quiet);
        self.queue.release(Grant::Held(id));
    }

    /// Closes the queue, and sees that nothing is left of it.
    fn end(&self) {
        self.queue.close();
        let keeper = self.queue.lock.keeper.lock().take();
        let kept = keeper.is_some();
        if let Some(keeper) = keeper {
            keeper.join();
        }
        let state = self.queue.state.lock();
        assert_eq!(state.side, Side::Free, "the side files were kept");
        assert!(state.waiting.is_empty() && state.holder.is_none(), "somebody still waits");
        assert!(state.sent_off.is_empty() && state.gap.is_none());
        assert!(kept || state.waits == 0, "nobody was there to wait");
        drop(state);
        assert!(!self.queue.claimed.load(Ordering::Relaxed), "the turn is nobody's");
        if self.is_alive() {
            let (withouts, unknown) = self.kernel.ledger.withouts(self.pid);
            let counted = self.queue.stats().fall_throughs;
            assert!((withouts..=withouts + unknown).contains(&counted), "{counted} of {withouts}");
        }
    }
}

/// Plays one execution and checks what is left at its end.
pub(super) fn play(plan: Plan) -> Arc<Kernel> {
    model::begin(plan.hurry);
    let cast = plan.cast.clone();
    let kernel = Kernel::new(plan);
    let stages: Vec<Stage> = (0..kernel.plan.processes)
        .map(|pid| {
            let queue = SideFiles::queue(&kernel, pid);
            Stage { kernel: Arc::clone(&kernel), queue, pid }
        })
        .collect();
    let threads: Vec<Spawned> = (0..)
        .zip(cast)
        .map(|(at, role): (usize, Role)| {
            let stage = stages[at % stages.len()].clone();
            model::spawn(move || stage.perform(role))
        })
        .collect();
    threads.into_iter().for_each(Spawned::join);
    stages.iter().for_each(Stage::end);
    kernel.ledger.expect_over();
    assert!(kernel.is_free(), "a side file is still locked");
    kernel
}
