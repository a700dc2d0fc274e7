//! The layer around a dialect's functions.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};
use turnwise::session::{FindingCode, LeaseId, Outcome, Severity, Use, Wrong, may_write};

use super::here::thread;
use super::tracker::NativeTracker;
use super::wrong::Circumstance;
use super::{now_ns, seconds};

/// The layer `"tracker"` of one dialect.
#[pyclass(frozen, module = "turnwise._native")]
#[allow(clippy::struct_excessive_bools, reason = "facts about a dialect, each by itself")]
pub(crate) struct StatementHook {
    tracker: Py<NativeTracker>,
    is_async: bool,
    /// Statements take no time worth telling: a database in memory.
    is_memory: bool,
    /// A statement that fails ends what its transaction may do.
    aborts: bool,
    /// Connections are made with the isolation level AUTOCOMMIT.
    autocommits: bool,
}

/// One statement between its sending and its answer.
struct Running {
    id: LeaseId,
    /// When it began to block an event loop.
    blocks_ns: Option<u64>,
}

impl StatementHook {
    fn begin(
        &self,
        py: Python<'_>,
        statement: &Bound<'_, PyAny>,
        context: &Bound<'_, PyAny>,
    ) -> PyResult<Option<Running>> {
        let tracker = self.tracker.get();
        let Ok(connection) = context.getattr(intern!(py, "root_connection")) else {
            return Ok(None);
        };
        let Some(id) = tracker.lease_of(py, &connection) else { return Ok(None) };
        let owner = tracker.owner(py);
        let text = statement.cast::<PyString>().ok().and_then(|text| text.to_str().ok());
        let r#use = Use {
            thread: thread(py),
            owner: owner.as_ref().map(|owner| &owner.get().inner),
            interleaves: self.is_async,
            writes: text.is_some_and(may_write),
            site: tracker.site_of_statement(py),
            statement: tracker.texts.statement(statement),
        };
        if !tracker.leases.has_transaction(id) {
            tracker.leases.set_autocommit(id, self.commits_itself(&connection));
        }
        let blocks_ns = self.blocks(py, id, &r#use)?;
        if let Err(wrong) = tracker.leases.begin(id, &r#use, tracker.tick()) {
            let raised = self.wrong(py, id, wrong, &r#use);
            // To go back to a savepoint is what everybody may do.
            if !text.is_some_and(|text| text.starts_with("ROLLBACK")) {
                raised?;
            }
            tracker.leases.begin_anyway(id, &r#use, tracker.tick());
        }
        Ok(Some(Running { id, blocks_ns }))
    }

    /// Whether what a connection runs commits itself, as the connection was set.
    fn commits_itself(&self, connection: &Bound<'_, PyAny>) -> bool {
        let py = connection.py();
        let level = connection
            .call_method0(intern!(py, "get_execution_options"))
            .and_then(|options| options.get_item(intern!(py, "isolation_level")));
        match level {
            Ok(level) => level.extract::<&str>().is_ok_and(|level| level == "AUTOCOMMIT"),
            Err(_) => self.autocommits,
        }
    }

    /// Whether an event loop waits for what this thread sends now.
    fn is_blocking(&self, py: Python<'_>) -> bool {
        !self.is_async && !self.is_memory && self.tracker.get().on_loop(py)
    }

    /// Since when this statement blocks an event loop. `Err`: it must not.
    fn blocks(&self, py: Python<'_>, id: LeaseId, r#use: &Use<'_>) -> PyResult<Option<u64>> {
        let tracker = self.tracker.get();
        if !self.is_blocking(py) {
            return Ok(None);
        }
        if tracker.is_strict() && r#use.owner.is_some() {
            let wrong = Wrong { code: FindingCode::SyncOnLoop, severity: Severity::Warning };
            tracker.found(py, Some(id), wrong, String::new(), Some(r#use))?;
        }
        Ok(Some(now_ns()))
    }

    fn wrong(
        &self,
        py: Python<'_>,
        id: LeaseId,
        mut wrong: Wrong,
        r#use: &Use<'_>,
    ) -> PyResult<()> {
        let tracker = self.tracker.get();
        if wrong.code == FindingCode::SessionAfterResponse {
            match tracker.circumstance(py) {
                // Its flush: the commit itself is what is found.
                Circumstance::Commit => return Ok(()),
                Circumstance::LazyLoad => wrong.code = FindingCode::LazyLoadAfterResponse,
                Circumstance::Other => {}
            }
        }
        let detail = match (wrong.code, r#use.owner) {
            (FindingCode::CrossOwnerUse, None) => "by code that has no owner".into(),
            _ => String::new(),
        };
        tracker.found(py, Some(id), wrong, detail, Some(r#use))
    }

    fn end(&self, py: Python<'_>, running: &Running, failed: bool, statement: &Bound<'_, PyAny>) {
        let tracker = self.tracker.get();
        let outcome = if failed && self.aborts { Outcome::Aborted } else { Outcome::Done };
        tracker.leases.end(running.id, outcome, tracker.tick());
        if let Some(began) = running.blocks_ns {
            self.tell_blocked(py, running.id, began, Some(statement));
        }
    }

    fn tell_blocked(
        &self,
        py: Python<'_>,
        id: LeaseId,
        began: u64,
        statement: Option<&Bound<'_, PyAny>>,
    ) {
        let tracker = self.tracker.get();
        let took = now_ns().saturating_sub(began);
        let owner = tracker.owner(py);
        let owner = owner.as_ref().map(|owner| &owner.get().inner);
        if let Some(owner) = owner {
            owner.add_blocked(took);
        }
        let Some(statement) = statement else { return };
        // Outside of a request: the begin of a program, a test, a notebook.
        let severity = if owner.is_some() { Severity::Warning } else { Severity::Info };
        let r#use = Use {
            thread: thread(py),
            owner,
            interleaves: false,
            writes: false,
            site: 0,
            statement: tracker.texts.statement(statement),
        };
        let detail = format!("blocked the event loop for {:.1} ms", seconds(took) * 1e3);
        let wrong = Wrong { code: FindingCode::SyncOnLoop, severity };
        if tracker.is_strict() && owner.is_some() {
            return;
        }
        drop(tracker.found_for(py, Some(id), wrong, (took, detail), Some(&r#use)));
    }

    fn run<'py>(
        &self,
        proceed: &Bound<'py, PyAny>,
        arguments: Bound<'py, PyTuple>,
        statement: &Bound<'py, PyAny>,
        context: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = proceed.py();
        let running = self.begin(py, statement, context)?;
        let result = proceed.call1(arguments);
        if let Some(running) = running {
            self.end(py, &running, result.is_err(), statement);
        }
        result
    }

    /// Ends the transaction of the connection, with what does it.
    fn finish<'py>(
        &self,
        proceed: &Bound<'py, PyAny>,
        connection: &Bound<'py, PyAny>,
        commits: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = proceed.py();
        let tracker = self.tracker.get();
        let driver = connection.getattr(intern!(py, "dbapi_connection")).ok();
        let id = driver.and_then(|driver| tracker.lease_at(driver.as_ptr() as usize));
        let Some(id) = id else { return proceed.call1((connection,)) };
        if commits {
            let owner = tracker.owner(py);
            let r#use = Use {
                thread: thread(py),
                owner: owner.as_ref().map(|owner| &owner.get().inner),
                interleaves: self.is_async,
                writes: false,
                site: 0,
                statement: 0,
            };
            if let Some(wrong) = tracker.leases.check_commit(id, &r#use)
                && let Err(raised) = tracker.found(py, Some(id), wrong, String::new(), Some(&r#use))
            {
                // SQLAlchemy takes a COMMIT that has failed for the end of the transaction.
                roll_back(connection)?;
                return Err(raised);
            }
        }
        let began = self.is_blocking(py).then(now_ns);
        let result = proceed.call1((connection,));
        if let Some(began) = began {
            self.tell_blocked(py, id, began, None);
        }
        if result.is_ok() {
            tracker.leases.end_transaction(id, tracker.tick());
        }
        result
    }
}

#[pymethods]
impl StatementHook {
    #[new]
    #[pyo3(signature = (tracker, *, is_async, is_memory, aborts, autocommits))]
    #[allow(clippy::fn_params_excessive_bools, reason = "keywords")]
    fn new(
        tracker: Py<NativeTracker>,
        is_async: bool,
        is_memory: bool,
        aborts: bool,
        autocommits: bool,
    ) -> Self {
        Self { tracker, is_async, is_memory, aborts, autocommits }
    }

    fn do_execute<'py>(
        &self,
        proceed: &Bound<'py, PyAny>,
        cursor: &Bound<'py, PyAny>,
        statement: &Bound<'py, PyAny>,
        parameters: &Bound<'py, PyAny>,
        context: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let all = PyTuple::new(proceed.py(), [cursor, statement, parameters, context])?;
        self.run(proceed, all, statement, context)
    }

    fn do_executemany<'py>(
        &self,
        proceed: &Bound<'py, PyAny>,
        cursor: &Bound<'py, PyAny>,
        statement: &Bound<'py, PyAny>,
        parameters: &Bound<'py, PyAny>,
        context: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.do_execute(proceed, cursor, statement, parameters, context)
    }

    fn do_execute_no_params<'py>(
        &self,
        proceed: &Bound<'py, PyAny>,
        cursor: &Bound<'py, PyAny>,
        statement: &Bound<'py, PyAny>,
        context: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let all = PyTuple::new(proceed.py(), [cursor, statement, context])?;
        self.run(proceed, all, statement, context)
    }

    fn do_commit<'py>(
        &self,
        proceed: &Bound<'py, PyAny>,
        connection: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.finish(proceed, connection, true)
    }

    fn do_rollback<'py>(
        &self,
        proceed: &Bound<'py, PyAny>,
        connection: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.finish(proceed, connection, false)
    }
}

/// Rolls back through the dialect, and so through every layer around it.
fn roll_back(fairy: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = fairy.py();
    let dialect = fairy.getattr(intern!(py, "_pool"))?.getattr(intern!(py, "_dialect"))?;
    dialect.call_method1(intern!(py, "do_rollback"), (fairy,))?;
    Ok(())
}

/// Whether a driver's connection has a transaction open, asked without a round trip. `None`: the
/// driver cannot tell.
pub(super) fn is_in_transaction(connection: &Bound<'_, PyAny>) -> Option<bool> {
    let py = connection.py();
    if let Ok(open) = connection.getattr(intern!(py, "in_transaction")) {
        return open.extract().ok();
    }
    let info = connection.getattr(intern!(py, "info")).ok()?;
    let status: i64 = info.getattr(intern!(py, "transaction_status")).ok()?.extract().ok()?;
    Some(status != 0)
}
