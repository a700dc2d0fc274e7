//! One lease: what happens to a connection between its check-out and its return.

use std::sync::Arc;

use super::finding::{FindingCode, LeaseFacts, Severity};
use super::owner::{Owner, OwnerKind};
use super::state::{LeaseState, Phase};

/// Turns what a lease keeps as a number into words, once something has to be reported.
pub trait Texts {
    /// A line of code.
    fn site(&self, site: u64) -> String;
    /// A statement without its literals.
    fn statement(&self, statement: u64) -> String;
}

/// What is known when a connection is taken.
#[derive(Debug, Default)]
pub struct Opening {
    /// The pool that it is from.
    pub pool: Arc<str>,
    /// The server's number of the connection; 0: not known.
    pub backend_pid: i64,
    /// For whom.
    pub owner: Option<Arc<Owner>>,
    /// The line that takes it; 0: not known.
    pub site: u64,
    /// Whether statements commit themselves.
    pub autocommit: bool,
}

/// One statement, or the end of a transaction, about to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Use<'a> {
    /// The thread that sends it.
    pub thread: u64,
    /// For whom.
    pub owner: Option<&'a Arc<Owner>>,
    /// Whether another use by the same thread is one of another task, and not one within this one.
    pub interleaves: bool,
    /// Whether it may take locks of a write.
    pub writes: bool,
    /// The line that sends it; 0: not known.
    pub site: u64,
    /// Its text; 0: not known.
    pub statement: u64,
}

/// Something wrong with a use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong {
    /// What.
    pub code: FindingCode,
    /// How bad.
    pub severity: Severity,
}

/// What became of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded, or failed and left the transaction as it was.
    Done,
    /// It failed, and the transaction can only be rolled back.
    Aborted,
    /// It failed, and no transaction is open any more.
    Ended,
}

/// When waiting becomes a finding, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A request's transaction in which nothing runs.
    pub idle_ns: u64,
    /// The same for tasks and jobs, and where the owner is not known.
    pub task_idle_ns: u64,
    /// Locks of a write while nothing runs.
    pub lock_held_ns: u64,
    /// A lease whose owner has ended.
    pub grace_ns: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let second = 1_000_000_000;
        Self {
            idle_ns: 5 * second,
            task_idle_ns: 60 * second,
            lock_held_ns: 2 * second,
            grace_ns: second,
        }
    }
}

/// What waits too long, each in a bit.
const THRESHOLDS: [FindingCode; 3] =
    [FindingCode::IdleInTransaction, FindingCode::LockHeld, FindingCode::HeldPastOwner];

/// Its bit, which no statement ends.
const HELD_PAST_OWNER: u8 = 1 << 2;

#[derive(Debug)]
pub(super) struct Lease {
    pub(super) number: u64,
    opening: Opening,
    opened_ns: u64,
    state: LeaseState,
    state_ns: u64,
    write_ns: Option<u64>,
    /// The open transaction's, and the phase that it was in.
    began: Option<(Option<Arc<Owner>>, Phase)>,
    /// The phase in which a session began what the next statement opens as a transaction.
    announced: Option<Phase>,
    thread: u64,
    busy: bool,
    last: u64,
    statement: u64,
    statements: u64,
    /// Which of `THRESHOLDS` were found in this episode.
    told: u8,
}

impl Lease {
    pub(super) fn new(number: u64, opening: Opening, now_ns: u64) -> Self {
        Self {
            number,
            opening,
            opened_ns: now_ns,
            state: LeaseState::CheckedOut,
            state_ns: now_ns,
            write_ns: None,
            began: None,
            announced: None,
            thread: 0,
            busy: false,
            last: 0,
            statement: 0,
            statements: 0,
            told: 0,
        }
    }

    pub(super) fn state(&self) -> LeaseState {
        self.state
    }

    pub(super) fn state_ns(&self) -> u64 {
        self.state_ns
    }

    fn go(&mut self, state: LeaseState, now_ns: u64) {
        self.state = state;
        self.state_ns = now_ns;
    }

