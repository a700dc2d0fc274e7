//! What is wrong with something that is about to happen.

use pyo3::prelude::*;
use turnwise::session::{FindingCode, LeaseId, Texts as _, Use, Wrong};

use super::tracker::{NativeTracker, site_text};

/// What of SQLAlchemy runs a statement.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Circumstance {
    Commit,
    LazyLoad,
    Other,
}

impl NativeTracker {
    /// Reports what is wrong with a use that has not begun. `Err`: it must not begin.
    pub(super) fn found(
        &self,
        py: Python<'_>,
        id: Option<LeaseId>,
        wrong: Wrong,
        detail: String,
        r#use: Option<&Use<'_>>,
    ) -> PyResult<()> {
        self.found_for(py, id, wrong, (0, detail), r#use)
    }

    /// As `found`, for something that has taken so many nanoseconds; 0: as long as the code says.
    pub(super) fn found_for(
        &self,
        py: Python<'_>,
        id: Option<LeaseId>,
        wrong: Wrong,
        (age_ns, detail): (u64, String),
        r#use: Option<&Use<'_>>,
    ) -> PyResult<()> {
        let now = self.now();
        let texts = self.texts.with(py);
        let mut finding = self.leases.finding(id, (wrong.code, wrong.severity), now, &texts);
        finding.detail = detail;
        if age_ns > 0 {
            finding.age_ns = age_ns;
        }
        // The garbage collector runs anywhere.
        if wrong.code != FindingCode::GcReturned {
            finding.site = site_text(&texts, self.texts.site(py));
        }
        let by = r#use.map(|r#use| r#use.owner.map(|owner| owner.facts(now)));
        if let Some(lease) = &mut finding.lease
            && let Some(r#use) = r#use
        {
            if r#use.statement != 0 {
                lease.statement = texts.statement(r#use.statement);
            }
            lease.thread = r#use.thread;
        }
        finding.by =
            by.flatten().or_else(|| self.owner(py).map(|owner| owner.get().inner.facts(now)));
        self.reports.tell(py, finding)
    }

    pub(super) fn circumstance(&self, py: Python<'_>) -> Circumstance {
        let told = self.circumstance.call0(py).and_then(|told| told.extract::<String>(py));
        match told.as_deref() {
            Ok("commit") => Circumstance::Commit,
            Ok("lazy load") => Circumstance::LazyLoad,
            _ => Circumstance::Other,
        }
    }
}
