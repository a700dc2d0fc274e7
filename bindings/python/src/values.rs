//! Python values as SQLite's, and back.

use std::fmt;

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyMapping, PyMemoryView,
    PySequence, PyString, PyTuple,
};
use turnwise::ErrorKind;
use turnwise::sqlite::{Params, Value};

use crate::attention::noted;
use crate::error::refuse;

/// Where a value stands, for error messages.
#[derive(Clone, Copy)]
enum Place<'a> {
    Position(usize),
    Name(&'a str),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Position(at) => write!(f, "parameter {}", at + 1),
            Self::Name(name) => write!(f, "parameter :{name}"),
        }
    }
}

/// The parameters of one run: a sequence for `?`, a mapping for `:name`.
pub(crate) fn params(given: &Bound<'_, PyAny>) -> PyResult<Params> {
    if let Ok(tuple) = given.cast::<PyTuple>() {
        return positional(tuple.len(), tuple.iter());
    }
    if let Ok(list) = given.cast::<PyList>() {
        return positional(list.len(), list.iter());
    }
    if given.is_instance_of::<PyString>() || given.is_instance_of::<PyBytes>() {
        return Err(unsupported(format!(
            "params is a {}, which would be taken apart into its characters: pass (value,)",
            type_name(given)
        )));
    }
    if let Ok(mapping) = given.cast::<PyMapping>() {
        return named(mapping);
    }
    if let Ok(sequence) = given.cast::<PySequence>() {
        let items: PyResult<Vec<_>> = sequence.try_iter()?.collect();
        let items = items?;
        return positional(items.len(), items.into_iter());
    }
    Err(unsupported(format!("params must be a sequence or a mapping, not {}", type_name(given))))
}

/// The parameters of many runs; an error names the row, counted from 0.
pub(crate) fn rows(given: &Bound<'_, PyAny>) -> PyResult<Vec<Params>> {
    if given.cast::<PyDict>().is_ok() {
        return Err(unsupported("rows is a dict: pass a list of dicts, or of tuples".to_owned()));
    }
    let mut all = Vec::with_capacity(given.len().unwrap_or(0));
    for (at, row) in given.try_iter()?.enumerate() {
        let row = row?;
        all.push(params(&row).map_err(|error| in_row(row.py(), at, error))?);
    }
    Ok(all)
}

/// An exception of ours with the row in front of its message; one of the application's own, which
/// only its class knows how to build, with the row in a note.
fn in_row(py: Python<'_>, at: usize, error: PyErr) -> PyErr {
    let class = error.get_type(py);
    let ours = class.getattr(intern!(py, "__module__"));
    if !ours.and_then(|module| module.eq("turnwise.errors")).unwrap_or(false) {
        return noted(py, error, &format!("while the parameters of row {at} were read"));
    }
    match class.call1((format!("row {at}: {}", error.value(py)),)) {
        Ok(exception) => PyErr::from_value(exception),
        Err(failed) => failed,
    }
}

fn positional<'py>(
    count: usize,
    items: impl Iterator<Item = Bound<'py, PyAny>>,
) -> PyResult<Params> {
    let mut values = Vec::with_capacity(count);
    for (at, item) in items.enumerate() {
        values.push(value(&item, Place::Position(at))?);
    }
    Ok(Params::Positional(values))
}

fn named(mapping: &Bound<'_, PyMapping>) -> PyResult<Params> {
    let mut values = Vec::with_capacity(mapping.len().unwrap_or(0));
    for pair in mapping.items()?.iter() {
        let (key, item): (Bound<'_, PyAny>, Bound<'_, PyAny>) = pair.extract()?;
        let Ok(key) = key.extract::<String>() else {
            return Err(unsupported(format!(
                "the keys of params must be str, not {}",
                type_name(&key)
            )));
        };
        let value = value(&item, Place::Name(&key))?;
        values.push((key, value));
    }
    Ok(Params::Named(values))
}

