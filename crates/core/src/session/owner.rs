//! Owners: the requests, tasks and jobs that leases belong to.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use super::finding::OwnerFacts;
use super::state::Phase;
use crate::numbered::numbered;
use crate::sync::Mutex;

numbered! {
    /// What an owner is.
    pub enum OwnerKind {
        /// A request of HTTP.
        Request = 0, "request";
        /// A connection of WebSocket.
        WebSocket = 1, "websocket";
        /// A task of a queue of tasks.
        Task = 2, "task";
        /// Anything else that begins and ends.
        Job = 3, "job";
        /// A command.
        Cli = 4, "cli";
    }
}

/// One request, task or job. Shared by everything that runs for it.
#[derive(Debug)]
pub struct Owner {
    number: u64,
    kind: OwnerKind,
    id: String,
    name: Mutex<String>,
    phase: AtomicI32,
    began_ns: u64,
    /// 0: not yet.
    ended_ns: AtomicU64,
    blocked_ns: AtomicU64,
    parent: Option<Arc<Self>>,
}

impl Owner {
    /// An owner that begins now. `id` tells it from others of the same name.
    pub fn new(
        number: u64,
        kind: OwnerKind,
        name: &str,
        id: &str,
        parent: Option<Arc<Self>>,
        now_ns: u64,
    ) -> Self {
        Self {
            number,
            kind,
            id: id.to_owned(),
            name: Mutex::new(name.to_owned()),
            phase: AtomicI32::new(Phase::Running.code()),
            began_ns: now_ns,
            ended_ns: AtomicU64::new(0),
            blocked_ns: AtomicU64::new(0),
            parent,
        }
    }

    /// Its number, which no other owner of this process has.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What it is.
    pub fn kind(&self) -> OwnerKind {
        self.kind
    }

    /// What tells it from others of the same name, such as the id of a request.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its name, such as a route.
    pub fn name(&self) -> String {
        self.name.lock().clone()
    }

    /// Gives it a better name: a route is known late.
    pub fn rename(&self, name: &str) {
        name.clone_into(&mut self.name.lock());
    }

    /// Whoever began it, if that was an owner.
    pub fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        Phase::from_code(self.phase.load(Ordering::Acquire)).unwrap_or(Phase::Ended)
    }

    /// Goes on to a later phase. An earlier one is ignored.
    pub fn advance(&self, phase: Phase, now_ns: u64) {
        let before = self.phase.fetch_max(phase.code(), Ordering::AcqRel);
        if phase == Phase::Ended && before < Phase::Ended.code() {
            self.ended_ns.store(now_ns.max(1), Ordering::Release);
        }
    }

    /// When it ended.
    pub fn ended_ns(&self) -> Option<u64> {
        Some(self.ended_ns.load(Ordering::Acquire)).filter(|&at| at > 0)
    }

    /// When it began.
    pub fn began_ns(&self) -> u64 {
        self.began_ns
    }

    /// Counts time in which it has blocked an event loop.
    pub fn add_blocked(&self, ns: u64) {
        self.blocked_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// How long it has blocked an event loop, in all.
    pub fn blocked_ns(&self) -> u64 {
        self.blocked_ns.load(Ordering::Relaxed)
    }

    /// Whether it is `other`, began below it, or the reverse: what nests works for one another.
    pub fn is_kin(self: &Arc<Self>, other: &Arc<Self>) -> bool {
        self.descends_from(other) || other.descends_from(self)
    }

    fn descends_from(self: &Arc<Self>, other: &Arc<Self>) -> bool {
        let mut next = Some(self);
        while let Some(owner) = next {
            if Arc::ptr_eq(owner, other) {
                return true;
            }
            next = owner.parent.as_ref();
        }
        false
    }

    /// What a report says of it.
    pub fn facts(&self, now_ns: u64) -> OwnerFacts {
        OwnerFacts {
            number: self.number,
            kind: self.kind,
            id: self.id.clone(),
            name: self.name(),
            phase: self.phase(),
            age_ns: now_ns.saturating_sub(self.began_ns),
        }
    }
}
