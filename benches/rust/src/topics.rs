//! The table that both sides write.

use std::path::Path;

use rusqlite::Connection;

use crate::Outcome;

/// Rows in the table before the first save: a file of a few hundred pages.
pub(crate) const KEYS: u64 = 29_000;

/// Changes a value each time: an upsert of what is there already dirties no page, and its COMMIT
/// flushes nothing.
pub(crate) const SAVE: &str = "INSERT INTO topic(id, title, revision) VALUES (?1, ?2, 1) \
     ON CONFLICT(id) DO UPDATE SET title = excluded.title, revision = revision + 1";

/// What save `number` writes; both sides call it for every save.
pub(crate) fn row(number: u64) -> (i64, String) {
    // 7919 is prime and no divisor of the number of keys, so that all keys have their turn.
    let key = number.wrapping_mul(7919) % KEYS;
    (i64::try_from(key).unwrap_or_default(), format!("topic {number} saved"))
}

/// Makes a fresh file in WAL mode.
pub(crate) fn create(path: &Path) -> Outcome<()> {
    remove(path);
    let mut connection = Connection::open(path)?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    connection.execute_batch(
        "CREATE TABLE topic(id INTEGER PRIMARY KEY, title TEXT NOT NULL, revision INTEGER NOT NULL)",
    )?;
    let transaction = connection.transaction()?;
    {
        let mut insert = transaction.prepare("INSERT INTO topic VALUES (?1, 'a new topic', 0)")?;
        for key in 0..KEYS {
            insert.execute([i64::try_from(key)?])?;
        }
    }
    transaction.commit()?;
    // The last connection folds the log into the file.
    Ok(connection.close().map_err(|(_, error)| error)?)
}

/// Counts the saves in the file, and removes it.
pub(crate) fn verify(path: &Path, saves: u64) -> Outcome<()> {
    let connection = Connection::open(path)?;
    let found: i64 =
        connection.query_row("SELECT sum(revision) FROM topic", [], |row| row.get(0))?;
    if u64::try_from(found)? != saves {
        return Err(format!("{}: {found} of {saves} saves", path.display()).into());
    }
    drop(connection);
    remove(path);
    Ok(())
}

fn remove(path: &Path) {
    for end in ["", "-wal", "-shm", "-turn", "-turn-next"] {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        // Most of them are not there.
        let _ = std::fs::remove_file(name);
    }
}
