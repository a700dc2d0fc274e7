//! The peer: rusqlite as a careful user writes it, with every statement prepared once.

use std::path::Path;

use rusqlite::{Connection, params};
use turnwise::sqlite::Durability;

use crate::Outcome;
use crate::topics::{SAVE, row};

pub(crate) fn open(path: &Path, durability: Durability) -> Outcome<Connection> {
    let connection = Connection::open(path)?;
    let synchronous = if durability == Durability::Full { "FULL" } else { "NORMAL" };
    connection.execute_batch(&format!("PRAGMA synchronous = {synchronous}"))?;
    Ok(connection)
}

/// One save in a transaction of its own.
pub(crate) fn save_alone(connection: &Connection, number: u64) -> Outcome<()> {
    save_together(connection, number..number + 1)
}

/// Many saves in one transaction.
pub(crate) fn save_together(connection: &Connection, numbers: std::ops::Range<u64>) -> Outcome<()> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    {
        let mut save = connection.prepare_cached(SAVE)?;
        for number in numbers {
            let (id, title) = row(number);
            save.execute(params![id, title])?;
        }
    }
    connection.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}
