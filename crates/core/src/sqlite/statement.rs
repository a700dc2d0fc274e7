//! Statements, their parameters and what they return.

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};

use super::failure::Failure;
use crate::error::ErrorKind;

/// A value that SQLite stores: <https://sqlite.org/datatype3.html>.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// A signed 64-bit integer.
    Integer(i64),
    /// A 64-bit float. SQLite stores NaN as NULL.
    Real(f64),
    /// Text in UTF-8.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Value {
    /// Bytes that the value takes in the queue, about.
    fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Blob(bytes) => bytes.len(),
            _ => 0,
        }
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(integer) => ValueRef::Integer(*integer),
            Self::Real(real) => ValueRef::Real(*real),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(integer) => Self::Integer(integer),
            ValueRef::Real(real) => Self::Real(real),
            // SQLite does not check that text is UTF-8; a replacement character shows where not.
            ValueRef::Text(text) => Self::Text(String::from_utf8_lossy(text).into_owned()),
            ValueRef::Blob(bytes) => Self::Blob(bytes.to_vec()),
        }
    }
}

/// The values for one run of a statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Params {
    /// Values in the order of the placeholders.
    Positional(Vec<Value>),
    /// Values by the placeholders' names, without `:`, `@` or `$`. Unused names are ignored.
    Named(Vec<(String, Value)>),
}

impl Params {
    /// No values.
    pub const NONE: Self = Self::Positional(Vec::new());

    /// Bytes that the values take in the queue, about.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Positional(values) => {
                values.iter().map(|value| size_of::<Value>() + value.size()).sum()
            }
            Self::Named(values) => values
                .iter()
                .map(|(name, value)| name.len() + size_of::<(String, Value)>() + value.size())
                .sum(),
        }
    }

    pub(super) fn bind(&self, statement: &mut rusqlite::Statement<'_>) -> Result<(), Failure> {
        let wanted = statement.parameter_count();
        match self {
            Self::Positional(values) => {
                if values.len() != wanted {
                    return Err(Failure::new(
                        ErrorKind::ParameterMismatch,
                        format!(
                            "the statement has {wanted} placeholders, {} values were given",
                            values.len()
                        ),
                    ));
                }
                for (at, value) in values.iter().enumerate() {
                    statement.raw_bind_parameter(at + 1, value)?;
                }
            }
            Self::Named(values) => {
                for at in 1..=wanted {
                    let placeholder = statement.parameter_name(at).map(str::to_owned);
                    let Some(placeholder) = placeholder else {
                        return Err(Failure::new(
                            ErrorKind::ParameterMismatch,
                            format!(
                                "placeholder {at} has no name, but named values were given: name \
                                 it, or pass a sequence"
                            ),
                        ));
                    };
                    let name = placeholder.get(1..).unwrap_or_default();
                    let Some((_, value)) = values.iter().find(|(given, _)| given == name) else {
                        return Err(Failure::new(
                            ErrorKind::ParameterMismatch,
                            format!("no value was given for the placeholder {placeholder}"),
                        ));
                    };
                    statement.raw_bind_parameter(at, value)?;
                }
            }
        }
        Ok(())
    }
}

/// What a write came to.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Written {
    /// Rows that INSERT, UPDATE, DELETE or REPLACE touched; `None` for other statements.
    pub rowcount: Option<u64>,
    /// The row id of the last inserted row; `None` unless the statement is an INSERT or REPLACE
    /// that inserted one.
    pub lastrowid: Option<i64>,
    /// The rows that a RETURNING clause or a SELECT gave.
    pub rows: Vec<Vec<Value>>,
}

/// What the first word of a statement tells about its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// INSERT or REPLACE.
    Insert,
    /// UPDATE, DELETE, or WITH, which may lead to any of them.
    Change,
    /// SAVEPOINT, RELEASE or ROLLBACK.
    Savepoint,
    /// Anything else.
    Other,
    /// There is no statement.
    Nothing,
}

impl Verb {
    /// Whether a statement of this kind changes rows; `readonly`: SQLite says that it changes none.
    pub(super) fn changes_rows(self, readonly: bool) -> bool {
        self == Self::Insert || self == Self::Change && !readonly
    }

    pub(super) fn of(sql: &str) -> Self {
        let start = skip_blanks(sql);
        let end = start.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(start.len());
        let word = start.get(..end).unwrap_or_default();
        let is = |other: &str| word.eq_ignore_ascii_case(other);
        if start.is_empty() {
            Self::Nothing
        } else if is("INSERT") || is("REPLACE") {
            Self::Insert
        } else if is("UPDATE") || is("DELETE") || is("WITH") {
            Self::Change
        } else if is("SAVEPOINT") || is("RELEASE") || is("ROLLBACK") {
            Self::Savepoint
        } else {
            Self::Other
        }
    }
}

/// Skips white space, comments and empty statements: <https://sqlite.org/lang_comment.html>.
fn skip_blanks(mut sql: &str) -> &str {
    loop {
        let trimmed = sql.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == ';');
        sql = if let Some(comment) = trimmed.strip_prefix("--") {
            comment.split_once('\n').map_or("", |(_, rest)| rest)
        } else if let Some(comment) = trimmed.strip_prefix("/*") {
            comment.split_once("*/").map_or("", |(_, rest)| rest)
        } else {
            return trimmed;
        };
    }
}
