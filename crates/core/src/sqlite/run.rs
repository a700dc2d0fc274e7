//! Running one statement.

use rusqlite::CachedStatement;

use super::failure::Failure;
use super::fault::FaultPoint;
use super::statement::{Params, Value, Verb, Written};
use super::store::{MARK, Store};
use crate::error::ErrorKind;

impl Store {
    /// Runs one statement once.
    pub(crate) fn run(&self, sql: &str, params: &Params) -> Result<Written, Failure> {
        let verb = Verb::of(sql);
        let mut statement = self.prepare(sql)?;
        let ran = self.step(&mut statement, verb, params);
        forget_savepoint(statement, verb);
        ran
    }

    /// Runs one statement for every row; the error names the row, counted from 0.
    pub(crate) fn run_many(&self, sql: &str, rows: &[Params]) -> Result<Written, Failure> {
        let verb = Verb::of(sql);
        let mut statement = self.prepare(sql)?;
        let ran = self.run_rows(&mut statement, verb, rows);
        forget_savepoint(statement, verb);
        ran
    }

    fn run_rows(
        &self,
        statement: &mut CachedStatement<'_>,
        verb: Verb,
        rows: &[Params],
    ) -> Result<Written, Failure> {
        let rowcount = verb.changes_rows(statement.readonly()).then_some(0);
        let mut all = Written { rowcount, ..Written::default() };
        for (at, params) in rows.iter().enumerate() {
            let one = self.step(statement, verb, params).map_err(|mut failure| {
                failure.message = format!("row {at}: {}", failure.message);
                failure
            })?;
            if let Some(count) = one.rowcount {
                *all.rowcount.get_or_insert(0) += count;
            }
            all.lastrowid = one.lastrowid.or(all.lastrowid);
            all.rows.extend(one.rows);
        }
        Ok(all)
    }

    fn prepare(&self, sql: &str) -> Result<CachedStatement<'_>, Failure> {
        if sql.contains('\0') {
            return Err(Failure::new(ErrorKind::Statement, "the SQL text holds a NUL character"));
        }
        // The cache goes by the text without the white space around it.
        if sql.trim_start().starts_with(MARK) {
            return Err(Failure::new(
                ErrorKind::StatementNotAllowed,
                "this text is the writer's own",
            ));
        }
        if Verb::of(sql) == Verb::Nothing {
            return Err(Failure::new(
                ErrorKind::NotOneStatement,
                "the SQL text holds no statement",
            ));
        }
        self.connection.prepare_cached(sql).map_err(|error| {
            let mut failure = Failure::from(error);
            if failure.kind == ErrorKind::StatementNotAllowed {
                failure.message = self.guard.take_reason().unwrap_or(failure.message);
            }
            failure
        })
    }

    fn step(
        &self,
        statement: &mut CachedStatement<'_>,
        verb: Verb,
        params: &Params,
    ) -> Result<Written, Failure> {
        self.meet(FaultPoint::Statement, || self.run_once(statement, verb, params))
    }

    fn run_once(
        &self,
        statement: &mut CachedStatement<'_>,
        verb: Verb,
        params: &Params,
    ) -> Result<Written, Failure> {
        params.bind(statement)?;
        self.last_insert.expect(self.connection.last_insert_rowid());
        let mut rows = Vec::new();
        if statement.column_count() == 0 {
            statement.raw_execute()?;
        } else {
            let mut cursor = statement.raw_query();
            while let Some(row) = cursor.next()? {
                // Not before the first row: SQLite may prepare the statement anew for a new schema.
                let columns = row.as_ref().column_count();
                let row: rusqlite::Result<Vec<Value>> =
                    (0..columns).map(|at| row.get_ref(at).map(Value::from)).collect();
                rows.push(row?);
            }
        }
        let rowcount = verb.changes_rows(statement.readonly()).then(|| self.connection.changes());
        let lastrowid = if verb == Verb::Insert {
            self.last_insert.of_statement(self.connection.last_insert_rowid())
        } else {
            None
        };
        Ok(Written { rowcount, lastrowid, rows })
    }
}

/// Keeps a savepoint statement out of the cache, which gives statements out again without asking the
/// guard: what an interactive transaction may do, a write in a group may not.
fn forget_savepoint(statement: CachedStatement<'_>, verb: Verb) {
    if verb == Verb::Savepoint {
        statement.discard();
    }
}