fn value(item: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<Value> {
    if item.is_none() {
        return Ok(Value::Null);
    }
    if let Ok(text) = item.cast::<PyString>() {
        return match text.to_str() {
            Ok(text) => Ok(Value::Text(text.to_owned())),
            Err(_) => Err(refuse(
                ErrorKind::ParameterOutOfRange,
                format!("{place} is text with a lone surrogate, which UTF-8 cannot hold"),
            )),
        };
    }
    if item.is_instance_of::<PyInt>() {
        return match item.extract::<i64>() {
            Ok(integer) => Ok(Value::Integer(integer)),
            Err(_) => Err(refuse(
                ErrorKind::ParameterOutOfRange,
                format!("{place} is an integer beyond 64 bits"),
            )),
        };
    }
    if let Ok(real) = item.cast::<PyFloat>() {
        return Ok(Value::Real(real.value()));
    }
    if let Ok(flag) = item.cast::<PyBool>() {
        return Ok(Value::Integer(i64::from(flag.is_true())));
    }
    if let Ok(bytes) = item.cast::<PyBytes>() {
        return Ok(Value::Blob(bytes.as_bytes().to_vec()));
    }
    if let Ok(bytes) = item.cast::<PyByteArray>() {
        return Ok(Value::Blob(bytes.to_vec()));
    }
    if let Ok(view) = item.cast::<PyMemoryView>() {
        return Ok(Value::Blob(view.call_method0(intern!(item.py(), "tobytes"))?.extract()?));
    }
    adapted(item, place)
}

/// Date, time and enum types.
fn adapted(item: &Bound<'_, PyAny>, place: Place<'_>) -> PyResult<Value> {
    let py = item.py();
    let is = |module: &str, class: &str| item.is_instance(&py.import(module)?.getattr(class)?);
    if is("enum", "Enum")? {
        let inner = item.getattr(intern!(py, "value"))?;
        return if inner.is(item) { Err(unknown(item, place)) } else { value(&inner, place) };
    }
    // The forms of the standard library's own adapters.
    if is("datetime", "datetime")? {
        return Ok(Value::Text(item.call_method1(intern!(py, "isoformat"), (" ",))?.extract()?));
    }
    if is("datetime", "date")? || is("datetime", "time")? {
        return Ok(Value::Text(item.call_method0(intern!(py, "isoformat"))?.extract()?));
    }
    Err(unknown(item, place))
}

fn unknown(item: &Bound<'_, PyAny>, place: Place<'_>) -> PyErr {
    unsupported(format!(
        "{place} is a {}; SQLite stores int, float, str, bytes, bool and None, and turnwise \
         converts date, time, datetime and Enum members: convert it first",
        type_name(item)
    ))
}

fn unsupported(message: String) -> PyErr {
    refuse(ErrorKind::UnsupportedParameter, message)
}

fn type_name(item: &Bound<'_, PyAny>) -> String {
    let name = item.get_type().fully_qualified_name();
    name.map_or_else(|_| "value of unknown type".to_owned(), |name| name.to_string())
}

/// A time-out in seconds.
pub(crate) fn seconds(name: &str, given: Option<f64>) -> PyResult<Option<std::time::Duration>> {
    given
        .map(|seconds| {
            std::time::Duration::try_from_secs_f64(seconds).map_err(|_| {
                refuse(
                    ErrorKind::InvalidSetting,
                    format!("{name}={seconds} is out of range: 0 or more seconds"),
                )
            })
        })
        .transpose()
}

/// SQLite's value as Python's.
pub(crate) fn to_python(py: Python<'_>, value: Value) -> PyResult<Bound<'_, PyAny>> {
    Ok(match value {
        Value::Null => py.None().into_bound(py),
        Value::Integer(integer) => integer.into_pyobject(py)?.into_any(),
        Value::Real(real) => PyFloat::new(py, real).into_any(),
        Value::Text(text) => PyString::new(py, &text).into_any(),
        Value::Blob(bytes) => PyBytes::new(py, &bytes).into_any(),
    })
}

/// A path: `str`, or anything with `__fspath__`.
pub(crate) fn path(given: &Bound<'_, PyAny>) -> PyResult<std::path::PathBuf> {
    given.extract().map_err(|_| {
        PyTypeError::new_err(format!("path must be a str or os.PathLike, not {}", type_name(given)))
    })
}
