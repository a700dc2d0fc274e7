//! Lines of code and statements, kept as numbers until somebody wants to read them.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;
use turnwise::session::{Texts as Words, without_literals};

use crate::lock::lock;

/// Lines of code kept; an application has fewer.
const SITES: usize = 1 << 16;
/// Statements kept: those that leases had last, and many more.
const STATEMENTS: usize = 4_096;
/// Frames between an application's line and ours at most; beyond, the line is not known.
const DEEPEST: usize = 200;

#[derive(Default)]
struct Sites {
    /// By code object, which is kept alive, and place in it.
    numbers: HashMap<(usize, isize), u64>,
    kept: Vec<(Py<PyAny>, String)>,
    /// Whether a code object is the application's own.
    own: HashMap<usize, (bool, Py<PyAny>)>,
    /// How far above the last lines were, and the library's code that they had called.
    depths: [(usize, usize); 2],
}

#[derive(Default)]
struct Statements {
    numbers: HashMap<usize, u64>,
    kept: VecDeque<Py<PyString>>,
    first: u64,
}

/// Touched with the GIL held alone, so that a fork never finds a lock taken.
pub(super) struct Texts {
    sites: Mutex<Sites>,
    statements: Mutex<Statements>,
    frame: Py<PyAny>,
    /// `(code) -> bool`: whether it is the application's own.
    is_own: Py<PyAny>,
    /// `(frame) -> str`: what a report calls it.
    describe: Py<PyAny>,
    /// `() -> frame | None`: the frame that waits for this greenlet.
    parent: Py<PyAny>,
}

impl Texts {
    pub(super) fn new(py: Python<'_>, places: &Bound<'_, PyAny>) -> PyResult<Self> {
        let is_own = places.getattr("is_own")?.unbind();
        let describe = places.getattr("describe")?.unbind();
        let parent = places.getattr("waiting_frame")?.unbind();
        let frame = py.import("sys")?.getattr("_getframe")?.unbind();
        let statements = Statements { first: 1, ..Statements::default() };
        let (sites, statements) = (Mutex::default(), Mutex::new(statements));
        Ok(Self { sites, statements, frame, is_own, describe, parent })
    }

    /// The application's line that is running, as a number; 0 where none is found.
    pub(super) fn site(&self, py: Python<'_>) -> u64 {
        self.find(py).unwrap_or_default()
    }

    fn find(&self, py: Python<'_>) -> PyResult<u64> {
        let depths = lock(&self.sites).depths;
        for (depth, entry) in depths {
            // The line is where the last one was if it called the same function of a library.
            if depth > 0
                && let Ok(below) = self.frame.call1(py, (depth - 1,))
                && code_of(below.bind(py))?.as_ptr() as usize == entry
                && let frame = below.bind(py).getattr(intern!(py, "f_back"))?
                && !frame.is_none()
                && self.is_own(&frame)?
            {
                return self.number(&frame);
            }
        }
        let mut next = Some(self.frame.call0(py)?.into_bound(py));
        let (mut depth, mut hopped, mut below) = (0, false, 0);
        while let Some(frame) = next {
            if self.is_own(&frame)? {
                if depth > 0 && !hopped {
                    let mut sites = lock(&self.sites);
                    sites.depths = [(depth, below), sites.depths[0]];
                }
                return self.number(&frame);
            }
            below = code_of(&frame)?.as_ptr() as usize;
            depth += 1;
            if depth > DEEPEST {
                break;
            }
            let back = frame.getattr(intern!(py, "f_back"))?;
            next = if back.is_none() && !hopped {
                hopped = true;
                Some(self.parent.call0(py)?.into_bound(py)).filter(|frame| !frame.is_none())
            } else {
                Some(back).filter(|frame| !frame.is_none())
            };
        }
        Ok(0)
    }

    fn is_own(&self, frame: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = frame.py();
        let code = code_of(frame)?;
        let key = code.as_ptr() as usize;
        if let Some((own, _)) = lock(&self.sites).own.get(&key) {
            return Ok(*own);
        }
        let own: bool = self.is_own.call1(py, (&code,))?.extract(py)?;
        let mut sites = lock(&self.sites);
        if sites.own.len() < SITES {
            sites.own.insert(key, (own, code.unbind()));
        }
        Ok(own)
    }

    fn number(&self, frame: &Bound<'_, PyAny>) -> PyResult<u64> {
        let py = frame.py();
        let code = code_of(frame)?;
        let place: isize = frame.getattr(intern!(py, "f_lasti"))?.extract()?;
        let key = (code.as_ptr() as usize, place);
        if let Some(number) = lock(&self.sites).numbers.get(&key) {
            return Ok(*number);
        }
        let text: String = self.describe.call1(py, (frame,))?.extract(py)?;
        let mut sites = lock(&self.sites);
        if sites.kept.len() == SITES {
            return Ok(0);
        }
        sites.kept.push((code.unbind(), text));
        let number = sites.kept.len() as u64;
        sites.numbers.insert(key, number);
        Ok(number)
    }

    /// The statement as a number, for as long as it is one of the newest.
    pub(super) fn statement(&self, statement: &Bound<'_, PyAny>) -> u64 {
        let mut statements = lock(&self.statements);
        if let Some(number) = statements.numbers.get(&(statement.as_ptr() as usize)) {
            return *number;
        }
        let Ok(text) = statement.cast::<PyString>() else { return 0 };
        if statements.kept.len() == STATEMENTS
            && let Some(oldest) = statements.kept.pop_front()
        {
            statements.numbers.remove(&(oldest.as_ptr() as usize));
            statements.first += 1;
        }
        let number = statements.first + statements.kept.len() as u64;
        statements.numbers.insert(text.as_ptr() as usize, number);
        statements.kept.push_back(text.clone().unbind());
        number
    }

    pub(super) fn with<'py>(&'py self, py: Python<'py>) -> Readable<'py> {
        Readable { texts: self, py }
    }
}

fn code_of<'py>(frame: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    frame.getattr(intern!(frame.py(), "f_code"))
}

/// The texts, while the GIL is held.
pub(super) struct Readable<'py> {
    texts: &'py Texts,
    py: Python<'py>,
}

impl Words for Readable<'_> {
    fn site(&self, site: u64) -> String {
        let at = usize::try_from(site - 1).unwrap_or(usize::MAX);
        lock(&self.texts.sites).kept.get(at).map(|(_, text)| text.clone()).unwrap_or_default()
    }

    fn statement(&self, statement: u64) -> String {
        let statements = lock(&self.texts.statements);
        let at = statement.checked_sub(statements.first).and_then(|at| usize::try_from(at).ok());
        let text = at.and_then(|at| statements.kept.get(at));
        text.and_then(|text| text.bind(self.py).to_cow().ok().map(|text| without_literals(&text)))
            .unwrap_or_default()
    }
}
