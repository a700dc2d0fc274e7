//! SQLSTATE as a number.

use super::words::Dialect;

/// Packs a SQLSTATE of five digits and capital letters into a number, as PostgreSQL does itself
/// (`MAKE_SQLSTATE`: six bits a character, the first lowest). `None` for any other text.
pub fn sqlstate(text: &str) -> Option<i32> {
    if text.len() != 5 {
        return None;
    }
    text.bytes().rev().try_fold(0, |packed, byte| match byte {
        b'0'..=b'9' | b'A'..=b'Z' => Some(packed << 6 | i32::from(byte - b'0')),
        _ => None,
    })
}

/// The text of a packed SQLSTATE; `None` for a number that is none.
pub fn sqlstate_text(packed: i32) -> Option<String> {
    let character = |i: i32| u8::try_from(packed >> (6 * i) & 0x3f).ok();
    let text: String =
        (0..5).map(|i| character(i).map(|c| char::from(c + b'0'))).collect::<Option<_>>()?;
    (sqlstate(&text) == Some(packed)).then_some(text)
}

/// A code as its database writes it: in PostgreSQL the SQLSTATE, elsewhere the number.
pub fn code_text(dialect: Dialect, code: i32) -> String {
    match dialect {
        Dialect::Postgresql => sqlstate_text(code),
        Dialect::Sqlite | Dialect::Mysql | Dialect::Mariadb => None,
    }
    .unwrap_or_else(|| code.to_string())
}