    /// What would be wrong with this use, the worst first.
    pub(super) fn check(&self, r#use: &Use<'_>) -> Option<Wrong> {
        if self.busy && (self.thread != r#use.thread || r#use.interleaves) {
            return Some(Wrong { code: FindingCode::ConcurrentUse, severity: Severity::Error });
        }
        let (Some(owner), phase) = self.began.as_ref()? else { return None };
        if !r#use.owner.is_some_and(|other| other.is_kin(owner)) {
            return Some(Wrong { code: FindingCode::CrossOwnerUse, severity: Severity::Warning });
        }
        let severity = match owner.phase() {
            Phase::Running => return None,
            Phase::Streaming => Severity::Info,
            Phase::Responded | Phase::Ended => Severity::Warning,
        };
        (*phase == Phase::Running)
            .then_some(Wrong { code: FindingCode::SessionAfterResponse, severity })
    }

    /// What would be wrong with a COMMIT now.
    pub(super) fn check_commit(&self, r#use: &Use<'_>) -> Option<Wrong> {
        let found =
            self.check(r#use).filter(|wrong| wrong.code != FindingCode::SessionAfterResponse);
        if found.is_some() || self.write_ns.is_none() {
            return found;
        }
        let (Some(owner), Phase::Running) = self.began.as_ref()? else { return None };
        owner.phase().is_after_response().then_some(Wrong {
            code: FindingCode::CommitAfterResponse,
            severity: Severity::Warning,
        })
    }

    pub(super) fn begin(&mut self, r#use: &Use<'_>, now_ns: u64) {
        self.busy = true;
        self.thread = r#use.thread;
        self.last = r#use.site;
        self.statement = r#use.statement;
        self.statements += 1;
        // What a statement locks that commits itself is free again when it has run.
        if !self.opening.autocommit {
            if self.began.is_none() {
                let owner = r#use.owner.cloned();
                let now = owner.as_ref().map_or(Phase::Running, |owner| owner.phase());
                let phase = self.announced.take().unwrap_or(now);
                self.began = Some((owner, phase));
            }
            if r#use.writes && self.write_ns.is_none() {
                self.write_ns = Some(now_ns);
            }
        }
        self.go(LeaseState::Active, now_ns);
        self.told &= HELD_PAST_OWNER;
    }

    pub(super) fn end(&mut self, outcome: Outcome, now_ns: u64) {
        self.busy = false;
        let state = match (outcome, &self.began) {
            (Outcome::Ended, _) | (_, None) => {
                self.began = None;
                self.announced = None;
                self.write_ns = None;
                LeaseState::CheckedOut
            }
            (Outcome::Done, Some(_)) => LeaseState::IdleInTransaction,
            (Outcome::Aborted, Some(_)) => LeaseState::AbortedTransaction,
        };
        self.go(state, now_ns);
    }

    pub(super) fn has_transaction(&self) -> bool {
        self.began.is_some()
    }

    pub(super) fn set_autocommit(&mut self, autocommit: bool) {
        self.opening.autocommit = autocommit;
    }

    pub(super) fn announce(&mut self, phase: Phase) {
        self.announced = Some(phase);
    }

    pub(super) fn resets(&mut self, now_ns: u64) {
        self.go(LeaseState::Resetting, now_ns);
    }

    /// What was found about its waiting and is over with its return.
    pub(super) fn told(&self) -> impl Iterator<Item = FindingCode> + '_ {
        let told = self.told;
        THRESHOLDS
            .into_iter()
            .enumerate()
            .filter(move |(at, _)| told >> at & 1 == 1)
            .map(|(_, c)| c)
    }

    /// What has lasted too long, each once an episode.
    pub(super) fn overdue(&mut self, limits: &Limits, now_ns: u64) -> Vec<FindingCode> {
        let held = match self.state {
            LeaseState::IdleInTransaction | LeaseState::AbortedTransaction => {
                now_ns.saturating_sub(self.state_ns)
            }
            _ => 0,
        };
        let owner = self.opening.owner.as_ref();
        let is_request = owner
            .is_some_and(|owner| matches!(owner.kind(), OwnerKind::Request | OwnerKind::WebSocket));
        let idle_limit = if is_request { limits.idle_ns } else { limits.task_idle_ns };
        let wrote = self.write_ns.filter(|_| held > 0).map_or(0, |at| now_ns.saturating_sub(at));
        // What a task takes that outlives its owner is its own.
        let ended = owner.and_then(|owner| owner.ended_ns()).filter(|&at| self.opened_ns <= at);
        let past = ended.map_or(0, |at| now_ns.saturating_sub(at));
        let ages = [held >= idle_limit, wrote >= limits.lock_held_ns, past >= limits.grace_ns];
        let applies = [held > 0, wrote > 0, ended.is_some()];
        let mut found = Vec::new();
        for (at, code) in THRESHOLDS.into_iter().enumerate() {
            let over = ages.get(at) == Some(&true) && applies.get(at) == Some(&true);
            if over && self.told >> at & 1 == 0 {
                self.told |= 1 << at;
                found.push(code);
            }
        }
        found
    }

    /// For how long what the code names has lasted.
    pub(super) fn age_of(&self, code: FindingCode, now_ns: u64) -> u64 {
        let since = match code {
            FindingCode::LockHeld => self.write_ns.unwrap_or(now_ns),
            FindingCode::HeldPastOwner => {
                let ended = self.opening.owner.as_ref().and_then(|owner| owner.ended_ns());
                ended.unwrap_or(now_ns)
            }
            FindingCode::IdleInTransaction => self.state_ns,
            _ => self.opened_ns,
        };
        now_ns.saturating_sub(since)
    }

    pub(super) fn facts(&self, now_ns: u64, texts: &dyn Texts) -> LeaseFacts {
        let site = |site| if site == 0 { String::new() } else { texts.site(site) };
        LeaseFacts {
            number: self.number,
            pool: self.opening.pool.to_string(),
            backend_pid: self.opening.backend_pid,
            state: self.state,
            age_ns: now_ns.saturating_sub(self.opened_ns),
            state_age_ns: now_ns.saturating_sub(self.state_ns),
            write_age_ns: self.write_ns.map(|at| now_ns.saturating_sub(at)),
            owner: self.opening.owner.as_ref().map(|owner| owner.facts(now_ns)),
            opened: site(self.opening.site),
            last: site(self.last),
            statement: match self.statement {
                0 => String::new(),
                statement => texts.statement(statement),
            },
            statements: self.statements,
            thread: self.thread,
            task: 0,
        }
    }
}
