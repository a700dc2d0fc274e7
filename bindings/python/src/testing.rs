//! Faults and rehearsals, for the tests of applications.

use pyo3::prelude::*;
use turnwise::ErrorKind;
use turnwise::classify::{Conditions, Dialect, Fate, Journal, Phase, classify};
use turnwise::sqlite::{Fault, FaultEffect, FaultPoint};
use turnwise::writer::{self, Rehearsal};

use crate::error::refuse;

/// A fault, from Python's words.
pub(crate) fn fault(
    journal: Journal,
    point: &str,
    code: i32,
    effect: &str,
    after: i64,
    times: i64,
) -> PyResult<Fault> {
    let unknown = |name: &str, given: &str, choices: Vec<&str>| {
        let choices = choices.join("', '");
        refuse(
            ErrorKind::InvalidSetting,
            format!("{name}='{given}' is unknown: it must be one of '{choices}'"),
        )
    };
    let count = |name: &str, given: i64, least: u32| {
        u32::try_from(given).ok().filter(|count| *count >= least).ok_or_else(|| {
            refuse(
                ErrorKind::InvalidSetting,
                format!("{name}={given} is out of range: {least} to {}", u32::MAX),
            )
        })
    };
    let point = FaultPoint::from_name(point).ok_or_else(|| {
        unknown("at", point, FaultPoint::ALL.iter().map(|point| point.name()).collect())
    })?;
    let effect = FaultEffect::from_name(effect).ok_or_else(|| {
        unknown("effect", effect, FaultEffect::ALL.iter().map(|effect| effect.name()).collect())
    })?;
    if effect == FaultEffect::Panicked && point != FaultPoint::Statement {
        return Err(refuse(
            ErrorKind::InvalidSetting,
            format!("effect='panicked' at '{point}' would end the writer: only at 'statement'"),
        ));
    }
    if effect == FaultEffect::Done && !(point == FaultPoint::Commit && leaves_doubt(code, journal))
    {
        return Err(refuse(
            ErrorKind::InvalidSetting,
            format!(
                "effect='done' needs a failure of COMMIT that leaves its outcome open: SQLite has \
                 done nothing when it reports {code} at '{point}' with journal_mode='{}'",
                journal.name()
            ),
        ));
    }
    Ok(Fault {
        point,
        code,
        effect,
        after: count("after", after, 0)?,
        times: count("times", times, 1)?,
    })
}

fn leaves_doubt(code: i32, journal: Journal) -> bool {
    let conditions = Conditions { journal: Some(journal), ..Conditions::default() };
    classify(Dialect::Sqlite, code, Phase::Commit, conditions, Some(false)).fate == Fate::Unknown
}

/// Sets how writers wait: at most so many tries, without sleep and with this seed; `None`: as their
/// policies say. Gives what was set before.
#[pyfunction]
#[pyo3(signature = (rehearsal) -> "tuple[int, int] | None")]
pub(crate) fn rehearse(rehearsal: Option<(u32, u64)>) -> Option<(u32, u64)> {
    let before =
        writer::rehearse(rehearsal.map(|(max_attempts, seed)| Rehearsal { max_attempts, seed }));
    before.map(|before| (before.max_attempts, before.seed))
}
