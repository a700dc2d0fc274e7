//! The few messages that stand in for a code.
//!
//! The last resort of classification: `libpq` gives no SQLSTATE for what fails while connecting,
//! Python before 3.11 no code of SQLite, and two codes of PostgreSQL mean several things.

use super::table::TEXTS;
use super::words::Dialect;

/// A part of a message, and the code that it stands for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text {
    pub(super) dialect: Dialect,
    pub(super) says: &'static str,
    /// The code that comes with it; 0 where there is none.
    pub(super) code: i32,
    pub(super) means: i32,
}

/// The code to judge an error by, from the driver's code (0 if it gave none) and message.
///
/// The given one, unless the message says more. PostgreSQL's messages are known in English only.
pub fn recognize(dialect: Dialect, code: i32, message: &str) -> i32 {
    let fits = |text: &Text| match dialect {
        // Its messages may go on with names of the schema.
        Dialect::Sqlite => message.starts_with(text.says),
        // The driver puts host and severity before them.
        _ => message.contains(text.says),
    };
    TEXTS
        .iter()
        .find(|text| text.dialect == dialect && text.code == code && fits(text))
        .map_or(code, |text| text.means)
}
