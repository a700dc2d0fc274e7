//! What was found, on its way to Python.

use std::collections::HashMap;
use std::sync::Mutex;

use pyo3::prelude::*;
use turnwise::session::{self, Closed, Journal, OwnerFacts, Severity};

use super::finding::Finding;
use crate::lock::lock;

/// The findings of this process. Touched with the GIL held alone.
pub(super) struct Reports {
    journal: Mutex<Journal>,
    /// `(finding, reported)`: tells it; raises in strict mode.
    sink: Py<PyAny>,
}

impl Reports {
    pub(super) fn new(sink: Py<PyAny>) -> Self {
        Self { journal: Mutex::default(), sink }
    }

    /// Records a finding and tells it. `Err`: what was about to happen must not.
    pub(super) fn tell(&self, py: Python<'_>, mut inner: session::Finding) -> PyResult<()> {
        let owner = inner.lease.as_ref().and_then(|lease| lease.owner.as_ref());
        let is_same = |by: &OwnerFacts| owner.is_some_and(|owner| owner.number == by.number);
        inner.by = inner.by.filter(|by| !is_same(by));
        let at = inner.at_ns;
        let noted = lock(&self.journal).note(inner.clone(), at);
        let repeats = noted.reported.unwrap_or_default();
        let finding = Finding { inner, number: noted.number, repeats };
        self.sink.call1(py, (finding, noted.reported.is_some()))?;
        Ok(())
    }

    /// Tells what is over with a lease that has waited for long.
    pub(super) fn tell_closed(&self, py: Python<'_>, closed: Closed, now_ns: u64) {
        let Some(facts) = closed.facts else { return };
        for code in closed.codes {
            let finding = session::Finding {
                code,
                severity: Severity::Info,
                at_ns: now_ns,
                age_ns: facts.age_ns,
                lease: Some(facts.clone()),
                by: None,
                site: String::new(),
                detail: "given back after all".into(),
            };
            // An exception here would make SQLAlchemy throw the connection away.
            drop(self.tell(py, finding));
        }
    }

    pub(super) fn newest(&self) -> Vec<Finding> {
        let journal = lock(&self.journal);
        let all = journal.newest().map(|kept| Finding {
            inner: kept.finding.clone(),
            number: kept.noted.number,
            repeats: 0,
        });
        all.collect()
    }

    pub(super) fn counts(&self) -> HashMap<&'static str, u64> {
        lock(&self.journal).counts().map(|(code, count)| (code.name(), count)).collect()
    }

    pub(super) fn clear(&self) {
        lock(&self.journal).clear();
    }
}
