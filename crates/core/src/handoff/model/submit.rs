//! Callers that leave their writes with a sink.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::base::{Got, Job};
use super::chance;
use super::flush::Told;
use super::plan::Role;
use super::play::{Fate, Stage, fate};
use crate::error::{Error, ErrorKind};
use crate::handoff::groups::PAUSE;
use crate::handoff::{Completed, Outcome, Pickup, Reply, Request, Sink, Withdrawn};
use crate::sync::{Condvar, Mutex, now};

/// Collects what one submitter's writes became.
struct Inbox {
    stage: Arc<Stage>,
    arrived: Mutex<Vec<(u64, Outcome<Got>, Instant)>>,
    more: Condvar,
    told: Arc<AtomicBool>,
}

/// A write in the queue whose outcome goes to `inbox`.
pub(super) struct Left {
    id: u64,
    seq: u64,
    queued: Instant,
    deadline: Option<Instant>,
    inbox: Arc<Inbox>,
}

impl Sink<Got> for Inbox {
    fn deliver(&self, completed: Vec<Completed<Got>>, pickup: Pickup) {
        assert!(!completed.is_empty(), "nothing was delivered");
        let at = now();
        let arrivals = completed.into_iter().map(|one| (one.token, one.outcome, at));
        self.arrived.lock().extend(arrivals);
        self.more.notify_all();
        self.told.store(true, Ordering::Relaxed);
        self.stage.put_away(pickup);
    }
}

impl Inbox {
    /// The outcome, and when it came.
    fn wait(&self, token: u64) -> (Outcome<Got>, Instant) {
        let mut arrived = self.arrived.lock();
        loop {
            if let Some(at) = arrived.iter().position(|(known, ..)| *known == token) {
                let (_, outcome, came) = arrived.swap_remove(at);
                return (outcome, came);
            }
            self.more.wait(&mut arrived);
        }
    }
}

impl Stage {
    pub(super) fn submit(self: &Arc<Self>, role: Role, id: u64) -> Fate {
        match self.leave(role, id) {
            Ok(Some(left)) => self.collect(&left),
            Ok(None) => Fate::Dropped,
            Err(error) => Fate::Failed(error.kind()),
        }
    }

    /// Leaves a write with an inbox of its own, unless the queue is full and `role` does not wait.
    pub(super) fn leave(self: &Arc<Self>, role: Role, id: u64) -> Result<Option<Left>, Error> {
        let inbox = Arc::new(Inbox {
            stage: Arc::clone(self),
            arrived: Mutex::new(Vec::new()),
            more: Condvar::new(),
            told: Arc::default(),
        });
        let (likely, time) = self.plan.deadline;
        let deadline = chance(likely).then(|| now() + time);
        let Some(seq) = self.offer(role, id, deadline, &inbox)? else { return Ok(None) };
        self.ledger.note(id, Told::Sink(Arc::clone(&inbox.told)));
        Ok(Some(Left { id, seq, queued: now(), deadline, inbox }))
    }

    /// Takes the write back or waits for its outcome.
    pub(super) fn collect(&self, left: &Left) -> Fate {
        let &Left { id, seq, queued, deadline, ref inbox } = left;
        if chance(self.plan.cancelled)
            && matches!(self.handoff.withdraw(seq), Withdrawn::NotBegun { .. })
        {
            return Fate::Dropped;
        }
        let (outcome, came) = inbox.wait(id);
        let fate = fate(id, outcome);
        assert!(inbox.arrived.lock().is_empty(), "more than one outcome");
        if self.plan.hurry == 0.0
            && let Fate::Failed(ErrorKind::WriteTimeout | ErrorKind::LockTimeout) = fate
        {
            let due = deadline.map(|deadline| deadline.max(queued) + PAUSE * 2);
            assert!(due.is_some_and(|due| came <= due), "told late");
        }
        fate
    }

    /// Gets a write into the queue without waiting for its outcome.
    fn offer(
        &self,
        role: Role,
        id: u64,
        deadline: Option<Instant>,
        inbox: &Arc<Inbox>,
    ) -> Result<Option<u64>, Error> {
        let mut request = self.request(id);
        loop {
            let reply = Reply::Sink(Arc::clone(inbox) as Arc<dyn Sink<Got>>, id);
            request = match self.handoff.offer(request, deadline, reply)? {
                Ok(seq) => return Ok(Some(seq)),
                Err(request) => request,
            };
            match role {
                Role::Submitting => {
                    self.with_patience(|patience| {
                        self.handoff.await_room((request.rows, request.bytes), patience)
                    })?;
                }
                Role::Calling => self.wait_for_call(&request),
                _ => return Ok(None),
            }
        }
    }

    fn wait_for_call(&self, request: &Request<Job>) {
        let called = Arc::new((Mutex::new(false), Condvar::new()));
        let call = {
            let called = Arc::clone(&called);
            move || {
                *called.0.lock() = true;
                called.1.notify_all();
            }
        };
        self.handoff.when_room((request.rows, request.bytes), Box::new(call));
        let mut done = called.0.lock();
        while !*done {
            called.1.wait(&mut done);
        }
    }
}
