//! What SQLAlchemy's pools and sessions call when something happens.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use turnwise::session::{FindingCode, LeaseId, Limits, Opening, Severity, Tracker, Wrong};

use super::connections::Connections;
use super::finding::Finding;
use super::here::Loops;
use super::lease::Lease;
use super::mark::SessionMark;
use super::owner::Owner;
use super::reports::Reports;
use super::texts::Texts;
use super::wrong::Circumstance;
use super::{hook, now_ns};

/// Slots for the leases of this process, and the listeners that fill them.
#[pyclass(frozen, module = "turnwise._native")]
pub(crate) struct NativeTracker {
    pub(super) leases: Tracker,
    pub(super) texts: Texts,
    connections: Connections,
    pub(super) reports: Reports,
    loops: Loops,
    /// When the watchdog last looked: precise enough for seconds, and free.
    tick_ns: AtomicU64,
    /// `() -> Owner | None`: that of the context.
    owner: Py<PyAny>,
    /// `(dbapi_connection, record, fairy) -> (pool, backend pid)`, at the first checkout.
    adopt: Py<PyAny>,
    /// `() -> str`: what of SQLAlchemy runs a statement.
    pub(super) circumstance: Py<PyAny>,
    each_site: AtomicBool,
    strict: AtomicBool,
}

impl NativeTracker {
    pub(super) fn tick(&self) -> u64 {
        self.tick_ns.load(Ordering::Relaxed)
    }

    pub(super) fn now(&self) -> u64 {
        let now = now_ns();
        self.tick_ns.fetch_max(now, Ordering::Relaxed);
        now
    }

    /// Whose context this is.
    pub(super) fn owner<'py>(&self, py: Python<'py>) -> Option<Bound<'py, Owner>> {
        self.owner.call0(py).ok()?.into_bound(py).cast_into().ok()
    }

    pub(super) fn lease_at(&self, connection: usize) -> Option<LeaseId> {
        self.connections.lease_at(connection)
    }

    pub(super) fn on_loop(&self, py: Python<'_>) -> bool {
        self.loops.on_loop(py)
    }

    pub(super) fn site_of_statement(&self, py: Python<'_>) -> u64 {
        if self.each_site.load(Ordering::Relaxed) { self.texts.site(py) } else { 0 }
    }

    fn close(&self, py: Python<'_>, id: LeaseId) {
        let now = self.now();
        let closed = self.leases.close(id, now, &self.texts.with(py));
        if let Some(closed) = closed {
            self.reports.tell_closed(py, closed, now);
        }
    }
}

pub(super) fn site_text(texts: &impl turnwise::session::Texts, site: u64) -> String {
    if site == 0 { String::new() } else { texts.site(site) }
}

fn address(object: &Bound<'_, PyAny>) -> usize {
    object.as_ptr() as usize
}

fn limit(name: &str, seconds: f64) -> PyResult<u64> {
    let limit = std::time::Duration::try_from_secs_f64(seconds)
        .ok()
        .and_then(|limit| u64::try_from(limit.as_nanos()).ok());
    limit.ok_or_else(|| {
        PyValueError::new_err(format!("{name} is a number of seconds from 0 on, not {seconds}"))
    })
}

#[pymethods]
impl NativeTracker {
    /// `owner` gives the owner of the context; `watcher` and `places` answer the calls below.
    #[new]
    fn new(
        py: Python<'_>,
        owner: Py<PyAny>,
        watcher: &Bound<'_, PyAny>,
        places: &Bound<'_, PyAny>,
    ) -> PyResult<Self> {
        let circumstance = places.getattr("circumstance")?.unbind();
        Ok(Self {
            leases: Tracker::new(Limits::default()),
            texts: Texts::new(py, places)?,
            connections: Connections::default(),
            reports: Reports::new(watcher.getattr("tell")?.unbind()),
            loops: Loops::default(),
            tick_ns: AtomicU64::new(now_ns()),
            owner,
            adopt: watcher.getattr("adopt")?.unbind(),
            circumstance,
            each_site: AtomicBool::new(false),
            strict: AtomicBool::new(false),
        })
    }

    /// Changes the thresholds, in seconds, whether each statement's line is kept, and whether findings are
    /// raised.
    #[pyo3(signature = (*, idle_in_transaction, task_idle_in_transaction, lock_held, grace, each_site, strict))]
    fn configure(
        &self,
        idle_in_transaction: f64,
        task_idle_in_transaction: f64,
        lock_held: f64,
        grace: f64,
        each_site: bool,
        strict: bool,
    ) -> PyResult<()> {
        self.leases.set_limits(Limits {
            idle_ns: limit("idle_in_transaction", idle_in_transaction)?,
            task_idle_ns: limit("task_idle_in_transaction", task_idle_in_transaction)?,
            lock_held_ns: limit("lock_held", lock_held)?,
            grace_ns: limit("grace", grace)?,
        });
        self.each_site.store(each_site, Ordering::Relaxed);
        self.strict.store(strict, Ordering::Relaxed);
        Ok(())
    }

    /// A connection was taken from its pool.
    fn on_checkout(
        &self,
        py: Python<'_>,
        dbapi_connection: &Bound<'_, PyAny>,
        connection_record: &Bound<'_, PyAny>,
        connection_proxy: &Bound<'_, PyAny>,
    ) {
        let (key, record) = (address(dbapi_connection), address(connection_record));
        let (pool, backend_pid, before) = if let Some(known) = self.connections.known(key, record) {
            known
        } else {
            let told = self
                .adopt
                .call1(py, (dbapi_connection, connection_record, connection_proxy))
                .and_then(|told| told.extract::<Option<(String, i64)>>(py));
            // Not one that is watched.
            let Ok(Some((pool, backend_pid))) = told else { return };
            let pool: Arc<str> = pool.into();
            self.connections.add(key, record, Arc::clone(&pool), backend_pid);
            (pool, backend_pid, None)
        };
        if let Some(before) = before {
            self.close(py, before);
        }
        let owner = self.owner(py).map(|owner| Arc::clone(&owner.get().inner));
        let site = self.texts.site(py);
        let opening = Opening { pool, backend_pid, owner, site, autocommit: false };
        self.connections.lend(key, self.leases.open(opening, self.now()));
    }

    /// A connection is about to be reset, before it goes back to its pool.
    fn on_reset(
        &self,
        py: Python<'_>,
        dbapi_connection: &Bound<'_, PyAny>,
        connection_record: &Bound<'_, PyAny>,
        reset_state: &Bound<'_, PyAny>,
    ) {
        let Some(id) = self.lease_at(address(dbapi_connection)) else { return };
        self.leases.reset(id, self.tick());
        let _ = reset_state;
        let gone = || -> PyResult<bool> {
            let fairy = connection_record.getattr(intern!(py, "fairy_ref"))?;
            Ok(!fairy.is_none() && fairy.call0()?.is_none())
        };
        if gone().unwrap_or_default() {
            let wrong = Wrong { code: FindingCode::GcReturned, severity: Severity::Error };
            drop(self.found(py, Some(id), wrong, String::new(), None));
        }
    }

    /// A connection is back in its pool. `None`: it was thrown away meanwhile.
    fn on_checkin(
        &self,
        py: Python<'_>,
        dbapi_connection: &Bound<'_, PyAny>,
        connection_record: &Bound<'_, PyAny>,
    ) {
        let _ = connection_record;
        let Some(id) = self.connections.give_back(address(dbapi_connection)) else { return };
        if hook::is_in_transaction(dbapi_connection).unwrap_or_default() {
            let wrong = Wrong { code: FindingCode::DirtyReturn, severity: Severity::Warning };
            drop(self.found(py, Some(id), wrong, String::new(), None));
        }
        self.close(py, id);
    }

    /// A connection is about to be closed.
    fn on_close(
        &self,
        py: Python<'_>,
        dbapi_connection: &Bound<'_, PyAny>,
        connection_record: &Bound<'_, PyAny>,
    ) {
        let _ = connection_record;
        if let Some(id) = self.connections.remove(address(dbapi_connection)) {
            self.close(py, id);
        }
    }

    /// A connection is not usable any more.
    fn on_invalidate(
        &self,
        py: Python<'_>,
        dbapi_connection: &Bound<'_, PyAny>,
        connection_record: &Bound<'_, PyAny>,
        exception: &Bound<'_, PyAny>,
    ) {
        let _ = exception;
        self.on_close(py, dbapi_connection, connection_record);
    }

    /// A session has begun a transaction, which has no connection yet.
    fn on_transaction(
        &self,
        session: &Bound<'_, PyAny>,
        transaction: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let py = session.py();
        let Some(owner) = self.owner(py) else { return Ok(()) };
        // One within another says nothing new.
        if !transaction.getattr(intern!(py, "parent"))?.is_none() {
            return Ok(());
        }
        SessionMark::note(session, &owner.get().inner)
    }

    /// A session has begun a transaction on a connection.
    fn on_after_begin(
        &self,
        session: &Bound<'_, PyAny>,
        transaction: &Bound<'_, PyAny>,
        connection: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let py = session.py();
        let _ = transaction;
        let Some(owner) = self.owner(py) else { return Ok(()) };
        let owner = &owner.get().inner;
        let Some(mark) = SessionMark::of(session)? else { return Ok(()) };
        let mark = mark.get();
        if mark.owner != owner.number() {
            return Ok(());
        }
        let Some(id) = self.lease_of(py, connection) else { return Ok(()) };
        self.leases.announce(id, mark.phase());
        if mark.reopens() && owner.phase().is_after_response() {
            let code = match self.circumstance(py) {
                Circumstance::LazyLoad => FindingCode::LazyLoadAfterResponse,
                _ => FindingCode::ReopenedAfterClose,
            };
            let wrong = Wrong { code, severity: code.severity() };
            return self.found(py, Some(id), wrong, String::new(), None);
        }
        Ok(())
    }

    /// Looks for leases that wait too long, without the GIL.
    fn scan(&self, py: Python<'_>) {
        let overdue = py.detach(|| self.leases.overdue(self.now()));
        for (id, code) in overdue {
            let now = self.now();
            let finding = {
                let texts = self.texts.with(py);
                self.leases.finding(Some(id), (code, code.severity()), now, &texts)
            };
            drop(self.reports.tell(py, finding));
        }
    }

    /// The application's line that runs now; empty where there is none.
    fn here(&self, py: Python<'_>) -> String {
        site_text(&self.texts.with(py), self.texts.site(py))
    }

    /// Reports what was found in Python. `connection` is the driver's; `here` and `owner` are those of
    /// whoever did it, where that is not the caller.
    #[pyo3(signature = (
        code, *, detail = "", connection = None, age = 0.0, severity = None, here = None, owner = None
    ))]
    #[allow(clippy::too_many_arguments, reason = "keywords")]
    fn report(
        &self,
        py: Python<'_>,
        code: &str,
        detail: &str,
        connection: Option<&Bound<'_, PyAny>>,
        age: f64,
        severity: Option<&str>,
        here: Option<String>,
        owner: Option<&Bound<'_, Owner>>,
    ) -> PyResult<()> {
        let known = FindingCode::from_name(code)
            .ok_or_else(|| PyValueError::new_err(format!("no finding has the code {code:?}")))?;
        let severity = match severity {
            None => known.severity(),
            Some(name) => Severity::from_name(name)
                .ok_or_else(|| PyValueError::new_err(format!("no severity {name:?}")))?,
        };
        let id = connection.and_then(|connection| self.lease_at(address(connection)));
        let now = self.now();
        let mut finding = {
            let texts = self.texts.with(py);
            let mut finding = self.leases.finding(id, (known, severity), now, &texts);
            finding.site = here.unwrap_or_else(|| site_text(&texts, self.texts.site(py)));
            finding
        };
        detail.clone_into(&mut finding.detail);
        finding.age_ns = limit("age", age)?;
        let facts = |owner: &Bound<'_, Owner>| owner.get().inner.facts(now);
        finding.by = owner.map(facts).or_else(|| self.owner(py).as_ref().map(facts));
        self.reports.tell(py, finding)
    }

    /// Every lease that is out, the oldest first.
    fn leases(&self, py: Python<'_>) -> Vec<Lease> {
        let texts = self.texts.with(py);
        let leases = self.leases.leases(self.now(), &texts);
        leases.into_iter().map(|facts| Lease { facts }).collect()
    }

    /// The newest findings, the oldest of them first.
    fn findings(&self) -> Vec<Finding> {
        self.reports.newest()
    }

    /// How often each code was found since the start.
    fn counts(&self) -> HashMap<&'static str, u64> {
        self.reports.counts()
    }

    /// Forgets the findings, and what was reported.
    fn clear(&self) {
        self.reports.clear();
    }

    /// Forgets every connection: they are another process's, or nobody listens any more.
    fn forget(&self, py: Python<'_>) {
        let texts = self.texts.with(py);
        for id in self.connections.clear() {
            drop(self.leases.close(id, self.tick(), &texts));
        }
    }
}

impl NativeTracker {
    /// The lease of a `Connection` of SQLAlchemy.
    pub(super) fn lease_of(
        &self,
        py: Python<'_>,
        connection: &Bound<'_, PyAny>,
    ) -> Option<LeaseId> {
        let fairy = connection.getattr(intern!(py, "_dbapi_connection")).ok()?;
        let driver = fairy.getattr(intern!(py, "dbapi_connection")).ok()?;
        self.lease_at(address(&driver))
    }

    pub(super) fn is_strict(&self) -> bool {
        self.strict.load(Ordering::Relaxed)
    }
}
